//! The one table of errors: every error that a caller can see has a [`Kind`], and each kind has its
//! gRPC code and its HTTP status. Details go along as `google.rpc.BadRequest`.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use trainyard_core::spec::Violation;

/// What sort of answer an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong in itself.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// It cannot be done in the present state.
    Conflict,
    /// The sender's number is of the past.
    Stale,
    /// What was to be new stands for something else already.
    Taken,
    /// No room: a queue or a disk is full.
    Exhausted,
    /// Nobody knows who calls.
    Unauthenticated,
    /// The caller may not.
    Forbidden,
    /// Try again later.
    Unavailable,
    /// A bug of ours.
    Internal,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Stale,
        Self::Taken,
        Self::Exhausted,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The gRPC code.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Invalid => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::Conflict => Code::FailedPrecondition,
            Self::Stale => Code::Aborted,
            Self::Taken => Code::AlreadyExists,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden => Code::PermissionDenied,
            Self::Unavailable => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }

    /// The HTTP status. The old platform answers 400 where a state does not allow a call.
    #[must_use]
    pub fn http(self) -> u16 {
        match self {
            Self::Invalid | Self::Conflict => 400,
            Self::NotFound => 404,
            Self::Stale | Self::Taken => 409,
            Self::Exhausted => 429,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }

    /// A status of this kind.
    #[must_use]
    pub fn status(self, message: impl Into<String>) -> Status {
        Status::new(self.code(), message)
    }
}

/// `INVALID_ARGUMENT` that carries every bad field as a `google.rpc.BadRequest` violation.
#[must_use]
pub fn bad_request(violations: &[Violation]) -> Status {
    let fields: Vec<_> = violations
        .iter()
        .map(|found| FieldViolation::new(&found.field, &found.message))
        .collect();
    let words: Vec<_> = violations
        .iter()
        .map(|found| format!("{}: {}", found.field, found.message))
        .collect();
    Status::with_error_details(
        Code::InvalidArgument,
        words.join("; "),
        ErrorDetails::with_bad_request(fields),
    )
}

/// A status that carries a `google.rpc.RetryInfo`.
#[must_use]
pub fn busy(kind: Kind, message: impl Into<String>, seconds: u64) -> Status {
    let wait = std::time::Duration::from_secs(seconds);
    Status::with_error_details(
        kind.code(),
        message,
        ErrorDetails::with_retry_info(Some(wait)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_field_is_in_the_message_and_in_the_details() {
        let found = [
            Violation {
                field: "epochs".into(),
                message: "is 0; give 1 to 1000".into(),
            },
            Violation {
                field: "framework".into(),
                message: "unknown".into(),
            },
        ];
        let status = bad_request(&found);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "epochs: is 0; give 1 to 1000; framework: unknown"
        );
        let details = status.get_details_bad_request().unwrap();
        let fields: Vec<_> = details.field_violations.iter().map(|v| &v.field).collect();
        assert_eq!(fields, ["epochs", "framework"]);
    }

    #[test]
    fn when_to_try_again_is_in_the_details() {
        let status = busy(Kind::Exhausted, "too many", 7);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(std::time::Duration::from_secs(7)));
    }

    #[test]
    fn no_two_kinds_share_a_grpc_code() {
        for (index, kind) in Kind::ALL.iter().enumerate() {
            let others = Kind::ALL.iter().skip(index + 1);
            assert!(others.clone().all(|other| other.code() != kind.code()));
        }
    }
}
