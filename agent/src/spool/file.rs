//! The spool's file: what is in it, how far it is safe on disk. How far it is acknowledged: `delivered`. Blocks on
//! the disk, so never called from async code. Called by `front` on its own thread.

mod appending;
mod bodies;
mod delivered;
mod opening;
mod reading;

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use trainyard_core::record::{Progress, Record};
use trainyard_runtime::lasting;

use self::bodies::Bodies;
pub(super) use self::bodies::Body;
pub use self::bodies::Part;
use super::error::SpoolError;
use super::left::Left;
use super::mark::{Mark, Marks};
use super::thinner::Thinner;

/// The place of every so many-th record is remembered.
const INDEX_STEP: u64 = 256;
/// A mark is set after so many bytes of records.
const MARK_STEP: u64 = 1 << 20;
/// What was delivered gives its room back to the disk when there are so many bytes of it.
const RELEASE_STEP: u64 = 16 << 20;
/// Epoch, step, and whether there are metrics: a trainer that counts its epochs from 0 says first that it
/// has started, then what the first epoch came to.
pub(super) type Key = (u32, Option<u64>, bool);

fn key(report: &Progress) -> Key {
    (report.epoch, report.step, report.has_metrics)
}

/// What became of records that are to be kept at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Written; the number of the last one.
    Stored(u64),
    /// The same (epoch, step), a completion, or the same body is in the spool already; nothing was written.
    AlreadyThere,
    /// Nothing was written: there is no room for everything, see [`trainyard_core::thin`].
    LeftOut,
}

/// Where the file ends and what follows from its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    len: u64,
    last_seq: u64,
    source_offset: Option<u64>,
    completed: bool,
}

/// The open spool of one task.
#[derive(Debug)]
pub struct TaskSpool {
    path: PathBuf,
    ack_path: PathBuf,
    ack_file: Option<File>,
    pub(crate) writer: File,
    reader: File,
    head: Head,
    durable: Head,
    acked: u64,
    /// The last record that was marked when the file was opened, or before which the disk has its room back, and its end:
    /// what is before is not read.
    pub(super) base: (u64, u64),
    /// Numbers of records and their places.
    index: Vec<(u64, u64)>,
    keys: BTreeSet<Key>,
    fresh_keys: Vec<Key>,
    marks: Marks,
    /// Those of what is on disk and not acknowledged.
    unwritten: VecDeque<Mark>,
    /// The last record before the last mark, and where that is.
    marked: (u64, u64),
    pub(super) mark_step: u64,
    pub(super) release_step: u64,
    /// Up to where the disk has its room back, as far as this life knows.
    released: u64,
    /// Of reports on disk behind the last mark.
    unmarked_keys: Vec<Key>,
    bodies: Bodies,
    /// A record's number and its place: where the last read stopped.
    cursor: (u64, u64),
    syncs: u64,
    /// What may wait to be acknowledged before reports are left out, in bytes.
    pub(super) room: u64,
    pub(super) thinner: Thinner,
    /// As it was when all was on disk.
    settled: Thinner,
    left: Left,
    /// The file is empty, and its name may not be on disk yet: it follows with the first record, so that
    /// the start of a task does not wait for it.
    unnamed: bool,
    broken: bool,
    closed: bool,
}

