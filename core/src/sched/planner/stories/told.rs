//! What a job that waits is told: its place, when it starts, and what would start it now.

use super::*;
use crate::sched::planner::promised::FOUND;

fn under(rule: Rule) -> Planner {
    let mut planner = Planner::new(Config {
        rule,
        ..Config::default()
    });
    set(&mut planner, 0, 0, 4, true);
    planner
}

#[test]
fn who_has_a_place_as_soon_as_others_have_gone_is_first_and_told_when_that_is() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    planner.queued(at(100), job(3, 1, 4));
    // Before it is submitted the same is foreseen: there is no other way to know that others would be told to go.
    let (nodes, foreseen) = planner.foresee(at(400), urgent(2, 1, 4));
    planner.queued(at(400), urgent(2, 1, 4));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    let why = planner.explain(at(400), JobId(2)).unwrap();
    assert!(why.words.contains("as soon as job 1 has saved"), "{why:?}");
    let place = why.place.clone().unwrap();
    assert_eq!((place.ahead, place.waiting), (0, 2));
    assert_eq!(why.expected, Some([at(400), at(460), at(470)]));
    assert_eq!(why.changes, []);
    assert_eq!((nodes, foreseen), (None, Some(why)));
}

#[test]
fn a_place_whose_last_holder_has_gone_is_told_of_without_one() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    planner.queued(at(10), urgent(2, 1, 4));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    planner.gone(at(410), JobId(1), Some(Duration::from_secs(400)));
    let words = planner.chosen(JobId(2)).unwrap();
    assert_eq!(words, "has a place on n0, and starts at once");
}

#[test]
fn who_may_not_start_before_a_moment_is_not_expected_to() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    let mut dated = job(2, 1, 4);
    dated.gate.not_before = Some(at(50_000));
    let mut again = job(3, 1, 1);
    again.not_before = Some(at(300));
    let mut after = dated.clone();
    (after.job, after.gate.after) = (JobId(4), vec![JobId(1)]);
    for queued in [dated, again, after] {
        planner.queued(at(10), queued);
    }
    solve(&mut planner, 10);
    let expected = |job| planner.explain(at(20), JobId(job)).unwrap().expected;
    assert_eq!(expected(2), Some([at(50_000); 3]));
    let [early, middle, late] = expected(3).unwrap();
    assert!(early >= at(300) && early <= middle && middle <= late);
    assert_eq!(expected(4), None, "when another ends nobody knows");
}

#[test]
fn in_strict_order_no_change_is_offered_while_others_would_stand_before_a_new_job() {
    for rule in [Rule::Fifo, Rule::Easy] {
        let mut planner = under(rule);
        planner.queued(at(0), job(1, 1, 3));
        planner.queued(at(0), job(2, 1, 3));
        planner.queued(at(0), job(3, 1, 2));
        solve(&mut planner, 0);
        let changes = |planner: &Planner| planner.explain(at(10), JobId(2)).unwrap().changes;
        // It is the first; submitted anew it would stand behind job 3.
        assert_eq!(changes(&planner), [], "{rule:?}");
        planner.gone(at(5), JobId(3), None);
        let alone = changes(&planner);
        let told: Vec<_> = alone.iter().map(|change| change.to.as_str()).collect();
        assert_eq!(told, ["1"], "{rule:?}");
    }
    let mut planner = under(Rule::Gittins);
    planner.queued(at(0), job(1, 1, 3));
    planner.queued(at(0), job(2, 1, 3));
    planner.queued(at(0), job(3, 1, 2));
    solve(&mut planner, 0);
    let changes = planner.explain(at(10), JobId(2)).unwrap().changes;
    assert_eq!(changes.len(), 1, "others are passed over");
}

#[test]
fn of_memory_as_little_less_is_told_as_there_is() {
    let mut planner = cluster(2);
    let of = |id, gib: u64| {
        let mut queued = job(id, 1, 0);
        queued.request.memory_bytes = gib << 30;
        queued
    };
    // 24 GiB are left on one node, 63 on the other.
    planner.queued(at(0), of(1, 40));
    planner.queued(at(0), of(2, 1));
    solve(&mut planner, 0);
    let held = |job: u64| planner.ledger().held_by(JobId(job))[0].node.clone();
    let together = held(1) == held(2);
    planner.queued(at(1), of(3, 60));
    solve(&mut planner, 1);
    planner.queued(at(2), of(4, 62));
    solve(&mut planner, 2);
    let most = if together { 23 } else { 24 };
    let free: Vec<u64> = planner
        .ledger()
        .nodes()
        .map(|(_, entry)| entry.free().memory_bytes >> 30)
        .collect();
    assert!(free.contains(&most), "{free:?}");
    let changes = planner.explain(at(3), JobId(4)).unwrap().changes;
    let change = Change {
        field: "resources.memory_bytes",
        from: (62u64 << 30).to_string(),
        to: (free.iter().max().unwrap() << 30).to_string(),
    };
    assert_eq!(changes, [change]);
}

