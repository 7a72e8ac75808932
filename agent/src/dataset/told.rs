//! What a trainer says of its checkpoints: which files they are, and that they are whole.
//!
//! Owns remembering it. Which files they are outlives the agent, for the last ones are stored when the trainer has ended,
//! perhaps by a later life; so it is kept in the task's folder. Called by the callbacks, and by what stores checkpoints.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use trainyard_runtime::lasting;

use super::{owing::Owing, still::Mark};
use crate::exec::{durable, watch::is_shortage};

/// What trainers have said last is remembered: best and last, some times.
const MOST_TOLD: usize = 8;

/// By `last` and `best`, where that checkpoint is.
type Places = BTreeMap<String, PathBuf>;

/// Files of a task of which its trainer has said that they are checkpoints. A cheap handle; a task has one.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// As the files were when it said so. Those that were named to an earlier life of the agent are not in it: a file that
    /// is left alone is whole, too.
    marks: Arc<Mutex<VecDeque<Mark>>>,
    places: Arc<Mutex<Kept>>,
    owing: Owing,
}

#[derive(Debug, Default)]
struct Kept {
    /// Nowhere without.
    file: Option<PathBuf>,
    /// None until it is read.
    places: Option<Places>,
    /// Why the file cannot be read, if it could not when that was last tried, and whether that is the file's own.
    unread: Option<(String, bool)>,
    /// What the job's log is to say of what was lost.
    lost: Option<String>,
}

impl Kept {
    fn read(&mut self) -> io::Result<&mut Places> {
        let places = match (self.places.take(), self.file.clone()) {
            (Some(places), _) => places,
            (None, None) => Places::new(),
            (None, Some(file)) => match durable::read_json(&file) {
                Ok(read) => read.unwrap_or_default(),
                // No further try can change that.
                Err(error) if durable::is_damage(&error) => self.lose(&file, &error.to_string()),
                Err(error) => {
                    let words = format!("{}: {error}", file.display());
                    self.unread = Some((words.clone(), !is_shortage(&error)));
                    return Err(io::Error::new(error.kind(), words));
                }
            },
        };
        self.unread = None;
        Ok(self.places.insert(places))
    }

    /// No trainer is ended for what the disk has done to this file: it is put aside, beside its place, and goes with the
    /// task's folder.
    fn lose(&mut self, file: &Path, why: &str) -> Places {
        tracing::error!(file = %file.display(), why, "what a trainer has called its checkpoints cannot be read, which is the disk's work; it is put aside");
        let aside = file.with_extension("json.damaged");
        if let Err(error) = lasting(file, &[], |_| fs::rename(file, &aside)) {
            tracing::error!(file = %file.display(), %error, "it cannot be put aside");
        }
        self.lost = Some(format!(
            "what the trainer has called its checkpoints is lost, for it cannot be read any more: {why}; until it says so again only best.* and last.* are stored"
        ));
        Places::new()
    }
}

impl Told {
    /// What is called a checkpoint is kept in `file`, where an earlier life of the agent may have left it.
    #[must_use]
    pub fn kept_in(file: PathBuf) -> Self {
        let kept = Kept {
            file: Some(file),
            ..Kept::default()
        };
        Self {
            marks: Arc::default(),
            places: Arc::new(Mutex::new(kept)),
            owing: Owing::default(),
        }
    }

    /// The reports that its trainer may keep.
    #[must_use]
    pub const fn owing(&self) -> &Owing {
        &self.owing
    }

    /// The trainer calls this file its `last` or its `best` checkpoint. Blocks on the disk, where it is kept when this
    /// returns.
    ///
    /// # Errors
    /// When the disk does not take it, or what was said before cannot be read; then it is as if it had not been said.
    pub fn calls(&self, stem: &str, path: PathBuf) -> io::Result<()> {
        let mut kept = self.kept();
        let mut places = kept.read()?.clone();
        if places.get(stem) == Some(&path) {
            return Ok(());
        }
        places.insert(stem.to_owned(), path);
        if let Some(file) = &kept.file {
            durable::write_json(file, &places)?;
        }
        kept.places = Some(places);
        Ok(())
    }

