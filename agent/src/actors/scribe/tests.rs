//! Lines, words and the end of a task in its spool, whatever the order in which they come.

use super::*;
use crate::spool::TaskSpool;
use trainyard_core::ids::{AttemptNo, JobId, Rank};

async fn desk(folder: &std::path::Path) -> (Scribe, Desk, Spool) {
    let spool = Spool::open(folder.join("spool"), u64::MAX).await.unwrap();
    let task = TaskKey {
        job: JobId(1),
        attempt: AttemptNo(1),
        rank: Rank(0),
    };
    let (scribe, desk) = scribe(task, spool.clone(), folder.join("output.log"));
    (scribe, desk, spool)
}

async fn texts(spool: &Spool) -> Vec<String> {
    let all = spool.unsent_after(0, usize::MAX, u64::MAX).await.unwrap();
    let text = |record| {
        let Record::Log(line) = record else {
            panic!("{record:?}");
        };
        line.text
    };
    all.into_iter().map(|one| text(one.record)).collect()
}

fn output(lines: &[&str]) -> String {
    let record = |line: &&str| format!("5 o {}\n{line}\n", line.len());
    lines.iter().map(record).collect()
}

#[tokio::test]
async fn the_last_words_come_after_all_output() {
    let folder = tempfile::tempdir().unwrap();
    let (scribe, desk, spool) = desk(folder.path()).await;
    std::fs::write(
        folder.path().join("output.log"),
        output(&["one", "", "two"]),
    )
    .unwrap();
    scribe.note(Level::Info, "hello");
    scribe.finish(vec![(Level::Info, "bye".into())]).await;
    let drained = desk.work().await.unwrap();
    assert_eq!(texts(&spool).await, ["hello", "one", "", "two", "bye"]);
    assert_eq!(drained.last_lines, ["one", "two"]);
    assert_eq!(drained.last_seq, 5);
}

#[tokio::test]
async fn a_line_of_the_output_is_kept_whole_however_long_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (scribe, desk, spool) = desk(folder.path()).await;
    let long = [20, 64].map(|kib| format!("{}!", "x".repeat((kib << 10) - 1)));
    // What is no text grows: each byte becomes three.
    let odd = vec![0xff; 60 << 10];
    let mut all = output(&[&long[0], &long[1]]).into_bytes();
    all.extend(format!("5 o {}\n", odd.len()).bytes());
    all.extend([odd, b"\n".to_vec()].concat());
    std::fs::write(folder.path().join("output.log"), &all).unwrap();
    scribe.finish(Vec::new()).await;
    let drained = desk.work().await.unwrap();
    let said = texts(&spool).await;
    assert_eq!(said[..2], long);
    assert_eq!(said[2..].concat(), "\u{fffd}".repeat(60 << 10));
    assert!(said.iter().all(|line| line.len() <= record::LONGEST_LINE));
    assert_eq!(spool.state().source_offset, all.len() as u64);
    assert!(
        drained.last_lines[0].ends_with("… (cut)"),
        "the end of the task tells them in short"
    );
}

#[tokio::test]
async fn a_task_without_output_has_only_the_agents_words() {
    let folder = tempfile::tempdir().unwrap();
    let (scribe, desk, spool) = desk(folder.path()).await;
    scribe.note(Level::Warning, "no such dataset");
    scribe.finish(Vec::new()).await;
    assert_eq!(desk.work().await.unwrap().last_seq, 1);
    assert_eq!(texts(&spool).await, ["no such dataset"]);
}

#[tokio::test]
async fn what_an_earlier_life_has_kept_is_not_kept_again_but_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("output.log");
    std::fs::write(&path, output(&["one", "two"])).unwrap();
    let (first, first_desk, _) = desk(folder.path()).await;
    first.finish(Vec::new()).await;
    first_desk.work().await.unwrap();
    std::fs::write(&path, output(&["one", "two", "three"])).unwrap();
    let (second, second_desk, spool) = desk(folder.path()).await;
    second.follow();
    second.finish(Vec::new()).await;
    let drained = second_desk.work().await.unwrap();
    assert_eq!(texts(&spool).await, ["one", "two", "three"]);
    assert_eq!(drained.last_lines, ["one", "two", "three"]);
}

