//! The way on when a row is damaged and there is no backup: what is damaged is set aside, and the indexes are
//! made anew from the rows that are left.
//!
//! Owns what follows from a row that is gone. One transaction; the rows that it takes out are on disk elsewhere
//! before. Where redb's pages are damaged the file is written anew, and the one before stays. Never guesses what a row said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use redb::{Database, Key, ReadableTable as _, TableDefinition, Value, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use thiserror::Error;
use trainyard_core::{
    decision::Decision,
    record::{LogLine, Progress},
};

use super::{
    Care,
    copy::{CopyError, Draft, allows_one_name, beside},
    given,
};
use crate::{
    clock,
    store::{
        NodeRow, UserRow,
        apply::put_meta,
        block::Kept,
        changed,
        codec::{self, Place},
        error::{ReadError, spared},
        events, held, migrate, numbers, open,
        read::decode_job,
        series::{self, Entry},
        tables::{
            self, CHANGED, CHANGED_COUNTER, CHANGED_OF, COLUMNS, COUNTERS, CURSORS, DOCUMENTS,
            EVENTS, EVENTS_OF_JOB, EVENTS_OF_NODE, INSTANCE_KEY, JOBS, LAST_JOB, LOGS, META, NODES,
            OPEN_JOBS, POINTS, REQUEST_KEYS, Rows, SCHEMA, SCHEMA_KEY, SESSIONS_KEY, Series, USERS,
            USERS_BY_EMAIL, VALIDATIONS,
        },
        writer::guarded,
    },
};

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mended {
    /// Rows that were taken out and written to the file.
    pub set_aside: u64,
    /// The file was written anew, because pages of it were damaged.
    pub anew: Option<Anew>,
}

/// What became of a file with damaged pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Anew {
    /// The file as it was. It holds every secret.
    pub before: PathBuf,
    /// Tables of which it could not be read to the end.
    pub unread: Vec<String>,
}

/// Why a store was not mended; it is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MendError {
    /// The file for the rows cannot be written.
    #[error("cannot write {}: {source}; name a file that is not there yet", .path.display())]
    Aside {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store cannot be read or written.
    #[error(transparent)]
    Rows(#[from] ReadError),
    /// Pages are damaged, and what is left of the store cannot be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// What was written anew cannot take the place of the file.
    #[error("cannot put a new file in the place of {}: {source}; see that its folder can be written, then try again", .path.display())]
    Swap {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Care {
    /// Takes damaged rows out, into a new file of JSON lines, and makes the indexes anew. A file with damaged pages is
    /// written anew for it, which takes as much room again. Blocks.
    ///
    /// # Errors
    /// When the file or the store cannot be written; the store is then as it was.
    pub fn mend(&mut self, aside: &Path) -> Result<Mended, MendError> {
        if self.intact {
            let set_aside = mend(&self.db, (self.schema, false), aside)?;
            return Ok(Mended {
                set_aside,
                anew: None,
            });
        }
        let fresh = Draft(beside(&self.path));
        let unread = self.copy_what_is_left(&fresh.0)?.unread;
        let swap = |source| MendError::Swap {
            path: self.path.clone(),
            source,
        };
        let db = Database::open(&fresh.0).map_err(|error| swap(io::Error::other(error)))?;
        let set_aside = mend(&db, (self.schema, !unread.is_empty()), aside)?;
        let before = keep(&self.path).map_err(swap)?;
        let swapped = fs::rename(&fresh.0, &self.path);
        if swapped.is_err() && !self.path.exists() {
            // Its name was taken from it where it could not have two.
            fs::rename(&before, &self.path).map_err(swap)?;
        }
        swapped
            .and_then(|()| File::open(open::folder(&self.path))?.sync_all())
            .map_err(swap)?;
        (self.db, self.intact) = (db, true);
        Ok(Mended {
            set_aside,
            anew: Some(Anew { before, unread }),
        })
    }
}

/// Gives the file a second name, that nothing has; in place of its own on a file system where it cannot have two.
fn keep(path: &Path) -> io::Result<PathBuf> {
    let mut number = 1_u32;
    loop {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".damaged-{number}"));
        let before = path.with_file_name(name);
        match fs::hard_link(path, &before) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Ok(()) => return Ok(before),
            Err(error) if allows_one_name(&error) && !before.exists() => {
                return fs::rename(path, &before).map(|()| before);
            }
            Err(error) => return Err(error),
        }
    }
}

