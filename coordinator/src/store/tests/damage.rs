//! A store that its disk has damaged: what a check names, what a start refuses, what mending and copies keep.

use std::os::unix::fs::PermissionsExt as _;

use redb::TableDefinition;

use super::{
    care::{behind, filled, problems, user, with_node},
    *,
};
use crate::store::{
    care::{Care, Part},
    tables::{self as t, JOBS, LOGS, OPEN_JOBS, POINTS, USERS_BY_EMAIL},
};

#[tokio::test]
async fn a_flipped_bit_of_any_row_is_found_and_named() {
    let (_folder, path) = filled().await;
    fn flip<K: redb::Key + 'static>(
        txn: &redb::WriteTransaction,
        table: TableDefinition<'static, K, &'static [u8]>,
    ) {
        let mut table = txn.open_table(table).unwrap();
        let (key, mut row) = {
            let (key, row) = table.first().unwrap().unwrap();
            let key = K::as_bytes(&key.value()).as_ref().to_vec();
            (key, row.value().to_vec())
        };
        *row.last_mut().unwrap() ^= 1;
        table.insert(K::from_bytes(&key), row.as_slice()).unwrap();
    }
    behind(&path, |txn| {
        flip(txn, JOBS);
        flip(txn, POINTS.chunks);
        flip(txn, LOGS.chunks);
        flip(txn, crate::store::tables::USERS);
        flip(txn, crate::store::tables::VALIDATIONS);
        flip(txn, crate::store::tables::META);
    });
    let found = problems(&path);
    for row in [
        "jobs 1: its checksum",
        "points 1: its checksum",
        "logs 1: its checksum",
        "users 1: its checksum",
        "validations 1/2: its checksum",
        "meta store.instance: its checksum",
    ] {
        assert!(
            found.iter().any(|text| text.starts_with(row)),
            "{row}: {found:?}"
        );
    }
}

/// A bit of the first row of a table: of its key, or of its value.
fn flip<K: redb::Key + 'static, V: redb::Value + 'static>(
    txn: &redb::WriteTransaction,
    table: TableDefinition<'static, K, V>,
    of_key: bool,
) {
    let mut table = txn.open_table(table).unwrap();
    let (before, mut value) = {
        let (key, value) = table.first().unwrap().unwrap();
        let key = K::as_bytes(&key.value()).as_ref().to_vec();
        (key, V::as_bytes(&value.value()).as_ref().to_vec())
    };
    let mut key = before.clone();
    let bytes = if of_key { &mut key } else { &mut value };
    bytes[0] ^= 4;
    table.remove(K::from_bytes(&before)).unwrap();
    table
        .insert(K::from_bytes(&key), V::from_bytes(&value))
        .unwrap();
}

