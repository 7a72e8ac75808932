//! The command line: every command, flag and help text. Never does anything. Read by `main`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};
use trainyard_agent::inventory::{SimulatedGpu, parse_simulated_gpus};
use trainyard_core::label;

use crate::{
    commands::{
        dataset::DatasetCommand,
        jobs::JobsArgs,
        login::LoginArgs,
        logs::LogsArgs,
        machines::{AccountsCommand, ApiKeysCommand, KeysCommand},
        metrics::MetricsArgs,
        node::{DrainArgs, NodeCommand},
        projects::ProjectsCommand,
        replay::ReplayArgs,
        store::StoreCommand,
        submit::SubmitArgs,
        tls::TlsCommand,
        users::UsersCommand,
    },
    transport::Transport,
};

/// Trainyard schedules training jobs on a cluster of GPU machines.
///
/// One binary is the coordinator, the agent on each machine and this command line. `trainyard demo` shows all of it on
/// this machine; `trainyard help exit-codes` lists what commands exit with.
#[derive(Debug, Parser)]
#[command(name = "trainyard", version = trainyard_proto::version(), max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The heading of what every command takes.
pub(crate) const EVERYWHERE: &str = "With every command";

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The coordinator's address [default: that of the last login, else http://127.0.0.1:8000]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TRAINYARD_COORDINATOR",
        help_heading = EVERYWHERE
    )]
    pub(crate) coordinator: Option<String>,
    #[command(flatten)]
    pub(crate) transport: Transport,
    /// Print JSON: one document, or one line for each message of a stream
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the coordinator
    Coordinator(CoordinatorArgs),
    /// Run the agent of this machine
    Agent(AgentArgs),
    /// See a real model trained by a cluster on this machine
    Demo(DemoArgs),
    #[command(flatten)]
    Client(ClientCommand),
    /// Make certificates for TLS, or show what is in them
    #[command(subcommand)]
    Tls(TlsCommand),
    /// Replay a trace of jobs against the scheduling policy, and print how long they waited
    Replay(ReplayArgs),
    /// Print the completions of a shell
    ///
    /// For bash: trainyard completions bash > ~/.local/share/bash-completion/completions/trainyard
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// What commands exit with
    #[command(long_about = exit_codes())]
    ExitCodes,
}

/// The commands that talk to a coordinator.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    #[command(flatten)]
    People(PeopleCommand),
    /// Submit a job
    Submit(Box<SubmitArgs>),
    /// List jobs, newest first
    Jobs(JobsArgs),
    /// Show all about a job
    Show {
        /// The job's number
        id: u64,
    },
    /// Follow a job to its end; exits with its outcome
    Watch {
        /// The job's number
        id: u64,
    },
    /// Print a job's log
    Logs(LogsArgs),
    /// Print a job's metrics
    Metrics(MetricsArgs),
    /// Stop jobs, wherever they stand
    Cancel {
        /// The jobs' numbers
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
        /// All jobs of the arrays that these are of
        #[arg(long)]
        array: bool,
    },
    /// Say why a job waits, until when, and what would start it now
    Explain {
        /// The job's number
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// Register, list and remove datasets that jobs name by their id; see their snapshots
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// List nodes, or show one
    Nodes {
        /// The node
        name: Option<String>,
    },
    /// Let nodes join the cluster and cut them off, take them out of service and back
    #[command(subcommand)]
    Node(NodeCommand),
    /// Give a node no new jobs; those that run may end by themselves, until a deadline if there is one
    Drain(DrainArgs),
    /// Give a drained node jobs again
    Resume {
        /// The node
        node: String,
    },
    /// Check, back up, compact and write out the coordinator's store
    #[command(subcommand)]
    Store(StoreCommand),
    /// Show whether MLflow, ClearML and webhooks have everything, and why not
    Trackers,
}

/// The commands about who calls and who may do what.
#[derive(Debug, Subcommand)]
pub(crate) enum PeopleCommand {
    /// Log in and keep the tokens
    Login(LoginArgs),
    /// Show the coordinator, its health and who you are
    Status,
    /// End the login of this machine
    Logout,
    /// Projects and who works in them
    Projects {
        /// What to do
        #[command(subcommand)]
        command: ProjectsCommand,
    },
    /// Accounts, their roles and passwords
    Users {
        /// What to do
        #[command(subcommand)]
        command: UsersCommand,
    },
    /// Accounts of programs, such as CI
    ServiceAccounts {
        /// What to do
        #[command(subcommand)]
        command: AccountsCommand,
    },
    /// Keys with which service accounts call
    ApiKeys {
        /// What to do
        #[command(subcommand)]
        command: ApiKeysCommand,
    },
    /// Keys that sign users' tokens
    Keys {
        /// What to do
        #[command(subcommand)]
        command: KeysCommand,
    },
}

