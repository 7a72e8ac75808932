//! How often many ranks are heard, and what is kept of their last lines. Owns no product code; called by the test runner.

use super::*;

#[test]
fn of_many_ranks_each_is_heard_the_less_often_and_its_first_word_at_once() {
    let mut part = Part::placed(Allocation {
        node: NodeName("n1".into()),
        cpus: 1,
        memory_bytes: 0,
        gpus: Vec::new(),
        address: String::new(),
    });
    let at = |seconds: i64| Timestamp(seconds * 1_000_000);
    assert!(part.is_news("fetches 1 %", 512, at(0)));
    (part.heard_at, part.detail) = (Some(at(0)), "fetches 1 %".to_owned());
    assert!(!part.is_news("fetches 2 %", 512, at(10)) && part.is_news("fetches 2 %", 512, at(11)));
    assert!(
        !part.is_news("fetches 1 %", 512, at(60)),
        "it says the same"
    );
    assert!(part.is_news("fetches 2 %", 4, at(1)));
    part.waits = true;
    assert!(part.is_news("fetches 1 %", 512, at(1)), "it begins anew");
}

#[test]
fn each_of_many_ranks_keeps_its_newest_lines_and_one_at_least() {
    let all: Vec<String> = (0..20)
        .map(|number| format!("{number:02}{}", "x".repeat(998)))
        .collect();
    let left = |world_size| {
        let mut lines = all.clone();
        shorten(&mut lines, world_size);
        assert!(all.ends_with(&lines));
        lines.len()
    };
    assert_eq!([1, 16, 128, 1_024].map(left), [20, 20, 4, 2]);
    let mut lines = vec!["short".to_owned(), "x".repeat(9_000)];
    shorten(&mut lines, 512);
    assert_eq!(lines, ["x".repeat(9_000)]);
    let mut none = Vec::new();
    shorten(&mut none, 512);
    assert_eq!(none, [""; 0]);
}
