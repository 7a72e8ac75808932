//! What a run says: each figure beside its aim, what peers reach and the machine's own limit; as a table for
//! people and as JSON for everything else.
//!
//! Owns the aims and the words about peers (measured on the same kind of machine on 2026-11-23) and limits.
//! Measures nothing. Called by `main`.

use serde_json::{Value, json};

use crate::machine::Load;

/// What a figure should reach.
#[derive(Clone, Copy, Debug)]
enum Aim {
    AtLeast(f64),
    AtMost(f64),
    /// There is none; it is there to be compared with.
    Nothing,
}

/// One figure that a measurement may hold.
struct Figure {
    /// Where it stands in what was measured, as a JSON pointer.
    at: &'static str,
    what: &'static str,
    unit: &'static str,
    aim: Aim,
    peers: &'static str,
    limit: &'static str,
}

const fn figure(
    at: &'static str,
    (what, unit): (&'static str, &'static str),
    aim: Aim,
    (peers, limit): (&'static str, &'static str),
) -> Figure {
    Figure {
        at,
        what,
        unit,
        aim,
        peers,
        limit,
    }
}

use Aim::{AtLeast, AtMost, Nothing};

const SUBMITS: &str = "HyperQueue 280/s, Slurm 297/s, Spur 256/s (command lines, 4 in parallel)";
const STARTS: &str = "Celery 2.7 ms (3.5 with fsync), Dask 13 ms to the end and back, Spur 34 ms, Slurm 976 to 2,983 ms (p50); HyperQueue 64 ms to the end";
const BARE: &str = "bare prototype: 26,000/s durable, 44,700/s empty calls";
const RATES: &str = "HyperQueue 1,480/s (tasks of one array; 901 with one worker), Celery 610/s (349 with fsync), Dask 394/s, Slurm 21 to 48/s";
const QUEUES: &str = "HyperQueue 49 MiB (one array)";
const RESTARTS: &str = "HyperQueue 39 ms (one array of 100,000), Spur 168 ms (200 jobs)";
const IDLE: &str = "HyperQueue 14 + 15 MiB, Spur 21 + 15, Slurm 7 + 6, Ray 688";
const SILENT: &str = "Nomad 20 s, Ray 20 to 55 s, Determined 60 to 85 s, Spur 90 s, Slurm 300 s";
const POINTS: &str = "prototype: 6.3 M/s in chunks, 1.0 M/s a row each";
const CROWD: &str = "prototype: one stream each, a beat in 5 s: 7 %, 35 KiB each";
const FRAME: &str = "prototype: submit to frame at the agent 1.2 ms p50, 2 ms p99; shim 4 ms";

