//! Runs python3, pip and uv with a clean environment and hands their output on line by line.
//! Never decides what is run. Called by `environment` and `environment::tools`.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Split};
use tokio::process::Command;

use super::error::EnvironmentError;

/// How many of a failed program's last lines stand in the error.
const LAST_LINES: usize = 20;

/// Taken over as they are.
const NAMES: [&str; 3] = ["HOME", "PATH", "REQUESTS_CA_BUNDLE"];
/// Taken over whatever follows.
const PREFIXES: [&str; 3] = ["UV_", "PIP_", "SSL_CERT_"];
/// Taken over in upper and in lower case.
const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
/// Would turn `uv sync --frozen --project …` into something else.
const REFUSED: [&str; 6] = [
    "UV_LOCKED",
    "UV_PROJECT",
    "UV_PROJECT_ENVIRONMENT",
    "UV_WORKING_DIR",
    "UV_WORKING_DIRECTORY",
    "UV_NO_SYNC",
];

/// The environment variables that children see.
#[derive(Debug, Clone)]
pub(super) struct CleanEnvironment(Vec<(OsString, OsString)>);

impl CleanEnvironment {
    /// Keeps what children may see of `all`; without HOME, `home` is given as it.
    pub(super) fn of(all: impl Iterator<Item = (OsString, OsString)>, home: &Path) -> Self {
        let mut kept: Vec<_> = all.filter(|(name, _)| is_kept(name)).collect();
        if !kept.iter().any(|(name, _)| name == "HOME") {
            kept.push(("HOME".into(), home.into()));
        }
        Self(kept)
    }

    /// The value of one variable.
    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// A command that sees these variables only, and dies when it is dropped.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.0.iter().map(|(name, value)| (name, value)))
            .env("NO_COLOR", "1")
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

fn is_kept(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let kept = NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || PROXIES
            .iter()
            .any(|proxy| name == *proxy || name == proxy.to_ascii_lowercase());
    kept && !REFUSED.contains(&name)
}

/// How a program ended, and its last lines.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) output: String,
}

/// Runs `command` to its end; each line that it writes goes to `progress`.
pub(super) async fn run(
    mut command: Command,
    progress: &mut (dyn FnMut(String) + Send),
) -> Result<Ended, EnvironmentError> {
    let program = std::path::PathBuf::from(command.as_std().get_program());
    let failed = |source| EnvironmentError::Run {
        program: program.clone(),
        source,
    };
    let mut child = command.spawn().map_err(failed)?;
    let mut out = child.stdout.take().map(lines);
    let mut err = child.stderr.take().map(lines);
    let mut last = VecDeque::with_capacity(LAST_LINES);
    loop {
        let line = tokio::select! {
            line = next(&mut out), if out.is_some() => line,
            line = next(&mut err), if err.is_some() => line,
            else => break,
        };
        if let Some(line) = line.map_err(failed)? {
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line.clone());
            progress(line);
        }
    }
    let status = child.wait().await.map_err(failed)?;
    let output = if last.is_empty() {
        format!("(nothing; {status})")
    } else {
        Vec::from(last).join("\n")
    };
    Ok(Ended { status, output })
}

fn lines<R: AsyncRead + Unpin>(stream: R) -> Split<BufReader<R>> {
    BufReader::new(stream).split(b'\n')
}

/// The next line that is not blank; closes the stream at its end.
async fn next<R: AsyncRead + Unpin>(
    stream: &mut Option<Split<BufReader<R>>>,
) -> std::io::Result<Option<String>> {
    let Some(open) = stream else { return Ok(None) };
    let Some(bytes) = open.next_segment().await? else {
        *stream = None;
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    Ok((!line.is_empty()).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(names: &[&str]) -> Vec<String> {
        let all = names.iter().map(|name| ((*name).into(), "x".into()));
        CleanEnvironment::of(all, Path::new("/data"))
            .0
            .iter()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn children_see_proxies_and_registries_but_no_secrets() {
        let names = [
            "HOME",
            "PATH",
            "UV_INDEX_URL",
            "PIP_CERT",
            "https_proxy",
            "SSL_CERT_FILE",
            "NO_PROXY",
            "REQUESTS_CA_BUNDLE",
        ];
        assert_eq!(kept(&names), names);
        let none = ["HOME", "TRAINYARD_TOKEN", "PYTHONPATH", "VIRTUAL_ENV"];
        assert_eq!(kept(&none), ["HOME"]);
        assert_eq!(kept(&["HOME", "UV_PROJECT"]), ["HOME"]);
    }

    #[test]
    fn without_home_the_data_folder_stands_in() {
        let clean = CleanEnvironment::of(std::iter::empty(), Path::new("/data"));
        assert_eq!(clean.get("HOME"), Some(OsStr::new("/data")));
    }

    #[tokio::test]
    async fn both_streams_are_read_and_the_last_twenty_lines_kept() {
        let clean = CleanEnvironment::of(std::env::vars_os(), Path::new("/"));
        let mut command = clean.command(Path::new("sh"));
        command.args(["-c", "seq 1 30; echo oh >&2; exit 3"]);
        let mut seen = Vec::new();
        let ended = run(command, &mut |line| seen.push(line)).await.unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!(seen.len(), 31);
        assert!(seen.contains(&"oh".to_owned()));
        assert_eq!(ended.output.lines().count(), 20);
    }
}
