//! What a trainer said while nobody answered, and had not delivered when it ended: its SDK writes each call down before
//! it sends it (`trainyard_sdk/journal.py`), and here those are taken in that were not answered.
//!
//! They go the way of every call, so that what is there already is known by itself, also to the next life of an agent that
//! ends meanwhile. Owns the marks behind those that were taken, which spare that life the work. Called by the run at its trainer's end, when
//! nobody writes any more.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header::CONTENT_TYPE};
use futures::future::join_all;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::{BODY_LIMIT, Registry, TaskEndpoint, router};
use crate::disk::blocking;
use crate::spool::Spool;

/// How the files are called.
const PREFIX: &str = "kept-";
/// The longest line that is read: a number, a path and a body.
const LINE_LIMIT: u64 = BODY_LIMIT as u64 + 4_096;
/// What is larger was not written by our SDK, nor what has more calls and marks: it is left alone.
const FILE_LIMIT: u64 = 160 << 20;
const CALLS_LIMIT: usize = 2_000_000;
/// Calls that are read at once, and bytes of them. Lines are sent together, so that one flush of the disk does for all:
/// no more than `join_all` begins in their order.
const BATCH: usize = 30;
const BATCH_BYTES: usize = 8 << 20;
/// How soon a call is tried again that the disk refused, and for how long: what fills the disk may be this very task's.
const AGAIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);
/// Losses that are told in words, of which each may have so many characters.
const MOST_LOST: usize = 10;
const LOST_WORDS: usize = 500;
/// The task's name on the router that nobody else can reach.
const ALONE: &str = "unsent";

/// What became of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// So many were taken in.
    pub taken: u64,
    /// So many are lost.
    pub losses: u64,
    /// Which, and why, for the job's log: the first of them, each cause once.
    pub lost: Vec<String>,
}

/// Takes in what the trainer of this task had left below `folder`, in order. A second call finds nothing, unless the spool
/// takes nothing any more: then all stays for the run that opens it anew.
pub async fn take_unsent(registry: &Registry, task: TaskEndpoint, folder: &Path) -> Unsent {
    let until = Instant::now() + PATIENCE;
    let spool = task.spool.clone();
    let door = router(registry.alone(ALONE, task));
    let mut unsent = Unsent::default();
    let place = folder.to_owned();
    let files = match blocking(move || files(&place)).await {
        Ok(files) => files,
        Err(error) => {
            // Most trainers leave nothing: it is told where it may matter to somebody who looks for it.
            tracing::warn!(folder = %folder.display(), %error, "what a trainer has left unsent cannot be looked for");
            return unsent;
        }
    };
    for path in files {
        if !takes(&spool).await {
            break;
        }
        let taking = take_file((&door, &spool), &path, until, &mut unsent);
        if let Err(error) = taking.await {
            let words = "what the trainer had kept for its agent cannot be read";
            unsent.lose(format!("{words}: {error}"));
        }
    }
    unsent
}

impl Unsent {
    fn lose(&mut self, words: String) {
        self.losses += 1;
        if self.lost.len() < MOST_LOST && !self.lost.contains(&words) {
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

impl Call {
    fn is_line(&self) -> bool {
        self.path.ends_with("/logs")
    }
}

async fn take_file(
    (door, spool): (&Router, &Spool),
    path: &Path,
    until: Instant,
    unsent: &mut Unsent,
) -> io::Result<()> {
    let place = path.to_owned();
    let mut journal = blocking(move || Journal::open(&place)).await?;
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
        for together in calls.chunk_by(|one, next| one.is_line() && next.is_line()) {
            let sent = join_all(together.iter().map(|call| send(door, call, until))).await;
            for (call, sent) in together.iter().zip(sent) {
                match sent {
                    Ok(()) => unsent.taken += 1,
                    // It is not lost: the run begins anew with another spool.
                    Err(_) if !takes(spool).await => return Ok(()),
                    Err(words) => unsent.lose(words),
                }
                // Without the mark it is sent once more, by an agent that is started again just now.
                journal.mark(call.number).ok();
            }
        }
    }
    let path = path.to_owned();
    blocking(move || std::fs::remove_file(path)).await
}

/// Whether it takes anything, if the disk has room.
async fn takes(spool: &Spool) -> bool {
    spool.append(Vec::new()).await.is_ok()
}

/// As if its trainer said it now.
async fn send(door: &Router, call: &Call, until: Instant) -> Result<(), String> {
    loop {
        let request = Request::post(format!("/t/{ALONE}/api/v1/{}", call.path))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(call.body.clone()));
        let Ok(request) = request else {
            return Err("a call that the trainer had kept goes nowhere".to_owned());
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
        let detail = to_bytes(answer.into_body(), BODY_LIMIT).await;
        let detail = detail.unwrap_or_default();
        let detail: String = String::from_utf8_lossy(&detail)
            .chars()
            .take(LOST_WORDS)
            .collect();
        let words = "a call that the trainer had kept is lost";
        return Err(format!("{words}: {status} {detail}"));
    }
}

/// Of every process of the task that has left one. Nothing but a file is opened: the folder is the trainer's to write to.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours && entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A file of calls, read in order.
struct Journal {
    reader: BufReader<io::Take<File>>,
    marks: File,
    /// Those that are answered, or were read already: a call may stand there twice.
    done: BTreeSet<u64>,
}

impl Journal {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.custom_flags(nix::libc::O_NOFOLLOW);
        let file = options.read(true).open(path)?;
        if file.metadata()?.len() > FILE_LIMIT {
            let words = format!("{} has more than {FILE_LIMIT} bytes", path.display());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
        }
        let marks = options.read(false).append(true).open(path)?;
        let mut reader = BufReader::new(file.take(FILE_LIMIT));
        let mut done = BTreeSet::new();
        while let Some(line) = line(&mut reader)? {
            if let Some(number) = line.strip_prefix(b"-").and_then(number) {
                done.insert(number);
            }
            if done.len() > CALLS_LIMIT {
                let words = format!("{} has too many marks", path.display());
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
            }
        }
        let mut file = reader.into_inner().into_inner();
        file.seek(SeekFrom::Start(0))?;
        let reader = BufReader::new(file.take(FILE_LIMIT));
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
            let call = call(&line).filter(|call| !self.done.contains(&call.number));
            let Some(call) = call.filter(|_| self.done.len() <= CALLS_LIMIT) else {
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
fn line(reader: &mut BufReader<io::Take<File>>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = reader.take(LINE_LIMIT).read_until(b'\n', &mut line)?;
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

#[cfg(test)]
mod tests;
