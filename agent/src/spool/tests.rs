//! What a spool promises, on real files. Owns no product code; called by the test runner.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use tempfile::TempDir;
use trainyard_core::record::{Checkpoint, Completion, LogLine, LogStream, Progress, Record};
use trainyard_core::time::Timestamp;

use super::*;

pub(super) fn line(text: &str) -> Record {
    Record::Log(LogLine {
        at: Timestamp(7),
        stream: LogStream::Stdout,
        level: String::new(),
        text: text.to_owned(),
    })
}

pub(super) fn progress(epoch: u32) -> Record {
    Record::Progress(Progress {
        at: Timestamp(7),
        epoch,
        total_epochs: 9,
        step: None,
        values: std::iter::once(("loss".to_owned(), 0.5)).collect(),
        has_metrics: true,
        checkpoint: None,
        best_checkpoint: None,
    })
}

pub(super) fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    (folder, path)
}

pub(super) fn filled(path: &std::path::Path, lines: u64) -> TaskSpool {
    let mut spool = TaskSpool::open(path).unwrap();
    for number in 1..=lines {
        spool
            .append(&[(line(&format!("line {number}")), Some(number * 10))])
            .unwrap();
    }
    spool.sync().unwrap();
    spool
}

/// A report within an epoch, large enough that some fill a small room.
fn step(number: u64) -> Record {
    let Record::Progress(mut report) = progress(1) else {
        unreachable!();
    };
    report.step = Some(number);
    report.values = [("x".repeat(900), 0.5)].into();
    Record::Progress(report)
}

pub(super) fn texts(spool: &mut TaskSpool) -> (usize, Vec<String>) {
    let all = spool.unsent_after(0, usize::MAX, u64::MAX).unwrap();
    let text = |spooled: &Spooled| match &spooled.record {
        Record::Log(line) => Some(line.text.clone()),
        Record::Progress(_)
        | Record::Stored(_)
        | Record::Completion(_)
        | Record::Validation { .. } => None,
    };
    let texts: Vec<_> = all.iter().filter_map(text).collect();
    (all.len() - texts.len(), texts)
}

#[test]
fn what_waits_for_a_coordinator_stays_within_its_room_and_the_log_says_what_was_left_out() {
    let (_folder, path) = place();
    let mut spool = TaskSpool::open(&path).unwrap();
    spool.room = 100_000;
    for number in 0..1_000 {
        spool.append_once(&[(step(number), None)]).unwrap();
    }
    spool.sync().unwrap();
    let waiting = spool.waiting();
    // With the last report and the last line, which may go beyond.
    assert!((50_000..102_000).contains(&waiting), "{waiting}");
    let (kept, said) = texts(&mut spool);
    assert!(
        said[0].contains("of 2 reports within an epoch one is kept"),
        "{said:?}"
    );
    assert!(said[1].contains("of 4 reports"), "{said:?}");

    // Once it is taken, all is kept again, and the last word says what is lacking.
    spool.ack(spool.last_seq()).unwrap();
    assert_eq!(spool.waiting(), 0);
    for number in 1_000..1_010 {
        let stored = spool.append_once(&[(step(number), None)]).unwrap();
        assert!(matches!(stored, Appended::Stored(_)));
    }
    spool
        .append_once(&[(Record::Completion(Completion::default()), None)])
        .unwrap();
    spool.sync().unwrap();
    let (all, said) = texts(&mut spool);
    assert_eq!(all, kept + 10 + 1);
    let words = format!(
        "the coordinator takes everything again; {} reports of metrics were left out so far",
        1_000 - kept
    );
    assert_eq!(said.last(), Some(&words));
}

#[test]
fn a_torn_tail_is_dropped_and_its_number_given_again() {
    let (_folder, path) = place();
    drop(filled(&path, 3));
    let whole = fs::metadata(&path).unwrap().len();
    for cut in 1..12 {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(whole - cut).unwrap();
        let mut spool = TaskSpool::open(&path).unwrap();
        assert_eq!((spool.last_seq(), spool.source_offset()), (2, 20));
        assert_eq!(spool.append(&[(line("line 3"), Some(30))]).unwrap(), 3);
    }
}

#[test]
fn zeros_that_a_power_cut_left_at_the_end_are_dropped() {
    let (_folder, path) = place();
    drop(filled(&path, 3));
    let whole = fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(whole + 5000).unwrap();
    assert_eq!(TaskSpool::open(&path).unwrap().last_seq(), 3);
    assert_eq!(fs::metadata(&path).unwrap().len(), whole);
}