impl TaskSpool {
    /// Opens or creates the spool, drops a torn tail and makes the rest durable.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let fail = |action| move |source| SpoolError::from_io(action, path, source);
        let writer = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(fail("open"))?;
        let reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(fail("open"))?;
        let beside = |ending| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let left = Left::read(beside(".left"));
        let thinner = Thinner::after(left.counts());
        let mut spool = Self {
            path: path.to_owned(),
            ack_path: beside(".ack"),
            ack_file: None,
            writer,
            reader,
            head: Head::default(),
            durable: Head::default(),
            acked: 0,
            base: (0, 0),
            index: Vec::new(),
            keys: BTreeSet::new(),
            fresh_keys: Vec::new(),
            marks: Marks::at(beside(".mark")),
            unwritten: VecDeque::new(),
            marked: (0, 0),
            mark_step: MARK_STEP,
            release_step: RELEASE_STEP,
            released: 0,
            unmarked_keys: Vec::new(),
            bodies: Bodies::default(),
            cursor: (1, 0),
            syncs: 0,
            room: u64::MAX,
            settled: thinner.clone(),
            thinner,
            left,
            unnamed: false,
            broken: false,
            closed: false,
        };
        spool.skip_marked()?;
        spool.scan()?;
        spool.unnamed = spool.head.len == 0;
        spool.read_ack()?;
        spool.note_marks();
        Ok(spool)
    }

    /// Bytes that are not acknowledged; a few more at most.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        if self.acked >= self.head.last_seq {
            return 0;
        }
        let (_, place) = self.place_near(self.acked + 1);
        self.head.len.saturating_sub(place)
    }

    /// Waits until all that was appended is on disk. When that fails, all of it is taken back.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.check()?;
        if self.head == self.durable {
            self.settled.clone_from(&self.thinner);
            return Ok(());
        }
        self.syncs += 1;
        let folder = self.path.parent().filter(|_| self.unnamed);
        let synced = lasting(&self.path, &[], |_| {
            folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
            self.writer.sync_data()
        });
        if let Err(source) = synced {
            self.roll_back();
            return Err(SpoolError::from_io("flush", &self.path, source));
        }
        self.unnamed = false;
        self.settled.clone_from(&self.thinner);
        self.settle();
        Ok(())
    }

    /// All that was taken in is on disk.
    fn settle(&mut self) {
        self.durable = self.head;
        self.unmarked_keys.append(&mut self.fresh_keys);
        let Head {
            len,
            last_seq,
            source_offset,
            completed,
        } = self.durable;
        let (marked, place) = self.marked;
        if len - place >= self.mark_step {
            self.marked = (last_seq, len);
            let keys = std::mem::take(&mut self.unmarked_keys);
            let mut mark = Mark::new((last_seq, len), keys);
            mark.bodies = self.bodies.after(marked);
            mark.source_offset = source_offset;
            mark.completed = completed;
            self.unwritten.push_back(mark);
        }
    }

    /// The number of the last record on disk; 0 when there is none.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.durable.last_seq
    }

    /// The last acknowledged number that was noted.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Where the trainer's output is to be read on; 0 when no line of it is on disk.
    #[must_use]
    pub fn source_offset(&self) -> u64 {
        self.durable.source_offset.unwrap_or(0)
    }

    /// Whether the trainer's completion is on disk.
    #[must_use]
    pub fn completed(&self) -> bool {
        self.durable.completed
    }

    /// The last record that is not read any more: it was acknowledged in an earlier life, or its room was given back.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.base.0
    }

    /// The epoch and step of every progress in the spool, and whether it has metrics.
    #[must_use]
    pub fn progress_keys(&self) -> &BTreeSet<Key> {
        &self.keys
    }

    /// How often the disk was waited for since the spool was opened.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    fn take_in(
        &mut self,
        record: &Record,
        (source_offset, part): (Option<u64>, Option<Part>),
        place: u64,
    ) {
        self.head.last_seq += 1;
        let seq = self.head.last_seq;
        let far = |(known, _): &(u64, u64)| seq >= known + INDEX_STEP;
        if self.index.last().is_none_or(far) {
            self.index.push((seq, place));
        }
        self.head.source_offset = source_offset.or(self.head.source_offset);
        if let Some(part) = part {
            self.bodies.take_in(seq, part);
        }
        match record {
            Record::Progress(progress) => {
                let key = key(progress);
                if self.keys.insert(key) {
                    self.fresh_keys.push(key);
                }
            }
            Record::Completion(_) => self.head.completed = true,
            Record::Log(_) | Record::Validation { .. } | Record::Stored(_) => {}
        }
    }

    fn roll_back(&mut self) {
        self.head = self.durable;
        for key in self.fresh_keys.drain(..) {
            self.keys.remove(&key);
        }
        let last = self.head.last_seq;
        self.bodies.roll_back(last);
        // What was left out comes again, too.
        self.thinner.clone_from(&self.settled);
        self.left.note(self.thinner.counts());
        self.index.retain(|(known, _)| *known <= last);
        self.cut(self.head.len);
    }

    fn cut(&mut self, len: u64) {
        if let Err(error) = lasting(&self.path, &[], |_| self.reader.set_len(len)) {
            tracing::error!(path = %self.path.display(), %error, "a failed write cannot be taken back");
            self.broken = true;
        }
    }

    /// Nothing is written any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    fn check(&self) -> Result<(), SpoolError> {
        if self.broken || self.closed {
            return Err(SpoolError::Broken {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    fn damaged(&self, offset: u64, seq: u64) -> SpoolError {
        SpoolError::Damaged {
            path: self.path.clone(),
            offset,
            last_good: seq - 1,
        }
    }

    fn newer(&self, offset: u64, seq: u64) -> SpoolError {
        SpoolError::Newer {
            path: self.path.clone(),
            offset,
            last_good: seq - 1,
        }
    }

    fn ack_ahead(&self, acked: u64) -> SpoolError {
        SpoolError::AckAhead {
            path: self.path.clone(),
            acked,
            last: self.head.last_seq,
        }
    }
}
