//! What a spool knows of what was delivered: its mark, and the room that it gives back. Owns no product code; called by the
//! test runner.

use std::fs::{self, OpenOptions};

use trainyard_core::record::{Completion, Record};

use super::{
    tests::{filled, line, place, progress},
    *,
};

#[test]
fn an_acknowledgement_beyond_the_end_says_that_records_are_lost() {
    let (_folder, path) = place();
    filled(&path, 3).ack(3).unwrap();
    fs::write(&path, b"").unwrap();
    assert!(matches!(
        TaskSpool::open(&path),
        Err(SpoolError::AckAhead {
            acked: 3,
            last: 0,
            ..
        })
    ));
}

#[test]
fn an_acknowledgement_that_the_disk_refuses_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let mut spool = TaskSpool::open(&path).unwrap();
    spool
        .append(&[(line("one"), None), (line("two"), None)])
        .unwrap();
    spool.sync().unwrap();
    // As good as a full disk: nothing can be written there.
    std::fs::create_dir(folder.path().join("spool.ack")).unwrap();
    spool.ack(1).unwrap();
    assert_eq!(spool.acked(), 1, "delivery goes on behind it");
    drop(spool);
    assert_eq!(TaskSpool::open(&path).unwrap().acked(), 0, "sent again");
}

/// A hundred reports and lines, with marks.
fn marked(path: &std::path::Path) -> TaskSpool {
    let mut spool = TaskSpool::open(path).unwrap();
    spool.mark_step = 1_000;
    for number in 1..=100 {
        let said = (line("said"), Some(u64::from(number) * 10));
        spool.append(&[(progress(number), None), said]).unwrap();
        spool.sync().unwrap();
    }
    spool
}

#[test]
fn what_was_delivered_is_not_read_again_by_the_next_life() {
    let (_folder, path) = place();
    let mut spool = marked(&path);
    spool.ack(151).unwrap();
    drop(spool);
    // Whoever read it would find it damaged.
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut spool = TaskSpool::open(&path).unwrap();
    let skipped = spool.skipped();
    assert!((100..=151).contains(&skipped), "{skipped}");
    assert_eq!(
        (spool.last_seq(), spool.acked(), spool.source_offset()),
        (200, 151, 1_000)
    );
    assert!(spool.waiting() < bytes.len() as u64 / 2);
    assert_eq!(spool.progress_keys().len(), 100);
    let again = spool.append_once(&[(progress(1), None)]).unwrap();
    assert_eq!(again, Appended::AlreadyThere, "it was told long ago");
    let unsent = spool.unsent_after(151, 3, 9_999).unwrap();
    let seqs: Vec<_> = unsent.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [152, 153, 154]);

    // The last word, too, once it is delivered.
    spool.mark_step = 1;
    spool
        .append(&[(Record::Completion(Completion::default()), None)])
        .unwrap();
    spool.sync().unwrap();
    spool.ack(201).unwrap();
    drop(spool);
    let mut spool = TaskSpool::open(&path).unwrap();
    assert!(spool.completed() && spool.skipped() == 201 && spool.waiting() == 0);
    assert_eq!(spool.append(&[(line("more"), None)]).unwrap(), 202);
}

#[test]
fn a_mark_that_is_torn_or_of_another_spool_only_makes_the_next_life_read_more() {
    let (folder, path) = place();
    let mut spool = marked(&path);
    spool.ack(200).unwrap();
    let whole = TaskSpool::open(&path).unwrap().skipped();
    let marks = folder.path().join("spool.mark");
    let file = OpenOptions::new().write(true).open(&marks).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let mut spool = TaskSpool::open(&path).unwrap();
    let skipped = spool.skipped();
    assert!(0 < skipped && skipped < whole, "{skipped} of {whole}");
    assert_eq!((spool.last_seq(), spool.acked()), (200, 200));
    assert_eq!(spool.progress_keys().len(), 100);
    // What it was is marked anew.
    spool.mark_step = 1;
    spool.append(&[(line("x"), None)]).unwrap();
    spool.sync().unwrap();
    spool.ack(201).unwrap();
    assert_eq!(TaskSpool::open(&path).unwrap().skipped(), 201);

    fs::remove_file(&path).unwrap();
    fs::remove_file(folder.path().join("spool.ack")).unwrap();
    let bytes = fs::read(&marks).unwrap();
    drop(filled(&path, 900));
    fs::write(&marks, bytes).unwrap();
    let spool = TaskSpool::open(&path).unwrap();
    assert_eq!((spool.skipped(), spool.last_seq()), (0, 900));
    assert_eq!(spool.acked(), 0, "none of these was delivered");
}

