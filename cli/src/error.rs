//! What can go wrong between the command line and the coordinator, in words for the person at the
//! terminal. Owns the texts; never prints. Raised by `client` and the commands, shown by `main`.

use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trainyard_net::{PlaceError, TlsError, client::SetupError};

use crate::exit::Exit;

/// An error that has an exit code of its own.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    /// Nobody listens there, or the connection broke.
    #[error(
        "no coordinator answers at {url}: {reason}\nstart one with `trainyard coordinator`, or say where it is with --coordinator URL or TRAINYARD_COORDINATOR"
    )]
    Unreachable {
        /// The address.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// No token for this coordinator.
    #[error(
        "not logged in at {url}\nlog in with `trainyard login --coordinator {url}`, or set TRAINYARD_ACCESS_TOKEN or TRAINYARD_API_KEY"
    )]
    NotLoggedIn {
        /// The address.
        url: String,
    },
    /// There is a token, and it was refused.
    #[error(
        "{url} refused the token: {reason}\nlog in again with `trainyard login --coordinator {url}`"
    )]
    TokenRefused {
        /// The address.
        url: String,
        /// The coordinator's words.
        reason: String,
    },
    /// Email or password was refused.
    #[error("{url} refused the login: {reason}")]
    LoginRefused {
        /// The address.
        url: String,
        /// The coordinator's words.
        reason: String,
    },
    /// The address is none, or one that tokens may not be sent to.
    #[error(transparent)]
    Address(#[from] PlaceError),
    /// A certificate or key is of no use.
    #[error(transparent)]
    Certificate(TlsError),
    /// The coordinator said no.
    #[error("{}", words(.0))]
    Refused(Box<Status>),
    /// Settings, not ours to say more.
    #[error("{0}")]
    Configuration(String),
    /// The command line does not say what it must.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// Its row in the table of exit codes.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::NotLoggedIn { .. } | Self::TokenRefused { .. } | Self::LoginRefused { .. } => {
                Exit::NotLoggedIn
            }
            Self::Address(_) | Self::Usage(_) => Exit::Usage,
            Self::Refused(_) => Exit::Error,
            Self::Configuration(_) | Self::Certificate(_) => Exit::Configuration,
        }
    }
}

impl From<SetupError> for CliError {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Place(error) => Self::Address(error),
            SetupError::Tls(error) => Self::Certificate(error),
            SetupError::Http(error) => Self::Configuration(error.to_string()),
        }
    }
}

impl From<TlsError> for CliError {
    fn from(error: TlsError) -> Self {
        Self::Certificate(error)
    }
}

/// The coordinator's message; where it names bad fields, each on a line of its own.
fn words(status: &Status) -> String {
    let fields = status
        .get_details_bad_request()
        .map(|found| found.field_violations)
        .unwrap_or_default();
    if fields.is_empty() {
        return if status.message().is_empty() {
            format!("the coordinator answered {:?}", status.code())
        } else {
            status.message().to_owned()
        };
    }
    let mut text = String::from("the coordinator refused the request:");
    for found in fields {
        // `spec` is the message's word; people have given `epochs`.
        let field = found.field.strip_prefix("spec.").unwrap_or(&found.field);
        let field = field.strip_suffix("_json").unwrap_or(field);
        text.push_str(&format!("\n  {field}: {}", found.description));
    }
    text
}

/// Whether trying again may help: the connection broke or the coordinator is away.
pub(crate) fn is_broken(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        // A connection that breaks inside a stream comes as one of these, with its cause attached.
        Code::Unknown | Code::Internal | Code::Cancelled => {
            std::error::Error::source(status).is_some()
        }
        Code::Ok
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

#[cfg(test)]
mod tests {
    use trainyard_core::spec::Violation;
    use trainyard_proto::status::bad_request;

    use super::*;

    #[test]
    fn every_bad_field_stands_on_a_line_of_its_own() {
        let violation = |field: &str, message: &str| Violation {
            field: field.into(),
            message: message.into(),
        };
        let status = bad_request(&[
            violation("spec.epochs", "is 0; give 1 to 1000"),
            violation("framework", "unknown framework 'x'"),
        ]);
        assert_eq!(
            CliError::Refused(Box::new(status)).to_string(),
            "the coordinator refused the request:\n  epochs: is 0; give 1 to 1000\n  framework: unknown framework 'x'"
        );
    }

    #[test]
    fn a_plain_refusal_is_shown_as_it_came() {
        let status = Status::not_found("there is no job 9");
        assert_eq!(
            CliError::Refused(Box::new(status)).to_string(),
            "there is no job 9"
        );
        let silent = Status::new(Code::Internal, "");
        assert_eq!(
            CliError::Refused(Box::new(silent)).to_string(),
            "the coordinator answered Internal"
        );
    }
}
