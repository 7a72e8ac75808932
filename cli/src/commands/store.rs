//! `trainyard store`: check, back up, compact and write out a coordinator's store.
//!
//! Only a backup talks to a coordinator; the rest opens the file, which no coordinator may hold. Only `mend`
//! changes rows.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tonic::Streaming;
use trainyard_coordinator::store::care::{Care, Draft, Mended, Part, Report};
use trainyard_core::resources::format_bytes;
use trainyard_proto::v1::{
    BackupRequest, BackupResponse, backup_response, store_service_client::StoreServiceClient,
};

use super::Context;
use crate::{
    exit::Exit,
    output::{
        self, Screen,
        table::{Lean, Table},
    },
};

/// The commands of `trainyard store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read every row of a store and say what is damaged
    ///
    /// The coordinator must be stopped, or PATH be a backup. Exits with 1 when something is wrong.
    Check(Where),
    /// Save the store of a running coordinator to a file
    ///
    /// The file is the store as of one moment; a coordinator starts with it when it lies in the data folder as
    /// trainyard.redb. It holds every secret of the coordinator. With --offline a stopped coordinator's store is copied;
    /// exits with 1 when rows of it are damaged, and so of the backup.
    Backup(BackupArgs),
    /// Take damaged rows out of a store, so that a coordinator starts with the rest
    ///
    /// For when there is no backup. What is taken out goes to FILE as JSON lines, in hex; a job whose row is damaged
    /// is lost with its points and lines. Where pages are damaged the file is written anew, and stays beside it as it was.
    /// The coordinator must be stopped.
    Mend(MendArgs),
    /// Give unused space of a store back to the disk; the coordinator must be stopped
    Compact(Where),
    /// Write jobs, points, logs, validation results and nodes as JSON, a line a row
    ///
    /// The coordinator must be stopped, or PATH be a backup. Passwords, keys and tokens are left out.
    Export(ExportArgs),
}

/// Which store.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// The coordinator's data folder, or a file
    #[arg(default_value = "data", value_name = "PATH")]
    path: PathBuf,
}

/// Flags of `trainyard store backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to write; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Copy the store of a coordinator that is stopped: its data folder, or a file
    #[arg(long, value_name = "PATH")]
    offline: Option<PathBuf>,
}

/// Flags of `trainyard store mend`.
#[derive(Debug, Args)]
pub(crate) struct MendArgs {
    #[command(flatten)]
    place: Where,
    /// Where the damaged rows go; the file must not be there yet
    #[arg(long, value_name = "FILE")]
    aside: PathBuf,
}

/// Flags of `trainyard store export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    place: Where,
    /// Only what belongs to this job
    #[arg(long, value_name = "ID")]
    job: Option<u64>,
    /// Only these; may be given often [default: all]
    #[arg(long = "part", value_enum, value_name = "PART")]
    parts: Vec<PartName>,
}

/// A part by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PartName {
    Jobs,
    Points,
    Logs,
    Validations,
    Nodes,
    Events,
}

impl From<PartName> for Part {
    fn from(name: PartName) -> Self {
        match name {
            PartName::Jobs => Self::Jobs,
            PartName::Points => Self::Points,
            PartName::Logs => Self::Logs,
            PartName::Validations => Self::Validations,
            PartName::Nodes => Self::Nodes,
            PartName::Events => Self::Events,
        }
    }
}

/// Runs one of them.
pub(crate) async fn run(context: &Context<'_>, command: StoreCommand) -> anyhow::Result<Exit> {
    let screen = context.screen;
    match command {
        StoreCommand::Check(place) => check(&screen, &place.path),
        StoreCommand::Backup(args) => match &args.offline {
            Some(store) => copy(&screen, store, &args.file),
            None => Box::pin(back_up(context, &args.file)).await,
        },
        StoreCommand::Mend(args) => mend(&screen, &args),
        StoreCommand::Compact(place) => compact(&screen, &place.path),
        StoreCommand::Export(args) => export(&args),
    }
}