#[test]
fn a_flipped_bit_before_good_records_is_an_error_and_nothing_is_cut_off() {
    let (_folder, path) = place();
    drop(filled(&path, 3));
    let good = fs::read(&path).unwrap();
    for bit in 0..good.len() / 3 * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bad).unwrap();
        let error = TaskSpool::open(&path).unwrap_err();
        assert!(
            matches!(error, SpoolError::Damaged { last_good: 0, .. }),
            "{bit}: {error}"
        );
        assert_eq!(fs::read(&path).unwrap(), bad);
    }
}

#[test]
fn a_bit_that_flips_while_the_spool_is_open_is_noticed_when_it_is_read() {
    let (_folder, path) = place();
    let mut spool = filled(&path, 3);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        spool.unsent_after(0, 9, 9999),
        Err(SpoolError::Damaged { last_good: 2, .. })
    ));
}

#[test]
fn an_opened_spool_goes_on_with_numbers_offsets_and_acknowledgement() {
    let (_folder, path) = place();
    let mut spool = filled(&path, 600);
    spool.ack(590).unwrap();
    spool.append(&[(progress(1), None)]).unwrap();
    drop(spool);
    let mut spool = TaskSpool::open(&path).unwrap();
    assert_eq!(
        (spool.last_seq(), spool.acked(), spool.source_offset()),
        (601, 590, 6000)
    );
    let seqs = |records: Vec<Spooled>| records.iter().map(|r| r.seq).collect::<Vec<_>>();
    assert_eq!(
        seqs(spool.unsent_after(590, 3, 9999).unwrap()),
        [591, 592, 593]
    );
    assert_eq!(seqs(spool.unsent_after(593, 2, 9999).unwrap()), [594, 595]);
    assert_eq!(seqs(spool.unsent_after(255, 2, 9999).unwrap()), [256, 257]);
    assert_eq!(seqs(spool.unsent_after(599, 9, 1).unwrap()), [600]);
    assert!(spool.unsent_after(601, 9, 9999).unwrap().is_empty());
}

#[test]
fn a_doubled_epoch_is_reported_as_already_there_also_after_a_restart() {
    let (_folder, path) = place();
    let mut spool = TaskSpool::open(&path).unwrap();
    let first = spool.append_once(&[(progress(4), None)]).unwrap();
    assert_eq!(first, Appended::Stored(1));
    assert_eq!(
        spool.append_once(&[(progress(4), None)]).unwrap(),
        Appended::AlreadyThere
    );
    let end = [(Record::Completion(Completion::default()), None)];
    assert_eq!(spool.append_once(&end).unwrap(), Appended::Stored(2));
    drop(spool);
    let mut spool = TaskSpool::open(&path).unwrap();
    assert!(spool.progress_keys().contains(&(4, None, true)) && spool.completed());
    assert_eq!(
        spool.append_once(&[(progress(4), None)]).unwrap(),
        Appended::AlreadyThere
    );
    assert_eq!(spool.append_once(&end).unwrap(), Appended::AlreadyThere);
}

#[test]
fn what_is_not_on_disk_yet_is_not_shown_to_the_sender() {
    let (_folder, path) = place();
    let mut spool = filled(&path, 1);
    spool.append(&[(line("two"), None)]).unwrap();
    assert_eq!(spool.unsent_after(0, 9, 9999).unwrap().len(), 1);
    assert!(matches!(spool.ack(2), Err(SpoolError::AckAhead { .. })));
    spool.sync().unwrap();
    assert_eq!(spool.unsent_after(0, 9, 9999).unwrap().len(), 2);
}

#[test]
fn a_full_disk_is_an_error_of_its_own_and_the_spool_goes_on_when_there_is_room() {
    let (_folder, path) = place();
    let mut spool = filled(&path, 1);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let real = std::mem::replace(&mut spool.writer, full);
    let refused = spool.append(&[(progress(1), None)]);
    assert!(matches!(refused, Err(SpoolError::DiskFull { .. })));
    spool.writer = real;
    let again = spool.append_once(&[(progress(1), None)]).unwrap();
    assert_eq!(again, Appended::Stored(2));
    spool.sync().unwrap();
    assert_eq!(TaskSpool::open(&path).unwrap().last_seq(), 2);
}

