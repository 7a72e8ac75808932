//! `trainyard submit`: a job from flags, a file or a command. Never checks what only the
//! coordinator can know; it answers with every bad field at once.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use trainyard_core::spec::JobSpec;
use trainyard_proto::v1::{Job, SubmitJobRequest};

mod placing;

use super::{Context, watch};
use crate::{
    args::pair,
    client,
    client::Client,
    error::CliError,
    exit::Exit,
    jobfile::{Draft, DraftError},
    output::{self, json},
};

const EXAMPLES: &str = "Examples:
  Train a YOLO detector on one GPU with at least 40 GiB, and wait for its end:
    trainyard submit --framework ultralytics --model yolo11n --task detection \\
      --dataset /data/coco8 --epochs 100 --gpus 1 --gpu-memory 40GiB \\
      --set optimizer.type=SGD --set cos_lr=true --wait

  Run any program:
    trainyard submit --name hello --cpus 2 --time-limit 10m -- sh -c 'echo hello; sleep 5'

  Take a file, and change one thing:
    trainyard submit -f job.toml --epochs 5

  A file has the flags' or the specification's names:
    framework = \"sklearn\"
    model = \"mlp\"
    task = \"classification\"
    dataset = \"/data/digits\"
    epochs = 10
    time_limit = \"1h30m\"
    resources = { cpus = 2, memory = \"8GiB\" }
    advanced = { hidden_layer_sizes = [64, 32] }";

/// What to do when a node is lost.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum WhenLost {
    Retry,
    Wait,
}

/// What to do when memory runs out.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum WhenFull {
    Fail,
    HalveBatch,
}

/// How the processes of a job are started.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Launch {
    Plain,
    Torchrun,
}