const FIGURES: &[Figure] = &[
    figure(
        "/seal/points/rows_per_second",
        ("points of 8 metrics sealed", "/s"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/seal/lines/rows_per_second",
        ("lines sealed", "/s"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/seal/ratio",
        ("… smaller by, points and lines", "times"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/api/submit_grpc/per_second",
        ("durable submits, 64 clients, gRPC", "/s"),
        AtLeast(15_000.0),
        (SUBMITS, BARE),
    ),
    figure(
        "/api/submit_grpc/ms/p99",
        ("… their answer, p99", "ms"),
        Nothing,
        ("", "bare prototype: 3.6 ms"),
    ),
    figure(
        "/api/submit_grpc/coordinator_us_each",
        ("… the coordinator's CPU for each", "µs"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/api/submit_rest/per_second",
        ("durable submits, 64 clients, REST", "/s"),
        Nothing,
        (SUBMITS, ""),
    ),
    figure(
        "/api/get_job_rest/per_second",
        ("reads of one job, REST", "/s"),
        Nothing,
        ("", "44,700/s empty calls of gRPC"),
    ),
    figure(
        "/spawn/per_second",
        ("this machine's own limit of processes", "/s"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/throughput/jobs_per_second",
        ("jobs start to end, /bin/true, 64 slots", "/s"),
        Nothing,
        (RATES, "spawn: see its figure"),
    ),
    figure(
        "/throughput/of_spawn_limit",
        ("… as a share of the machine's limit", ""),
        AtLeast(0.5),
        ("", ""),
    ),
    figure(
        "/latency/submit_to_process_ms/p50",
        ("submit to process, idle, p50", "ms"),
        AtMost(5.0),
        (STARTS, FRAME),
    ),
    figure(
        "/latency/submit_to_process_ms/p99",
        ("submit to process, idle, p99", "ms"),
        AtMost(15.0),
        (STARTS, FRAME),
    ),
    figure(
        "/latency/undisturbed_ms/p99",
        ("… of jobs while the host took no time away", "ms"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/latency/undisturbed_ms/count",
        ("… how many of the jobs these are", ""),
        Nothing,
        ("", ""),
    ),
    figure(
        "/latency/stolen_ms",
        ("… processor time that the host took away in all", "ms"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/queued/submit_to_process_ms/p50",
        ("submit to process, 1,000 queued, p50", "ms"),
        Nothing,
        (STARTS, ""),
    ),
    figure(
        "/queued/submit_to_process_ms/p99",
        ("submit to process, 1,000 queued, p99", "ms"),
        AtMost(30.0),
        (STARTS, ""),
    ),
    figure(
        "/points/points_per_second",
        ("points in, durable, 100 agents", "/s"),
        AtLeast(1_000_000.0),
        ("none has a figure", POINTS),
    ),
    figure(
        "/points/reports_per_second",
        ("… as reports of several metrics", "/s"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/points/coordinator_ns_a_point",
        ("… the coordinator's CPU for a point", "ns"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/agents/core_percent",
        ("5,000 agents connected, of one core", "%"),
        AtMost(15.0),
        ("none has a figure", CROWD),
    ),
    figure(
        "/agents/coordinator_mib",
        ("5,000 agents connected, memory", "MiB"),
        AtMost(500.0),
        ("none has a figure", CROWD),
    ),
    figure(
        "/agents/all_back_ms",
        ("… all back after a coordinator", "ms"),
        AtMost(3_000.0),
        ("none has a figure", "each tries again within 2.5 s"),
    ),
    figure(
        "/restart/serving_ms",
        ("restart with 100,000 jobs to serving", "ms"),
        AtMost(1_000.0),
        (RESTARTS, "redb opens after a crash in 1.5 ms"),
    ),
    figure(
        "/restart/looked_ms",
        ("… until its scheduler has looked at all", "ms"),
        Nothing,
        ("", ""),
    ),
    figure(
        "/backlog/coordinator_mib",
        ("memory with 100,000 queued", "MiB"),
        AtMost(400.0),
        (QUEUES, ""),
    ),
    figure(
        "/backlog/restarted_mib",
        ("… after a restart", "MiB"),
        AtMost(400.0),
        (QUEUES, ""),
    ),
    figure(
        "/returns/silent_to_suspect_ms/max",
        ("node silent to suspect", "ms"),
        AtMost(10_000.0),
        (SILENT, ""),
    ),
    figure(
        "/returns/agent_adopts_ms/max",
        ("agent restarted to adopted", "ms"),
        AtMost(1_000.0),
        ("", ""),
    ),
    figure(
        "/returns/agents_back_ms/max",
        ("coordinator restarted to agents back", "ms"),
        AtMost(3_000.0),
        ("Spur 168 ms to serving (200 jobs)", ""),
    ),
    figure(
        "/memory/coordinator_mib",
        ("idle coordinator", "MiB"),
        AtMost(30.0),
        (IDLE, ""),
    ),
    figure(
        "/memory/agent_mib",
        ("idle agent", "MiB"),
        AtMost(30.0),
        (IDLE, ""),
    ),
];

/// Everything as one JSON document.
pub(crate) fn document(measured: &Value, load: &Load) -> Value {
    let figures: Vec<Value> = found(measured)
        .map(|(figure, value)| row(figure, value))
        .collect();
    json!({"figures": figures, "machine": load, "measured": measured})
}

/// Everything as text for people.
pub(crate) fn table(measured: &Value, load: &Load) -> String {
    let mut text = format!("{load}\n");
    for (figure, value) in found(measured) {
        let Figure {
            what,
            unit,
            peers,
            limit,
            ..
        } = figure;
        text.push_str(&format!(
            "{what:<44}{:>12} {unit:<4}{}\n",
            number(value),
            verdict(figure.aim, value)
        ));
        for (who, words) in [("peers", peers), ("limit", limit)] {
            if !words.is_empty() {
                text.push_str(&format!("    {who}: {words}\n"));
            }
        }
    }
    text
}

fn found(measured: &Value) -> impl Iterator<Item = (&'static Figure, f64)> {
    FIGURES
        .iter()
        .filter_map(|figure| Some((figure, measured.pointer(figure.at)?.as_f64()?)))
}

fn row(figure: &Figure, value: f64) -> Value {
    let (aim, met) = match figure.aim {
        Aim::AtLeast(aim) => (Some(format!(">= {aim}")), Some(value >= aim)),
        Aim::AtMost(aim) => (Some(format!("<= {aim}")), Some(value <= aim)),
        Aim::Nothing => (None, None),
    };
    json!({
        "figure": figure.what, "value": value, "unit": figure.unit, "aim": aim, "met": met,
        "peers": figure.peers, "limit": figure.limit, "at": figure.at,
    })
}

fn verdict(aim: Aim, value: f64) -> String {
    let (sign, aim, met) = match aim {
        Aim::AtLeast(aim) => ("≥", aim, value >= aim),
        Aim::AtMost(aim) => ("≤", aim, value <= aim),
        Aim::Nothing => return String::new(),
    };
    let word = if met { "met" } else { "missed" };
    format!("  aim {sign} {}: {word}", number(aim))
}

/// Three digits or so, thousands in groups.
fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let whole = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
