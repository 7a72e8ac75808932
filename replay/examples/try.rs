//! Development only.
use std::{path::Path, time::Instant};
use trainyard_core::sched::policy::cluster::Cluster;
use trainyard_replay::{anchors::Anchor, engine, metrics, trace};
#[allow(clippy::all)]
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut jobs = trace::read(Path::new(&args[1])).unwrap();
    let nodes: u32 = args[2].parse().unwrap();
    if let Some(vc) = args.get(3) { if vc != "-" { jobs.retain(|j| j.vc == *vc); } }
    println!("{:28} {:>8} {:>7} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>6} {:>5} {:>6} {:>8} {:>6} {:>8} {:>6}", "policy","jct","p50","p99","wait","w99","w999","max","w8","bsld","util","ftf","makespan","pre","p99us","wall");
    for (anchor, name) in Anchor::ALL {
        if args.get(4).is_some_and(|w| !name.contains(w.as_str())) { continue; }
        let t = Instant::now();
        let mut p = anchor.player(&jobs, Cluster::uniform(nodes, 8), 60);
        let o = engine::replay(&jobs, 60, p.as_mut(), &|| t.elapsed());
        let f = metrics::figures(name, &jobs, nodes * 8, &o, None);
        println!("{:28} {:8.0} {:7.0} {:7.0} {:8.1} {:7.0} {:7.0} {:7.0} {:7.0} {:6.1} {:5.1} {:6.2} {:8.0} {:6} {:8.1} {:6.2}", name, f.jct_mean, f.jct_p50, f.jct_p99, f.wait_mean, f.wait_p99, f.wait_p999, f.wait_max, f.wait_mean_8gpu, f.bsld_mean, f.util_window, f.ftf_unfair, f.makespan, f.preemptions, f.pass_p99_us, t.elapsed().as_secs_f64());
    }
}