/// Flags of `trainyard submit`; each goes over the file.
#[derive(Debug, Default, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct SubmitArgs {
    /// Take the job from a .toml, .yaml or .json file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// Who trains: timm, ultralytics, sklearn or command
    #[arg(long)]
    framework: Option<String>,
    /// The model, such as yolo11n or mlp
    #[arg(long)]
    model: Option<String>,
    /// detection, classification, segmentation or pose
    #[arg(long)]
    task: Option<String>,
    /// The dataset's folder or file as the agents see it
    #[arg(long, value_name = "PATH")]
    dataset: Option<String>,
    /// A dataset by its name; `trainyard dataset list` shows them
    #[arg(long, value_name = "NAME", conflicts_with = "dataset")]
    dataset_id: Option<String>,
    /// How the dataset is laid out [default: imagefolder]
    #[arg(long, value_name = "FORMAT")]
    dataset_format: Option<String>,
    /// Number of classes
    #[arg(long, value_name = "N")]
    classes: Option<u32>,
    /// Passes over the dataset, 1 to 1000 [default: 50]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Examples a step, 1 to 512 [default: 32]
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// Learning rate, above 0 and below 1 [default: 0.001]
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Side of the images in pixels
    #[arg(long, value_name = "PIXELS")]
    imgsz: Option<u32>,
    /// cpu, 0 or 0,1; the trainer chooses among its GPUs when it is missing
    #[arg(long)]
    device: Option<String>,
    /// The metric that names the best epoch [default: by the task]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Whether that metric grows or shrinks
    #[arg(long, value_enum, value_name = "MODE")]
    metric_mode: Option<Mode>,
    /// An advanced setting of the trainer, such as optimizer.momentum=0.9; may be given often
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair, help_heading = "Settings")]
    settings: Vec<(String, String)>,
    /// A JSON, YAML or TOML file of advanced settings; --set goes over it
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    advanced_file: Option<PathBuf>,
    /// A variable of the trainer's environment; may be given often
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = pair, help_heading = "Settings")]
    environment: Vec<(String, String)>,
    /// CPU slots [default: 1]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    cpus: Option<u32>,
    /// Memory, such as 8GiB
    #[arg(
        long,
        value_name = "SIZE",
        allow_hyphen_values = true,
        help_heading = "Resources"
    )]
    memory: Option<String>,
    /// Number of GPUs [default: 0]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    gpus: Option<u32>,
    /// A part of the GPU model's name, such as H100
    #[arg(long, value_name = "NAME", help_heading = "Resources")]
    gpu_model: Option<String>,
    /// The least memory of each GPU, such as 40GiB
    #[arg(
        long,
        value_name = "SIZE",
        allow_hyphen_values = true,
        help_heading = "Resources"
    )]
    gpu_memory: Option<String>,
    /// Nodes, each with these resources; the command runs on all of them at once [default: 1]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    nodes: Option<u32>,
    /// How a command starts on each node [default: plain]
    #[arg(long, value_name = "HOW", help_heading = "Resources")]
    launcher: Option<Launch>,
    /// Processes that torchrun starts on each node [default: one a GPU, or one]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    procs_per_node: Option<u32>,
    #[command(flatten)]
    placing: placing::PlacingArgs,
    /// Higher runs first, 0 to 1000 [default: 0]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Scheduling"
    )]
    priority: Option<i32>,
    /// How long the trainer may run, such as 1h30m [default: no limit]
    #[arg(long, value_name = "SPAN", help_heading = "Scheduling")]
    time_limit: Option<String>,
    /// Time between SIGTERM and SIGKILL when it is stopped [default: 10s]
    #[arg(long, value_name = "SPAN", help_heading = "Scheduling")]
    grace: Option<String>,
    /// New attempts after failures of the platform or of a node, 0 to 100 [default: 3]
    #[arg(long, value_name = "N", help_heading = "Scheduling")]
    retries: Option<u32>,
    /// Time before the first of them, doubled for each further one [default: 10s]
    #[arg(long, value_name = "SPAN", help_heading = "Scheduling")]
    retry_backoff: Option<String>,
    /// When its node is lost: another attempt elsewhere, or wait for the node [default: retry]
    #[arg(long, value_name = "WHAT", help_heading = "Scheduling")]
    on_lost: Option<WhenLost>,
    /// When memory runs out: fail, or try once more with half the batch [default: fail]
    #[arg(long, value_name = "WHAT", help_heading = "Scheduling")]
    on_oom: Option<WhenFull>,
    /// The project that owns the job
    #[arg(long, value_name = "ID", help_heading = "Scheduling")]
    project: Option<i64>,
    /// A word to find it by; may be given often
    #[arg(long = "tag", value_name = "WORD")]
    tags: Vec<String>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    notes: Option<String>,
    /// The same submission with this key again gives the first job; another one is refused (409)
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Follow the job and exit with its outcome (see `trainyard help exit-codes`)
    #[arg(long)]
    wait: bool,
    /// Say where it would start at once, or why it would wait and until when; nothing is submitted
    #[arg(long, conflicts_with_all = ["wait", "quiet"])]
    dry_run: bool,
    /// Print only the job's number
    #[arg(short, long)]
    quiet: bool,
    /// A program and its arguments, for framework command
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Which way a metric gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Max,
    Min,
}

/// Submits a job; with `--wait` the exit is the job's.
pub(crate) async fn run(context: &Context<'_>, args: SubmitArgs) -> anyhow::Result<Exit> {
    // Before anybody is asked for a connection, the job has to be readable.
    let spec = specification(&args)?;
    if args.dry_run {
        return super::explain::foresee(context, spec).await;
    }
    if args.wait && spec.indices.is_some() {
        let words = "--wait follows one job; leave it out for an array, and see its jobs with `trainyard jobs`";
        return Err(CliError::Usage(words.to_owned()).into());
    }
    let mut client = context.client().await?;
    let job = submit(&mut client, spec, args.idempotency_key.clone()).await?;
    if args.quiet {
        output::line(&job.job_id.to_string())?;
    } else if context.screen.json && args.wait {
        output::json_line(&json::job(&job))?;
    } else {
        context
            .screen
            .show(|| json::job(&job), || accepted(&job, args.wait))?;
    }
    match (args.wait, args.quiet) {
        (false, _) => Ok(Exit::Ok),
        (true, false) => watch::show_to_end(context, &mut client, job.job_id).await,
        (true, true) => {
            let ended = watch::to_end(&mut client, job.job_id, |_| Ok(())).await?;
            Ok(Exit::of_job(&ended))
        }
    }
}

