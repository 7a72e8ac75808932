//! The policy against published figures, on small traces that lie beside this file.

use std::{path::PathBuf, time::Duration};

use trainyard_core::sched::policy::{Config, RankBy, Rule, cluster::Cluster};
use trainyard_replay::{
    anchors::Anchor,
    engine, metrics,
    metrics::Figures,
    real::Real,
    run::{Answer, Nodes, Question, Source, answer},
    table, trace,
};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/venus_2vc_2020-09.csv.gz")
}

fn asked(policy: &str, vc: &str, count: u32) -> Question {
    Question {
        source: Source::Trace(path()),
        nodes: Nodes { count, gpus: 8 }.each(),
        vc: Some(vc.into()),
        history: None,
        policy: policy.into(),
        settings: Config::default(),
        preemptible: 1.0,
        predict: false,
    }
}

fn replayed(policy: &str, vc: &str, count: u32) -> Answer {
    let question = asked(policy, vc, count);
    answer(&question, &|| Duration::ZERO).expect("the trace beside this file")
}

fn figures(policy: &str, vc: &str, count: u32) -> Figures {
    replayed(policy, vc, count).policies.remove(0).0
}

#[test]
fn first_come_first_served_is_what_a_published_simulator_prints() {
    for (vc, nodes, jct, makespan) in [
        ("vcvGl", 20, 18_497.0, 2_584_262.0),
        ("vcvlY", 2, 9_667.0, 2_340_337.0),
    ] {
        let figures = figures("fifo", vc, nodes);
        assert!((figures.jct_mean - jct).abs() < 0.5, "{}", figures.jct_mean);
        assert!(
            (figures.makespan - makespan).abs() < 0.5,
            "{}",
            figures.makespan
        );
    }
}

#[test]
fn the_simple_policies_are_as_near_to_the_reference_as_ties_allow() {
    let mut jobs = trace::read(&path()).unwrap();
    jobs.retain(|job| job.vc == "vcvGl");
    // Mean waits that the reference simulator printed.
    for (anchor, wait) in [
        (Anchor::FifoStrict, 13_891.0),
        (Anchor::FifoSkip, 221.0),
        (Anchor::SjfSkip, 207.0),
        (Anchor::SjfStrict, 697.0),
        (Anchor::Tiresias, 988.0),
        (Anchor::Srsf, 265.0),
    ] {
        let mut player = anchor.player(&jobs, &[], Cluster::uniform(20, 8), 60);
        let outcome = engine::replay(&jobs, 60, player.as_mut(), &|| Duration::ZERO);
        let mean = metrics::figures("", &jobs, 160, &outcome, None).wait_mean;
        assert!(
            (mean / wait - 1.0).abs() < 0.03,
            "{}: {mean}",
            anchor.name()
        );
    }
}

#[test]
fn gangs_as_wide_as_the_pool_do_not_lose_by_preemption_what_first_fit_gives_them() {
    // What docs/scheduling.md says of both pools; one percent is left for what is not a matter of waiting.
    for (vc, nodes, wait) in [("vcvGl", 20, 341.0), ("vcvlY", 2, 678.0)] {
        let figures = figures("default", vc, nodes);
        assert!(
            figures.wait_mean <= 1.01 * wait,
            "{vc}: {}",
            figures.wait_mean
        );
        assert!(figures.wait_max < 72.0 * 3_600.0);
    }
}

#[test]
fn a_batch_ends_as_soon_as_docs_scheduling_says() {
    let path = path().with_file_name("batch_2000.csv.gz");
    let jobs = trace::read(&path).unwrap();
    let work = jobs.iter().map(|job| {
        let seconds = u32::try_from(job.duration).unwrap();
        f64::from(job.gpus) * f64::from(seconds)
    });
    let least = work.sum::<f64>() / 128.0;
    for (policy, most) in [("throughput", 1.05), ("default", 1.10)] {
        let question = Question {
            source: Source::Trace(path.clone()),
            nodes: Nodes { count: 16, gpus: 8 }.each(),
            vc: None,
            ..asked(policy, "", 16)
        };
        let mut answer = answer(&question, &|| Duration::ZERO).unwrap();
        let makespan = answer.policies.remove(0).0.makespan;
        let ratio = makespan / least;
        assert!((1.0..=most).contains(&ratio), "{policy}: {ratio}");
    }
}