#[tokio::test]
async fn last_words_that_an_earlier_life_has_said_behind_all_output_are_not_said_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("output.log");
    std::fs::write(&path, output(&["one"])).unwrap();
    let words = |more: &str| [(Level::Info, "bye".into()), (Level::Info, more.to_owned())].into();
    let (first, first_desk, _) = desk(folder.path()).await;
    first.finish(vec![(Level::Info, "bye".into())]).await;
    first_desk.work().await.unwrap();
    let (second, second_desk, spool) = desk(folder.path()).await;
    second.note(Level::Info, "restarted");
    second.finish(words("more")).await;
    let drained = second_desk.work().await.unwrap();
    assert_eq!(texts(&spool).await, ["one", "bye", "restarted", "more"]);
    assert_eq!(drained.last_seq, 4);
    std::fs::write(&path, output(&["one", "two"])).unwrap();
    let (third, third_desk, spool) = desk(folder.path()).await;
    third.finish(words("more")).await;
    third_desk.work().await.unwrap();
    assert_eq!(texts(&spool).await[4..], ["two", "bye", "more"]);
}

#[tokio::test]
async fn output_waits_in_its_own_file_while_what_was_told_before_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("output.log"), output(&["one", "two"])).unwrap();
    let (scribe, mut desk, _) = desk(folder.path()).await;
    let spool = Spool::open(folder.path().join("small"), 1).await.unwrap();
    desk.spool = spool.clone();
    let hello = own_line(Level::Info, "hello".to_owned());
    let hello = spool.append(vec![(Record::Log(hello), None)]);
    hello.await.unwrap();
    scribe.finish(Vec::new()).await;
    let acknowledges = async {
        for (last, told) in [(1, "hello"), (3, "two")] {
            let mut states = spool.watch();
            let reached = states.wait_for(|state| state.last_seq == last);
            reached.await.unwrap();
            assert_eq!(texts(&spool).await.last().unwrap(), told);
            spool.ack(last).await.unwrap();
        }
    };
    let (drained, ()) = tokio::join!(desk.work(), acknowledges);
    assert_eq!(drained.unwrap().last_seq, 3);
    assert_eq!(texts(&spool).await, ["hello", "one", "two"]);
}

#[tokio::test]
async fn words_that_come_together_are_kept_together_and_soon() {
    let folder = tempfile::tempdir().unwrap();
    let (scribe, desk, spool) = desk(folder.path()).await;
    scribe.note(Level::Info, "one");
    scribe.note(Level::Info, "two");
    let told = async {
        let mut states = spool.watch();
        let reached = states.wait_for(|state| state.last_seq > 0);
        let first = *reached.await.unwrap();
        assert_eq!((first.last_seq, first.syncs), (2, 1));
    };
    tokio::select! {
        () = told => {}
        drained = desk.work() => panic!("nobody has told the end: {drained:?}"),
    }
}

#[tokio::test]
async fn a_disk_that_stays_full_does_not_hold_up_the_end_of_a_task_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("output.log");
    std::fs::write(&path, output(&["one", "two"])).unwrap();
    let (_, mut desk, _) = desk(folder.path()).await;
    let mut file = TaskSpool::open(&folder.path().join("full")).unwrap();
    file.writer = File::options().write(true).open("/dev/full").unwrap();
    desk.spool = Spool::on(file);
    desk.last_patience = Duration::ZERO;
    let mut finish = vec![Command::Finish(Vec::new())];
    assert!(desk.carry_out(&mut finish).await.unwrap());
    let drained = desk.drained();
    assert_eq!(drained.last_lines, ["one", "two"]);
    assert_eq!(drained.last_seq, 0);
    let left = std::fs::metadata(&path).unwrap().len();
    assert_eq!(left, 0, "there is room for the end");
}

#[test]
fn a_long_line_is_cut_between_characters() {
    assert_eq!(cut("short".into(), 20), "short");
    let long = cut("ä".repeat(50), 21);
    assert!(long.len() <= 21 && long.ends_with("… (cut)"), "{long}");
    assert!(long.starts_with("ää"));
}
