//! What must hold after a pass, and is seen when it does not.

use super::{
    super::{
        cluster::Piece,
        plan::{Because, Start},
    },
    *,
};

/// Two nodes of eight GPUs, eight CPUs and 64 bytes each.
fn two() -> Scheduler {
    let mut scheduler = Scheduler::new(Config::default());
    for _ in 0..2 {
        scheduler.add_node(NodeOffer {
            cpus: 8,
            memory_bytes: 64,
            ..NodeOffer::of_gpus(8)
        });
    }
    scheduler
}

fn asks(nodes: u32, gpus: u32) -> Submission {
    let ask = Ask {
        gang: Gang::Each { nodes, gpus },
        cpus: 2,
        memory_bytes: 10,
        ..Ask::packed(0)
    };
    Submission { ask, ..job(1, 0) }
}

/// What is said of a plan that starts the job with its pieces changed so.
fn said(asked: Submission, change: impl FnOnce(&mut Vec<Piece>)) -> Option<String> {
    let mut scheduler = two();
    scheduler.submit(0, &asked);
    let mut plan = scheduler.pass(0);
    assert_eq!((started(&plan), &plan.broken), (vec![1], &None));
    change(&mut plan.starts[0].pieces);
    scheduler.broken(&plan)
}

#[test]
fn a_plan_that_gives_a_gang_less_than_it_asks_for_is_seen() {
    assert_eq!(said(asks(2, 4), |_| ()), None);
    let wrong: [fn(&mut Vec<Piece>); 4] = [
        |pieces| pieces.truncate(1),
        |pieces| pieces[0].gpus = 3,
        |pieces| pieces[1].cpus = 1,
        |pieces| pieces[0].memory_bytes = 9,
    ];
    for change in wrong {
        let words = said(asks(2, 4), change).unwrap();
        assert!(words.starts_with("INV-05: job 1 starts with"), "{words}");
    }
    // The number of GPUs in all is right.
    let words = said(asks(2, 4), |pieces| {
        pieces[0].gpus = 8;
        pieces[0].cpus = 4;
        pieces.pop();
    });
    assert!(words.is_some());
}

#[test]
fn a_plan_that_starts_a_job_on_a_node_that_is_labelled_otherwise_is_seen() {
    let mut scheduler = racks(Config::default(), &[1]);
    let mut asked = job(1, 4);
    asked.ask.labels = ["rack=0".to_owned()].into();
    scheduler.submit(0, &asked);
    let plan = scheduler.pass(0);
    assert_eq!((started(&plan), &plan.broken), (vec![1], &None));
    let pieces = plan.starts[0].pieces.clone();
    let node = pieces[0].node;
    let mut offer = scheduler.offer(node).unwrap().clone();
    offer.labels = ["rack=1".to_owned()].into();
    scheduler.change_node(0, node, offer, &[(1, pieces)]);
    let words = scheduler.broken(&plan).unwrap();
    assert!(
        words.starts_with("job 1 starts on nodes that are not as it asks"),
        "{words}"
    );
}

#[test]
fn a_node_that_gives_more_than_it_has_is_seen_by_its_gpus_cpus_and_memory() {
    let words = |asked: Submission| {
        let mut scheduler = two();
        scheduler.submit(0, &asked);
        settle(&mut scheduler, 0);
        scheduler.take_again(1);
        scheduler.pass(1).broken.unwrap()
    };
    assert!(words(asks(1, 4)).contains("4 of 8 GPUs are held, and 0 are left"));
    assert!(words(asks(1, 0)).contains("2 of 8 CPUs are held, and 4 are left"));
    let mut memory = asks(1, 0);
    memory.ask.cpus = 0;
    assert!(words(memory).contains("10 of 64 bytes are held, and 44 are left"));
}

#[test]
fn a_plan_that_starts_a_job_twice_is_seen() {
    let plan = Plan {
        starts: vec![
            Start {
                job: 1,
                pieces: Vec::new(),
                because: Because::Turn,
                borrows: false,
            };
            2
        ],
        ..Plan::default()
    };
    assert_eq!(two().broken(&plan), Some("a job starts twice".into()));
}
