//! Bodies of lines that come again: which a spool knows, in this life and in the next ones. Owns no product code; called by
//! the test runner.

use std::fs::{self, OpenOptions};

use serde::Deserialize;
use trainyard_core::record::Record;

use super::{
    file::Key,
    frame,
    tests::{line, place, texts},
    *,
};

fn lines(said: &[&str]) -> Vec<(Record, Option<u64>)> {
    said.iter().map(|text| (line(text), None)).collect()
}

fn is_stored(appended: Appended) -> bool {
    matches!(appended, Appended::Stored(_))
}

/// Twenty bodies of two lines; in small marks, if wanted.
fn said(path: &std::path::Path, mark_step: u64) -> TaskSpool {
    let mut spool = TaskSpool::open(path).unwrap();
    spool.mark_step = mark_step;
    for identity in 1..=20 {
        let appended = spool.append_body(&lines(&["one", "two"]), identity);
        assert!(is_stored(appended.unwrap()), "equal lines of other calls");
        spool.sync().unwrap();
    }
    spool
}

#[test]
fn a_body_that_comes_again_to_the_next_life_is_known_whether_its_lines_are_read_or_only_marked() {
    for (mark_step, acked) in [(u64::MAX, 0), (100, 0), (100, 17), (100, 40), (1, 40)] {
        let (_folder, path) = place();
        said(&path, mark_step).ack(acked).unwrap();
        // Two lives: what the first one reads in the marks is there for the second one too.
        for _ in 0..2 {
            let mut spool = TaskSpool::open(&path).unwrap();
            assert_eq!(spool.skipped() > 0, acked > 0, "{mark_step} {acked}");
            for identity in 1..=20 {
                let again = spool.append_body(&lines(&["one", "two"]), identity);
                assert_eq!(again.unwrap(), Appended::AlreadyThere, "{identity}");
            }
            assert_eq!(spool.last_seq(), 40);
        }
        let mut spool = TaskSpool::open(&path).unwrap();
        assert!(is_stored(spool.append_body(&lines(&["one"]), 21).unwrap()));
    }
}

#[test]
fn only_the_last_bodies_are_known_and_what_has_no_identity_is_always_another_line() {
    let (_folder, path) = place();
    let mut spool = said(&path, 100);
    for identity in 21..=8_200 {
        spool.append_body(&lines(&["x"]), identity).unwrap();
    }
    for _ in 0..300 {
        spool.append_sifted(&lines(&["same"])).unwrap();
    }
    spool.sync().unwrap();
    spool.ack(spool.last_seq() / 2).unwrap();
    drop(spool);
    let mut spool = TaskSpool::open(&path).unwrap();
    let mut known = |identity| {
        let appended = spool.append_body(&lines(&["x"]), identity).unwrap();
        appended == Appended::AlreadyThere
    };
    assert!(known(9) && known(8_200));
    assert!(!known(8));
    spool.append_sifted(&lines(&["same"])).unwrap();
    spool.sync().unwrap();
    let (_, texts) = texts(&mut spool);
    assert_eq!(texts.last().unwrap(), "same");
}

#[test]
fn a_body_is_known_to_the_next_life_though_other_processes_of_its_task_say_much_before_it_comes_again()
 {
    for mark_step in [u64::MAX, 100] {
        let (_folder, path) = place();
        said(&path, mark_step).ack(40).unwrap();
        let mut spool = TaskSpool::open(&path).unwrap();
        spool.mark_step = mark_step;
        for identity in 100..2_100 {
            spool.append_body(&lines(&["x"]), identity).unwrap();
        }
        spool.sync().unwrap();
        let again = spool.append_body(&lines(&["one", "two"]), 20).unwrap();
        assert_eq!(again, Appended::AlreadyThere);
    }
}

#[test]
fn of_a_body_whose_end_a_crash_has_torn_off_what_is_missing_follows() {
    let (_folder, path) = place();
    let mut spool = TaskSpool::open(&path).unwrap();
    let all = ["one", "two", "three", "four"];
    spool.append_body(&lines(&all), 7).unwrap();
    spool.sync().unwrap();
    drop(spool);
    let whole = fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    // Of the last line and a part of the one before it.
    file.set_len(whole * 5 / 8).unwrap();
    let mut spool = TaskSpool::open(&path).unwrap();
    assert_eq!(texts(&mut spool).1, ["one", "two"]);
    spool.append_body(&lines(&["between"]), 8).unwrap();
    assert!(is_stored(spool.append_body(&lines(&all), 7).unwrap()));
    spool.sync().unwrap();
    drop(spool);
    let mut spool = TaskSpool::open(&path).unwrap();
    for identity in [7, 8] {
        let again = spool.append_body(&lines(&all), identity).unwrap();
        assert_eq!(again, Appended::AlreadyThere);
    }
    let expected = ["one", "two", "between", "three", "four"];
    assert_eq!(texts(&mut spool).1, expected);
}

/// A mark as an agent knows it that knows no bodies.
#[derive(Debug, PartialEq, Deserialize)]
struct Earlier {
    version: u8,
    seq: u64,
    place: u64,
    source_offset: Option<u64>,
    completed: bool,
    keys: Vec<Key>,
}

#[test]
fn an_agent_that_knows_no_bodies_reads_what_was_written_with_them() {
    let (_folder, path) = place();
    said(&path, 1).ack(40).unwrap();
    let bytes = fs::read(&path).unwrap();
    let mut rest = bytes.as_slice();
    for seq in 1..=40 {
        let (body, behind) = frame::opened(rest).unwrap();
        let text = if seq % 2 == 1 { "one" } else { "two" };
        let read: (u64, Option<u64>, Record) = postcard::from_bytes(body).unwrap();
        assert_eq!(read, (seq, None, line(text)));
        rest = behind;
    }
    assert!(rest.is_empty());
    let bytes = fs::read(path.with_extension("mark")).unwrap();
    let mut rest = bytes.as_slice();
    let mut seqs = Vec::new();
    while let Some((body, behind)) = frame::opened(rest) {
        let mark: Earlier = postcard::from_bytes(body).unwrap();
        assert_eq!((mark.version, mark.source_offset), (1, None));
        seqs.push(mark.seq);
        rest = behind;
    }
    assert!(rest.is_empty());
    assert_eq!((seqs.len(), seqs.last()), (20, Some(&40)));
}
