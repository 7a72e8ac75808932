//! The only way to the terminal: lines to stdout and stderr, and what is known about them. Never
//! formats a job by itself; `table`, `json` and `progress` do. Called by every command.

pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod table;

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;
use thiserror::Error;

/// Width of what is no terminal.
const PLAIN_WIDTH: u16 = 80;

/// The output could not be written.
#[derive(Debug, Error)]
#[error("cannot write the output: {0}")]
pub(crate) struct OutputError(pub(crate) io::Error);

impl OutputError {
    /// The reader, such as `head`, has gone.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Where output goes and in which form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// JSON instead of text.
    pub(crate) json: bool,
    /// Stdout is a terminal.
    pub(crate) terminal: bool,
    /// Colours are welcome.
    pub(crate) colour: bool,
    /// Columns of the terminal.
    pub(crate) width: u16,
}

impl Screen {
    /// The screen of this process.
    pub(crate) fn detect(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let size = console::Term::stdout().size_checked();
        Self {
            json,
            terminal,
            colour: terminal && !plain,
            width: size
                .filter(|_| terminal)
                .map_or(PLAIN_WIDTH, |(_, columns)| columns),
        }
    }

    /// Prints a JSON document with `--json`, else the text.
    pub(crate) fn show(
        &self,
        document: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), OutputError> {
        if self.json {
            line(&format!("{:#}", document()))
        } else {
            line(text().trim_end())
        }
    }

    /// Text in a colour, where colours are welcome.
    pub(crate) fn paint(&self, style: &console::Style, text: &str) -> String {
        if self.colour {
            style.clone().force_styling(true).apply_to(text).to_string()
        } else {
            text.to_owned()
        }
    }
}

/// One line to stdout.
pub(crate) fn line(text: &str) -> Result<(), OutputError> {
    writeln!(io::stdout().lock(), "{text}").map_err(OutputError)
}

/// One JSON value on one line of stdout.
pub(crate) fn json_line(value: &Value) -> Result<(), OutputError> {
    line(&value.to_string())
}

/// Text to stdout as it is.
pub(crate) fn text(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(OutputError)
}

/// One line to stderr, for people; that nobody reads it is no error.
pub(crate) fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}
