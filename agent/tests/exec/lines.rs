//! What a trainer writes, line by line.

use trainyard_agent::exec::output::{OutputReader, Stream};

use crate::support::*;

pub(crate) async fn lines_of_both_streams_keep_their_order() {
    let task = folder();
    let script = "seen() { until grep -q $1 $DIR/output.log; do :; done; }
        echo one; seen one; echo two >&2; seen two; echo three; seen three; echo four >&2";
    finish(&task, script).await;
    assert_eq!(texts(&task), ["one", "two", "three", "four"]);
    let streams: Vec<Stream> = output(&task).iter().map(|line| line.stream).collect();
    assert_eq!(
        streams,
        [Stream::Out, Stream::Err, Stream::Out, Stream::Err]
    );
}

pub(crate) async fn a_line_of_one_megabyte_is_whole_in_pieces() {
    let task = folder();
    finish(
        &task,
        "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo after",
    )
    .await;
    let mut lines = texts(&task);
    assert_eq!(lines.pop().as_deref(), Some("after"));
    assert!(lines.iter().all(|piece| piece.len() <= 64 * 1024));
    assert_eq!(lines.concat(), "x".repeat(1_048_576));
}

pub(crate) async fn a_progress_bar_leaves_its_last_state() {
    let task = folder();
    finish(&task, r"printf '10%%\r50%%\r100%%\ndone\r\n'").await;
    assert_eq!(texts(&task), ["100%", "done"]);
}

pub(crate) async fn a_last_line_without_end_is_kept() {
    let task = folder();
    finish(&task, "echo first; printf last").await;
    assert_eq!(texts(&task), ["first", "last"]);
}

pub(crate) async fn bytes_that_are_not_text_are_read_leniently() {
    let task = folder();
    finish(&task, r"printf 'a\377b\n'").await;
    assert_eq!(texts(&task), ["a\u{fffd}b"]);
    let raw = std::fs::read(task.path().join("output.log")).expect("the raw output");
    assert!(raw.ends_with(b"\na\xffb\n"));
}

pub(crate) async fn output_that_cannot_be_written_is_counted_and_blocks_nobody() {
    let task = folder();
    std::fs::create_dir(task.path().join("output.log")).expect("a folder in the way");
    let record = finish(&task, "head -c 300000 /dev/zero; echo; echo end >&2").await;
    assert_eq!((record.code, record.output_lost_bytes), (Some(0), 300_003));
}

pub(crate) async fn reading_goes_on_where_it_was_left() {
    let task = folder();
    finish(&task, "echo one; echo two; echo three").await;
    let path = task.path().join("output.log");
    let mut reader = OutputReader::open(&path, 0).expect("it is there");
    let first = reader.read_lines(1).expect("one line").remove(0);
    assert_eq!(first.text, "one");
    let mut later = OutputReader::open(&path, first.offset_after).expect("it is there");
    let rest = later.read_lines(10).expect("two lines");
    assert_eq!(rest, reader.read_lines(10).expect("two lines"));
    assert_eq!(rest.len(), 2);
    assert!(reader.read_lines(10).expect("no line").is_empty());
}
