#![allow(
    clippy::all,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout
)]
use std::time::Instant;
use trainyard_replay::{run::*, table};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let var = |n: &str| std::env::var(n).ok();
    let q = Question {
        trace: a[1].clone().into(),
        nodes: a[2].parse().unwrap(),
        policy: a[3].clone(),
        vc: var("VC"),
        history: var("HIST").map(Into::into),
        restart_cost: var("RC").map_or(60, |v| v.parse().unwrap()),
        preemptible: var("PRE").map_or(1.0, |v| v.parse().unwrap()),
    };
    let t = Instant::now();
    let r = answer(&q, &|| t.elapsed()).unwrap();
    let rows: Vec<_> = r.policies.iter().map(|(f, _)| f).collect();
    print!("{}", table::table(&rows));
}
