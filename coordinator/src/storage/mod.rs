//! Where files lie: folders of this machine, object stores and web servers, behind one type.
//!
//! Owns how a path or URL becomes a [`Place`], which folders and networks users may name, the artifact
//! store, and the ways by which agents and users fetch and store single files without the platform's
//! keys. Knows nothing of datasets or jobs. Called by `datasets` and the doors.

mod address;
mod error;
mod guard;
mod local;
mod place;
mod remote;
mod walk;
mod ways;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use trainyard_config::Secret;
use trainyard_core::time::Timestamp;

pub use address::{Address, Service};
pub use error::StorageError;
pub use guard::Guard;
pub use place::{Bits, Incoming, Place};
pub use remote::{Part, Parts};
pub use ways::{Shown, Use, Ways};

use self::{
    local::Folder,
    place::Kind,
    remote::{Options, Remote},
};
use crate::clock;

/// Folders that are never a dataset: what the kernel shows, settings, and where secrets are mounted.
const SYSTEM: [&str; 6] = ["/proc", "/sys", "/dev", "/etc", "/run", "/boot"];

/// One file of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the place, with '/'.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// The same as long as the content is: times and inode, or a strong tag. None where nothing says so.
    pub stamp: Option<String>,
    /// When it was written, as its place says.
    pub written_at: Option<Timestamp>,
    /// When it was last changed, where the stamp is made of times: one that was changed just now may
    /// change again unseen.
    pub changed_at: Option<Timestamp>,
}

/// What storage is made of.
#[derive(Clone, Debug)]
pub struct StorageArgs {
    /// The artifact store: a folder or a URL.
    pub artifacts: String,
    /// Options of object stores by `scheme` or `scheme://bucket`: `key=value` in words.
    pub options: BTreeMap<String, Secret>,
    /// Below which users may name folders; empty for any.
    pub roots: Vec<PathBuf>,
    /// Never a dataset, nor is anything in it.
    pub own: PathBuf,
    /// What URLs of users may lead to.
    pub guard: Guard,
    /// Signs ways on the coordinator.
    pub key: Vec<u8>,
    /// How long a way to a dataset's file is good.
    pub way_for: Duration,
    /// The largest file that is taken.
    pub upload_bytes: u64,
    /// About how much of a file goes into a bucket in one request.
    pub part_bytes: u64,
}

/// All of storage. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Storage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    artifacts: Place,
    /// As it was set.
    artifacts_at: Address,
    options: BTreeMap<String, Secret>,
    roots: Vec<PathBuf>,
    own: PathBuf,
    guard: Guard,
    ways: Ways,
    way_for: Duration,
    upload_bytes: u64,
    part_bytes: u64,
}

impl Storage {
    /// Opens the artifact store. Blocks for a folder.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn open(args: StorageArgs) -> Result<Self, StorageError> {
        let artifacts_at = Address::parse(&args.artifacts)?;
        let artifacts = match &artifacts_at {
            Address::Folder(path) => Kind::Folder(Folder::create(path)?),
            Address::Web(url) => {
                let words =
                    format!("{url} is only read; give a folder or a bucket (storage.artifacts)");
                return Err(StorageError::Address(words));
            }
            Address::Bucket {
                service,
                name,
                prefix,
            } => {
                let options = options(&args.options, *service, name);
                Kind::Remote(Remote::bucket((*service, name, prefix), &options)?)
            }
        };
        Ok(Self {
            inner: Arc::new(Inner {
                artifacts: Place(artifacts),
                artifacts_at,
                options: args.options,
                roots: args.roots,
                own: args.own,
                guard: args.guard,
                ways: Ways::new(&args.key),
                way_for: args.way_for,
                upload_bytes: args.upload_bytes,
                part_bytes: args.part_bytes,
            }),
        })
    }

    /// The store of snapshots' metadata and checkpoints.
    #[must_use]
    pub fn artifacts(&self) -> &Place {
        &self.inner.artifacts
    }

    /// The largest file that is taken, in bytes.
    #[must_use]
    pub fn upload_bytes(&self) -> u64 {
        self.inner.upload_bytes
    }

    /// About how much of a file goes into a bucket in one request.
    #[must_use]
    pub fn part_bytes(&self) -> u64 {
        self.inner.part_bytes
    }

    /// How long ways to a dataset's files are good.
    #[must_use]
    pub fn way_for(&self) -> Duration {
        self.inner.way_for
    }

    /// A place that a user has named, if users may.
    ///
    /// # Errors
    /// When it is not there, is none of the folders that users may name, or leads into a private network.
    pub async fn place(&self, text: &str) -> Result<Place, StorageError> {
        let address = Address::parse(text)?;
        if address.meets(&self.inner.artifacts_at) {
            return Err(StorageError::Refused(format!(
                "'{text}' holds the coordinator's own data and cannot be a dataset; where both share a bucket, storage.artifacts needs a prefix of its own beside those of datasets"
            )));
        }
        match address {
            Address::Folder(path) => {
                let storage = self.clone();
                blocking(move || storage.folder(&path))
                    .await
                    .map(|folder| Place(Kind::Folder(folder)))
            }
            Address::Web(url) => {
                self.inner.guard.look_up(&url).await?;
                Ok(Place(Kind::Remote(Remote::web(&url, &self.inner.guard)?)))
            }
            Address::Bucket {
                service,
                name,
                prefix,
            } => {
                let options = options(&self.inner.options, service, &name);
                let remote = Remote::bucket((service, &name, &prefix), &options)?;
                Ok(Place(Kind::Remote(remote)))
            }
        }
    }

    fn folder(&self, path: &Path) -> Result<Folder, StorageError> {
        let path = local::canonical(path)?;
        self.never(&path)?;
        let roots = &self.inner.roots;
        let root = |root: &PathBuf| root.canonicalize().is_ok_and(|root| path.starts_with(root));
        if !roots.is_empty() && !roots.iter().any(root) {
            let roots: Vec<_> = roots
                .iter()
                .map(|root| root.display().to_string())
                .collect();
            return Err(StorageError::Refused(format!(
                "'{}' is not below {} (datasets.local_roots)",
                path.display(),
                roots.join(" or ")
            )));
        }
        Folder::open(&path)
    }

    /// Refuses what is no dataset whatever the settings say: our own files and those of the system.
    fn never(&self, path: &Path) -> Result<(), StorageError> {
        let meets = |other: &Path| path.starts_with(other) || other.starts_with(path);
        let mut own = vec![self.inner.own.clone()];
        if let Kind::Folder(folder) = &self.inner.artifacts.0 {
            own.push(folder.path().to_owned());
        }
        let path = path.display();
        if own
            .iter()
            .filter_map(|own| own.canonicalize().ok())
            .any(|own| meets(&own))
        {
            return Err(StorageError::Refused(format!(
                "'{path}' holds the coordinator's own data and cannot be a dataset"
            )));
        }
        match SYSTEM.iter().find(|system| meets(Path::new(system))) {
            Some(system) => Err(StorageError::Refused(format!(
                "'{path}' meets {system}, which belongs to the system and is never a dataset, whatever datasets.local_roots says; put the dataset into a folder of its own"
            ))),
            None => Ok(()),
        }
    }

    /// Whether folders that users may name were set (datasets.local_roots).
    #[must_use]
    pub fn has_roots(&self) -> bool {
        !self.inner.roots.is_empty()
    }

    /// A way to one file: signed by its store, or a path on the coordinator under `name`.
    ///
    /// # Errors
    /// When the store cannot sign.
    pub async fn way(
        &self,
        what: Use,
        (place, file): (&Place, &str),
        (name, span): (&str, Duration),
    ) -> Result<String, StorageError> {
        check_key(file)?;
        let method = match what {
            Use::Read => http::Method::GET,
            Use::Write => http::Method::PUT,
        };
        if let Kind::Remote(remote) = &place.0
            && let Some(url) = remote.sign(method, file, span).await?
        {
            return Ok(url.into());
        }
        Ok(self.own_way(what, (name, span)))
    }

    /// A way to one file on the coordinator, whether it is there or not.
    #[must_use]
    pub fn own_way(&self, what: Use, (name, span): (&str, Duration)) -> String {
        self.inner.ways.sign(what, name, clock::now().plus(span))
    }

    /// Whether a caller has shown the right signature for a file on the coordinator.
    #[must_use]
    pub fn allows(&self, what: Use, name: &str, shown: &Shown) -> bool {
        self.inner.ways.allows((what, name), shown, clock::now())
    }
}