#[test]
fn a_flush_that_fails_takes_back_all_that_it_was_to_keep() {
    let (_folder, path) = place();
    let mut spool = filled(&path, 300);
    spool.append(&[(progress(1), None)]).unwrap();
    spool.append_body(&[(line("said"), None)], 5).unwrap();
    // A pipe cannot be flushed to disk.
    let (_out, pipe) = std::io::pipe().unwrap();
    let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(pipe));
    let real = std::mem::replace(&mut spool.writer, pipe);
    assert!(spool.sync().is_err());
    spool.writer = real;
    assert!(spool.progress_keys().is_empty());
    assert_eq!(
        spool.append_body(&[(line("said"), None)], 5).unwrap(),
        Appended::Stored(301),
        "what was taken back was not said"
    );
    assert_eq!(
        spool.append_once(&[(progress(1), None)]).unwrap(),
        Appended::Stored(302)
    );
    spool.sync().unwrap();
    assert_eq!(TaskSpool::open(&path).unwrap().last_seq(), 302);
}

#[test]
fn what_a_failed_write_or_flush_took_back_is_thinned_and_said_as_if_it_came_for_the_first_time() {
    let (_out, pipe) = std::io::pipe().unwrap();
    let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(pipe));
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    for refuses in [full, pipe] {
        let (_folder, path) = place();
        let mut spool = TaskSpool::open(&path).unwrap();
        spool.append(&[(step(1), None), (step(2), None)]).unwrap();
        spool.sync().unwrap();
        spool.room = spool.waiting();
        let Record::Progress(mut named) = step(3) else {
            unreachable!();
        };
        named.checkpoint = Some(Checkpoint {
            path: "/c/3.pt".into(),
            size_bytes: None,
        });
        let say = |spool: &mut TaskSpool| {
            let told = spool.append_once(&[(Record::Progress(named.clone()), None)])?;
            let left_out = spool.append_once(&[(step(4), None)])?;
            spool.sync()?;
            assert_eq!(left_out, Appended::LeftOut);
            Ok::<_, SpoolError>(told)
        };
        let real = std::mem::replace(&mut spool.writer, refuses);
        assert!(say(&mut spool).is_err());
        spool.writer = real;
        assert_eq!(say(&mut spool).unwrap(), Appended::Stored(4));
        let (reports, said) = texts(&mut spool);
        assert_eq!((reports, said.len()), (3, 1), "{said:?}");
        assert!(said[0].contains("are used up"), "{said:?}");
        spool.ack(4).unwrap();
        spool.append_once(&[(step(5), None)]).unwrap();
        spool.sync().unwrap();
        let (_, said) = texts(&mut spool);
        let all =
            "the coordinator takes everything again; 1 reports of metrics were left out so far";
        assert_eq!(said.last().map(String::as_str), Some(all));
    }
}

#[tokio::test]
async fn many_that_append_at_once_each_get_a_number_of_their_own() {
    let (_folder, path) = place();
    let spool = Spool::open(path.clone(), u64::MAX).await.unwrap();
    let texts: Vec<_> = (0..500).map(|n| format!("line {n}")).collect();
    let appends = texts
        .iter()
        .map(|text| spool.append(vec![(line(text), None)]));
    let mut seqs = futures::future::try_join_all(appends).await.unwrap();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=500).collect::<Vec<_>>());
    assert_eq!(TaskSpool::open(&path).unwrap().last_seq(), 500);
}

#[tokio::test]
async fn the_sender_is_woken_by_new_records_and_finds_them() {
    let (_folder, path) = place();
    let spool = Spool::open(path, u64::MAX).await.unwrap();
    let mut news = spool.watch();
    assert_eq!(spool.append(vec![(line("a"), Some(2))]).await.unwrap(), 1);
    let state = *news.wait_for(|state| state.last_seq == 1).await.unwrap();
    assert_eq!(state.source_offset, 2);
    let batch = spool.unsent_after(state.acked, 10, 1000).await.unwrap();
    assert_eq!(batch[0].record, line("a"));
    spool.ack(1).await.unwrap();
    news.wait_for(|state| state.acked == 1).await.unwrap();
}

#[test]
fn a_record_of_a_newer_agent_is_no_damage_and_nothing_is_cut_off() {
    // With a kind of record that this program does not know: once with another version, once without.
    for version in [0, 1] {
        let (_folder, path) = place();
        drop(filled(&path, 3));
        let mut bytes = fs::read(&path).unwrap();
        let body = postcard::to_stdvec(&(4_u64, None::<u64>, 99_u8, "new")).unwrap();
        super::frame::put(version, &body, &mut bytes);
        fs::write(&path, &bytes).unwrap();
        let error = TaskSpool::open(&path).unwrap_err();
        assert!(
            matches!(error, SpoolError::Newer { last_good: 3, .. }),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes);
        // As the last one half written it is torn like any other.
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(TaskSpool::open(&path).unwrap().last_seq(), 3);
    }
}
