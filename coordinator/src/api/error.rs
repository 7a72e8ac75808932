//! The one error of the service: a kind, words for the caller, and the bad fields if there are any.
//!
//! Each door renders it in its own way; both look the kind up in the one table of `trainyard-proto`.

use tonic::Status;
use trainyard_core::spec::Violation;
use trainyard_proto::{
    convert::WireError,
    status::{Kind, bad_request, busy},
};

use crate::{
    actors::AskError,
    store::{NoRoom, ReadError, StoreError},
};

/// What a caller is told when something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// Which sort of answer.
    pub kind: Kind,
    /// What is wrong and the way out.
    pub message: String,
    /// Every bad field; only with [`Kind::Invalid`].
    pub violations: Vec<Violation>,
    /// Each field is right in itself, but together they make no job.
    pub misfit: bool,
    /// Seconds after which trying again may help, where that is known.
    pub retry_after: Option<u64>,
    /// The setting that leaves no room, if it is one.
    pub limit: Option<String>,
}

impl ApiError {
    /// An error without bad fields.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            violations: Vec::new(),
            misfit: false,
            retry_after: None,
            limit: None,
        }
    }

    /// Bad fields, all at once.
    #[must_use]
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let words: Vec<_> = violations
            .iter()
            .map(|found| format!("{}: {}", found.field, found.message))
            .collect();
        Self {
            kind: Kind::Invalid,
            message: words.join("; "),
            violations,
            misfit: false,
            retry_after: None,
            limit: None,
        }
    }

    /// With the seconds after which trying again may help.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// A setting that leaves no room.
    #[must_use]
    pub fn limited(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            limit: Some(setting.into()),
            ..Self::new(Kind::Exhausted, message)
        }
    }

    /// One bad field.
    #[must_use]
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![Violation {
            field: field.to_owned(),
            message: message.into(),
        }])
    }

    /// Both, or every bad field of either.
    ///
    /// # Errors
    /// The first one's, together with the other's where both are about fields.
    pub fn both<A, B>(one: Result<A, Self>, other: Result<B, Self>) -> Result<(A, B), Self> {
        match (one, other) {
            (Ok(one), Ok(other)) => Ok((one, other)),
            (Err(mut one), Err(other)) if !one.violations.is_empty() => {
                one.violations.extend(other.violations);
                Err(Self::invalid(one.violations))
            }
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        }
    }

    /// A field that does not go with the others.
    #[must_use]
    pub fn misfit(found: Violation) -> Self {
        Self {
            misfit: true,
            ..Self::invalid(vec![found])
        }
    }

    /// The contract's answer to an unknown job.
    #[must_use]
    pub fn no_job() -> Self {
        Self::new(Kind::NotFound, "Training job not found")
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        if let Some(seconds) = error.retry_after {
            return busy(error.kind, error.message, seconds);
        }
        if error.violations.is_empty() {
            error.kind.status(error.message)
        } else {
            bad_request(&error.violations)
        }
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        Self::new(Kind::Unavailable, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(Kind::Unavailable, error.to_string())
    }
}

impl From<NoRoom> for ApiError {
    fn from(error: NoRoom) -> Self {
        Self::new(Kind::Exhausted, error.to_string())
    }
}

impl From<ReadError> for ApiError {
    /// What is wrong with the store is for operators, not for callers.
    fn from(error: ReadError) -> Self {
        tracing::error!(%error, "a read of the store failed");
        let words = "the coordinator could not read its store; its log says why";
        Self::new(Kind::Internal, words)
    }
}

impl From<WireError> for ApiError {
    fn from(error: WireError) -> Self {
        Self::field(error.field(), error.to_string())
    }
}
