//! Care of a store that no coordinator holds: check it, copy it, make it small, write it out.
//!
//! Owns how such a file is opened: never made, never upgraded, a newer one refused. Mends no row; it
//! says which are damaged, and takes them out when asked to. Called by `trainyard store`, and by the running coordinator for its backups.

pub(super) mod check;
mod copy;
mod export;
pub(super) mod first;
mod given;
mod mend;
mod past;
mod rows;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::Database;

pub use check::{Problem, Report, TableReport};
pub use copy::{Copied, CopyError, Draft};
pub use export::{ExportError, Exported, Part};
pub use mend::{Anew, MendError, Mended};

use super::{
    error::{CareError, OpenError},
    open,
    tables::{SCHEMA, SCHEMA_KEY},
    writer::panic_text,
};

/// Memory for cached pages while a file is cared for.
const CACHE: usize = 64 << 20;

/// The file in a coordinator's data folder.
pub const FILE: &str = "trainyard.redb";

/// An opened file.
pub struct Care {
    db: Database,
    path: PathBuf,
    schema: u32,
    intact: bool,
}

impl std::fmt::Debug for Care {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Care")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Care {
    /// Opens a store: a file, or the data folder that it lies in. With `thorough` every page is compared
    /// with redb's own checksum first: one that is wrong keeps nobody from reading the rest. Blocks.
    ///
    /// # Errors
    /// When there is none, it is in use, newer than this program, or no store any more.
    pub fn open(path: &Path, thorough: bool) -> Result<Self, CareError> {
        let path = file_of(path)?;
        let (db, intact) = opened(&path, thorough)?;
        let schema = known_schema(&db, &path)?;
        Ok(Self {
            db,
            path,
            schema,
            intact,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives unused space back to the disk; bytes before and after. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read or written; what was in it is in it still.
    pub fn compact(&mut self) -> Result<(u64, u64), CareError> {
        let before = self.bytes()?;
        loop {
            let again = self.db.compact().map_err(|error| CareError::Compact {
                path: self.path.clone(),
                reason: error.to_string(),
            })?;
            if !again {
                break;
            }
        }
        Ok((before, self.bytes()?))
    }

    fn bytes(&self) -> Result<u64, CareError> {
        let found = std::fs::metadata(&self.path);
        let found = found.map_err(|source| CareError::Missing {
            path: self.path.clone(),
            source,
        })?;
        Ok(found.len())
    }
}

/// The file, and whether its pages are what redb has written.
fn opened(path: &Path, thorough: bool) -> Result<(Database, bool), CareError> {
    let opened = match try_open(path, thorough) {
        // Each commit is of two phases, so redb has no other state to go back to and gives the file up. What is on its
        // other pages can be read all the same.
        Err(OpenError::Damaged { .. }) if thorough => {
            try_open(path, false).map(|(db, _unknown)| (db, false))
        }
        opened => opened,
    };
    opened.map_err(CareError::of_opening)
}

fn try_open(path: &Path, thorough: bool) -> Result<(Database, bool), OpenError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    // redb asserts on some damaged files instead of returning an error.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut db = builder.open(path)?;
        let intact = !thorough || db.check_integrity()?;
        Ok((db, intact))
    }));
    opened
        .map_err(|panic| open::damaged(path, panic_text(panic.as_ref())))?
        .map_err(|error| open::refused(path, error))
}

fn file_of(path: &Path) -> Result<PathBuf, CareError> {
    let file = if path.is_dir() {
        path.join(FILE)
    } else {
        path.to_path_buf()
    };
    match std::fs::metadata(&file) {
        Ok(_) => Ok(file),
        Err(source) => Err(CareError::Missing { path: file, source }),
    }
}

fn known_schema(db: &Database, path: &Path) -> Result<u32, CareError> {
    let beyond = |reason: String| CareError::Unreadable {
        path: path.to_path_buf(),
        reason,
    };
    let text = open::meta(db, SCHEMA_KEY).map_err(|error| beyond(error.to_string()))?;
    let text = text.ok_or_else(|| {
        beyond(
            "it is no store of a Trainyard coordinator, or its schema version is damaged"
                .to_owned(),
        )
    })?;
    let found = open::schema(&text, path).map_err(CareError::of_opening)?;
    if found > SCHEMA {
        return Err(open::newer(path, found).into());
    }
    Ok(found)
}