fn check(screen: &Screen, path: &Path) -> anyhow::Result<Exit> {
    let care = Care::open(path, true)?;
    let report = care.check()?;
    let document = || json!({"path": care.path(), "sound": report.is_sound(), "report": report});
    screen.show(document, || words(screen, care.path(), &report))?;
    Ok(if report.is_sound() {
        Exit::Ok
    } else {
        Exit::Error
    })
}

fn words(screen: &Screen, path: &Path, report: &Report) -> String {
    let columns = [
        ("TABLE", Lean::Left),
        ("ROWS", Lean::Right),
        ("SIZE", Lean::Right),
    ];
    let mut table = Table::new(screen, &columns);
    for row in &report.tables {
        let (name, rows) = (row.name.to_owned(), row.rows.to_string());
        table.row(&[name, rows, format_bytes(row.bytes)]);
    }
    let mut text = table.render();
    for problem in &report.problems {
        let (table, key, words) = (problem.table, &problem.key, &problem.problem);
        text.push_str(&format!("\n{table} {key}: {words}"));
    }
    let told = report.problems.len() as u64;
    if report.problem_count > told {
        text.push_str(&format!("\n… and {} more", report.problem_count - told));
    }
    let path = path.display();
    text.push_str(&match (report.is_sound(), report.pages_intact) {
        (true, _) => format!("\n{path} is sound (schema version {})", report.schema),
        (false, true) => format!(
            "\n{path} is damaged in {} places; restore it from a backup, or have the damaged rows taken out with `trainyard store mend`",
            report.problem_count
        ),
        (false, false) => format!(
            "\n{path} has damaged pages, and {} rows that are damaged; restore it from a backup, or have the damaged rows taken out and the file written anew with `trainyard store mend`",
            report.problem_count
        ),
    });
    text
}

fn rows(damaged: u64) -> String {
    match damaged {
        1 => "1 row is".to_owned(),
        many => format!("{many} rows are"),
    }
}

fn copy(screen: &Screen, store: &Path, file: &Path) -> anyhow::Result<Exit> {
    let copied = Care::open(store, false)?.copy(file)?;
    told(screen, file, copied.bytes, copied.rows)?;
    if copied.damaged == 0 {
        return Ok(Exit::Ok);
    }
    output::note(&format!(
        "the backup was made, and {} damaged in it as in the store: {}; `trainyard store check {}` names all",
        rows(copied.damaged),
        copied.named.join(", "),
        file.display()
    ));
    Ok(Exit::Error)
}

fn told(screen: &Screen, file: &Path, bytes: u64, rows: u64) -> anyhow::Result<Exit> {
    let document = || json!({"file": file, "bytes": bytes, "rows": rows});
    let text = || format!("{}: {rows} rows, {}", file.display(), format_bytes(bytes));
    screen.show(document, text)?;
    Ok(Exit::Ok)
}

fn compact(screen: &Screen, path: &Path) -> anyhow::Result<Exit> {
    let mut care = Care::open(path, false)?;
    let (before, after) = care.compact()?;
    let document = || json!({"path": care.path(), "bytes_before": before, "bytes_after": after});
    let text = || {
        let (before, after) = (format_bytes(before), format_bytes(after));
        format!("{}: {before} before, {after} now", care.path().display())
    };
    screen.show(document, text)?;
    Ok(Exit::Ok)
}

fn mend(screen: &Screen, args: &MendArgs) -> anyhow::Result<Exit> {
    let mut care = Care::open(&args.place.path, true)?;
    let mended = care.mend(&args.aside)?;
    let (anew, set_aside) = (mended.anew.as_ref(), mended.set_aside);
    let document = || {
        json!({
            "path": care.path(),
            "aside": args.aside,
            "set_aside": set_aside,
            "before": anew.map(|anew| &anew.before),
            "unread": anew.map(|anew| &anew.unread),
        })
    };
    screen.show(document, || mended_words(care.path(), &args.aside, &mended))?;
    Ok(Exit::Ok)
}

