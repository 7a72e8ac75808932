//! What a trainer said while nobody answered, and had not delivered when it ended: its SDK writes each call down before
//! it sends it (`trainyard_sdk/journal.py`), and here those are taken in that were not answered.
//!
//! They go the way of every call, so that what is there already is known by itself. Owns the marks behind those that were
//! taken: the next life of an agent that ends meanwhile takes none twice. Called by the run at its trainer's end, when
//! nobody writes any more.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header::CONTENT_TYPE};
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::{BODY_LIMIT, Registry, TaskEndpoint, router};

/// How the files are called.
const PREFIX: &str = "kept-";
/// The longest line that is read: a number, a path and a body.
const LINE_LIMIT: u64 = BODY_LIMIT as u64 + 4_096;
/// Calls that are read at once, and bytes of them.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 8 << 20;
/// How soon a call is tried again that the disk refused, and for how long: what fills the disk may be this very task's.
const AGAIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);
/// The task's name on the router that nobody else can reach.
const ALONE: &str = "unsent";

/// What became of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// So many were taken in.
    pub taken: u64,
    /// What is lost, and why: for the job's log.
    pub lost: Vec<String>,
}

/// Takes in what the trainer of this task had left below `folder`, in order. A second call finds nothing.
pub async fn take_unsent(registry: &Registry, task: TaskEndpoint, folder: &Path) -> Unsent {
    let alone = registry.alone(ALONE, task);
    let door = router(alone);
    let mut unsent = Unsent::default();
    let place = folder.to_owned();
    match blocking(move || files(&place)).await {
        Ok(files) => {
            for path in files {
                if let Err(error) = take_file(&door, &path, &mut unsent).await {
                    unsent.lose(format!(
                        "what the trainer had kept for its agent cannot be read: {error}"
                    ));
                }
            }
        }
        // Most trainers leave nothing: it is told where it may matter to somebody who looks for it.
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "what a trainer has left unsent cannot be looked for")
        }
    }
    unsent
}

impl Unsent {
    /// Told once for each cause.
    fn lose(&mut self, words: String) {
        if !self.lost.contains(&words) {
            self.lost.push(words);
        }
    }
}

/// One call that was written down and not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    number: u64,
    path: String,
    body: Vec<u8>,
}

async fn take_file(door: &Router, path: &Path, unsent: &mut Unsent) -> io::Result<()> {
    let place = path.to_owned();
    let mut journal = blocking(move || Journal::open(&place)).await?;
    let until = Instant::now() + PATIENCE;
    loop {
        let (back, calls) = blocking(move || {
            let calls = journal.next()?;
            Ok((journal, calls))
        })
        .await?;
        journal = back;
        if calls.is_empty() {
            break;
        }
        for call in calls {
            let number = call.number;
            match send(door, call, until).await {
                Ok(()) => unsent.taken += 1,
                Err(words) => unsent.lose(words),
            }
            // Without the mark it may be taken twice, by an agent that is started again just now.
            journal.mark(number).ok();
        }
    }
    let path = path.to_owned();
    blocking(move || std::fs::remove_file(path)).await
}

/// As if its trainer said it now.
async fn send(door: &Router, call: Call, until: Instant) -> Result<(), String> {
    let kind = call.path.rsplit('/').next().unwrap_or_default().to_owned();
    loop {
        let request = Request::post(format!("/t/{ALONE}/api/v1/{}", call.path))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(call.body.clone()));
        let Ok(request) = request else {
            return Err(format!(
                "a call that the trainer had kept goes nowhere: {}",
                call.path
            ));
        };
        let answer = match door.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        if status == StatusCode::SERVICE_UNAVAILABLE && Instant::now() < until {
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        let detail = to_bytes(answer.into_body(), BODY_LIMIT)
            .await
            .unwrap_or_default();
        let detail = String::from_utf8_lossy(&detail);
        return Err(format!(
            "a call ({kind}) that the trainer had kept is lost: {status} {detail}"
        ));
    }
}

/// Of every process of the task that has left one. Nothing but a file is opened: the folder is the trainer's to write to.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if ours && entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A file of calls, read in order.
struct Journal {
    reader: BufReader<File>,
    marks: File,
    /// Those that are answered, or were read already: a call may stand there twice.
    done: BTreeSet<u64>,
}

impl Journal {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)?;
        let marks = File::options()
            .append(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)?;
        let mut reader = BufReader::new(file);
        let mut done = BTreeSet::new();
        while let Some(line) = line(&mut reader)? {
            if let Some(number) = line.strip_prefix(b"-").and_then(number) {
                done.insert(number);
            }
        }
        reader.seek(SeekFrom::Start(0))?;
        Ok(Self {
            reader,
            marks,
            done,
        })
    }

    /// The next ones; none at the end.
    fn next(&mut self) -> io::Result<Vec<Call>> {
        let (mut calls, mut bytes) = (Vec::new(), 0);
        while calls.len() < BATCH && bytes < BATCH_BYTES {
            let Some(line) = line(&mut self.reader)? else {
                break;
            };
            let Some(call) = call(&line).filter(|call| !self.done.contains(&call.number)) else {
                continue;
            };
            self.done.insert(call.number);
            bytes += line.len();
            calls.push(call);
        }
        Ok(calls)
    }

    fn mark(&mut self, number: u64) -> io::Result<()> {
        self.marks.write_all(format!("\n-{number}\n").as_bytes())
    }
}

/// The next line without its end; none at the end of the file. What is too long for a call is cut, and is none.
fn line(reader: &mut BufReader<File>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = io::Read::take(&mut *reader, LINE_LIMIT).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok((read > 0).then_some(line))
}

/// None for a mark, for an empty line, and for what has come to the disk in part.
fn call(line: &[u8]) -> Option<Call> {
    let mut parts = line.strip_prefix(b"+")?.splitn(3, |byte| *byte == b' ');
    let number = number(parts.next()?)?;
    let path = std::str::from_utf8(parts.next()?).ok()?.to_owned();
    let body = parts.next()?;
    serde_json::from_slice::<serde::de::IgnoredAny>(body).ok()?;
    Some(Call {
        number,
        path,
        body: body.to_vec(),
    })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = trainyard_runtime::blocking(work).await;
    done.map_err(io::Error::other).and_then(|done| done)
}

#[cfg(test)]
mod tests;
