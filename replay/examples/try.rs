//! Development only.
#![allow(
    clippy::all,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout
)]
use std::{path::Path, time::Instant};
use trainyard_core::sched::policy::{Config, Rule, cluster::Cluster};
use trainyard_replay::{anchors::Anchor, engine, metrics, real::Real, trace};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut jobs = trace::read(Path::new(&args[1])).unwrap();
    let nodes: u32 = args[2].parse().unwrap();
    if let Some(vc) = args.get(3) {
        if vc != "-" {
            jobs.retain(|j| j.vc == *vc);
        }
    }
    let var = |n: &str| std::env::var(n).ok().and_then(|v| v.parse::<f64>().ok());
    let history = std::env::var("HIST")
        .ok()
        .map(|f| trace::read(Path::new(&f)).unwrap())
        .unwrap_or_default();
    let rc = var("RC").unwrap_or(60.0) as i64;
    let show = |name: &str, o: &engine::Outcome, t: Instant| {
        let f = metrics::figures(name, &jobs, nodes * 8, o, None);
        println!(
            "{:28} {:8.0} {:7.0} {:7.0} {:8.1} {:7.0} {:7.0} {:7.0} {:7.0} {:6.1} {:5.1} {:6.2} {:8.0} {:6} {:8.1} {:6.2} {}",
            name,
            f.jct_mean,
            f.jct_p50,
            f.jct_p99,
            f.wait_mean,
            f.wait_p99,
            f.wait_p999,
            f.wait_max,
            f.wait_mean_8gpu,
            f.bsld_mean,
            f.util_window,
            f.ftf_unfair,
            f.makespan,
            f.preemptions,
            f.pass_p99_us,
            t.elapsed().as_secs_f64(),
            f.stuck
        );
    };
    let dump = |o: &engine::Outcome| {
        if let Ok(f) = std::env::var("DUMP") {
            let mut t = String::new();
            for (j, (e, s)) in jobs.iter().zip(o.ended.iter().zip(&o.started)) {
                t.push_str(&format!(
                    "{} {} {} {} {} {}\n",
                    j.id,
                    j.submit,
                    j.gpus,
                    j.duration,
                    s - j.submit,
                    e - j.submit - j.duration
                ));
            }
            std::fs::write(f, t).unwrap();
        }
    };
    println!(
        "{:28} {:>8} {:>7} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>6} {:>5} {:>6} {:>8} {:>6} {:>8} {:>6}",
        "policy",
        "jct",
        "p50",
        "p99",
        "wait",
        "w99",
        "w999",
        "max",
        "w8",
        "bsld",
        "util",
        "ftf",
        "makespan",
        "pre",
        "p99us",
        "wall"
    );
    for (anchor, name) in Anchor::ALL {
        if args.get(4).is_some_and(|w| !name.contains(w.as_str())) {
            continue;
        }
        let t = Instant::now();
        let mut p = anchor.player(&jobs, Cluster::uniform(nodes, 8), 60);
        let o = engine::replay(&jobs, 60, p.as_mut(), &|| t.elapsed());
        show(name, &o, t);
    }
    for (rule, name) in [
        (Rule::Fifo, "fifo"),
        (Rule::Easy, "easy"),
        (Rule::Throughput, "throughput"),
        (Rule::Gittins, "gittins"),
    ] {
        if args.get(5).is_some_and(|w| !name.contains(w.as_str())) {
            continue;
        }
        let t = Instant::now();
        let mut config = Config {
            rule,
            restart_cost: rc,
            ..Config::default()
        };
        if let Some(v) = var("MARGIN") {
            config.margin = v;
        }
        if let Some(v) = var("PAT") {
            config.patience = (v * 3600.0) as i64;
        }
        if let Some(v) = var("ROUND") {
            config.round = v as i64;
        }
        if let Some(v) = var("IDLE") {
            config.most_idle = v;
        }
        if let Some(v) = var("FAIR") {
            config.fairness = v;
        }
        if let Some(v) = var("GUARD") {
            config.guard = (v * 3600.0) as i64;
        }
        if let Some(v) = var("SETTLED") {
            config.settled = v as i64;
        }
        let mut p = Real::new(
            &jobs,
            &history,
            (nodes, 8),
            config,
            var("PRE").unwrap_or(1.0),
        );
        let o = engine::replay(&jobs, rc, &mut p, &|| t.elapsed());
        show(name, &o, t);
        dump(&o);
    }
}
