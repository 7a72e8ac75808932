//! `trainyard logs`: what a job has written, each line once, also across a restart of the
//! coordinator. Never changes the job.

use std::{cell::Cell, collections::VecDeque};

use clap::{Args, ValueEnum};
use console::Style;
use trainyard_proto::v1::{ListLogsRequest, LogLine, LogStream, StreamLogsRequest};

use super::{Context, follow::follow, watch::interrupted};
use crate::{
    client,
    client::Client,
    exit::Exit,
    output::{self, OutputError, Screen, json},
    text,
};

const PAGE: u32 = 1_000;

/// Flags of `trainyard logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The job's number
    id: u64,
    /// Go on with new lines until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only lines from there: the trainer's output, the agent's words, or lines sent by callback
    #[arg(long, value_enum, value_name = "STREAM")]
    stream: Option<StreamName>,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
}

/// A stream by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StreamName {
    Stdout,
    Stderr,
    System,
    Callback,
}

impl From<StreamName> for LogStream {
    fn from(name: StreamName) -> Self {
        match name {
            StreamName::Stdout => Self::Stdout,
            StreamName::Stderr => Self::Stderr,
            StreamName::System => Self::System,
            StreamName::Callback => Self::Callback,
        }
    }
}

/// Prints a job's log.
pub(crate) async fn run(context: &Context<'_>, args: LogsArgs) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    tokio::select! {
        done = print(&context.screen, &mut client, &args) => done.map(|()| Exit::Ok),
        _ = tokio::signal::ctrl_c() => Ok(interrupted(args.id, "logs -f")),
    }
}

async fn print(screen: &Screen, client: &mut Client, args: &LogsArgs) -> anyhow::Result<()> {
    let after = Cell::new(0);
    if let Some(count) = args.tail {
        let (lines, last) = tail(client, args, count).await?;
        for line in &lines {
            show(screen, args, line)?;
        }
        if !args.follow {
            return Ok(());
        }
        after.set(last);
    }
    follow(
        client,
        async |client| {
            let request = StreamLogsRequest {
                job_id: args.id,
                after_line_id: after.get(),
                follow: args.follow,
            };
            client
                .call(async |via| client::job_service(via).stream_logs(request).await)
                .await
        },
        |message| {
            for line in &message.lines {
                if is_wanted(args, line) {
                    show(screen, args, line)?;
                }
                after.set(line.line_id);
            }
            Ok(())
        },
    )
    .await
}

fn is_wanted(args: &LogsArgs, line: &LogLine) -> bool {
    args.stream
        .is_none_or(|wanted| LogStream::from(wanted) == line.stream())
}

/// The last `count` wanted lines, and the number of the last line of all.
async fn tail(
    client: &mut Client,
    args: &LogsArgs,
    count: usize,
) -> anyhow::Result<(VecDeque<LogLine>, u64)> {
    let mut kept = VecDeque::new();
    let mut last = 0;
    let mut page_token = String::new();
    loop {
        let request = ListLogsRequest {
            job_id: args.id,
            page_size: PAGE,
            page_token,
            stream: LogStream::Unspecified.into(),
        };
        let page = client
            .call(async |via| client::job_service(via).list_logs(request.clone()).await)
            .await?;
        for line in page.lines {
            last = line.line_id;
            if is_wanted(args, &line) {
                kept.push_back(line);
            }
            if kept.len() > count {
                kept.pop_front();
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok((kept, last));
        }
    }
}

fn show(screen: &Screen, args: &LogsArgs, line: &LogLine) -> Result<(), OutputError> {
    if screen.json {
        return output::json_line(&json::log_line(line));
    }
    output::line(&rendered(screen, args.timestamps, line))
}

fn rendered(screen: &Screen, timestamps: bool, line: &LogLine) -> String {
    let style = match line.stream() {
        LogStream::System => Style::new().dim(),
        LogStream::Unspecified | LogStream::Stdout | LogStream::Stderr | LogStream::Callback => {
            Style::new()
        }
    };
    let mut words = String::new();
    if timestamps && let Some(at) = &line.written_at {
        words.push_str(&text::rfc3339(at));
        words.push(' ');
    }
    if line.stream() == LogStream::System {
        words.push_str("-- ");
    }
    let goes_without_saying = line.stream() == LogStream::System && line.level == "INFO";
    if !line.level.is_empty() && !goes_without_saying {
        words.push_str(&format!("{:<7} ", line.level));
    }
    if line.rank > 0 {
        words.push_str(&format!("[rank {}] ", line.rank));
    }
    words.push_str(&line.text);
    if line.stream() == LogStream::System {
        screen.paint(&style, &words)
    } else {
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_printed_as_it_came_and_the_agents_words_are_marked() {
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        };
        let mut line = LogLine {
            stream: LogStream::Stdout.into(),
            text: "epoch 1".into(),
            written_at: Some(prost_types::Timestamp::default()),
            ..LogLine::default()
        };
        assert_eq!(rendered(&screen, false, &line), "epoch 1");
        assert_eq!(
            rendered(&screen, true, &line),
            "1970-01-01T00:00:00.000000Z epoch 1"
        );
        line.stream = LogStream::System.into();
        assert_eq!(rendered(&screen, false, &line), "-- epoch 1");
        line.stream = LogStream::Callback.into();
        line.level = "WARNING".into();
        assert_eq!(rendered(&screen, false, &line), "WARNING epoch 1");
    }
}
