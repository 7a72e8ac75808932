//! The way into the long-running parts: coordinator, agent and shim. Owns logging, signals and
//! their settings from flags; never decides what they do. Called by `main`.

use std::{
    future::Future,
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, filter::filter_fn, prelude::*};
use trainyard_agent::{boot as agent_boot, config as agent_config, exec::shim};
use trainyard_coordinator::{
    boot as coordinator_boot,
    config::{Config, ConfigError},
};

use crate::{
    args::{AgentArgs, CoordinatorArgs, DaemonArgs, LogFormat},
    commands::Context,
    error::CliError,
    exit::Exit,
    transport::Transport,
};

/// The hidden subcommand under which each task's shim runs.
pub(crate) const SHIM: &str = "shim";
/// Filters the log.
const LOG_VARIABLE: &str = "TRAINYARD_LOG";
/// Crates that log whole requests below a warning, and with them what they are signed with: s3s those that
/// trainers send.
const TALKATIVE: [&str; 1] = ["s3s"];

/// Runs the shim where that is what the process was started for. It must stay the only thread, so
/// this goes before all else.
pub(crate) fn shim_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != SHIM {
        return None;
    }
    let task_dir = arguments.next()?;
    let code = shim::main(Path::new(&task_dir));
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Runs the coordinator until it is told to stop.
pub(crate) async fn coordinator(
    args: CoordinatorArgs,
    transport: &Transport,
) -> anyhow::Result<Exit> {
    prepare(&args.daemon)?;
    let mut config = Config::load(args.config.as_deref(), variables()).map_err(configuration)?;
    if let Some(data_dir) = args.data_dir {
        config.store.data_dir = data_dir;
    }
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }
    let tls = &mut config.tls;
    for (key, flag) in [
        (&mut tls.cert, &transport.tls_cert),
        (&mut tls.key, &transport.tls_key),
        (&mut tls.client_ca, &args.tls_client_ca),
    ] {
        if let Some(path) = flag {
            key.clone_from(path);
        }
    }
    config.server.insecure |= transport.insecure;
    config.check_transport(args.dev).map_err(configuration)?;
    let options = coordinator_boot::CoordinatorOptions {
        config,
        dev: args.dev,
        ready_file: args.daemon.ready_file,
    };
    until_stopped(|stop| coordinator_boot::run(options, stop)).await
}

/// Runs the agent until it is told to stop.
pub(crate) async fn agent(args: AgentArgs, context: &Context<'_>) -> anyhow::Result<Exit> {
    prepare(&args.daemon)?;
    let config = agent_config::Config::load(args.config.as_deref(), variables());
    let config = config.map_err(configuration)?;
    let token = args
        .token
        .clone()
        .unwrap_or_else(|| config.coordinator.token.expose().to_owned());
    let insecure = config.coordinator.insecure;
    let (tls, plain) = context.transport.or_settings(&config.tls, insecure);
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    let mut labels = config.labels;
    labels.extend(args.labels());
    let options = agent_boot::AgentOptions {
        coordinator: context
            .coordinator
            .map_or(config.coordinator.url, str::to_owned),
        tls,
        plain,
        token,
        name: args.name.or(config.node.name),
        data_dir: args.data_dir.unwrap_or(config.node.data_dir),
        address: config.node.address,
        ports: config.gang.ports,
        slots: args.slots.or(config.node.slots),
        simulated_gpus: args.simulate_gpus.map(|gpus| gpus.0),
        spool_bytes: config.node.spool_mib.saturating_mul(1 << 20),
        reserve_bytes: config.node.reserve_mib.saturating_mul(1 << 20),
        devices: None,
        trainers: None,
        giving_back: config.gpus.giving_back(),
        trainers_dir: args.trainers_dir.or(config.node.trainers_dir),
        labels,
        shim_command: vec![binary.display().to_string(), SHIM.to_owned()],
        datasets: config.datasets.options(config.checkpoints),
        ready_file: args.daemon.ready_file,
    };
    until_stopped(|stop| agent_boot::run(options, stop)).await
}

/// The variables of the environment that are text.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn prepare(args: &DaemonArgs) -> anyhow::Result<()> {
    if let Some(parent) = args.die_with_parent {
        die_with(parent).context("cannot tie this process to its parent")?;
    }
    start_log(args.log_format)?;
    if let Err(error) = take_file_descriptors() {
        tracing::warn!(%error, "no more file descriptors than the usual ones");
    }
    Ok(())
}

/// As many file descriptors as this process may have: the usual 1024 are some six for each of 170
/// tasks, or for as many clients.
fn take_file_descriptors() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, all)?)
}

/// Has the kernel send SIGTERM when the parent ends.
fn die_with(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now == Some(parent) {
        return Ok(());
    }
    // It ended before the line above; nobody would tell us any more.
    Err(io::Error::other(format!("process {parent} has gone")))
}

fn start_log(format: LogFormat) -> anyhow::Result<()> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| {
            CliError::Configuration(format!(
                "{LOG_VARIABLE}={text} is no log filter: {error}; write for example debug or info,trainyard_agent=debug"
            ))
        })?,
        Err(_) => EnvFilter::new("info"),
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !plain);
    let started = match format {
        LogFormat::Text => log.finish().with(filter_fn(may_be_told)).try_init(),
        LogFormat::Json => log.json().finish().with(filter_fn(may_be_told)).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}

/// Whether something may stand in the log, whatever the filter says.
fn may_be_told(about: &Metadata<'_>) -> bool {
    let name = about.target().split("::").next().unwrap_or_default();
    *about.level() <= Level::WARN || !TALKATIVE.contains(&name)
}

fn configuration(error: ConfigError) -> CliError {
    CliError::Configuration(error.to_string())
}

/// Runs a daemon; SIGTERM or SIGINT asks it to stop, a second one ends the process at once.
async fn until_stopped<R, E>(start: impl FnOnce(StopFuture) -> R) -> anyhow::Result<Exit>
where
    R: Future<Output = Result<(), E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut signals = Signals::new().context("cannot listen to signals")?;
    let (stop, stopped) = oneshot::channel();
    let mut serving = Box::pin(start(StopFuture(stopped)));
    tokio::select! {
        ended = &mut serving => {
            ended?;
            return Ok(Exit::Ok);
        }
        () = signals.next() => tracing::info!("stopping; a second signal ends this process at once"),
    }
    drop(stop);
    tokio::select! {
        ended = &mut serving => ended?,
        () = signals.next() => at_once(),
    }
    Ok(Exit::Ok)
}

#[expect(
    clippy::exit,
    reason = "the user has asked twice; nothing may hold it up"
)]
fn at_once() {
    tracing::warn!("ended at once by a second signal");
    std::process::exit(i32::from(Exit::Interrupted.code()));
}

/// Ready when the daemon is to stop.
#[derive(Debug)]
struct StopFuture(oneshot::Receiver<std::convert::Infallible>);

impl Future for StopFuture {
    type Output = ();

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.0)
            .poll(context)
            .map(|_gone| ())
    }
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// From now on neither ends the process by itself.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of either.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
