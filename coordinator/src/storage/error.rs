//! Why bytes could not be listed, read or written, in words for the caller. Never holds a credential.

use thiserror::Error;
use trainyard_proto::status::Kind;

use crate::api::ApiError;

/// What went wrong with a place of storage.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The path or URL is none that can be used.
    #[error("{0}")]
    Address(String),
    /// There is no such file or object.
    #[error("'{0}' does not exist")]
    NotFound(String),
    /// It leads to where it must not.
    #[error("{0}")]
    Refused(String),
    /// It was written to while it was read.
    #[error("'{0}' was changed while it was read; submit again when nothing writes to the dataset")]
    Changed(String),
    /// More than is taken.
    #[error("{0}")]
    TooLarge(String),
    /// There is no room for it.
    #[error("{0}")]
    Full(String),
    /// The disk or the service behind it failed.
    #[error("{0}")]
    Failed(String),
}

impl StorageError {
    /// Which sort of answer.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Address(_) | Self::Refused(_) | Self::TooLarge(_) => Kind::Invalid,
            Self::Changed(_) => Kind::Conflict,
            Self::Full(_) => Kind::Exhausted,
            Self::Failed(_) => Kind::Unavailable,
        }
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
