//! Real chaos: the real binary as coordinator and agents, each in a network namespace, real trainers, and faults that a
//! seed makes.
//!
//! Owns the three shells of a run: the command that a person or a test starts, the first process of a namespace of
//! processes, and the run itself. When the second ends the kernel ends all that is left in it, and takes mounts and
//! networks away with it; so no run leaves anything behind, and none can touch what it has not started. docs/adr/0018.

mod check;
mod client;
mod fleet;
mod losses;
mod network;
mod orders;
mod plan;
mod processes;
mod ready;
mod record;
mod silence;
mod world;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};

/// Faults against a cluster of real processes. Needs root and Linux.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// What happens is drawn from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many jobs.
    #[arg(long, default_value_t = 40)]
    jobs: usize,
    /// How many faults; about one a second.
    #[arg(long, default_value_t = 200)]
    faults: usize,
    /// How many agents.
    #[arg(long, default_value_t = 4)]
    agents: usize,
    /// Trainers get no control group, as on a machine that has none to give.
    #[arg(long)]
    no_cgroups: bool,
    /// In place of all that a seed makes: jobs are cancelled while their nodes are cut off.
    #[arg(long)]
    cancels_behind_a_cut: bool,
    /// The binary under test [default: trainyard beside this program].
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the logs go when something is found [default: a new folder below the temporary one].
    #[arg(long)]
    logs: Option<PathBuf>,
    /// Which shell this is.
    #[arg(long, hide = true)]
    inside: Option<Inside>,
    /// The folder of the run.
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Inside {
    First,
    World,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.inside {
        None => outside(&arguments),
        Some(Inside::First) => first(&arguments),
        Some(Inside::World) => {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(world::run(&arguments))
        }
    }
}

impl Arguments {
    /// The same run once more, by hand.
    fn replay(&self) -> String {
        let flags = self.flags().map(|flag| format!(" {flag}"));
        let flags: String = flags.collect();
        format!(
            "cargo build --workspace --bins && target/debug/chaos --seed {} --jobs {} --faults {} --agents {}{flags}",
            self.seed, self.jobs, self.faults, self.agents
        )
    }

    fn flags(&self) -> impl Iterator<Item = &'static str> {
        let flags = [
            (self.no_cgroups, "--no-cgroups"),
            (self.cancels_behind_a_cut, "--cancels-behind-a-cut"),
        ];
        let given = flags.into_iter().filter(|(given, _)| *given);
        given.map(|(_, flag)| flag)
    }

    fn program(&self) -> Result<PathBuf> {
        let beside = || Ok::<_, io::Error>(std::env::current_exe()?.with_file_name("trainyard"));
        let program = self.binary.clone().map_or_else(beside, Ok)?;
        ensure!(
            program.is_file(),
            "there is no {}; build it with `cargo build --workspace --bins`, or name it with --binary",
            program.display()
        );
        Ok(fs::canonicalize(program)?)
    }

    fn folder(&self) -> Result<&Path> {
        self.folder.as_deref().context("--folder is missing")
    }
}

/// What is started by hand or by the test.
fn outside(arguments: &Arguments) -> Result<ExitCode> {
    if let Err(why) = ready::look() {
        tests::needs::impossible(&format!("chaos: {why}"));
        return Ok(ExitCode::SUCCESS);
    }
    let program = arguments.program()?;
    let folder = tempfile::tempdir()?;
    let group = ready::Group::make(arguments.no_cgroups);
    let [program_of_all, how @ ..] = ready::APART;
    let mut command = Command::new(program_of_all);
    command.args(how);
    command
        .arg(std::env::current_exe()?)
        .args(arguments.again(Inside::First));
    command
        .arg("--binary")
        .arg(program)
        .arg("--folder")
        .arg(folder.path());
    let logs = arguments.logs.clone();
    let logs =
        logs.unwrap_or_else(|| std::env::temp_dir().join(format!("chaos-{}", arguments.seed)));
    command.arg("--logs").arg(&logs);
    let status = group
        .enter(&mut command)
        .status()
        .context("setpriv could not be started")?;
    drop(group);
    let mut out = io::stdout().lock();
    if status.success() {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "seed {} failed ({status}); logs are in {}; again with:",
        arguments.seed,
        logs.display()
    )?;
    writeln!(out, "  {}", arguments.replay())?;
    Ok(ExitCode::FAILURE)
}

impl Arguments {
    /// These arguments for the next shell.
    fn again(&self, inside: Inside) -> Vec<String> {
        let shell = match inside {
            Inside::First => "first",
            Inside::World => "world",
        };
        let mut words = vec!["--inside".to_owned(), shell.to_owned()];
        let numbers = [
            ("--seed", self.seed.to_string()),
            ("--jobs", self.jobs.to_string()),
            ("--faults", self.faults.to_string()),
            ("--agents", self.agents.to_string()),
        ];
        for (name, value) in numbers {
            words.extend([name.to_owned(), value]);
        }
        words.extend(self.flags().map(str::to_owned));
        words
    }
}

/// The first process of the namespace: it takes in whoever loses its parent, as every system's first process does, and
/// ends with the run.
fn first(arguments: &Arguments) -> Result<ExitCode> {
    let folder = arguments.folder()?;
    ready::mount(folder, None)?;
    if arguments.no_cgroups {
        // What lies under it is out of reach then.
        ready::mount(Path::new("/sys/fs/cgroup"), None)?;
    }
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(arguments.again(Inside::World))
        .arg("--folder")
        .arg(folder);
    command.arg("--binary").arg(arguments.program()?);
    if let Some(logs) = &arguments.logs {
        command.arg("--logs").arg(logs);
    }
    let world = command.spawn().context("the run could not be started")?;
    let world = Pid::from_raw(i32::try_from(world.id())?);
    loop {
        let status = waitpid(None, None)?;
        if status.pid() != Some(world) {
            continue;
        }
        return Ok(match status {
            WaitStatus::Exited(_, 0) => ExitCode::SUCCESS,
            WaitStatus::Exited(..)
            | WaitStatus::Signaled(..)
            | WaitStatus::Stopped(..)
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive => ExitCode::FAILURE,
        });
    }
}
