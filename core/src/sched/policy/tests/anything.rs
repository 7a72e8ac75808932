//! What holds whatever is submitted, ends, goes and comes back, under every policy.

use proptest::prelude::*;

use super::*;

/// Projects of which one may have eight GPUs, one two jobs at once, and one borrows whatever it has beyond four.
fn ruled(config: Config) -> Config {
    let rules = [
        ProjectRule {
            gpus: Some(8),
            borrow: false,
            ..ProjectRule::default()
        },
        ProjectRule {
            gpus: Some(20),
            running: Some(2),
            ..ProjectRule::default()
        },
        ProjectRule {
            gpus: Some(4),
            ..ProjectRule::default()
        },
    ];
    let names = ["a", "b", "c"].map(str::to_owned);
    Config {
        projects: names.into_iter().zip(rules).collect(),
        ..config
    }
}

/// Whether projects have no more than their rules allow by those who hold something, be they told to go or not.
fn within_limits(holds: &[Holds]) -> bool {
    let of = |project: &'static str| holds.iter().filter(move |held| held.project == project);
    let gpus: u32 = of("a").map(|held| held.gpus).sum();
    gpus <= 8 && of("b").count() <= 2
}

/// A job that holds GPUs in the property below.
#[derive(Clone, Debug)]
struct Holds {
    job: u64,
    gpus: u32,
    project: &'static str,
    end: Seconds,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_gangs_are_whole_nodes_are_not_overdrawn_limits_hold_and_a_second_pass_adds_nothing(
        jobs in prop::collection::vec((0u32..30, 0i64..2_000, 1i64..5_000, any::<bool>(), 0u32..3), 1..60),
        projects in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 60),
        rules in any::<bool>(),
        rule in prop::sample::select(vec![Rule::Gittins, Rule::Fifo, Rule::Easy, Rule::Throughput]),
        (restart_cost, settled) in (0i64..900, 0i64..900),
    ) {
        let config = Config { rule, restart_cost, settled, ..Config::default() };
        let least = config.left_alone();
        let config = if rules { ruled(config) } else { config };
        let mut scheduler = scheduler(config, 4);
        let mut now = 0;
        let mut holds: Vec<Holds> = Vec::new();
        let mut runs = std::collections::BTreeMap::new();
        for ((number, project), (gpus, gap, lasts, preemptible, priority)) in (1u64..).zip(projects).zip(jobs) {
            now += gap;
            holds.retain(|held| {
                let ends = held.end <= now;
                if ends {
                    scheduler.finished(now, held.job);
                }
                !ends
            });
            let limit = Some(lasts);
            let asked = Submission { preemptible, priority, limit, ..job(number, gpus) };
            scheduler.submit(now, &of_project(project, asked));
            runs.insert(number, (lasts, preemptible, now, project));
            loop {
                let mut goes: Vec<u64> = Vec::new();
                // Who is told to go takes its time, and the pass is asked again meanwhile.
                for _ in 0..2 {
                    let plan = scheduler.pass(now);
                    prop_assert_eq!(&plan.broken, &None);
                    for start in &plan.starts {
                        let run = runs.get_mut(&start.job).unwrap();
                        run.2 = now;
                        let gpus = start.pieces.iter().map(|piece| piece.gpus).sum();
                        holds.push(Holds { job: start.job, gpus, project: run.3, end: now + run.0 });
                    }
                    prop_assert!(!rules || within_limits(&holds), "{:?} at {now}", holds);
                    for preempt in &plan.preempts {
                        let (_, preemptible, since, _) = runs[&preempt.job];
                        prop_assert!(preemptible, "it cannot save its work");
                        prop_assert!(now - since >= least, "it has run for less than its restart costs");
                    }
                    let nobody = goes.is_empty() && plan.preempts.is_empty();
                    goes.extend(gone(&plan));
                    if plan.is_empty() && nobody {
                        break;
                    }
                }
                if goes.is_empty() {
                    break;
                }
                for job in goes {
                    holds.retain(|held| held.job != job);
                    scheduler.released(now, job);
                }
            }
            let again = scheduler.pass(now);
            prop_assert!(again.is_empty(), "{again:?}");
        }
    }
}