/// Refuses a name that could mean something else than one file below a place.
///
/// # Errors
/// Names it.
pub fn check_key(key: &str) -> Result<(), StorageError> {
    trainyard_core::dataset::check_path(key)
        .map_err(|error| StorageError::Refused(error.to_string()))
}

fn too_many(place: &str, most: usize) -> StorageError {
    StorageError::TooLarge(format!(
        "{place} holds more than {most} files (datasets.max_files)"
    ))
}

/// The options of a bucket: those of its own go before those of its scheme.
fn options(all: &BTreeMap<String, Secret>, service: Service, bucket: &str) -> Options {
    let scheme = service.scheme();
    let named = [scheme.to_owned(), format!("{scheme}://{bucket}")];
    let texts = named.iter().filter_map(|name| all.get(name));
    texts.flat_map(|text| words(text.expose())).collect()
}

/// `key=value` in words, or after commas.
fn words(text: &str) -> Options {
    text.split([' ', ',', '\n', '\t'])
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| (key.trim().to_lowercase(), value.trim().to_owned()))
        .collect()
}

/// The addresses among the options of a section, with their names, for the check of the settings.
pub(crate) fn endpoints(text: &str) -> Vec<(String, String)> {
    let named = words(text).into_iter();
    named.filter(|(key, _)| key.contains("endpoint")).collect()
}

/// What is wrong with the options of a section, for the check of the settings. Shows no value.
#[must_use]
pub fn bad_options(name: &str, text: &str) -> Option<String> {
    let scheme = name.split("://").next().unwrap_or_default();
    if !matches!(scheme, "s3" | "gs" | "az") {
        return Some(format!(
            "storage_options.\"{name}\" is no store; use s3, gs or az, or one bucket such as \"s3://name\""
        ));
    }
    let whole = text
        .split([' ', ',', '\n', '\t'])
        .filter(|word| !word.is_empty())
        .count();
    (words(text).len() != whole).then(|| {
        format!("storage_options.\"{name}\" must be key=value in words, such as \"region=eu-west-1 path_style=true\"")
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let done = trainyard_runtime::blocking(work).await;
    done.unwrap_or_else(|error| Err(StorageError::Failed(format!("a task has failed: {error}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_bucket_go_before_those_of_its_scheme() {
        let all = BTreeMap::from([
            (
                "s3".to_owned(),
                Secret::new("region=a endpoint=http://x".to_owned()),
            ),
            ("s3://b".to_owned(), Secret::new("region=b".to_owned())),
        ]);
        let found = options(&all, Service::S3, "b");
        assert_eq!(
            found.last().unwrap(),
            &("region".to_owned(), "b".to_owned())
        );
        assert_eq!(options(&all, Service::S3, "c").len(), 2);
        assert!(bad_options("s3", "region=a, path_style=true").is_none());
        let told = bad_options("s3", "hunter2").unwrap();
        assert!(!told.contains("hunter2"), "{told}");
        assert!(bad_options("ftp", "").is_some());
    }
}
