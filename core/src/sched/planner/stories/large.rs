//! How long answers take where very many wait: `docs/performance.md` says.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "a measurement: cargo test --release -p trainyard-core -- --ignored --nocapture very_many"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn answers_where_very_many_wait() {
    let mut planner = cluster(1_000);
    for id in 1..=101_000 {
        let gpus = if id <= 1_000 {
            4
        } else {
            1 + u32::try_from(id % 4).unwrap()
        };
        let mut queued = job(id, 1, gpus);
        queued.request.memory_bytes = (id % 7) << 30;
        queued.project = Some(i64::try_from(id % 20).unwrap());
        planner.queued(at(0), queued);
    }
    let began = Instant::now();
    solve(&mut planner, 0);
    println!("solved in {:?}", began.elapsed());
    let began = Instant::now();
    let after = planner.clone();
    println!("cloned in {:?}", began.elapsed());
    drop(after);
    println!("dropped too in {:?}", began.elapsed());
    let waiting: Vec<JobId> = planner.queue().iter().map(|queued| queued.job).collect();
    for job in [waiting.first(), waiting.get(50_000), waiting.last()] {
        let began = Instant::now();
        assert!(planner.explain(at(1), *job.unwrap()).is_some());
        println!("explained in {:?}", began.elapsed());
    }
    for gpus in [1, 4] {
        let began = Instant::now();
        let (nodes, why) = planner.foresee(at(1), job(200_000, 1, gpus));
        assert!(nodes.is_some() || why.is_some());
        println!("foreseen in {:?}", began.elapsed());
    }
}
