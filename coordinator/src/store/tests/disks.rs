//! Disks that fail a store: full ones, and power that goes while the file is made.

use redb::backends::FileBackend;

use super::*;

/// A disk with room for so many more bytes; what does not fit is written as far as it fits.
#[derive(Debug)]
struct Small {
    file: FileBackend,
    room: Arc<Mutex<usize>>,
}

impl StorageBackend for Small {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        // As file systems do it: the new place is given when it is written to.
        self.file.set_len(len)
    }
    fn sync_data(&self) -> Result<(), io::Error> {
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut room = locked(&self.room);
        let fits = data.len().min(*room);
        *room -= fits;
        self.file.write(offset, &data[..fits])?;
        if fits < data.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// A disk in memory whose machine loses power after so many writes and flushes.
#[derive(Clone, Debug)]
pub(super) struct Short {
    pub(super) memory: Arc<Mutex<Vec<u8>>>,
    pub(super) left: Arc<Mutex<usize>>,
}

impl Short {
    fn spend(&self) -> Result<(), io::Error> {
        let mut left = locked(&self.left);
        *left = left
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("the power is off"))?;
        Ok(())
    }
}

impl StorageBackend for Short {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(locked(&self.memory).len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let at = place(offset);
        out.copy_from_slice(&locked(&self.memory)[at..at + out.len()]);
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.spend()?;
        locked(&self.memory).resize(place(len), 0);
        Ok(())
    }
    fn sync_data(&self) -> Result<(), io::Error> {
        self.spend()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.spend()?;
        let at = place(offset);
        locked(&self.memory)[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn locked<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap()
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

pub(super) fn quiet() -> Fatal {
    Box::new(|_| {})
}

#[test]
fn a_coordinator_that_is_killed_at_any_moment_of_its_first_start_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trainyard.redb");
    let mut moments = 0;
    loop {
        let disk = Short {
            memory: Arc::default(),
            left: Arc::new(Mutex::new(moments)),
        };
        let make = |builder: &Builder| builder.create_with_backend(disk.clone());
        let made = Store::open_on(make, StoreOptions::new(&path), quiet()).map(drop);
        fs::write(&path, &*disk.memory.lock().unwrap()).unwrap();
        let again = Store::open(StoreOptions::new(&path), no_fatal());
        again.unwrap_or_else(|error| panic!("after {moments} writes: {error}"));
        if made.is_ok() {
            break;
        }
        moments += 1;
    }
    assert!(moments > 5, "{moments}");
}

/// Also where the disk is full again and again: what was acknowledged is there, and nothing has to be mended.
#[tokio::test]
async fn a_disk_that_is_full_at_any_moment_loses_nothing_and_the_store_opens_once_there_is_room() {
    const FULL: usize = 150;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trainyard.redb");
    let mut stored: Vec<u64> = Vec::new();
    let mut next = 1;
    for round in 0..FULL {
        let room = Arc::new(Mutex::new(usize::MAX));
        let make = |builder: &Builder| {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            let room = Arc::clone(&room);
            let file = FileBackend::new(file)?;
            builder.create_with_backend(Small { file, room })
        };
        let options = StoreOptions::new(&path);
        let store = Store::open_on(make, options.clone(), quiet()).unwrap();
        for id in &stored {
            assert!(
                store.job(JobId(*id)).unwrap().is_some(),
                "round {round}: {id}"
            );
        }
        // Somewhere in the first commits, within a page or between two.
        *room.lock().unwrap() = round * 1_777;
        for lines in 0.. {
            let changes = vec![
                Change::PutJob(Box::new(job(next))),
                log(next, &"x".repeat(lines * 97 % 5_000)),
            ];
            if store.commit_and_wait(changes).await.is_err() {
                break;
            }
            stored.push(next);
            next += 1;
        }
        drop(store);
        *room.lock().unwrap() = round % 7 * 100;
        match Store::open_on(make, options, quiet()) {
            // It is full still.
            Err(error) => assert!(matches!(error, OpenError::DiskFull { .. }), "{error}"),
            Ok(_) => panic!("round {round}: a start writes"),
        }
        // The last one was not acknowledged: it may be there, whole.
        next += 1;
    }
    assert!(stored.len() > FULL, "{}", stored.len());
    drop(open_at(&path));
    let found = super::super::care::Care::open(&path, true).unwrap();
    let found = found.check().unwrap();
    assert!(found.is_sound(), "{found:?}");
}
