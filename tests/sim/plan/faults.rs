//! How faults are drawn, each with its end.
//!
//! Pure. Called by the plan; what an older plan draws stays as it is.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};

use super::{CALM, Cluster, Fault, Has};
use crate::{disk::Moment, files::Gone};

/// A fault and its end.
pub(super) fn any(rng: &mut StdRng, cluster: &Cluster, faults: &mut Vec<(Duration, Fault)>) {
    let node = rng.random_range(0..cluster.nodes.len());
    let begins = rng.random_range(1_000..=180_000);
    let short = rng.random_bool(0.5);
    let lasts = rng.random_range(100..=if short { 8_000 } else { 100_000 });
    let begin = Duration::from_millis(begins);
    let end = Duration::from_millis(begins + lasts).min(CALM);
    let mut has = Has::all_of(cluster.nodes.get(node).copied().unwrap_or((1, 0)));
    let (bad, good) = match rng.random_range(0..11) {
        0 => (Fault::Cut(node), Some(Fault::Mend(node))),
        1 => (Fault::Deaf(node), Some(Fault::Mend(node))),
        2 => (Fault::Mute(node), Some(Fault::Mend(node))),
        3 => (Fault::Hold(node), Some(Fault::Release(node))),
        4 | 5 => (Fault::KillAgent(node), Some(Fault::StartAgent(node))),
        6 => {
            let fewer = rng.random_bool(0.3) && has.gpus > 0;
            has.gpus -= u32::from(fewer);
            (Fault::KillNode(node), Some(Fault::StartNode(node, has)))
        }
        7 => {
            let trainer = Fault::KillTrainer(node, rng.random_range(0..3), rng.random_bool(0.5));
            (trainer, None)
        }
        8 => (Fault::KillCoordinator, Some(Fault::StartCoordinator)),
        9 => {
            let syncs = rng.random_range(0..20);
            let fails = Fault::FailDisk(syncs, Moment::Amid);
            (fails, Some(Fault::StartCoordinator))
        }
        _ if rng.random_bool(0.5) => (Fault::FillDisk(0), Some(Fault::StartCoordinator)),
        _ => {
            let spans = [-400, -30, 30, 120, 7_200];
            let seconds = spans.get(rng.random_range(0..5)).copied().unwrap_or(30);
            (Fault::Jump(seconds), None)
        }
    };
    faults.push((begin, bad));
    faults.extend(good.map(|good| (end, good)));
}

/// An agent or its machine ends, mostly amid a write; what the machine comes back with.
pub(super) fn of_writes(
    rng: &mut StdRng,
    (number, node): (usize, (u32, u32)),
    faults: &mut Vec<(Duration, Fault)>,
) -> Has {
    let begin = Duration::from_millis(rng.random_range(1_000..=180_000));
    // Long enough for some of the writes that are waited for.
    let end = begin + Duration::from_millis(rng.random_range(1_000..=60_000));
    let moments = [Moment::Before, Moment::Amid, Moment::After];
    let moment = moments.get(rng.random_range(0..3)).copied();
    let moment = moment.unwrap_or(Moment::Amid);
    let writes = rng.random_range(0..25);
    let at_once = rng.random_bool(0.1);
    let whole = Has::all_of(node);
    let mut has = whole;
    if rng.random_bool(0.5) {
        has.cpus = rng.random_range(1..=has.cpus);
        has.gpus = rng.random_range(0..=has.gpus);
        has.memory_gib = rng.random_range(16..=has.memory_gib);
    }
    let start = Fault::StartNode(number, has);
    let (bad, good) = match rng.random_range(0..4) {
        0 => (Fault::KillNode(number), start),
        1 => {
            let fails = Fault::FailAgent(number, writes, moment, Gone::Power);
            (fails, start)
        }
        _ => {
            has = whole;
            let fails = Fault::FailAgent(number, writes, moment, Gone::Program);
            (fails, Fault::StartAgent(number))
        }
    };
    // Also while it starts for the first time.
    let fails = matches!(bad, Fault::FailAgent(..));
    let begin = if at_once && fails {
        Duration::ZERO
    } else {
        begin
    };
    faults.push((begin, bad));
    faults.push((end.min(CALM), good));
    has
}

/// What happens to the coordinator's disk and to those of agents, with its end.
pub(super) fn of_disks(rng: &mut StdRng, faults: &mut Vec<(Duration, Fault)>) {
    let begins = rng.random_range(1_000..=180_000);
    let begin = Duration::from_millis(begins);
    let end = begin + Duration::from_millis(rng.random_range(100..=60_000));
    let slow = Duration::from_millis(rng.random_range(100..=5_000));
    let syncs = rng.random_range(0..20);
    let (bad, good) = match rng.random_range(0..6) {
        0 => (Fault::SlowStore(slow), Fault::SlowStore(Duration::ZERO)),
        1 => (Fault::SlowSpools(slow), Fault::SlowSpools(Duration::ZERO)),
        2 => (Fault::KillProgram, Fault::StartCoordinator),
        3 => {
            let fails = Fault::FailDisk(syncs, Moment::Before);
            (fails, Fault::StartCoordinator)
        }
        4 => {
            let fails = Fault::FailDisk(syncs, Moment::After);
            (fails, Fault::StartCoordinator)
        }
        _ => {
            let room = rng.random_range(0..=200_000);
            (Fault::FillDisk(room), Fault::StartCoordinator)
        }
    };
    faults.push((begin, bad));
    faults.push((end.min(CALM), good));
}
