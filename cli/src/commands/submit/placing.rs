//! Flags of `trainyard submit` that say on which nodes a job may lie and when it may start. Never checks what they say:
//! job files have the same fields, and the coordinator checks both.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::jobfile::{Draft, DraftError};

/// Which nodes are taken first.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    Pack,
    Spread,
}

/// The flags.
#[derive(Debug, Default, Args)]
pub(super) struct PlacingArgs {
    /// Which GPUs: a part of the model's name, a range of memory, or both, such as H100:80GB.. or A100:40GB..80GB
    #[arg(
        long,
        value_name = "WHICH",
        conflicts_with_all = ["gpu_model", "gpu_memory"],
        help_heading = "Resources"
    )]
    gpu: Option<String>,
    /// GPUs in all, on as few nodes as hold them
    #[arg(
        long,
        value_name = "N",
        conflicts_with_all = ["gpus", "nodes"],
        help_heading = "Resources"
    )]
    gpus_total: Option<u32>,
    /// A label that its nodes must have, such as zone=a; may be given often
    #[arg(long = "label", value_name = "KEY=VALUE", help_heading = "Placement")]
    labels: Vec<String>,
    /// A label that its nodes must not have; may be given often
    #[arg(
        long = "anti-label",
        value_name = "KEY=VALUE",
        help_heading = "Placement"
    )]
    anti_labels: Vec<String>,
    /// Which nodes are taken first: the fullest that do, or the emptiest [default: pack]
    #[arg(long, value_name = "HOW", help_heading = "Placement")]
    arrange: Option<Order>,
    /// The key of a label that must have one value on all its nodes, such as rack
    #[arg(long, value_name = "KEY", help_heading = "Placement")]
    fabric: Option<String>,
    /// Let nobody else have its nodes while it runs
    #[arg(long, help_heading = "Placement")]
    exclusive: bool,
    /// It may be told to save its work and go, and goes on from its last checkpoint when there is room
    #[arg(long, help_heading = "Scheduling")]
    preemptible: bool,
    /// Start no sooner: 2027-01-31T18:00:00Z, or +2h from now
    #[arg(long, value_name = "TIME", help_heading = "Scheduling")]
    not_before: Option<String>,
    /// Start when this job has succeeded, and be cancelled if it does not; may be given often
    #[arg(
        long,
        value_name = "ID",
        value_delimiter = ',',
        help_heading = "Scheduling"
    )]
    after: Vec<u64>,
    /// Start when this job has ended, well or ill; may be given often
    #[arg(
        long,
        value_name = "ID",
        value_delimiter = ',',
        help_heading = "Scheduling"
    )]
    after_any: Vec<u64>,
    /// Make a job for each of these indices: 0-99, or 0-99%5 for at most 5 at once
    #[arg(long, value_name = "INDICES", help_heading = "Scheduling")]
    array: Option<String>,
}

impl PlacingArgs {
    /// Which GPUs, as that was written.
    pub(super) fn gpu(&self) -> Option<&str> {
        self.gpu.as_deref()
    }
}

/// Puts them over what a file says.
pub(super) fn put(draft: &mut Draft, args: &PlacingArgs) -> Result<(), DraftError> {
    let arrange = args.arrange.map(|order| match order {
        Order::Pack => "pack",
        Order::Spread => "spread",
    });
    let given = |yes: bool| yes.then_some(true);
    let texts = |list: &Vec<String>| json!((!list.is_empty()).then_some(list));
    let jobs = |list: &Vec<u64>| json!((!list.is_empty()).then_some(list));
    let rows: [(&str, &str, Value); 12] = [
        ("gpu", "--gpu", json!(args.gpu)),
        (
            "placement.gpus_total",
            "--gpus-total",
            json!(args.gpus_total),
        ),
        ("placement.labels", "--label", texts(&args.labels)),
        (
            "placement.anti_labels",
            "--anti-label",
            texts(&args.anti_labels),
        ),
        ("placement.arrange", "--arrange", json!(arrange)),
        ("placement.fabric", "--fabric", json!(args.fabric)),
        (
            "placement.exclusive",
            "--exclusive",
            json!(given(args.exclusive)),
        ),
        (
            "preemptible",
            "--preemptible",
            json!(given(args.preemptible)),
        ),
        ("not_before", "--not-before", json!(args.not_before)),
        ("after", "--after", jobs(&args.after)),
        ("after_any", "--after-any", jobs(&args.after_any)),
        ("indices", "--array", json!(args.array)),
    ];
    for (path, flag, value) in rows {
        draft.flag(path, flag, value)?;
    }
    Ok(())
}