fn mended_words(path: &Path, aside: &Path, mended: &Mended) -> String {
    let (path, aside) = (path.display(), aside.display());
    let mut text = format!(
        "{path}: {} damaged rows were taken out and are in {aside}",
        mended.set_aside
    );
    let Some(anew) = &mended.anew else {
        return text;
    };
    let before = anew.before.display();
    text.push_str(&format!(
        "\nPages of it were damaged, so it was written anew. As it was it is {before}, with every secret: remove it when all is well"
    ));
    if !anew.unread.is_empty() {
        let tables = anew.unread.join(", ");
        text.push_str(&format!(
            "\nNot all rows of these tables could be read: {tables}"
        ));
    }
    text
}

fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    let all = [
        Part::Jobs,
        Part::Points,
        Part::Logs,
        Part::Validations,
        Part::Nodes,
        Part::Events,
    ];
    let wanted: Vec<Part> = args.parts.iter().copied().map(Part::from).collect();
    let parts = all
        .into_iter()
        .filter(|part| wanted.is_empty() || wanted.contains(part));
    // What belongs to one job are no nodes.
    let parts: Vec<Part> = parts
        .filter(|part| args.job.is_none() || *part != Part::Nodes)
        .collect();
    let care = Care::open(&args.place.path, false)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let done = care.export(&parts, args.job, &mut out)?;
    let damaged = done.damaged;
    if damaged > 0 {
        output::note(&format!(
            "{} damaged and left out; `trainyard store check` names all",
            rows(damaged)
        ));
        return Ok(Exit::Error);
    }
    Ok(Exit::Ok)
}

async fn back_up(context: &Context<'_>, file: &Path) -> anyhow::Result<Exit> {
    let cannot = || format!("cannot write the backup {}", file.display());
    if file.exists() {
        anyhow::bail!(
            "{} is there already; name a file that is not",
            file.display()
        );
    }
    let mut client = context.client().await?;
    let parts = client
        .call(async |via| StoreServiceClient::new(via).backup(BackupRequest {}).await)
        .await?;
    let (draft, whole) = Draft::begin(file).with_context(cannot)?;
    let bar = bar(&context.screen);
    let whole = receive(parts, &whole, &bar).await;
    bar.finish_and_clear();
    let (bytes, rows) = match whole {
        Ok(whole) => whole,
        Err(Broken::Call(status)) => return Err(client.diagnosed(*status).await.into()),
        Err(Broken::File(error)) => return Err(error).with_context(cannot),
        Err(Broken::Short) => anyhow::bail!("the backup did not arrive whole; try again"),
    };
    draft.keep(file).with_context(cannot)?;
    told(&context.screen, file, bytes, rows)
}

fn bar(screen: &Screen) -> ProgressBar {
    if !screen.terminal || screen.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_invalid) => bar,
    }
}

/// Why a backup did not arrive.
enum Broken {
    /// The coordinator or the way to it.
    Call(Box<tonic::Status>),
    /// This machine's disk.
    File(io::Error),
    /// It ended early, or is not what was sent.
    Short,
}

/// Writes what arrives; bytes and rows once all of it is on disk.
async fn receive(
    mut parts: Streaming<BackupResponse>,
    mut file: &File,
    bar: &ProgressBar,
) -> Result<(u64, u64), Broken> {
    let mut digest = blake3::Hasher::new();
    let (mut bytes, mut rows) = (0, 0);
    loop {
        let message = parts.message().await;
        let message = message.map_err(|status| Broken::Call(Box::new(status)))?;
        let Some(part) = message.and_then(|message| message.part) else {
            return Err(Broken::Short);
        };
        match part {
            backup_response::Part::Begin(begin) => {
                rows = begin.rows;
                bar.set_length(begin.size_bytes);
            }
            backup_response::Part::Data(data) => {
                digest.update(&data);
                file.write_all(&data).map_err(Broken::File)?;
                bytes += data.len() as u64;
                bar.set_position(bytes);
            }
            backup_response::Part::End(end) => {
                if end.digest != digest.finalize().to_hex().as_str() {
                    return Err(Broken::Short);
                }
                file.sync_all().map_err(Broken::File)?;
                return Ok((bytes, rows));
            }
        }
    }
}
