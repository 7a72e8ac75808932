//! What must hold after a pass, and is seen when it does not.

use std::collections::BTreeSet;

use super::{
    super::{
        cluster::Piece,
        plan::{Because, Preempt, Start},
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

/// What is said of the plan of two nodes of different racks and models that starts the job, changed so.
fn said_of(ask: Ask, change: impl FnOnce(&mut Scheduler, &mut Plan)) -> Option<String> {
    let mut scheduler = Scheduler::new(owned(&[("a", 8)]));
    for (rack, model) in [("x", "H100"), ("y", "A100")] {
        let class = GpuClass {
            memory_bytes: 80,
            model: model.into(),
        };
        scheduler.add_node(NodeOffer {
            gpus: [(class, 8)].into(),
            labels: [format!("rack={rack}")].into(),
            ..NodeOffer::of_gpus(8)
        });
    }
    let asked = Submission {
        ask,
        ..of_project("a", job(1, 0))
    };
    scheduler.submit(0, &asked);
    let mut plan = scheduler.pass(0);
    assert_eq!((started(&plan), &plan.broken), (vec![1], &None));
    change(&mut scheduler, &mut plan);
    scheduler.broken(&plan)
}

#[test]
fn a_job_that_starts_where_it_may_not_be_is_seen() {
    let elsewhere = |_: &mut Scheduler, plan: &mut Plan| {
        let piece = &mut plan.starts[0].pieces[0];
        piece.node.0 = 1 - piece.node.0;
    };
    let of_rack = |rack: &str| BTreeSet::from([format!("rack={rack}")]);
    let asks = [
        (
            Ask {
                labels: of_rack("x"),
                ..Ask::packed(4)
            },
            "other labels",
        ),
        (
            Ask {
                anti_labels: of_rack("y"),
                ..Ask::packed(4)
            },
            "other labels",
        ),
        (
            Ask {
                gpu: GpuWish {
                    model: "h100".into(),
                    ..GpuWish::default()
                },
                ..Ask::packed(4)
            },
            "will not do",
        ),
    ];
    for (ask, words) in asks {
        assert_eq!(said_of(ask.clone(), |_, _| ()), None);
        let said = said_of(ask, elsewhere).unwrap();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_job_that_starts_across_fabrics_on_a_closed_node_or_beside_others_is_seen() {
    let apart = Ask {
        fabric: Some("rack".into()),
        ..Ask::packed(4)
    };
    let said = said_of(apart, |_, plan| {
        let piece = plan.starts[0].pieces[0];
        let half = Piece { gpus: 2, ..piece };
        let other = Piece {
            node: super::super::cluster::NodeIx(1 - piece.node.0),
            ..half
        };
        plan.starts[0].pieces = vec![half, other];
    });
    assert!(said.unwrap().contains("two fabrics"));
    let closed = said_of(Ask::packed(4), |scheduler, plan| {
        let node = plan.starts[0].pieces[0].node;
        std::sync::Arc::make_mut(&mut scheduler.cluster.nodes[node].offer).open = false;
    });
    assert!(closed.unwrap().contains("a closed node"));
    let alone = Ask {
        exclusive: true,
        ..Ask::packed(4)
    };
    let said = said_of(alone, |scheduler, plan| {
        let piece = plan.starts[0].pieces[0];
        let none = Piece { gpus: 0, ..piece };
        scheduler
            .cluster
            .take(super::super::cluster::JobIx(77), &[none]);
    });
    assert!(said.unwrap().contains("a node with others"));
}

#[test]
fn a_project_that_gets_more_than_it_may_have_is_seen_and_so_is_one_that_goes_and_may_not() {
    let said = said_of(Ask::packed(4), |scheduler, _| {
        scheduler.projects.limit_to("a", 3);
    });
    assert!(said.unwrap().contains("beyond what its project may have"));
    let said = said_of(Ask::packed(4), |_, plan| {
        plan.starts.clear();
        plan.preempts.push(Preempt {
            job: 1,
            for_job: 2,
            borrowed: false,
            moves: false,
        });
    });
    assert!(said.unwrap().contains("job 1 is told to go"));
}
