//! `trainyard tls`: an authority of one's own, certificates of it, and what is in a certificate.
//! Talks to no coordinator.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use trainyard_core::time::Timestamp;
use trainyard_net::pki::{self, Details, Pair, Wanted};

use crate::{
    clock,
    error::CliError,
    exit::Exit,
    output::{Screen, table::Block},
    text,
};

/// The commands of `trainyard tls`.
#[derive(Debug, Subcommand)]
pub(crate) enum TlsCommand {
    /// Make an authority and the certificates that are missing
    ///
    /// ca.pem is what agents and users need (--tls-ca); server.pem and server.key are the coordinator's (--tls-cert,
    /// --tls-key); ca.key signs further certificates: keep it where nobody else is. What is there is kept.
    Init(InitArgs),
    /// Show what is in certificates
    Show {
        /// PEM files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Flags of `trainyard tls init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder of the certificates; made if missing
    #[arg(long, value_name = "DIR", default_value = "tls")]
    dir: PathBuf,
    /// A name or number under which the coordinator is reached; may be given often [default: this machine's name, localhost, 127.0.0.1 and ::1]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Make a certificate for the agent of this node, for mutual TLS; may be given often
    #[arg(long = "agent", value_name = "NODE")]
    agents: Vec<String>,
    /// For how many days certificates are good
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
    /// Make the certificates anew, of the same authority
    #[arg(long)]
    force: bool,
    /// Make the authority anew too: everybody then needs the new ca.pem
    #[arg(long)]
    new_ca: bool,
}

/// Runs one of them.
pub(crate) fn run(screen: &Screen, command: TlsCommand) -> anyhow::Result<Exit> {
    match command {
        TlsCommand::Init(args) => init(screen, args),
        TlsCommand::Show { files } => show(screen, &files),
    }
}

fn init(screen: &Screen, args: InitArgs) -> anyhow::Result<Exit> {
    let hosts = match args.hosts.is_empty() {
        true => usual_hosts(),
        false => args.hosts,
    };
    let micros = u64::try_from(clock::now().0).unwrap_or_default();
    let wanted = Wanted {
        hosts,
        agents: args.agents,
        days: args.days,
        force: args.force,
        new_ca: args.new_ca,
        now: Duration::from_micros(micros),
    };
    let made = pki::init(&args.dir, &wanted).map_err(CliError::from)?;
    let rows = [("authority", &made.ca), ("coordinator", &made.server)].into_iter();
    let rows = rows.chain(made.agents.iter().map(|pair| ("agent", pair)));
    let rows: Vec<_> = rows.collect();
    screen.show(
        || rows.iter().map(|(what, pair)| row(what, pair)).collect(),
        || {
            let line = |(what, pair): &(&str, &Pair)| {
                let done = if pair.kept { "kept" } else { "made" };
                let (cert, key) = (pair.cert.display(), pair.key.display());
                format!("{done} {what:<11}  {cert}  {key}")
            };
            let lines: Vec<_> = rows.iter().map(line).collect();
            lines.join("\n")
        },
    )?;
    Ok(Exit::Ok)
}

fn row(what: &str, pair: &Pair) -> Value {
    json!({"for": what, "cert": pair.cert, "key": pair.key, "kept": pair.kept})
}

/// This machine under the names by which it calls itself.
fn usual_hosts() -> Vec<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let own = Some(name.trim().to_owned()).filter(|name| !name.is_empty() && name != "localhost");
    let always = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    own.into_iter().chain(always).collect()
}

fn show(screen: &Screen, files: &[PathBuf]) -> anyhow::Result<Exit> {
    let mut all = Vec::new();
    for file in files {
        for details in pki::inspect(file).map_err(CliError::from)? {
            all.push((file.display().to_string(), details));
        }
    }
    let now = clock::now();
    screen.show(
        || {
            all.iter()
                .map(|(file, details)| document(file, details))
                .collect()
        },
        || {
            let page = |(file, details): &(String, Details)| page(file, details, now);
            let pages: Vec<_> = all.iter().map(page).collect();
            pages.join("\n\n")
        },
    )?;
    Ok(Exit::Ok)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds.saturating_mul(1_000_000))
}

fn document(file: &str, details: &Details) -> Value {
    json!({
        "file": file,
        "subject": details.subject,
        "issuer": details.issuer,
        "names": details.names,
        "authority": details.authority,
        "not_before": format!("{}Z", at(details.not_before).to_naive_iso()),
        "not_after": format!("{}Z", at(details.not_after).to_naive_iso()),
        "sha256": details.fingerprint,
    })
}

fn page(file: &str, details: &Details, now: Timestamp) -> String {
    let until = at(details.not_after);
    let left = until.since(now);
    let left = match left.is_zero() {
        true => "expired".to_owned(),
        false => format!("{} left", text::span(left)),
    };
    let kind = if details.authority {
        "authority"
    } else {
        "certificate"
    };
    let mut block = Block::default();
    block
        .add("file", file)
        .add(kind, details.subject.clone())
        .add("signed by", details.issuer.clone())
        .add("names", details.names.join(", "))
        .add(
            "good from",
            format!("{}Z", at(details.not_before).to_naive_iso()),
        )
        .add("good until", format!("{}Z ({left})", until.to_naive_iso()))
        .add("sha256", details.fingerprint.clone());
    block.render()
}
