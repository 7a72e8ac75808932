//! The network: a namespace for each host, all joined by this process's own, which forwards between them.
//!
//! Owns what passes. A cut is a rule of the router in the middle that drops silently, one way or both; no host can tell
//! it from silence of the other. Called by the world.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tests::wait::until_within;

use crate::ready::run;

/// Which way is cut, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Neither hears the other.
    Both,
    /// The coordinator does not hear the host.
    Out,
    /// The host does not hear the coordinator.
    In,
}

/// All hosts: number 0 is the coordinator's.
#[derive(Debug)]
pub(crate) struct Network {
    holders: Vec<Child>,
}

impl Network {
    /// So many hosts, all of which hear each other.
    pub(crate) async fn make(hosts: usize) -> Result<Self> {
        run(&["ip", "link", "set", "lo", "up"])?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forwarding")?;
        let mut network = Self {
            holders: Vec::new(),
        };
        for host in 0..hosts {
            let holder = hold().await?;
            let pid = holder.id().to_string();
            network.holders.push(holder);
            let (outer, inner) = (format!("v{host}"), format!("10.77.{host}.2/24"));
            let router = format!("10.77.{host}.1");
            run(&[
                "ip", "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &pid,
            ])?;
            run(&["ip", "addr", "add", &format!("{router}/24"), "dev", &outer])?;
            run(&["ip", "link", "set", &outer, "up"])?;
            let place = network.place(host)?.display().to_string();
            let within = |words: &[&str]| {
                let enter = format!("--net={place}");
                run(&[&["nsenter", &enter, "ip"], words].concat())
            };
            within(&["link", "set", "lo", "up"])?;
            within(&["addr", "add", &inner, "dev", "eth0"])?;
            within(&["link", "set", "eth0", "up"])?;
            within(&["route", "add", "default", "via", &router])?;
        }
        Ok(network)
    }

    /// Where `nsenter --net` finds the network of a host.
    pub(crate) fn place(&self, host: usize) -> Result<PathBuf> {
        let holder = self.holders.get(host).context("no such host")?;
        Ok(PathBuf::from(format!("/proc/{}/ns/net", holder.id())))
    }

    /// Who holds the networks.
    pub(crate) fn holders(&self) -> Vec<i32> {
        let pids = self.holders.iter().map(|holder| holder.id());
        pids.filter_map(|pid| i32::try_from(pid).ok()).collect()
    }

    /// Cuts a host off the coordinator. What was cut before is not any more.
    pub(crate) fn cut(&self, host: usize, way: Way) -> Result<()> {
        self.mend(host);
        let rule = |pref: usize, from: usize, to: usize| {
            let (pref, from) = (pref.to_string(), format!("v{from}"));
            let to = format!("10.77.{to}.2");
            run(&[
                "ip",
                "rule",
                "add",
                "pref",
                &pref,
                "iif",
                &from,
                "to",
                &to,
                "blackhole",
            ])
        };
        if matches!(way, Way::Both | Way::Out) {
            rule(100 + host, host, 0)?;
        }
        if matches!(way, Way::Both | Way::In) {
            rule(200 + host, 0, host)?;
        }
        Ok(())
    }

    /// All passes again.
    pub(crate) fn mend(&self, host: usize) {
        for pref in [100 + host, 200 + host] {
            // There may be none.
            run(&["ip", "rule", "del", "pref", &pref.to_string()]).ok();
        }
    }
}

/// A process whose only use is that its network lives as long as it does.
async fn hold() -> Result<Child> {
    let own = fs::read_link("/proc/self/ns/net")?;
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sleep", "infinity"])
        .stdin(Stdio::null());
    let holder = command.spawn()?;
    let of = |name: &str| format!("/proc/{}/{name}", holder.id());
    until_within(Duration::from_secs(10), "a network is there", async || {
        let other = fs::read_link(of("ns/net")).is_ok_and(|net| net != own);
        let sleeps = fs::read_to_string(of("comm")).is_ok_and(|name| name.trim() == "sleep");
        (other && sleeps).then_some(())
    })
    .await;
    Ok(holder)
}

impl Drop for Network {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            holder.kill().ok();
            holder.wait().ok();
        }
    }
}