/// The table of exit codes as text.
pub(crate) fn exit_codes() -> String {
    let mut text = String::from("What commands exit with:\n");
    for (_, code, meaning) in crate::exit::Exit::ALL {
        text.push_str(&format!("\n  {code:>3}  {meaning}"));
    }
    text
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What coordinator and agent share.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// How log lines on stderr look; TRAINYARD_LOG filters them [default level: info]
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Write a JSON file there once ready, so that scripts need no guessing
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Stop when the process with this id, which must be the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) die_with_parent: Option<i32>,
}

/// Flags of `trainyard coordinator`; they go over the configuration.
#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    /// A configuration file; `config/coordinator.toml` shows every key
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The folder that holds all that must be remembered
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address and port of REST and gRPC; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Ask clients for certificates of these authorities (mutual TLS); agents must show one
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Make the development user admin@example.com with password admin123; never on a reachable address
    #[arg(long)]
    pub(crate) dev: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

/// Flags of `trainyard agent`; they go over the configuration.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// A configuration file; `config/agent.toml` shows every key
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A join token, as `trainyard node token` prints it; needed until the agent has joined
    #[arg(long, env = "TRAINYARD_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The node's name [default: the host's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The folder for environments, tasks and checkpoints [default: agent-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// CPU slots to offer [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) slots: Option<u32>,
    /// GPUs to pretend to have, such as 4xH100-80GB or 2xA100-40GB,1xT4-16GB
    #[arg(long, value_name = "GPUS")]
    pub(crate) simulate_gpus: Option<SimulatedGpus>,
    /// A folder of trainers that go before the built-in ones
    #[arg(long, value_name = "DIR")]
    pub(crate) trainers_dir: Option<PathBuf>,
    /// A label of the node; may be given often
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

impl AgentArgs {
    /// The labels by name.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }
}

/// Flags of `trainyard demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// What to train: three small networks, or a YOLO detector (its environment takes 5.7 GB)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) framework: DemoFramework,
    /// Leave coordinator and agents running at the end
    #[arg(long)]
    pub(crate) keep: bool,
    /// Where the data goes; it stays there [default: a temporary folder that is removed]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// What the demo trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoFramework {
    /// Perceptrons on handwritten digits.
    #[default]
    Sklearn,
    /// yolo11n on scenes of handwritten digits.
    Ultralytics,
    /// A small ResNet on handwritten digits.
    Timm,
}

/// A list of GPUs to pretend to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SimulatedGpus(pub(crate) Vec<SimulatedGpu>);

impl FromStr for SimulatedGpus {
    type Err = trainyard_agent::inventory::SimulatedGpusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_simulated_gpus(text).map(Self)
    }
}

/// Reads `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// Reads the label of a node.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = label::parse(text)?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_table_of_exit_codes_is_part_of_the_help() {
        let mut command = Arguments::command();
        let page = command.find_subcommand_mut("exit-codes").unwrap();
        let text = page.render_long_help().to_string();
        assert!(text.contains("69  no coordinator answers"), "{text}");
    }

    #[test]
    fn an_agent_takes_its_flags() {
        let arguments = Arguments::try_parse_from([
            "trainyard",
            "agent",
            "--coordinator",
            "http://c:1",
            "--token",
            "t",
            "--simulate-gpus",
            "4xH100-80GB",
            "--label",
            "zone=a",
            "--slots",
            "2",
        ]);
        let Command::Agent(agent) = arguments.unwrap().command else {
            panic!("another command");
        };
        assert_eq!(agent.simulate_gpus.as_ref().unwrap().0.len(), 4);
        assert_eq!(agent.labels()["zone"], "a");
        assert_eq!(agent.slots, Some(2));
    }

    #[test]
    fn what_stands_after_two_dashes_is_the_jobs_command() {
        let arguments = Arguments::try_parse_from([
            "trainyard",
            "submit",
            "--name",
            "x",
            "--",
            "sh",
            "-c",
            "exit 3",
            "--json",
        ]);
        let arguments = arguments.unwrap();
        assert!(!arguments.global.json);
        let Command::Client(ClientCommand::Submit(submit)) = arguments.command else {
            panic!("another command");
        };
        assert_eq!(submit.command, ["sh", "-c", "exit 3", "--json"]);
    }
}