#[test]
fn each_part_of_the_policy_can_be_left_out_and_the_table_shows_what_it_is_worth() {
    let set = |settings: Config| {
        let question = Question {
            settings,
            ..asked("default", "vcvlY", 2)
        };
        let mut answer = answer(&question, &|| Duration::ZERO).unwrap();
        answer.policies.remove(0).0
    };
    let whole = set(Config::default());
    let alone = set(Config {
        preempt: false,
        ..Config::default()
    });
    assert!(whole.preemptions > 0);
    assert_eq!(alone.preemptions, 0);
    let by = |rank| {
        let config = Config {
            rank,
            ..Config::default()
        };
        set(config).wait_mean
    };
    let (gittins, attained, arrival) = (
        by(RankBy::Gittins),
        by(RankBy::Attained),
        by(RankBy::Arrival),
    );
    // As the page of scheduling has it.
    let told = [gittins, attained, arrival].map(f64::round);
    assert!(
        told.iter()
            .zip([678.0, 541.0, 360.0])
            .all(|(a, b)| (a - b).abs() < 0.5),
        "{told:?}"
    );
}

#[test]
fn of_ten_starts_that_are_predicted_about_eight_come_between_what_was_told_of_them() {
    let question = Question {
        predict: true,
        ..asked("default", "vcvGl", 20)
    };
    let mut answer = answer(&question, &|| Duration::ZERO).unwrap();
    let predicted = answer.policies.remove(0).0.predicted.unwrap();
    assert!(predicted.jobs > 150, "{predicted:?}");
    let percent = predicted.within * 100 / predicted.jobs;
    assert!((75..=85).contains(&percent), "{predicted:?}");
}

#[test]
fn the_same_question_has_the_same_answer() {
    let text = |answer: &Answer| serde_json::to_string(&answer.document()).unwrap();
    let (one, two) = (replayed("all", "vcvlY", 2), replayed("all", "vcvlY", 2));
    assert_eq!(text(&one), text(&two));
    for field in [
        "\"jct_mean\"",
        "\"wait_p999\"",
        "\"iso_unfair\"",
        "\"pass_p99_us\"",
        "\"wall_s\"",
    ] {
        assert!(text(&one).contains(field), "{field}");
    }
}

#[test]
fn what_cannot_be_answered_says_what_can() {
    let question = asked("default", "elsewhere", 20);
    let words = answer(&question, &|| Duration::ZERO)
        .unwrap_err()
        .to_string();
    assert!(words.contains("vcvGl, vcvlY"), "{words}");
    for wrong in ["twenty", "0x8", "8x0", "1000001x1", "4294967295x4294967295"] {
        let words = wrong.parse::<Nodes>().unwrap_err();
        assert!(words.contains("72x8"), "{words}");
    }
    let many = Question {
        nodes: vec![u32::MAX; 2],
        vc: None,
        ..question
    };
    let words = answer(&many, &|| Duration::ZERO).unwrap_err().to_string();
    assert!(words.contains("8589934590 GPUs"), "{words}");
}

#[test]
fn a_job_that_no_nodes_hold_is_counted_and_holds_nothing_up() {
    let mut jobs = trace::read(&path()).unwrap();
    jobs.retain(|job| job.vc == "vcvlY");
    jobs.truncate(10);
    jobs[3].gpus = 16;
    let mut real = Real::new(&jobs, &[], &[8], Config::default(), 1.0);
    let outcome = engine::replay(&jobs, 60, &mut real, &|| Duration::ZERO);
    assert_eq!(outcome.stuck, 1);
}

#[test]
fn jobs_as_wide_and_as_long_as_a_trace_may_hold_are_replayed_to_their_end() {
    // Together those who wait ask for more GPUs than 32 bits count.
    let century = 36_525 * 86_400;
    let jobs = (0..4_400).map(|id| trace::TraceJob {
        gpus: 1_000_000,
        duration: if id < 2 { century } else { 0 },
        ..of_ada(id, 0, 0)
    });
    let jobs: Vec<_> = jobs.collect();
    let cluster = Cluster::uniform(1, 1_000_000);
    let mut player = Anchor::FifoStrict.player(&jobs, &[], cluster, 60);
    let went = engine::replay(&jobs, 60, player.as_mut(), &|| Duration::ZERO);
    assert_eq!((went.stuck, went.ended[1]), (0, 2 * century));
    let first = went.queue.first().unwrap();
    assert_eq!(*first, (0, 4_399, 4_399_000_000, 1_000_000));
}

#[test]
fn the_policy_and_the_anchors_check_each_other() {
    let answer = replayed("all", "vcvGl", 20);
    let of = |name: &str| {
        let mut rows = answer.policies.iter().map(|(figures, _)| figures);
        let row = rows.find(|row| row.policy == name).unwrap();
        (row.wait_mean, row.wait_max, row.makespan)
    };
    assert_eq!(of("fifo"), of("anchor: FIFO strict"));
    assert_eq!(of("easy"), of("anchor: EASY backfill, walltime est"));
    // Where gangs are as wide as the pool an index alone loses to first fit, and starving jobs go first where that is asked.
    let index = of("anchor: Gittins (online history)");
    assert!(index.0 > 2.0 * of("anchor: FIFO skip (no reservation)").0);
    let (two_days, longest) = (172_800.0, index.1);
    assert!(longest > 3.0 * two_days, "{longest}");
    let (_, guarded, _) = of("anchor: Gittins + starve 48h");
    assert!(guarded < 1.2 * two_days, "{guarded}");
    let printed = answer.policies.iter().map(|(row, _)| row.policy.as_str());
    let anchors: Vec<&str> = printed
        .filter_map(|name| name.strip_prefix("anchor: "))
        .collect();
    assert_eq!(anchors, README);
}