/// Hands a job in; a key of its own makes it safe to ask again.
pub(crate) async fn submit(
    client: &mut Client,
    spec: JobSpec,
    idempotency_key: Option<String>,
) -> anyhow::Result<Job> {
    let key = idempotency_key.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    let request = SubmitJobRequest {
        spec: Some(spec.into()),
        idempotency_key: key,
    };
    let answer = client
        .call(async |via| client::job_service(via).submit_job(request.clone()).await)
        .await?;
    Ok(answer.job.unwrap_or_default())
}

fn accepted(job: &Job, wait: bool) -> String {
    let id = job.job_id;
    let place = job.spec.as_ref().and_then(|spec| spec.array);
    if let Some(array) = place {
        let last = array.id + u64::from(array.size.max(1)) - 1;
        return format!(
            "array {} of {} jobs submitted, {} to {last}; stop all of them with `trainyard cancel --array {}`",
            array.id, array.size, array.id, array.id
        );
    }
    if wait {
        format!("job {id} submitted")
    } else {
        format!("job {id} submitted; follow it with `trainyard watch {id}`")
    }
}

/// What flags, file and command together ask for.
fn specification(args: &SubmitArgs) -> anyhow::Result<JobSpec> {
    let mut draft = match &args.file {
        Some(path) => Draft::read(path)?,
        None => Draft::default(),
    };
    put_flags(&mut draft, args)?;
    put_gang(&mut draft, args)?;
    placing::put(&mut draft, &args.placing)?;
    put_command(&mut draft, args)?;
    if let Some(path) = &args.advanced_file {
        draft.advanced(settings(path)?);
    }
    for (key, value) in &args.settings {
        draft.set(key, value)?;
    }
    for (name, value) in &args.environment {
        draft.variable(name, value);
    }
    if draft.get("framework").is_none() {
        return Err(CliError::Usage(
            "nothing says what to run; give --framework, a file with -f, or a command after --\nexamples: trainyard submit --help"
                .to_owned(),
        )
        .into());
    }
    let mut spec = draft.finish()?;
    say_how_many(args, &spec)?;
    spec.dataset_path = spec.dataset_path.map(|path| absolute(&path));
    Ok(spec)
}

/// A flag that says which GPUs needs another that says how many; what a file says of them the coordinator checks.
fn say_how_many(args: &SubmitArgs, spec: &JobSpec) -> Result<(), CliError> {
    let flags = [
        ("--gpu", args.placing.gpu()),
        ("--gpu-model", args.gpu_model.as_deref()),
        ("--gpu-memory", args.gpu_memory.as_deref()),
    ];
    let given = flags.into_iter().find(|(_, value)| value.is_some());
    let none = spec.resources.gpus == 0 && spec.placement.gpus_total.is_none();
    match given.filter(|_| none && spec.resources.names_gpus()) {
        Some((flag, _)) => Err(CliError::Usage(format!(
            "{flag} says which GPUs the job wants, and nothing says how many; give --gpus or --gpus-total too, or leave {flag} out"
        ))),
        None => Ok(()),
    }
}

