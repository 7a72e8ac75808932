//! Tokens on disk: `$XDG_CONFIG_HOME/trainyard/credentials.json`, one login for each coordinator,
//! readable by its owner only. Never talks to a coordinator. Called by `client` and `login`.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::transport::Transport;

/// How often, and with which pause, a command asks for its turn: 20 s in all.
const TRIES: u32 = 400;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Who is logged in at one coordinator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The user.
    pub(crate) email: String,
    /// Sent with each call.
    pub(crate) access_token: String,
    /// Gets a new pair when the access token has expired.
    pub(crate) refresh_token: String,
}

impl std::fmt::Debug for Login {
    /// Tokens stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

/// All logins of a user of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// The coordinator that was logged in to last.
    #[serde(default)]
    pub(crate) last: Option<String>,
    /// Logins by address.
    #[serde(default)]
    pub(crate) servers: BTreeMap<String, Login>,
    /// How coordinators are reached, by address, where it had to be said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) transport: BTreeMap<String, Transport>,
}

/// Why the file could not be read or written.
#[derive(Debug, Error)]
pub(crate) enum CredentialsError {
    /// Neither XDG_CONFIG_HOME nor HOME is set.
    #[error(
        "cannot tell where the login is kept; set HOME or XDG_CONFIG_HOME, or give TRAINYARD_ACCESS_TOKEN or TRAINYARD_API_KEY"
    )]
    NoHome,
    /// The system said no.
    #[error("cannot {action} {path}: {source}; check its permissions")]
    File {
        /// Read or write.
        action: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody has edited it.
    #[error("{path} is damaged: {source}; remove it and log in again")]
    Damaged {
        /// The file.
        path: String,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// Where the file lies, by the given variables.
pub(crate) fn path_in(
    xdg_config_home: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Result<PathBuf, CredentialsError> {
    // The standard says that a relative path is to be ignored.
    let base = xdg_config_home
        .filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(".config")))
        .ok_or(CredentialsError::NoHome)?;
    Ok(base.join("trainyard/credentials.json"))
}

/// Where the file of this user lies.
pub(crate) fn path() -> Result<PathBuf, CredentialsError> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    path_in(variable("XDG_CONFIG_HOME"), variable("HOME"))
}

impl Credentials {
    /// Reads the file; none is no login.
    pub(crate) fn load(path: &Path) -> Result<Self, CredentialsError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(failed("read", path)(source)),
        };
        serde_json::from_slice(&text).map_err(|source| CredentialsError::Damaged {
            path: path.display().to_string(),
            source,
        })
    }

    /// Writes the file whole or not at all, for its owner's eyes only.
    pub(crate) fn save(&self, path: &Path) -> Result<(), CredentialsError> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed("create", folder))?;
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| failed("write", path)(io::Error::other(error)))?;
        // A temporary file is made with mode 0600 and keeps it.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed("write", path))?;
        file.write_all(&text).map_err(failed("write", path))?;
        file.persist(path)
            .map_err(|error| failed("write", path)(error.error))?;
        Ok(())
    }

    /// Keeps a login and makes its coordinator the one that is meant from now on.
    pub(crate) fn keep(&mut self, url: &str, login: Login) {
        self.last = Some(url.to_owned());
        self.servers.insert(url.to_owned(), login);
    }
}

/// Held by the one command of this user that gets a new pair of tokens.
#[derive(Debug)]
pub(crate) struct Turn {
    _file: fs::File,
}

/// Waits for the turn; after a while without it, as when another command hangs.
pub(crate) async fn turn(path: &Path) -> Result<Turn, CredentialsError> {
    let path = path.with_extension("lock");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed("open", &path))?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => break,
            Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
            Err(fs::TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
    }
    Ok(Turn { _file: file })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CredentialsError + use<> {
    let path = path.display().to_string();
    move |source| CredentialsError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn login(token: &str) -> Login {
        Login {
            email: "a@example.com".into(),
            access_token: token.into(),
            refresh_token: "r".into(),
        }
    }

    #[test]
    fn a_login_is_kept_for_each_coordinator_and_for_its_owners_eyes_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(Some(folder.path().to_path_buf()), None).unwrap();
        assert_eq!(Credentials::load(&path).unwrap(), Credentials::default());
        let mut credentials = Credentials::default();
        credentials.keep("http://one:8000", login("1"));
        credentials.save(&path).unwrap();
        credentials.keep("http://two:8000", login("2"));
        credentials.save(&path).unwrap();
        let read = Credentials::load(&path).unwrap();
        assert_eq!(read, credentials);
        assert_eq!(read.last.as_deref(), Some("http://two:8000"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }

    #[test]
    fn the_file_lies_where_the_user_keeps_configuration() {
        let home = || Some(PathBuf::from("/home/u"));
        let path = path_in(None, home()).unwrap();
        assert_eq!(
            path,
            Path::new("/home/u/.config/trainyard/credentials.json")
        );
        let path = path_in(Some("/c".into()), home()).unwrap();
        assert_eq!(path, Path::new("/c/trainyard/credentials.json"));
        let relative = path_in(Some("c".into()), home()).unwrap();
        assert!(relative.starts_with("/home/u"));
        assert!(path_in(None, None).is_err());
    }

    #[test]
    fn a_damaged_file_is_named_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        fs::write(&path, "{").unwrap();
        let error = Credentials::load(&path).unwrap_err().to_string();
        assert!(error.contains("log in again"), "{error}");
    }

    #[test]
    fn tokens_are_not_in_debug_output() {
        assert!(!format!("{:?}", login("secret")).contains("secret"));
    }
}
