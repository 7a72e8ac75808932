//! Writers of all kinds, and which copies of their files are taken.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;

const SIZE: usize = 64 << 10;

/// A folder for copies, and a file of checkpoints beside it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("copies")).unwrap();
    let path = folder.path().join("last.pt");
    (folder, path)
}

/// One byte, over and over: a checkpoint is whole when all of it is of one save.
fn save(number: u8) -> Vec<u8> {
    vec![number; SIZE]
}

/// A trainer that saves as `write` does until the test ends.
struct Writer(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Writer {
    fn start(path: &Path, write: impl Fn(&Path, Vec<u8>) + Send + 'static) -> Self {
        write(path, save(0));
        let (path, over) = (path.to_owned(), Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&over);
        let work = move || {
            for number in (1..=u8::MAX).cycle() {
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                write(&path, save(number));
            }
        };
        Self(over, Some(thread::spawn(work)))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap();
    }
}

fn pause(millis: u64) {
    thread::park_timeout(Duration::from_millis(millis));
}

/// A few copies, as rounds take them, until one is whole.
async fn some_copy(folder: &Path, path: &Path, how: (&Told, bool)) -> Option<Vec<u8>> {
    for _ in 0..10 {
        if let Some(copy) = copy(path, &folder.join("copies"), how).await.unwrap() {
            return Some(fs::read(&copy.path).unwrap());
        }
    }
    None
}

fn is_one_save(bytes: &[u8]) -> bool {
    bytes.len() == SIZE && bytes.iter().all(|byte| Some(byte) == bytes.first())
}

#[tokio::test]
async fn a_file_that_is_left_alone_is_copied_whole_and_the_copy_goes_with_its_path() {
    let (folder, path) = place();
    fs::write(&path, save(7)).unwrap();
    let copies = folder.path().join("copies");
    let copy = copy(&path, &copies, (&Told::default(), false)).await;
    let copy = copy.unwrap().expect("it is quiet by then");
    assert_eq!(fs::read(&copy.path).unwrap(), save(7));
    drop(copy);
    assert_eq!(fs::read_dir(copies).unwrap().count(), 0);
}

#[tokio::test]
async fn half_of_a_file_that_is_being_written_is_never_taken() {
    let (folder, path) = place();
    // Truncated, then written in pieces: the file is whole for no longer than between two pieces.
    let _writer = Writer::start(&path, |path, bytes| {
        let mut file = File::create(path).unwrap();
        for piece in bytes.chunks(SIZE / 16) {
            file.write_all(piece).unwrap();
            pause(20);
        }
    });
    let how = (&Told::default(), false);
    let found = copy(&path, &folder.path().join("copies"), how).await;
    let found = found.unwrap().map(|copy| fs::read(&copy.path).unwrap());
    assert!(found.is_none_or(|bytes| is_one_save(&bytes)), "a half one");
    assert_eq!(
        fs::read_dir(folder.path().join("copies")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_file_written_in_place_more_often_than_each_second_is_copied_between_two_saves() {
    let (folder, path) = place();
    let _writer = Writer::start(&path, |path, bytes| {
        fs::write(path, bytes).unwrap();
        pause(300);
    });
    let told = Told::default();
    let first = copy(&path, &folder.path().join("copies"), (&told, false)).await;
    // It is never left alone for long, unless the machine has no time for the writer.
    let first = first.unwrap().map(|copy| fs::read(&copy.path).unwrap());
    assert!(first.is_none_or(|bytes| is_one_save(&bytes)));
    let found = some_copy(folder.path(), &path, (&told, true)).await;
    assert!(is_one_save(&found.expect("there is a pause in each epoch")));
}

#[tokio::test]
async fn a_file_that_is_replaced_all_the_time_is_copied_as_it_was_when_it_had_the_name() {
    let (folder, path) = place();
    let _writer = Writer::start(&path, |path, bytes| {
        let part = path.with_extension("part");
        fs::write(&part, bytes).unwrap();
        fs::rename(&part, path).unwrap();
        pause(5);
    });
    let found = some_copy(folder.path(), &path, (&Told::default(), false)).await;
    assert!(is_one_save(&found.expect("each of them was whole")));
}

#[tokio::test]
async fn a_file_that_its_trainer_names_is_whole_at_once() {
    let (folder, path) = place();
    let told = Told::default();
    let tells = told.clone();
    let _writer = Writer::start(&path, move |path, bytes| {
        fs::write(path, bytes).unwrap();
        tells.names(&fs::metadata(path).unwrap());
        pause(80);
    });
    let found = some_copy(folder.path(), &path, (&told, false)).await;
    assert!(is_one_save(&found.expect("it was told")));
}

#[tokio::test]
async fn no_copy_takes_the_room_that_the_next_checkpoint_needs() {
    let (folder, path) = place();
    let copies = folder.path().join("copies");
    // Of this size there is none: it has no block on the disk, and a copy of it would fill any.
    let file = File::create(&path).unwrap();
    let free = disk::seen(&copies).unwrap().free;
    file.set_len(free / 2 + 1).unwrap();
    let refused = copy(&path, &copies, (&Told::default(), false)).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(
        error
            .to_string()
            .contains("stored when the trainer has ended"),
        "{error}"
    );
    assert_eq!(copies.read_dir().unwrap().count(), 0);
}

#[test]
fn a_copy_needs_twice_its_size_and_of_a_small_disk_a_twentieth() {
    let disk = |free: u64, total: u64| Disk {
        free: free << 20,
        total: total << 20,
    };
    let has_room = |disk, mib: u64| has_room(&disk, mib << 20).is_ok();
    assert!(has_room(disk(1_064, 100_000), 500) && !has_room(disk(1_063, 100_000), 500));
    assert!(has_room(disk(22, 40), 10) && !has_room(disk(21, 40), 10));
}

#[tokio::test]
async fn what_a_killed_agent_has_left_of_copies_goes_and_nothing_else() {
    let (folder, path) = place();
    let copies = folder.path().join("copies");
    fs::write(&path, save(1)).unwrap();
    fs::write(copies.join("task.json"), "x").unwrap();
    let copy = take(&path, &copies).unwrap().unwrap();
    copy.path.keep().unwrap();
    assert_eq!(copies.read_dir().unwrap().count(), 2);
    forget_copies(&copies).unwrap();
    assert!(copies.join("task.json").exists());
    assert_eq!(copies.read_dir().unwrap().count(), 1);
}
