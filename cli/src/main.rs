//! The `trainyard` binary: coordinator, agent and command line in one.
//!
//! Owns the way from the command line to a command and from its end to an exit code. Never does
//! the work of either.

mod args;
mod client;
mod clock;
mod commands;
mod credentials;
mod daemons;
mod demo;
mod error;
mod exit;
mod jobfile;
mod memory;
mod output;
mod text;
mod transport;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use tokio::runtime::Builder;

use args::{Arguments, Command};
use exit::Exit;
use output::Screen;

fn main() -> ExitCode {
    if let Some(code) = daemons::shim_if_asked() {
        return code;
    }
    memory::give_large_blocks_back();
    let arguments = Arguments::parse_from(without_separator(std::env::args_os()));
    match run(arguments) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = Exit::of_error(&error);
            if exit != Exit::Ok {
                output::note(&format!("error: {}", chain(&error)));
            }
            exit.into()
        }
    }
}

/// `cargo demo -- --framework x` arrives as `demo -- --framework x`.
fn without_separator(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut before = [OsString::new(), OsString::new()];
    arguments.enumerate().filter_map(move |(index, argument)| {
        let [program, command] = &mut before;
        match index {
            0 => program.clone_from(&argument),
            1 => command.clone_from(&argument),
            2 if *command == "demo" && argument == "--" => return None,
            _ => {}
        }
        Some(argument)
    })
}

/// An error with its causes; a cause that the text above it tells already is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if text.is_empty() {
            text = words;
        } else if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
    }
    text
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    // Fails only where a provider is installed already, which is as good.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let is_daemon = matches!(
        arguments.command,
        Command::Coordinator(_) | Command::Agent(_)
    );
    let mut runtime = if is_daemon {
        Builder::new_multi_thread()
    } else {
        Builder::new_current_thread()
    };
    runtime.enable_all().build()?.block_on(dispatch(arguments))
}

async fn dispatch(arguments: Arguments) -> anyhow::Result<Exit> {
    let screen = Screen::detect(arguments.global.json);
    let coordinator = arguments.global.coordinator.as_deref();
    let context = commands::Context {
        screen,
        coordinator,
        transport: &arguments.global.transport,
    };
    match arguments.command {
        Command::Coordinator(args) => Box::pin(daemons::coordinator(args, context.transport)).await,
        Command::Agent(args) => Box::pin(daemons::agent(args, &context)).await,
        Command::Demo(args) => Box::pin(demo::run(args, screen)).await,
        Command::Completions { shell } => completions(shell),
        Command::ExitCodes => exit_codes(&screen),
        Command::Replay(args) => Box::pin(commands::replay::run(&context, args)).await,
        Command::Tls(command) => commands::tls::run(&screen, command),
        Command::Client(command) => Box::pin(commands::run(&context, command)).await,
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "trainyard", &mut script);
    output::text(&script)?;
    Ok(Exit::Ok)
}

fn exit_codes(screen: &Screen) -> anyhow::Result<Exit> {
    let rows = || {
        let row = |(_, code, meaning)| serde_json::json!({"code": code, "meaning": meaning});
        Exit::ALL.into_iter().map(row).collect()
    };
    screen.show(rows, args::exit_codes)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        without_separator(line.split(' ').map(OsString::from)).collect()
    }

    #[test]
    fn cargos_separator_is_taken_out_of_the_demo_only() {
        let plain = arguments("trainyard demo --framework ultralytics");
        assert_eq!(
            arguments("trainyard demo -- --framework ultralytics"),
            plain
        );
        assert_eq!(arguments("trainyard submit -- ls").len(), 4);
        assert_eq!(arguments("trainyard demo --keep --").len(), 4);
    }

    #[test]
    fn a_chain_tells_each_cause_once() {
        let inner = anyhow::anyhow!("no space left");
        let told = inner.context("cannot write: no space left");
        assert_eq!(chain(&told), "cannot write: no space left");
        let error = Err::<(), _>(anyhow::anyhow!("cause")).context("what");
        assert_eq!(chain(&error.unwrap_err()), "what: cause");
    }
}