#[test]
fn memory_that_another_is_promised_is_not_offered_though_nobody_holds_it_yet() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    let of_memory = |queued: QueuedJob| {
        let mut queued = queued;
        queued.request.memory_bytes = 40 << 30;
        queued
    };
    planner.queued(at(400), of_memory(urgent(2, 1, 2)));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    // Job 1 has asked for none: all 64 GiB are free until it has gone.
    let mut labelled = of_memory(job(4, 1, 0));
    labelled.placement.labels = ["zone=z".to_owned()].into();
    planner.queued(at(401), of_memory(job(3, 1, 0)));
    planner.queued(at(401), labelled);
    assert_eq!(solve(&mut planner, 401), (vec![], vec![]));
    let change = |field, from: &str, to: &str| Change {
        field,
        from: from.into(),
        to: to.into(),
    };
    let gib = |gib: u64| (gib << 30).to_string();
    let less = change("resources.memory_bytes", &gib(40), &gib(24));
    let why = planner.explain(at(401), JobId(3)).unwrap();
    assert_eq!(
        (&why.changes, &why.together),
        (&vec![less.clone()], &vec![])
    );
    // What it is told is who has it, and for whom that waits.
    let lacks = "memory: asks for 40 GiB, has 24 GiB";
    let who = "promised to job 2, which waits for job 1 to go";
    assert_eq!(
        why.words,
        format!("waits for {lacks} free on node n0; node n0 is {who}")
    );
    let [short] = why.short.as_slice() else {
        panic!("{:?}", why.short);
    };
    assert_eq!(short.lacks, format!("{lacks}; {who}"));
    assert_eq!(short.holders, [JobId(1), JobId(2)]);
    let any = change("placement.labels", "zone=z", "any");
    let why = planner.explain(at(401), JobId(4)).unwrap();
    assert_eq!((why.changes, why.together), (vec![], vec![any, less]));
    let mut anew = job(5, 1, 0);
    anew.request.memory_bytes = 24 << 30;
    planner.gone(at(402), JobId(3), None);
    planner.queued(at(402), anew);
    assert_eq!(solve(&mut planner, 402).0, [5]);
}

#[test]
fn a_very_large_total_is_answered_with_the_next_that_would_start() {
    let mut planner = cluster(2);
    planner.queued(at(0), job(1, 1, 1));
    solve(&mut planner, 0);
    let mut total = job(2, 1, 0);
    total.placement.gpus_total = Some(1_000_000);
    planner.queued(at(0), total);
    let changes = planner.explain(at(1), JobId(2)).unwrap().changes;
    let told: Vec<_> = changes.iter().map(|change| change.to.as_str()).collect();
    assert_eq!(told, ["7"]);
}

#[test]
fn who_has_free_nodes_and_waits_for_one_of_its_project_elsewhere_is_told_so() {
    let mut planner = one_at_a_time();
    set(&mut planner, 0, 0, 4, false);
    set(&mut planner, 0, 1, 4, true);
    let of_project = |asked| QueuedJob {
        project: Some(7),
        ..asked
    };
    planner.queued(at(0), of_project(job(1, 1, 4)));
    solve(&mut planner, 0);
    set(&mut planner, 1, 0, 4, true);
    planner.queued(at(400), of_project(urgent(2, 1, 4)));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    let why = planner.explain(at(400), JobId(2)).unwrap();
    assert!(why.words.contains("as soon as job 1 has saved"), "{why:?}");
    assert_eq!(why.expected, Some([at(400), at(460), at(470)]));
}

#[test]
fn why_a_job_stands_where_it_does_is_told_by_priority_by_waiting_and_by_the_rule() {
    let because = |rule: Rule| {
        let mut planner = under(rule);
        for id in 1..=3 {
            planner.queued(at(0), job(id, 1, 4));
            solve(&mut planner, 0);
        }
        planner.queued(at(1), urgent(4, 1, 4));
        let why = planner.explain(at(36_000), JobId(3)).unwrap();
        why.place.unwrap().because()
    };
    let first = "1 of those ahead have a higher priority than its 0; ";
    let known = "nothing is known yet of jobs like it, so it goes by how long it has run; by how long it has waited it ranks 2.0 times as well";
    assert_eq!(because(Rule::Gittins), format!("{first}{known}"));
    let by_age = "those of a priority go in the order in which they were submitted";
    assert_eq!(because(Rule::Fifo), format!("{first}{by_age}"));
    assert_eq!(because(Rule::Easy), format!("{first}{by_age}"));
    let words = because(Rule::Throughput);
    assert!(
        words.starts_with(&format!(
            "{first}whoever has run for the fewest turns of 2 h goes first, and after 18 h whoever runs longest still; nothing is known yet"
        )),
        "{words}"
    );
}