/// How many rows were taken out.
fn mend(db: &Database, (schema, lacks): (u32, bool), aside: &Path) -> Result<u64, MendError> {
    let failed = |source| MendError::Aside {
        path: aside.to_path_buf(),
        source,
    };
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(aside);
    let mut txn = db.begin_write().map_err(ReadError::from)?;
    txn.set_quick_repair(true);
    let mut mend = Mend {
        txn: &txn,
        schema,
        aside: BufWriter::new(file.map_err(failed)?),
        unwritten: None,
        set_aside: 0,
        lacks,
    };
    guarded(|| mend.all())?;
    let Mend {
        aside,
        unwritten,
        set_aside,
        ..
    } = mend;
    if let Some(error) = unwritten {
        return Err(failed(error));
    }
    let file = aside
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    txn.commit().map_err(ReadError::from)?;
    Ok(set_aside)
}

struct Mend<'t> {
    txn: &'t WriteTransaction,
    schema: u32,
    aside: BufWriter<File>,
    unwritten: Option<io::Error>,
    set_aside: u64,
    /// Tables could not be read to the end.
    lacks: bool,
}

impl Mend<'_> {
    fn all(&mut self) -> Result<(), ReadError> {
        // One of an older version is brought up to this one first: what is made anew has one form.
        tables::create_all(self.txn)?;
        migrate::upgrade(self.txn, self.schema)?;
        put_meta(self.txn, SCHEMA_KEY, &SCHEMA.to_string())?;
        self.meta()?;
        self.sift("documents", DOCUMENTS, |(kind, key), bytes| {
            let key = format!("{kind}/{key}");
            let place = Place {
                table: "documents",
                key: &key,
            };
            codec::unseal(place, bytes)
                .err()
                .map(|error| error.to_string())
        })?;
        self.sift("nodes", NODES, |key, bytes| {
            unread::<NodeRow>(bytes, |node| node.name.0.as_bytes() == key)
        })?;
        self.sessions()?;
        self.events()?;
        self.users()?;
        let (jobs, last) = self.jobs()?;
        let orphan = |job: &u64| (!jobs.contains(job)).then(|| "its job is not there".to_owned());
        self.sift("validations", VALIDATIONS, |(job, _), bytes| {
            let place = Place {
                table: "validations",
                key: &job,
            };
            let damage = codec::to_text(place, bytes).err();
            damage
                .map(|error| error.to_string())
                .or_else(|| orphan(&job))
        })?;
        self.sift_numbers(&orphan)?;
        numbers::note_job(self.txn, last)?;
        self.series::<Progress>(POINTS, &orphan)?;
        self.series::<LogLine>(LOGS, &orphan)?;
        self.changes(&jobs)
    }

    /// The coordinator's own values. What is missed is drawn anew, here or at the next start.
    fn meta(&mut self) -> Result<(), ReadError> {
        self.sift("meta", META, |key, bytes| {
            let key = String::from_utf8_lossy(key).into_owned();
            let place = Place {
                table: "meta",
                key: &key,
            };
            let read = codec::to_text(place, bytes);
            read.err().map(|error| error.to_string())
        })?;
        if !self.has_meta(INSTANCE_KEY)? {
            put_meta(self.txn, INSTANCE_KEY, &open::new_instance())?;
        }
        Ok(())
    }

    /// Where the number of the last session was damaged: sessions go on from a number that is beyond all that were, since
    /// it counts microseconds.
    fn sessions(&self) -> Result<(), ReadError> {
        // Where rows were lost, nodes may have been among them.
        let some =
            self.txn.open_table(NODES)?.first()?.is_some() || self.set_aside > 0 || self.lacks;
        if some && !self.has_meta(SESSIONS_KEY)? {
            put_meta(self.txn, SESSIONS_KEY, &clock::now().0.to_string())?;
        }
        Ok(())
    }

    fn has_meta(&self, key: &str) -> Result<bool, ReadError> {
        Ok(self.txn.open_table(META)?.get(key.as_bytes())?.is_some())
    }

    /// An entry that is left behind would lead to what is noted under its number later.
    fn events(&mut self) -> Result<(), ReadError> {
        self.sift("events", EVENTS, |_, bytes| {
            unread::<Decision>(bytes, |_| true)
        })?;
        let mut of_job = self.txn.open_table(EVENTS_OF_JOB)?;
        let mut of_node = self.txn.open_table(EVENTS_OF_NODE)?;
        of_job.retain(|_, ()| false)?;
        of_node.retain(|_, ()| false)?;
        for row in self.txn.open_table(EVENTS)?.iter()? {
            let (id, bytes) = row?;
            let id = id.value();
            let place = Place {
                table: "events",
                key: &id,
            };
            let note: Decision = codec::from_json(place, bytes.value())?;
            events::index(&note, id, (&mut of_job, &mut of_node))?;
        }
        Ok(())
    }

    fn users(&mut self) -> Result<(), ReadError> {
        self.sift("users", USERS, |id, bytes| {
            unread::<UserRow>(bytes, |user| user.id == id)
        })?;
        let mut by_email = self.txn.open_table(USERS_BY_EMAIL)?;
        by_email.retain(|_, _| false)?;
        for row in self.txn.open_table(USERS)?.iter()? {
            let (id, bytes) = row?;
            let place = Place {
                table: "users",
                key: &id.value(),
            };
            let user: UserRow = codec::from_json(place, bytes.value())?;
            by_email.insert(user.email.as_bytes(), id.value())?;
        }
        Ok(())
    }

    /// The jobs that are left, and the highest number that was given to one.
    fn jobs(&mut self) -> Result<(BTreeSet<u64>, u64), ReadError> {
        let mut gone = Vec::new();
        self.sift("jobs", JOBS, |id, bytes| {
            let bad = match decode_job(id, bytes) {
                Ok(job) => (job.id.0 != id).then(|| format!("holds job {}", job.id)),
                Err(error) => Some(error.to_string()),
            };
            gone.extend(bad.is_some().then_some(id));
            bad
        })?;
        let mut left = BTreeSet::new();
        let mut open = self.txn.open_table(OPEN_JOBS)?;
        open.retain(|_, ()| false)?;
        for row in self.txn.open_table(JOBS)?.iter()? {
            let (id, bytes) = row?;
            let id = id.value();
            if !decode_job(id, bytes.value())?.state.is_terminal() {
                open.insert(id, ())?;
            }
            left.insert(id);
        }
        drop(open);
        numbers::note_sum(self.txn, numbers::sum(self.txn)?)?;
        // One that is damaged is taken out later.
        let noted = spared(numbers::counter(&self.txn.open_table(COUNTERS)?, LAST_JOB))?;
        let known = left.last().copied().max(noted.flatten()).unwrap_or(0);
        let last = given::highest(self.txn, known, gone)?;
        Ok((left, last))
    }

    /// Rows that are a number each: those of a job that is gone go too. Where a damaged cursor was, its agent says from which
    /// record on it still has them.
    fn sift_numbers(&mut self, orphan: &impl Fn(&u64) -> Option<String>) -> Result<(), ReadError> {
        self.sift("counters", COUNTERS, |name, row| {
            let place = Place {
                table: "counters",
                key: &"",
            };
            let read = numbers::unseal::<&[u8]>(place, &name, row);
            read.err().map(|error| error.to_string())
        })?;
        self.sift("cursors", CURSORS, |key, row| {
            let read = numbers::cursor(key, row).err();
            read.map(|error| error.to_string())
                .or_else(|| orphan(&key.0))
        })?;
        let mut keys = self.txn.open_table(REQUEST_KEYS)?;
        keys.retain(|_, job| orphan(&job).is_none())?;
        Ok(())
    }

    fn series<T: Kept>(
        &mut self,
        series: Series,
        orphan: &impl Fn(&u64) -> Option<String>,
    ) -> Result<(), ReadError> {
        // Only the index knows whose a chunk is.
        let mut owners = BTreeMap::new();
        for row in self.txn.open_table(series.by_job)?.iter()? {
            let (job, first) = row?.0.value();
            owners.insert(first, job);
        }
        let (mut kept, mut end) = (Vec::new(), 1);
        let txn = self.txn;
        self.sift(series.name, series.chunks, |first, bytes| {
            let chunk = match series::opened::<T>(txn, series, first, bytes) {
                Ok(chunk) => chunk,
                Err(error) => return Some(error.to_string()),
            };
            let Some(job) = owners.get(&first) else {
                return Some("nothing says whose it is".to_owned());
            };
            if let Some(reason) = orphan(job) {
                return Some(reason);
            }
            let entry = Entry {
                rows: u32::try_from(chunk.len()).unwrap_or(u32::MAX),
                sealed: chunk.is_sealed(),
            };
            end = end.max(chunk.ids().last().map_or(first, |last| last + 1));
            kept.push((*job, first, entry));
            None
        })?;
        let mut index = self.txn.open_table(series.by_job)?;
        index.retain(|_, _| false)?;
        let mut blocks = BTreeSet::new();
        for (job, first, entry) in kept {
            index.insert((job, first), entry.value())?;
            blocks.extend(entry.sealed.then_some(first));
        }
        drop(index);
        if series.rows == Rows::Points {
            self.sift("point_columns", COLUMNS, |(first, _), _| {
                let owned = blocks.contains(&first);
                (!owned).then(|| "its block is not there".to_owned())
            })?;
        }
        let mut trimmed = self.txn.open_table(series.trimmed)?;
        trimmed.retain(|job, _| orphan(&job).is_none())?;
        for row in trimmed.iter()? {
            end = end.max(row?.1.value().0);
        }
        drop(trimmed);
        held::recount(self.txn, series)?;
        let mut counters = self.txn.open_table(COUNTERS)?;
        let next = numbers::counter(&counters, series.name)?.unwrap_or(1);
        numbers::count(&mut counters, series.name, next.max(end))
    }

    /// Whoever follows all jobs looks at each once more.
    fn changes(&self, jobs: &BTreeSet<u64>) -> Result<(), ReadError> {
        {
            let changed = self.txn.open_table(CHANGED)?;
            let last = changed.last()?.map_or(0, |(number, _)| number.value());
            // Where the counter was damaged: no number is given twice.
            let mut counters = self.txn.open_table(COUNTERS)?;
            let known = numbers::counter(&counters, CHANGED_COUNTER)?.unwrap_or(0);
            numbers::count(&mut counters, CHANGED_COUNTER, known.max(last))?;
        }
        self.txn.open_table(CHANGED)?.retain(|_, _| false)?;
        self.txn.open_table(CHANGED_OF)?.retain(|_, _| false)?;
        changed::number(self.txn, jobs).map(drop)
    }

    /// Takes out what `bad` has a reason for.
    fn sift<K: Key + 'static, V: Value + 'static>(
        &mut self,
        name: &str,
        definition: TableDefinition<'static, K, V>,
        mut bad: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Option<String>,
    ) -> Result<(), ReadError> {
        let mut table = self.txn.open_table(definition)?;
        let mut gone = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            let raw = K::as_bytes(&key.value()).as_ref().to_vec();
            if let Some(reason) = bad(key.value(), value.value()) {
                let line = json!({
                    "table": name,
                    "key": hex(&raw),
                    "reason": reason,
                    "value": hex(V::as_bytes(&value.value()).as_ref()),
                });
                if let Err(error) = writeln!(self.aside, "{line}") {
                    self.unwritten = Some(error);
                }
                gone.push(raw);
            }
        }
        for raw in gone {
            table.remove(K::from_bytes(&raw))?;
            self.set_aside += 1;
        }
        Ok(())
    }
}

fn unread<T: DeserializeOwned>(bytes: &[u8], is_its: impl Fn(&T) -> bool) -> Option<String> {
    let place = Place {
        table: "",
        key: &"",
    };
    match codec::from_json::<T>(place, bytes) {
        Ok(row) => (!is_its(&row)).then(|| "it is the row of another key".to_owned()),
        Err(ReadError::Checksum { .. }) => Some("its checksum is wrong".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