/// What flips one, how the check names it, and whether a start sees it too.
type Flip = (fn(&redb::WriteTransaction), &'static str, bool);

const FLIPS: [Flip; 21] = [
    (
        |txn| flip(txn, t::META, true),
        "meta sessions: is not there, although there are nodes",
        true,
    ),
    (
        |txn| flip(txn, t::NODES, true),
        "nodes j1: holds node n1",
        true,
    ),
    (
        |txn| flip(txn, t::USERS, true),
        "users 5: holds user 1",
        true,
    ),
    (
        |txn| flip(txn, t::COUNTERS, false),
        "counters changed: its checksum",
        true,
    ),
    (
        |txn| flip(txn, t::COUNTERS, true),
        "counters ghanged: its checksum",
        true,
    ),
    (
        |txn| flip(txn, t::CURSORS, false),
        "cursors 1/1/0: its checksum",
        true,
    ),
    (
        |txn| flip(txn, t::CURSORS, true),
        "cursors 5/1/0: its checksum",
        true,
    ),
    (
        |txn| flip(txn, OPEN_JOBS, true),
        "open_jobs (all): are not those",
        true,
    ),
    (|txn| flip(txn, JOBS, true), "jobs 5: holds job 1", true),
    (
        |txn| flip(txn, POINTS.by_job, false),
        "points 1: has 3 rows, the index says 7",
        false,
    ),
    (
        |txn| flip(txn, POINTS.by_job, true),
        "points 1: belongs to a job that is not",
        false,
    ),
    (
        |txn| flip(txn, LOGS.by_job, false),
        "logs 1: has 1 rows, the index says 5",
        false,
    ),
    (
        |txn| flip(txn, LOGS.by_job, true),
        "logs 1: belongs to a job that is not",
        false,
    ),
    (
        |txn| flip(txn, POINTS.raw, false),
        "points 1: job 1 has 1 chunks",
        false,
    ),
    (|txn| flip(txn, LOGS.held, true), "logs 1: job 1 has", false),
    (
        |txn| flip(txn, USERS_BY_EMAIL, true),
        "users 1: ada@example.com is not in",
        false,
    ),
    (
        |txn| flip(txn, t::CHANGED, false),
        "changed 2: does not agree",
        false,
    ),
    (
        |txn| flip(txn, t::CHANGED_OF, false),
        "changed 2: does not agree",
        false,
    ),
    (
        |txn| flip(txn, t::EVENTS, true),
        "events_of_job 1/1: names an event",
        false,
    ),
    (
        |txn| flip(txn, t::EVENTS_OF_JOB, true),
        "events_of_job 5/1: names an event",
        false,
    ),
    (
        |txn| {
            let mut index = txn.open_table(t::EVENTS_OF_NODE).unwrap();
            index.remove(("n1", 1)).unwrap();
            index.insert(("n5", 1), ()).unwrap();
        },
        "events_of_node n5/1: names an event",
        false,
    ),
];

#[tokio::test]
async fn a_flipped_bit_of_a_number_or_an_index_is_found_by_the_check_and_what_a_start_needs_by_it_too()
 {
    for (flip, row, at_start) in FLIPS {
        let (folder, path) = filled().await;
        with_node(&path).await;
        behind(&path, flip);
        let found = problems(&path);
        let named = found.iter().any(|text| text.starts_with(row));
        assert!(named, "{row}: {found:?}");
        match Store::open(StoreOptions::new(&path), no_fatal()) {
            Ok(_) => assert!(!at_start, "{row}"),
            Err(error) => {
                assert!(at_start, "{row}");
                assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
                let mut care = Care::open(&path, false).unwrap();
                care.mend(&folder.path().join("aside")).unwrap();
                drop(care);
                assert_eq!(problems(&path), Vec::<String>::new(), "{row}");
                drop(open_at(&path));
            }
        }
    }
}

#[tokio::test]
async fn an_export_passes_damaged_rows_over_and_counts_them() {
    let (_folder, path) = filled().await;
    behind(&path, |txn| {
        let mut chunks = txn.open_table(LOGS.chunks).unwrap();
        chunks.insert(1, &[0u8; 9][..]).unwrap();
    });
    let care = Care::open(&path, false).unwrap();
    let mut text = Vec::new();
    let done = care.export(&[Part::Logs], None, &mut text).unwrap();
    assert_eq!((done.lines, done.damaged), (1, 1));
    assert!(String::from_utf8(text).unwrap().contains("second"));
}

#[tokio::test]
async fn a_damaged_row_stops_the_start_with_the_way_out_and_mending_lets_it_start() {
    let (folder, path) = filled().await;
    behind(&path, |txn| {
        let mut jobs = txn.open_table(JOBS).unwrap();
        let row = jobs.get(1).unwrap().unwrap().value().to_vec();
        jobs.insert(2, row.as_slice()).unwrap();
        jobs.insert(3, &[0u8; 20][..]).unwrap();
        let mut open = txn.open_table(OPEN_JOBS).unwrap();
        open.insert(3, ()).unwrap();
        let mut chunks = txn.open_table(LOGS.chunks).unwrap();
        chunks.insert(1, &[0u8; 9][..]).unwrap();
    });
    let error = Store::open(StoreOptions::new(&path), no_fatal()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    for words in ["row 3 of table jobs", "trainyard store mend"] {
        assert!(error.to_string().contains(words), "{error}");
    }

    let aside = folder.path().join("aside.jsonl");
    let mut care = Care::open(&path, true).unwrap();
    // The row of job 1 under the number of another is not that one's.
    assert_eq!(care.mend(&aside).unwrap().set_aside, 3);
    let again = care.mend(&aside).unwrap_err();
    assert!(again.to_string().contains("not there yet"), "{again}");
    drop(care);
    let lines = fs::read_to_string(&aside).unwrap();
    let tables: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["table"].to_string())
        .collect();
    assert_eq!(tables, [r#""jobs""#, r#""jobs""#, r#""logs""#]);

    let store = open_at(&path);
    assert!(store.job(JobId(1)).unwrap().is_some());
    assert_eq!(store.count_points(JobId(1)).unwrap(), 3);
    let left = store.logs(JobId(1), 0, 9).unwrap();
    assert_eq!(left.len(), 1, "the line of the other chunk");
    assert_eq!(left[0].line.text, "second");
    assert_eq!(
        store.user_by_email("ada@example.com").unwrap(),
        Some(user())
    );
    let more = store.commit_and_wait(vec![log(1, "third")]).await.unwrap();
    assert_eq!(more.first_rows, [3], "no number is given twice");
}

/// Flips a bit in the file, wherever these bytes stand: older copies of a page may be there, too.
fn flip_in_file(path: &Path, bytes: &[u8]) {
    let mut file = fs::read(path).unwrap();
    let places = file.windows(bytes.len()).enumerate();
    let places: Vec<usize> = places
        .filter(|(_, found)| *found == bytes)
        .map(|(place, _)| place)
        .collect();
    assert_ne!(places, Vec::<usize>::new());
    for place in places {
        file[place + 1] ^= 1;
    }
    fs::write(path, file).unwrap();
}

#[tokio::test]
async fn a_bit_that_the_disk_has_flipped_is_named_and_mending_writes_the_file_anew() {
    let (folder, path) = filled().await;
    flip_in_file(&path, b"\"submitted_by\":\"ada\"");
    let error = Store::open(StoreOptions::new(&path), no_fatal()).unwrap_err();
    assert!(error.to_string().contains("row 1 of table jobs"), "{error}");
    for _ in 0..2 {
        let report = Care::open(&path, true).unwrap().check().unwrap();
        assert!(!report.pages_intact && !report.is_sound());
        let found = &report.problems;
        assert_eq!((found.len(), found[0].table), (1, "jobs"), "{found:?}");
        assert_eq!(found[0].problem, "its checksum is wrong");
    }
    let aside = folder.path().join("aside");
    let mut care = Care::open(&path, true).unwrap();
    let mended = care.mend(&aside).unwrap();
    let anew = mended.anew.unwrap();
    assert_eq!(anew.unread, Vec::<String>::new());
    assert!(care.check().unwrap().is_sound());
    drop(care);
    assert_eq!(problems(&path), Vec::<String>::new());
    for path in [&path, &anew.before] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let lost = Care::open(&anew.before, false).unwrap().check().unwrap();
    assert_eq!(lost.problem_count, 1, "it is as it was");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 3, "the two and the rows: {left:?}");
    let store = open_at(&path);
    assert!(store.job(JobId(1)).unwrap().is_none());
    let known = store.user_by_email("ada@example.com").unwrap();
    assert_eq!(known, Some(user()));
}

#[tokio::test]
async fn whichever_inner_page_is_damaged_the_check_says_so_and_mending_keeps_what_can_be_read() {
    let (folder, store) = fresh();
    let some = (1..=400).map(|id| Change::PutJob(Box::new(job(id))));
    store.commit_and_wait(some.collect()).await.unwrap();
    drop(store);
    let path = folder.path().join("trainyard.redb");
    let whole = fs::read(&path).unwrap();
    // redb's pages are of 4 KiB, and an inner one begins with a 2.
    let inner = (0..whole.len()).step_by(4_096);
    let inner: Vec<_> = inner.filter(|at| whole[*at] == 2).collect();
    let mut seen = BTreeMap::new();
    for at in inner {
        // A checksum of a page below it, and the place of one.
        let below = 8 + 16 * (usize::from(u16::from_le_bytes([whole[at + 2], whole[at + 3]])) + 1);
        for byte in [at + 9, at + below] {
            let mut file = whole.clone();
            file[byte] ^= 2;
            fs::write(&path, &file).unwrap();
            let what = damaged_inner(&path, folder.path(), byte);
            *seen.entry(what).or_insert(0) += 1;
        }
    }
    assert!(seen.contains_key("mended"), "{seen:?}");
}

/// What is done about it.
fn damaged_inner(path: &Path, folder: &Path, byte: usize) -> &'static str {
    let mut care = match Care::open(path, true) {
        Ok(care) => care,
        Err(error) => {
            let words = error.to_string();
            assert!(words.contains("restore it from a backup"), "{words}");
            assert!(!words.contains("store check"), "{words}");
            return "beyond reading";
        }
    };
    if care.check().unwrap().is_sound() {
        return "of no page in use";
    }
    care.mend(&folder.join(format!("aside-{byte}"))).unwrap();
    drop(care);
    assert_eq!(problems(path), Vec::<String>::new());
    drop(open_at(path));
    "mended"
}

#[tokio::test]
async fn a_backup_of_damaged_rows_is_made_and_says_which_they_are() {
    let (folder, path) = filled().await;
    behind(&path, |txn| {
        flip(txn, JOBS, false);
        flip(txn, t::COUNTERS, false);
        flip(txn, t::CURSORS, true);
    });
    let to = folder.path().join("copy.redb");
    let copied = Care::open(&path, false).unwrap().copy(&to).unwrap();
    let named = [
        "checked_counters changed",
        "jobs 1",
        "checked_cursors (5, 1, 0)",
    ];
    assert_eq!(
        (copied.damaged, copied.named),
        (3, named.map(str::to_owned).to_vec())
    );
    let found = problems(&to).len();
    assert_eq!(problems(&path).len(), found, "they are damaged there too");
}