#[test]
fn who_has_to_go_for_a_wide_gang_is_looked_for_once_and_not_at_each_of_its_nodes() {
    let mut planner = cluster(40);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    planner.queued(at(400), urgent(2, 40, 4));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    planner.queued(at(401), job(3, 1, 4));
    assert_eq!(solve(&mut planner, 401), (vec![], vec![]));
    let before = FOUND.get();
    let why = planner.explain(at(401), JobId(3)).unwrap();
    assert_eq!((why.short.len(), why.short_more), (32, 8));
    let who = "; promised to job 2, which waits for job 1 to go";
    assert!(why.short.iter().all(|one| one.lacks.ends_with(who)));
    assert_eq!(
        FOUND.get() - before,
        2,
        "for the sentence, and for the nodes"
    );
}

#[test]
fn a_free_node_that_is_promised_to_a_gang_is_named_with_the_gang_and_who_has_to_go_for_it() {
    let mut planner = cluster(2);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    let held = planner.ledger().held_by(JobId(1))[0].node.clone();
    let (busy, idle) = match held == name(0) {
        true => ("n0", "n1"),
        false => ("n1", "n0"),
    };
    planner.queued(at(400), urgent(2, 2, 4));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    planner.queued(at(401), job(3, 1, 4));
    let mut alone = job(4, 1, 0);
    alone.placement.exclusive = true;
    planner.queued(at(401), alone);
    assert_eq!(solve(&mut planner, 401), (vec![], vec![]));
    let who = "promised to job 2, which waits for job 1 to go";
    let lacks = "gpus: asks for 4, has 0";
    let short = |job| {
        let why = planner.explain(at(401), JobId(job)).unwrap();
        let short = why.short.into_iter();
        let short = short.map(|one| (one.node.0, (one.lacks, one.holders)));
        (why.words, short.collect::<BTreeMap<_, _>>())
    };
    let (words, nodes) = short(3);
    let told = format!("waits for {lacks} free on node n1; nodes n0, n1 are {who}");
    assert_eq!(words, told);
    let all = |lacks: &str, holders: &[u64]| {
        let holders: Vec<JobId> = holders.iter().map(|job| JobId(*job)).collect();
        (format!("{lacks}; {who}"), holders)
    };
    assert_eq!(nodes[idle], all(lacks, &[2]));
    assert_eq!(nodes[busy], all(lacks, &[1, 2]));
    let (words, nodes) = short(4);
    assert!(words.contains("0 of the 1 that it needs"), "{words}");
    assert_eq!(nodes[idle], all("nobody uses it yet", &[2]));
    // To the gang itself nothing is short that is its own.
    let (_, nodes) = short(2);
    assert!(!nodes.contains_key(idle), "{nodes:?}");
}

#[test]
fn a_job_that_waits_is_told_what_is_short_who_has_it_and_what_would_start_it_now() {
    let mut planner = cluster(2);
    planner.queued(at(0), job(1, 1, 3));
    planner.queued(at(0), job(2, 1, 4));
    solve(&mut planner, 0);
    let mut wide = job(3, 2, 2);
    wide.request.gpu_model = "t4".into();
    planner.queued(at(0), job(4, 1, 4));
    planner.queued(at(0), wide);
    solve(&mut planner, 0);
    let why = planner.explain(at(10), JobId(3)).unwrap();
    let short: Vec<_> = why
        .short
        .iter()
        .map(|short| {
            (
                short.node.0.as_str(),
                short.lacks.as_str(),
                short.holders.clone(),
            )
        })
        .collect();
    let lacks = |free: u32| format!("gpus: asks for 2 of model t4, has {free}");
    let (one, none) = (lacks(1), lacks(0));
    assert_eq!(
        short,
        [
            ("n0", one.as_str(), vec![JobId(1)]),
            ("n1", none.as_str(), vec![JobId(2)]),
        ]
    );
    assert_eq!(why.changes, [], "one node has one GPU, the other none");
    let together = why.together.iter();
    let together: Vec<_> = together
        .map(|change| (change.field, change.from.as_str(), change.to.as_str()))
        .collect();
    assert_eq!(
        together,
        [("resources.gpus", "2", "1"), ("nodes", "2", "1")]
    );
    let place = why.place.unwrap();
    assert_eq!((place.ahead, place.waiting), (0, 2), "told of first");
    let [early, middle, late] = why.expected.unwrap();
    assert!(at(10) <= early && early <= middle && middle <= late);
    let why = planner.explain(at(10), JobId(4)).unwrap();
    let change = Change {
        field: "resources.gpus",
        from: "4".into(),
        to: "1".into(),
    };
    assert_eq!(why.changes, [change]);
    let (nodes, none) = planner.foresee(at(10), job(9, 1, 1));
    assert_eq!((nodes, none), (Some(vec![name(0)]), None));
    assert!(planner.foresee(at(10), job(9, 1, 2)).1.is_some());
    assert_eq!(planner.queue().iter().count(), 2, "nothing was submitted");
}
