//! A small authority of one's own: makes certificates and says what is in them.
//!
//! Owns the names of the files and what may replace what: without `force` nothing that is there is
//! touched. Keys are their owner's alone. Called by `trainyard tls` and by tests.

mod inspect;
mod issue;

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

pub use inspect::{Details, inspect};
use issue::{Authority, Leaf, Made};

use crate::TlsError;

/// How long an authority lasts.
const AUTHORITY_LASTS: Duration = Duration::from_secs(3_650 * DAY);
/// Seconds.
const DAY: u64 = 86_400;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Names and numbers under which the coordinator is reached; at least one.
    pub hosts: Vec<String>,
    /// Nodes whose agents get a certificate each.
    pub agents: Vec<String>,
    /// For how long, in days.
    pub days: u32,
    /// Make the certificates anew, of the same authority.
    pub force: bool,
    /// Make the authority anew, and with it all certificates.
    pub new_ca: bool,
    /// The time now, since the beginning of 1970.
    pub now: Duration,
}

/// A certificate with its key, as they lie in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
    /// It was there before and is unchanged.
    pub kept: bool,
}

/// All that is in the folder then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The authority. Its certificate is for everybody, its key for nobody.
    pub ca: Pair,
    /// The coordinator's.
    pub server: Pair,
    /// One for each agent that was asked for, in that order.
    pub agents: Vec<Pair>,
}

/// Makes what is missing in `dir`; created if need be.
///
/// # Errors
/// Names the file that cannot be read or written, or what contradicts what is there.
pub fn init(dir: &Path, wanted: &Wanted) -> Result<Folder, TlsError> {
    let folder = fs::create_dir_all(dir);
    folder.map_err(|source| failed(dir, source))?;
    for name in &wanted.agents {
        if !is_node_name(name) {
            return Err(TlsError::There(format!(
                "'{name}' is no name for a node; use letters, digits, '.', '_' and '-'"
            )));
        }
    }
    let now = wanted.now;
    let (ca, authority) = authority(dir, wanted.new_ca, now)?;
    let anew = wanted.force || !ca.kept;
    let until = now + Duration::from_secs(u64::from(wanted.days) * DAY);
    let issue = |stem: &str, leaf: &Leaf<'_>| {
        let pair = pair(dir, stem);
        if !anew && there(&pair)? {
            covers(&pair.cert, leaf.names)?;
            return Ok(Pair { kept: true, ..pair });
        }
        write(&pair, &authority.issue(leaf, (now, until))?)?;
        Ok(pair)
    };
    let server = issue("server", &Leaf::server(&wanted.hosts))?;
    let of_agent = |name: &String| {
        let names = std::slice::from_ref(name);
        issue(&format!("agent-{name}"), &Leaf::agent(names))
    };
    let agents = wanted
        .agents
        .iter()
        .map(of_agent)
        .collect::<Result<_, _>>()?;
    Ok(Folder { ca, server, agents })
}

fn authority(dir: &Path, anew: bool, now: Duration) -> Result<(Pair, Authority), TlsError> {
    let pair = pair(dir, "ca");
    if !anew && there(&pair)? {
        let authority = Authority::read(&pair)?;
        return Ok((Pair { kept: true, ..pair }, authority));
    }
    let (made, authority) = Authority::make((now, now + AUTHORITY_LASTS))?;
    write(&pair, &made)?;
    Ok((pair, authority))
}

fn pair(dir: &Path, stem: &str) -> Pair {
    Pair {
        cert: dir.join(format!("{stem}.pem")),
        key: dir.join(format!("{stem}.key")),
        kept: false,
    }
}

/// Whether both files are there; one alone is an error.
fn there(pair: &Pair) -> Result<bool, TlsError> {
    let (missing, other) = match (pair.cert.exists(), pair.key.exists()) {
        (true, true) => return Ok(true),
        (false, false) => return Ok(false),
        (true, false) => (&pair.key, &pair.cert),
        (false, true) => (&pair.cert, &pair.key),
    };
    Err(TlsError::There(format!(
        "{} is there and {} is not; bring it back, move the first away, or make all anew with --new-ca",
        other.display(),
        missing.display()
    )))
}