#[test]
fn what_was_delivered_gives_its_room_back_to_the_disk_and_the_rest_is_there_whatever_is_torn() {
    use std::os::unix::fs::MetadataExt as _;
    let (_folder, path) = place();
    let mut spool = TaskSpool::open(&path).unwrap();
    (spool.mark_step, spool.release_step) = (10_000, 200_000);
    let text = "x".repeat(1_000);
    for number in 1..=500 {
        spool.append(&[(line(&text), Some(number))]).unwrap();
        spool.sync().unwrap();
    }
    let taken = || fs::metadata(&path).unwrap().blocks() * 512;
    let (before, length) = (taken(), fs::metadata(&path).unwrap().len());
    spool.ack(100).unwrap();
    assert_eq!(
        (taken(), spool.skipped()),
        (before, 0),
        "it is not much yet"
    );
    spool.ack(400).unwrap();
    let left = taken();
    assert!(left < before / 2, "{left} of {before}");
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    let skipped = spool.skipped();
    assert!((350..=400).contains(&skipped), "{skipped}");
    let seqs = |spool: &mut TaskSpool, after| {
        let unsent = spool.unsent_after(after, usize::MAX, u64::MAX).unwrap();
        unsent.iter().map(|record| record.seq).collect::<Vec<_>>()
    };
    assert_eq!(seqs(&mut spool, 400), (401..=500).collect::<Vec<_>>());
    let all_left: Vec<_> = (skipped + 1..=500).collect();
    assert_eq!(seqs(&mut spool, 0), all_left);
    drop(spool);
    let mut spool = TaskSpool::open(&path).unwrap();
    assert_eq!((spool.acked(), spool.skipped()), (400, skipped));
    assert_eq!(seqs(&mut spool, 0), all_left);
    // The record behind the mark is torn, and none follows it.
    let (_, place) = spool.base;
    drop(spool);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(place + 20).unwrap();
    fs::remove_file(path.with_extension("ack")).unwrap();
    let mut spool = TaskSpool::open(&path).unwrap();
    assert_eq!((spool.last_seq(), spool.acked()), (skipped, skipped));
    assert_eq!(spool.append(&[(line("on"), None)]).unwrap(), skipped + 1);
    spool.sync().unwrap();
    drop(spool);
    // Of what was given up nothing can be read, whatever became of the rest.
    file.set_len(place - 20).unwrap();
    let error = TaskSpool::open(&path).unwrap_err();
    let lost = matches!(error, SpoolError::Damaged { last_good, .. } if last_good == skipped);
    assert!(lost, "{error}");
}

#[test]
fn a_spool_whose_first_records_are_given_up_is_never_shortened_for_want_of_its_marks() {
    let (_folder, path) = place();
    let mut spool = TaskSpool::open(&path).unwrap();
    spool.release_step = 1 << 20;
    let text = "x".repeat(1 << 20);
    for number in 1..=40 {
        spool.append(&[(line(&text), Some(number))]).unwrap();
        spool.sync().unwrap();
    }
    spool.ack(38).unwrap();
    assert_eq!(spool.skipped(), 38);
    drop(spool);
    let length = fs::metadata(&path).unwrap().len();
    let marks = path.with_extension("mark");
    let mut bytes = fs::read(&marks).unwrap();
    // In the second of them, so that the first, which is whole, speaks of a place that nothing is left behind for long.
    let middle = bytes.len() / 20;
    bytes[middle] ^= 1;
    fs::write(&marks, bytes).unwrap();
    for _ in 0..2 {
        let error = TaskSpool::open(&path).unwrap_err();
        assert!(matches!(error, SpoolError::Damaged { .. }), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
        // The next time there are none at all.
        fs::remove_file(&marks).ok();
    }
}
