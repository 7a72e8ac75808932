//! What can go wrong with a spool, in words for the person who runs the node. Never decides what is
//! tried again. Used by the whole of `spool`; the callback endpoint shows the text to trainers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::exec::watch::is_shortage;

/// Why a spool could not be opened, written or read. All who waited for one write get the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SpoolError {
    /// No room; nothing of what was asked for has been kept, and a later try may work.
    #[error("no space left for {}; free disk space on this node", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `open`, `write`, `flush`…
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: Arc<io::Error>,
    },
    /// A record in the middle is damaged: not the work of a crash but of the disk.
    #[error("{} is damaged at byte {offset}, after record {last_good}; records follow, so nothing was cut off", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged record starts.
        offset: u64,
        /// The last record before it.
        last_good: u64,
    },
    /// A record is whole and of a form that this program does not know.
    #[error("{} holds a record of a newer version of trainyard at byte {offset}, after record {last_good}; nothing was changed: start the newer agent again, which delivers it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// The last record before it.
        last_good: u64,
    },
    /// The coordinator has more than the file holds.
    #[error("record {acked} of {} is acknowledged, but the file ends with {last}; records are lost", path.display())]
    AckAhead {
        /// The file.
        path: PathBuf,
        /// What was acknowledged.
        acked: u64,
        /// The last record that is there.
        last: u64,
    },
    /// One record is larger than any record may be.
    #[error("a record of {bytes} bytes is too large; at most {limit} are kept")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A record has no form on disk.
    #[error("a record cannot be written: {0}")]
    Encode(#[from] postcard::Error),
    /// A failed write could not be taken back, so nothing more is written.
    #[error("{} is closed after a write that failed and could not be taken back; open it again", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// The thread that does the work has ended.
    #[error("the spool is closed")]
    Closed,
}

impl SpoolError {
    /// It is there again when the node lacks nothing any more, or is upgraded again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::DiskFull { .. } | Self::Newer { .. } => true,
            Self::File { source, .. } => is_shortage(source),
            Self::Damaged { .. }
            | Self::AckAhead { .. }
            | Self::TooLarge { .. }
            | Self::Encode(_)
            | Self::Broken { .. }
            | Self::Closed => false,
        }
    }

    /// No later try finds what this one did not.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::AckAhead { .. })
    }

    /// Tells a full disk from all else.
    pub(super) fn from_io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        if full {
            return Self::DiskFull {
                path: path.to_owned(),
            };
        }
        Self::File {
            action,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}