/// Whether a certificate that is there is for all these names.
fn covers(cert: &Path, names: &[String]) -> Result<(), TlsError> {
    let has = inspect(cert)?.into_iter().next();
    let has = has.map(|details| details.names).unwrap_or_default();
    let lacks: Vec<_> = names.iter().filter(|name| !has.contains(name)).collect();
    match lacks.first() {
        None => Ok(()),
        Some(name) => Err(TlsError::There(format!(
            "{} is there and is not for '{name}' (it is for {}); add --force to make it anew, of the same authority",
            cert.display(),
            has.join(", ")
        ))),
    }
}

/// The key first: whoever reads both in between finds that they do not fit, and looks again.
fn write(pair: &Pair, made: &Made) -> Result<(), TlsError> {
    replace(&pair.key, &made.key, 0o600)?;
    replace(&pair.cert, &made.cert, 0o644)
}

/// Replaces a file whole, durably.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let fail = |source| failed(path, source);
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    // A temporary file is made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    let permissions = fs::Permissions::from_mode(mode);
    file.as_file().set_permissions(permissions).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    let folder = fs::File::open(folder).and_then(|folder| folder.sync_all());
    folder.map_err(fail)
}

fn failed(path: &Path, source: io::Error) -> TlsError {
    TlsError::Write {
        path: path.to_path_buf(),
        source,
    }
}

fn is_node_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 253 && name.chars().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(hosts: &[&str], agents: &[&str]) -> Wanted {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Wanted {
            hosts: owned(hosts),
            agents: owned(agents),
            days: 30,
            force: false,
            new_ca: false,
            now: Duration::from_secs(1_800_000_000),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_their_owners_alone_and_certificates_say_whose_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("tls");
        let made = init(&dir, &wanted(&["a.example", "10.0.0.1"], &["gpu_1"])).unwrap();
        for pair in [&made.ca, &made.server, &made.agents[0]] {
            assert_eq!((mode(&pair.key), mode(&pair.cert)), (0o600, 0o644));
        }
        let details = inspect(&made.server.cert).unwrap();
        assert_eq!(details[0].names, ["a.example", "10.0.0.1"]);
        assert!(!details[0].authority);
        assert_eq!(
            details[0].not_after - details[0].not_before,
            30 * 86_400 + 3_600
        );
        assert!(inspect(&made.ca.cert).unwrap()[0].authority);
        assert_eq!(inspect(&made.agents[0].cert).unwrap()[0].names, ["gpu_1"]);
    }

    #[test]
    fn what_is_there_is_kept_until_force_and_the_authority_until_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let read = |pair: &Pair| fs::read(&pair.cert).unwrap();
        let first = init(folder.path(), &wanted(&["a"], &[])).unwrap();
        let (ca, server) = (read(&first.ca), read(&first.server));
        let again = init(folder.path(), &wanted(&["a"], &["n"])).unwrap();
        assert!(again.ca.kept && again.server.kept && !again.agents[0].kept);
        assert_eq!(read(&again.server), server);
        let mut other = wanted(&["a", "b"], &[]);
        let error = init(folder.path(), &other).unwrap_err().to_string();
        assert!(
            error.contains("not for 'b'") && error.contains("--force"),
            "{error}"
        );
        other.force = true;
        let forced = init(folder.path(), &other).unwrap();
        assert_eq!(read(&forced.ca), ca);
        assert_ne!(read(&forced.server), server);
        other.new_ca = true;
        let renewed = init(folder.path(), &other).unwrap();
        assert_ne!(read(&renewed.ca), ca);
    }

    #[test]
    fn half_a_pair_and_a_name_that_is_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let made = init(folder.path(), &wanted(&["a"], &[])).unwrap();
        fs::remove_file(&made.ca.key).unwrap();
        let error = init(folder.path(), &wanted(&["a"], &[]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("ca.key is not"), "{error}");
        let error = init(folder.path(), &wanted(&["a"], &["../x"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no name for a node"), "{error}");
    }
}
