//! Where files lie, as users write it: a folder's path or the URL of an object store.
//!
//! Pure: reads nothing. Called by `storage`.

use std::path::PathBuf;

use url::Url;

use super::StorageError;

/// What is understood.
const KNOWN: &str =
    "give a folder's absolute path, or a URL with s3://, gs://, az://, http:// or https://";

/// A parsed path or URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket and what its keys start with.
    Bucket {
        /// Which service.
        service: Service,
        /// The bucket or container.
        name: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
    },
    /// A server that only is read from.
    Web(Url),
}

/// A service with buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Service {
    /// The scheme of its URLs.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

impl Address {
    /// Reads a path or a URL.
    ///
    /// # Errors
    /// Says what is understood. A URL with a user or password in it is refused: settings hold those.
    pub fn parse(text: &str) -> Result<Self, StorageError> {
        let bad = |why: &str| Err(StorageError::Address(format!("'{}' {why}", shown(text))));
        if text.trim().is_empty() || text.chars().any(char::is_control) {
            return bad(&format!("names no place; {KNOWN}"));
        }
        if text.starts_with('/') {
            return Ok(Self::Folder(PathBuf::from(text)));
        }
        let Ok(url) = Url::parse(text) else {
            return bad(&format!("is neither an absolute path nor a URL; {KNOWN}"));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return bad(
                "holds a user name; credentials belong into the section storage_options of the coordinator's settings",
            );
        }
        match url.scheme() {
            "file" => match url.to_file_path() {
                Ok(path) => Ok(Self::Folder(path)),
                Err(()) => bad("names no file of this machine; write file:///path"),
            },
            "http" | "https" if url.query().is_some() || url.fragment().is_some() => {
                bad("has a query or a fragment, which a folder's URL cannot have")
            }
            "http" | "https" => Ok(Self::Web(url)),
            "s3" | "s3a" => bucket(Service::S3, &url),
            "gs" => bucket(Service::Gcs, &url),
            "az" | "azure" => bucket(Service::Azure, &url),
            _ => bad(&format!("has a scheme that is not known; {KNOWN}")),
        }
    }
}

impl Address {
    /// Whether both are in one bucket, and one holds the other.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let (
            Self::Bucket {
                service,
                name,
                prefix,
            },
            Self::Bucket {
                service: own,
                name: named,
                prefix: below,
            },
        ) = (self, other)
        else {
            return false;
        };
        let names = |prefix: &str| -> Vec<String> {
            let names = prefix.split('/').filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        };
        let (here, there) = (names(prefix), names(below));
        let one_bucket = service == own && name.eq_ignore_ascii_case(named);
        one_bucket && (here.starts_with(&there) || there.starts_with(&here))
    }
}

/// The text without what stands before an `@`.
fn shown(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            let start = text.get(..scheme + 3).unwrap_or_default();
            format!("{start}***{}", text.get(at..).unwrap_or_default())
        }
        _ => text.chars().take(300).collect(),
    }
}

fn bucket(service: Service, url: &Url) -> Result<Address, StorageError> {
    let name = url.host_str().unwrap_or_default().to_owned();
    if name.is_empty() || url.port().is_some() {
        let words = format!(
            "'{url}' names no bucket; write {}://bucket/prefix",
            url.scheme()
        );
        return Err(StorageError::Address(words));
    }
    let path = object_store::path::Path::from_url_path(url.path());
    let prefix = match path {
        Ok(path) => path.to_string(),
        Err(error) => return Err(StorageError::Address(format!("'{url}': {error}"))),
    };
    Ok(Address::Bucket {
        service,
        name,
        prefix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        Address::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn paths_and_urls_are_told_apart() {
        assert_eq!(
            Address::parse("/data/set").unwrap(),
            Address::Folder("/data/set".into())
        );
        assert_eq!(
            Address::parse("file:///data/a%20b").unwrap(),
            Address::Folder("/data/a b".into())
        );
        let bucket = |service, name: &str, prefix: &str| Address::Bucket {
            service,
            name: name.into(),
            prefix: prefix.into(),
        };
        for (text, address) in [
            ("s3://b/p/q/", bucket(Service::S3, "b", "p/q")),
            ("s3://b", bucket(Service::S3, "b", "")),
            ("gs://b/p", bucket(Service::Gcs, "b", "p")),
            ("az://c/p", bucket(Service::Azure, "c", "p")),
        ] {
            assert_eq!(Address::parse(text).unwrap(), address, "{text}");
        }
        assert!(matches!(
            Address::parse("https://host/set").unwrap(),
            Address::Web(_)
        ));
    }

    #[test]
    fn buckets_meet_where_one_prefix_holds_the_other() {
        let address = |text: &str| Address::parse(text).unwrap();
        let own = address("s3://b/own/files");
        for (text, meets) in [
            ("s3://b", true),
            ("s3a://B/own/", true),
            ("s3://b/own/files", true),
            ("s3://b//own/./files/", true),
            ("s3://b/own/files/checkpoints/7", true),
            ("s3://b/own/files2", false),
            ("s3://b/own/sets", false),
            ("s3://c/own/files", false),
            ("gs://b/own/files", false),
            ("/own/files", false),
        ] {
            let parsed = Address::parse(text);
            let found = parsed.as_ref().map_or(true, |found| found.meets(&own));
            assert_eq!(found, meets, "{text}: {parsed:?}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_and_no_password_is_repeated() {
        for text in [
            "",
            " ",
            "set",
            "./set",
            "ftp://h/x",
            "s3:///x",
            "a\nb",
            "http://h/x?y",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
        let told = words("https://ada:hunter2@host/x");
        assert!(!told.contains("hunter2"), "{told}");
        assert!(told.contains("storage_options"), "{told}");
    }
}