fn put_flags(draft: &mut Draft, args: &SubmitArgs) -> Result<(), DraftError> {
    let mode = args.metric_mode.map(|mode| match mode {
        Mode::Max => "max",
        Mode::Min => "min",
    });
    let tags = (!args.tags.is_empty()).then_some(&args.tags);
    let lost = args.on_lost.map(|lost| match lost {
        WhenLost::Retry => "retry",
        WhenLost::Wait => "wait",
    });
    let memory = args.on_oom.map(|memory| match memory {
        WhenFull::Fail => "fail",
        WhenFull::HalveBatch => "halve_batch",
    });
    let rows: [(&str, &str, Value); 29] = [
        ("name", "--name", json!(args.name)),
        ("framework", "--framework", json!(args.framework)),
        ("model_name", "--model", json!(args.model)),
        ("task_type", "--task", json!(args.task)),
        ("dataset_path", "--dataset", json!(args.dataset)),
        ("dataset_id", "--dataset-id", json!(args.dataset_id)),
        (
            "dataset_format",
            "--dataset-format",
            json!(args.dataset_format),
        ),
        ("num_classes", "--classes", json!(args.classes)),
        ("epochs", "--epochs", json!(args.epochs)),
        ("batch_size", "--batch", json!(args.batch)),
        ("learning_rate", "--lr", json!(args.lr)),
        ("image_size", "--imgsz", json!(args.imgsz)),
        ("device", "--device", json!(args.device)),
        ("primary_metric", "--metric", json!(args.metric)),
        ("primary_metric_mode", "--metric-mode", json!(mode)),
        ("resources.cpus", "--cpus", json!(args.cpus)),
        ("resources.memory_bytes", "--memory", json!(args.memory)),
        ("resources.gpus", "--gpus", json!(args.gpus)),
        ("resources.gpu_model", "--gpu-model", json!(args.gpu_model)),
        (
            "resources.gpu_memory_bytes",
            "--gpu-memory",
            json!(args.gpu_memory),
        ),
        ("priority", "--priority", json!(args.priority)),
        ("time_limit", "--time-limit", json!(args.time_limit)),
        ("grace_period", "--grace", json!(args.grace)),
        ("retry.limit", "--retries", json!(args.retries)),
        (
            "retry.backoff",
            "--retry-backoff",
            json!(args.retry_backoff),
        ),
        ("retry.on_lost", "--on-lost", json!(lost)),
        ("retry.out_of_memory", "--on-oom", json!(memory)),
        ("notes", "--notes", json!(args.notes)),
        ("tags", "--tag", json!(tags)),
    ];
    for (path, flag, value) in rows {
        draft.flag(path, flag, value)?;
    }
    draft.flag("project_id", "--project", json!(args.project))
}

fn put_gang(draft: &mut Draft, args: &SubmitArgs) -> Result<(), DraftError> {
    let launcher = args.launcher.map(|launcher| match launcher {
        Launch::Plain => "plain",
        Launch::Torchrun => "torchrun",
    });
    let processes = json!(args.procs_per_node);
    draft.flag("nodes", "--nodes", json!(args.nodes))?;
    draft.flag("launcher", "--launcher", json!(launcher))?;
    draft.flag("procs_per_node", "--procs-per-node", processes)
}

fn put_command(draft: &mut Draft, args: &SubmitArgs) -> anyhow::Result<()> {
    if args.command.is_empty() {
        return Ok(());
    }
    match draft.get("framework").and_then(Value::as_str) {
        None => draft.flag("framework", "--framework", "command")?,
        Some("command") => {}
        Some(other) => {
            return Err(CliError::Usage(format!(
                "a command after -- is for framework command, not {other}; leave one of them out"
            ))
            .into());
        }
    }
    draft.flag("command", "--", args.command.clone())?;
    Ok(())
}

/// A file of advanced settings; YAML reads JSON too.
fn settings(path: &PathBuf) -> anyhow::Result<Map<String, Value>> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let read: BTreeMap<String, Value> = if path.extension().is_some_and(|end| end == "toml") {
        toml::from_str(&text).with_context(|| format!("{name} is no table of settings"))?
    } else {
        serde_yaml_ng::from_str(&text).with_context(|| format!("{name} is no table of settings"))?
    };
    Ok(read.into_iter().collect())
}

/// Agents work elsewhere: a relative path means one from here.
fn absolute(path: &str) -> String {
    if path.is_empty() || path.contains("://") {
        return path.to_owned();
    }
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests;