#[test]
fn backfill_takes_a_job_without_a_limit_to_run_for_ever_as_the_policy_does() {
    let job = |id, submit, gpus, duration, limit| trace::TraceJob {
        gpus,
        limit,
        ..of_ada(id, submit, duration)
    };
    // The second is told to start at 2,000 at the latest; beside it there may run who ends before that, as only the last does.
    let jobs = [
        job(1, 0, 4, 1_000, 2_000),
        job(2, 10, 8, 100, 500),
        job(3, 20, 4, 5_000, 0),
        job(4, 30, 2, 100, 600),
    ];
    let anchor = |jobs: &[trace::TraceJob], nodes| {
        let cluster = Cluster::uniform(nodes, 8);
        let mut player = Anchor::EasyLimits.player(jobs, &[], cluster, 60);
        engine::replay(jobs, 60, player.as_mut(), &|| Duration::ZERO).started
    };
    assert_eq!(anchor(&jobs, 1), [0, 1_000, 1_100, 30]);
    // And wherever limits are missing, both start the same jobs at the same moments.
    let mut jobs = trace::read(&path()).unwrap();
    jobs.retain(|job| job.vc == "vcvGl");
    jobs.truncate(600);
    for job in jobs.iter_mut().step_by(3) {
        job.limit = 0;
    }
    let config = Config {
        rule: Rule::Easy,
        ..Config::default()
    };
    let mut real = Real::new(&jobs, &[], &[8; 20], config, 1.0);
    let policy = engine::replay(&jobs, 60, &mut real, &|| Duration::ZERO).started;
    assert_eq!(anchor(&jobs, 20), policy);
}

#[test]
fn who_is_later_than_in_a_part_of_its_own_is_told_only_of_the_nodes_that_the_parts_are_of() {
    // Two parts of a node each. Together the second runs beside the first instead of after it, and the fourth waits for the
    // third, which alone would never run, so that of the first five only the fourth is later. No nodes hold the last.
    let rows = "job_id,submit_time_s,vc,gpus,duration_s
1,0,one,8,100
2,10,one,8,100
3,300,two,16,50
4,310,one,8,100
5,1000,one,8,100
6,2000,two,24,100
";
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let trace = folder.join("parts.csv");
    std::fs::write(&trace, rows).unwrap();
    std::fs::write(
        folder.join("parts_vc_nodes.csv"),
        "vc,nodes\none,1\ntwo,1\n",
    )
    .unwrap();
    let later = |nodes: &[u32]| {
        let question = Question {
            source: Source::Trace(trace.clone()),
            nodes: nodes.to_vec(),
            vc: None,
            ..asked("fifo", "", 0)
        };
        let mut answer = answer(&question, &|| Duration::ZERO).unwrap();
        let (figures, _) = answer.policies.remove(0);
        (
            figures.stuck,
            figures.iso_unfair,
            table::table(&[&figures]).contains(" - "),
        )
    };
    assert_eq!(later(&[8, 8]), (1, Some(20.0), false));
    for others in [&[8][..], &[8, 8, 8], &[8, 16], &[16, 8]] {
        assert!(matches!(later(others), (_, None, true)), "{others:?}");
    }
}

/// The policies of the table in the README of the traces.
const README: [&str; 14] = [
    "FIFO strict",
    "FIFO skip (no reservation)",
    "EASY backfill, walltime est",
    "EASY backfill, oracle",
    "SJF strict oracle",
    "SJF skip oracle",
    "SSF predicted (history mean), skip",
    "Tiresias 2-queue LAS 18000",
    "LAS 4-queue",
    "LAS 4-queue + starve 48h",
    "Gittins (online history)",
    "Gittins + starve 48h",
    "SRTF oracle",
    "SRSF oracle",
];

/// One that wants a GPU.
fn of_ada(id: u64, submit: i64, duration: i64) -> trace::TraceJob {
    trace::TraceJob {
        id,
        submit,
        user: "ada".into(),
        vc: String::new(),
        name: String::new(),
        gpus: 1,
        nodes: 0,
        preemptible: None,
        priority: 0,
        duration,
        limit: 0,
    }
}

