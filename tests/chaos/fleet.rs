//! The hosts: the coordinator's and the agents', each with a network and a disk of its own.
//!
//! Owns their processes and plays the service manager: what ends by itself is started again. Decides no fault. Called by
//! the world.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tests::process::Process;
use tokio::time::Instant;

use crate::{
    network::Network,
    plan::{LEASE, SLOTS},
    ready,
    record::Record,
    silence::By,
};

/// How soon the service manager starts again what has ended.
const RESTART: Duration = Duration::from_millis(500);
/// The size of a host's disk, in MiB: the coordinator's and an agent's.
const DISKS: (u32, u32) = (192, 64);
/// What fills a disk.
const FILLER: &str = "filler";
/// Where the coordinator is.
pub(crate) const ADDRESS: &str = "10.77.0.2:8000";
/// What agents join with.
const JOIN_TOKEN: &str = "chaos-join-token-0123456789abcdef";

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Its disk; the program's data folder lies in it.
    disk: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    /// When to start it; none while it runs, or is to stay down.
    start_at: Option<Instant>,
    pub(crate) full: bool,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Fleet {
    program: PathBuf,
    pub(crate) hosts: Vec<Host>,
    gpus: Vec<u32>,
    network: Network,
    record: Record,
}

impl Fleet {
    /// Hosts for a coordinator and agents with so many GPUs each, below `folder`. Nothing runs yet.
    pub(crate) async fn make(
        (program, folder): (&Path, &Path),
        gpus: &[u32],
        record: Record,
    ) -> Result<Self> {
        let network = Network::make(gpus.len() + 1).await?;
        let mut hosts = Vec::new();
        for number in 0..=gpus.len() {
            let (name, size) = match number {
                0 => ("coordinator".to_owned(), DISKS.0),
                agent => (format!("n{agent}"), DISKS.1),
            };
            let disk = folder.join(&name);
            ready::mount(&disk, Some(size))?;
            hosts.push(Host {
                log: folder.join(format!("{name}.log")),
                process: None,
                start_at: None,
                full: false,
                disk,
                name,
            });
        }
        Ok(Self {
            program: program.to_owned(),
            hosts,
            gpus: gpus.to_vec(),
            network,
            record,
        })
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Where the program of a host keeps what it must remember.
    pub(crate) fn data(&self, host: usize) -> PathBuf {
        let disk = self.hosts.get(host).map(|host| host.disk.join("data"));
        disk.unwrap_or_default()
    }

    /// Starts it, unless it runs.
    pub(crate) fn start(&mut self, number: usize) -> Result<()> {
        let command = self.command(number)?;
        let host = self.hosts.get_mut(number).context("no such host")?;
        host.start_at = None;
        if host.process.is_none() {
            let mut command = command;
            host.process = Some(Process::start(&mut command, &host.log));
            // A new process is not frozen, whatever the old one was.
            self.record.heard(number, By::Freeze);
            self.record.heard(number, By::Death);
        }
        Ok(())
    }

    /// `kill -9`; it stays down until it is started.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(host) = self.hosts.get_mut(number) {
            self.record.silenced(number, By::Death);
            host.process = None;
            host.start_at = None;
        }
    }

    /// Ends it in order.
    pub(crate) async fn stop(&mut self, number: usize) {
        if let Some(mut process) = self
            .hosts
            .get_mut(number)
            .and_then(|host| host.process.take())
        {
            process.stop().await;
        }
    }

    pub(crate) fn signal(&self, number: usize, signal: Signal) {
        let process = self
            .hosts
            .get(number)
            .and_then(|host| host.process.as_ref());
        if let Some(process) = process {
            process.signal(signal);
        }
    }

    /// Starts again what has ended by itself.
    pub(crate) fn supervise(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (number, host) in self.hosts.iter_mut().enumerate() {
            if host.process.as_mut().is_some_and(Process::has_ended) {
                self.record.silenced(number, By::Death);
                host.process = None;
                host.start_at = Some(now + RESTART);
                let full = if host.full { ", its disk is full" } else { "" };
                self.record
                    .say(&format!("{} has ended by itself{full}", host.name));
                self.record
                    .count(&format!("{} ended by itself{full}", host.name));
            }
            if host.start_at.is_some_and(|at| at <= now) {
                due.push(number);
            }
        }
        due.into_iter().try_for_each(|number| self.start(number))
    }

    /// Takes all room from its disk, until it is freed.
    pub(crate) fn fill(&mut self, number: usize) {
        let Some(host) = self.hosts.get_mut(number) else {
            return;
        };
        host.full = true;
        let block = vec![0; 64 << 10];
        let Ok(mut file) = File::create(host.disk.join(FILLER)) else {
            return;
        };
        while file.write_all(&block).is_ok() {}
        // The last bytes too.
        while file.write_all(&[0; 512]).is_ok() {}
    }

    pub(crate) fn free(&mut self, number: usize) {
        if let Some(host) = self.hosts.get_mut(number) {
            fs::remove_file(host.disk.join(FILLER)).ok();
            host.full = false;
        }
    }

    /// Who is no trainer's.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let processes = self.hosts.iter().filter_map(|host| host.process.as_ref());
        let own = processes.map(|process| process.pid().as_raw());
        own.chain(self.network.holders()).collect()
    }

    /// What each host wrote.
    pub(crate) fn logs(&self) -> BTreeMap<String, String> {
        let log = |host: &Host| {
            (
                host.name.clone(),
                fs::read_to_string(&host.log).unwrap_or_default(),
            )
        };
        self.hosts.iter().map(log).collect()
    }

    fn command(&self, number: usize) -> Result<Command> {
        let host = self.hosts.get(number).context("no such host")?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network.place(number)?.display()));
        command.arg(&self.program).current_dir(&host.disk);
        command
            .env("NO_COLOR", "1")
            .env("XDG_CONFIG_HOME", &host.disk);
        // The system's Python, where there is one: others may be scripts that take long to start it.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("/usr/bin:/bin:{path}"));
        if number == 0 {
            command.args(["coordinator", "--dev", "--insecure", "--listen", ADDRESS]);
            command.env("TRAINYARD__AUTH__JOIN_TOKEN", JOIN_TOKEN);
            command.env("TRAINYARD__STORE__RESERVE_MIB", "4");
            command.env(
                "TRAINYARD__LEASES__SUSPECT_AFTER_SECONDS",
                LEASE.0.to_string(),
            );
            command.env("TRAINYARD__LEASES__LOST_AFTER_SECONDS", LEASE.1.to_string());
            // Who is to make room is looked for often, and soon after a start.
            for name in ["ROUND", "SETTLED", "RESTART_COST"] {
                command.env(format!("TRAINYARD__SCHEDULING__{name}_SECONDS"), "2");
            }
        } else {
            let gpus = number.checked_sub(1).and_then(|agent| self.gpus.get(agent));
            let gpus = format!("{}xT4-16GB", gpus.copied().unwrap_or(1));
            let url = format!("http://{ADDRESS}");
            command.args([
                "agent",
                "--insecure",
                "--coordinator",
                &url,
                "--token",
                JOIN_TOKEN,
            ]);
            command.args([
                "--name",
                &host.name,
                "--slots",
                &SLOTS.to_string(),
                "--simulate-gpus",
                &gpus,
            ]);
            command.env("TRAINYARD_AGENT__CHECKPOINTS__EVERY_SECONDS", "1");
        }
        command.arg("--data-dir").arg(self.data(number));
        Ok(command)
    }
}