    /// Where it has said that they are. Blocks on the disk for the first time.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn places(&self) -> io::Result<BTreeMap<String, PathBuf>> {
        self.kept().read().cloned()
    }

    /// Takes as not said what can still not be read; false where nothing was in the way, or is no more, or the whole agent
    /// lacks descriptors or memory, for which the file cannot be blamed. Blocks on the disk.
    #[must_use]
    pub fn give_up(&self) -> bool {
        let mut kept = self.kept();
        if kept.unread.is_none() || kept.read().is_ok() {
            return false;
        }
        let (Some((why, true)), Some(file)) = (kept.unread.clone(), kept.file.clone()) else {
            return false;
        };
        let none = kept.lose(&file, &why);
        (kept.unread, kept.places) = (None, Some(none));
        true
    }

    /// What the job's log is to say of what was lost, once.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        self.kept().lost.take()
    }

    /// The trainer names this file, and waits for the answer: it is whole as it is.
    pub fn names(&self, about: &Metadata) {
        let Ok(mark) = Mark::of(about) else { return };
        let mut marks = self.marks();
        marks.retain(|known| *known != mark);
        marks.push_back(mark);
        if marks.len() > MOST_TOLD {
            marks.pop_front();
        }
    }

    pub(super) fn knows(&self, mark: &Mark) -> bool {
        self.marks().contains(mark)
    }

    fn marks(&self) -> MutexGuard<'_, VecDeque<Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only where waiting for the disk holds up nobody.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trainer_calls_its_checkpoints_is_known_to_the_next_life_of_its_agent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checkpoints.json");
        let told = Told::kept_in(file.clone());
        told.calls("last", "/run/epoch_1.pt".into()).unwrap();
        told.calls("best", "/run/epoch_1.pt".into()).unwrap();
        told.calls("last", "/run/epoch_2.pt".into()).unwrap();
        let next = Told::kept_in(file.clone());
        let places = next.places().unwrap();
        let expected = [("best", "/run/epoch_1.pt"), ("last", "/run/epoch_2.pt")];
        let expected = expected.map(|(stem, path)| (stem.to_owned(), path.into()));
        assert_eq!(places, expected.into());
        // The first word to a life that has not read yet adds to what is there.
        let third = Told::kept_in(file.clone());
        third.calls("last", "/run/epoch_3.pt".into()).unwrap();
        assert_eq!(Told::kept_in(file).places().unwrap().len(), 2);
    }

    #[test]
    fn what_is_damaged_is_put_aside_and_said_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checkpoints.json");
        fs::write(&file, "{\"last\":").unwrap();
        let told = Told::kept_in(file.clone());
        assert_eq!(told.places().unwrap(), Places::new());
        assert!(told.lost().unwrap().contains("EOF"), "why it is lost");
        assert_eq!(told.lost(), None, "it is said once");
        let aside = folder.path().join("checkpoints.json.damaged");
        assert_eq!(fs::read_to_string(&aside).unwrap(), "{\"last\":");
        told.calls("last", "/run/epoch_1.pt".into()).unwrap();
        assert_eq!(Told::kept_in(file).places().unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_read_or_written_is_not_taken_for_nothing_until_it_was_tried_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checkpoints.json");
        fs::create_dir(&file).unwrap();
        let unread = Told::kept_in(file.clone());
        assert!(!unread.give_up(), "it was not tried");
        assert!(unread.places().is_err());
        assert!(unread.calls("last", "/run/epoch_1.pt".into()).is_err());
        // It was tried for long enough.
        assert!(unread.give_up());
        assert_eq!(unread.places().unwrap(), Places::new());
        assert!(unread.lost().unwrap().contains("checkpoints.json: "));
        assert!(!unread.give_up(), "nothing is in the way any more");
        unread.calls("last", "/run/epoch_1.pt".into()).unwrap();
        assert_eq!(Told::kept_in(file).places().unwrap().len(), 1);
        let nowhere = Told::kept_in(folder.path().join("none/checkpoints.json"));
        assert!(nowhere.calls("last", "/run/epoch_1.pt".into()).is_err());
        assert_eq!(nowhere.places().unwrap(), Places::new(), "it was refused");
    }
}