#[test]
fn what_is_predicted_is_the_mean_of_the_nearest_kind_of_which_a_job_has_ended() {
    let job = |id, user: &str, submit, duration| trace::TraceJob {
        user: user.into(),
        ..of_ada(id, submit, duration)
    };
    let past = [job(1, "ada", -900, 500), job(2, "bob", -900, 10)];
    // The node is taken until 100; then: bob 10 s, a stranger as all of one GPU 255 s, ada 500 s; what they really run is
    // the other way round.
    let jobs = [
        job(3, "eve", 0, 100),
        job(4, "ada", 1, 5),
        job(5, "cyd", 2, 50),
        job(6, "bob", 3, 700),
    ];
    let mut player = Anchor::SsfPredicted.player(&jobs, &past, Cluster::uniform(1, 1), 60);
    let went = engine::replay(&jobs, 60, player.as_mut(), &|| Duration::ZERO);
    assert_eq!(went.started, [0, 850, 800, 100]);
}

#[test]
fn a_history_of_our_own_is_replayed_by_its_gangs_and_more_nodes_shorten_its_waits() {
    let job = |id, submit, gpus, nodes| trace::TraceJob {
        vc: "7".into(),
        name: "a".into(),
        gpus,
        nodes,
        preemptible: Some(false),
        ..of_ada(id, submit, 100)
    };
    let jobs = vec![job(1, 0, 4, 1), job(2, 1, 8, 2), job(3, 2, 6, 1)];
    let own = |nodes: &[u32], jobs: &[trace::TraceJob], policy: &str| {
        let question = Question {
            source: Source::Jobs(jobs.to_vec(), PathBuf::from("the store")),
            nodes: nodes.to_vec(),
            vc: None,
            history: None,
            policy: policy.into(),
            settings: Config::default(),
            preemptible: 1.0,
            predict: false,
        };
        answer(&question, &|| Duration::ZERO).unwrap().policies
    };
    let replayed = |nodes: &[u32]| own(nodes, &jobs, "fifo").remove(0).0;
    let few = replayed(&[4, 4]);
    // Its six GPUs lie on one node, and none has as many; the anchors see that too.
    assert_eq!(few.stuck, 1);
    for (figures, _) in own(&[4, 4], &jobs, "all") {
        assert_eq!(figures.stuck, 1, "{}", figures.policy);
    }
    assert!((few.wait_max - 99.0).abs() < 1e-9, "{}", few.wait_max);
    let more = replayed(&[4, 4, 4, 8]);
    assert_eq!(
        (more.stuck, more.wait_max.to_bits()),
        (0, 0.0_f64.to_bits())
    );
    // Of two that wait the one of the higher priority goes first.
    let mut urgent = vec![job(1, 0, 4, 1), job(2, 1, 4, 1), job(3, 2, 4, 1)];
    urgent[2].priority = 500;
    let went = own(&[4], &urgent, "default").remove(0).1;
    assert_eq!(went.started, [0, 200, 100]);
}

#[test]
fn starts_within_what_was_told_of_them_are_counted_to_the_second_and_their_share_is_printed() {
    // Of jobs like these nothing is known: the one that has run for a minute is taken to run for ten more, and until guesses
    // have been seen to be right or wrong a tenth of those eleven minutes, and ten times them, are told. So the next one is
    // told to start between 6 and 6,540 s from now: 66 and 6,600 s after the first was started.
    let ends = [65, 66, 6_600, 6_601];
    let episodes = (0u64..).zip(ends).flat_map(|(round, ends)| {
        let begin = i64::try_from(round).unwrap() * 100_000;
        [
            of_ada(2 * round, begin, ends),
            of_ada(2 * round + 1, begin + 60, 1),
        ]
    });
    let question = Question {
        source: Source::Jobs(episodes.collect(), PathBuf::from("here")),
        nodes: vec![1],
        vc: None,
        history: None,
        policy: "fifo".into(),
        settings: Config::default(),
        preemptible: 1.0,
        predict: true,
    };
    let counted = |question: &Question| {
        let found = answer(question, &|| Duration::ZERO).unwrap();
        let (figures, _) = found.policies.into_iter().next().unwrap();
        (figures.predicted, table::table(&[&figures]))
    };
    let (predicted, printed) = counted(&question);
    assert_eq!(predicted, Some(metrics::Predicted { jobs: 4, within: 2 }));
    let words = "fifo: 2 of 4 predicted starts (50 %) came between the times told for one and nine cases of ten";
    assert!(printed.contains(words), "{printed}");
    let silent = Question {
        predict: false,
        ..question
    };
    let (predicted, printed) = counted(&silent);
    assert_eq!(predicted, None);
    assert!(!printed.contains("predicted"), "{printed}");
}
