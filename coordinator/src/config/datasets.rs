//! Settings of storage, datasets and the Labeler.
//!
//! Owns their names, types and checks. Read by `boot`.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use trainyard_config::{ConfigError, Secret};
use url::Url;

use super::Config;
use crate::storage::{self, Address};

/// Where snapshots' metadata and checkpoints lie.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// A folder or a URL; empty for a folder in the data folder.
    pub artifacts: String,
    /// How this coordinator is reached; empty to take the request's word.
    pub public_url: String,
    /// Life of a way to a dataset's file in minutes.
    pub way_minutes: u32,
    /// The largest checkpoint that is taken, in MiB.
    pub upload_mib: u32,
    /// About how much of a checkpoint goes into a bucket in one request, in MiB.
    pub part_mib: u32,
}

/// Who knows datasets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The coordinator's own store.
    Catalog,
    /// The service of its own.
    Labeler,
}

/// Where datasets come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetsConfig {
    /// Who knows them.
    pub provider: Provider,
    /// Folders, separated by `:`.
    pub local_roots: String,
    /// Networks, separated by `,`.
    pub allow_private_urls: String,
    /// How long a submit may read a dataset, in seconds.
    pub snapshot_seconds: u32,
    /// Files that are hashed at once.
    pub parallel: u32,
    /// Files of one dataset at most.
    pub max_files: u32,
    /// Annotation documents of one dataset together at most, in MiB.
    pub documents_mib: u32,
}

/// The Labeler.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelerConfig {
    /// Where it answers.
    pub url: String,
    /// Signs service tokens.
    pub secret: Secret,
    /// The secret's name.
    pub kid: String,
    /// Where its datasets lie when it names them without a scheme.
    pub storage_root: String,
    /// How long its words are believed, in seconds.
    pub cache_seconds: u32,
    /// Failures in a row until it is left alone.
    pub failures: u32,
    /// For so many seconds.
    pub open_seconds: u32,
}

impl DatasetsConfig {
    /// The folders below which datasets may lie; empty for any.
    #[must_use]
    pub fn roots(&self) -> Vec<PathBuf> {
        let roots = self.local_roots.split(':').filter(|root| !root.is_empty());
        roots.map(PathBuf::from).collect()
    }

    /// The private networks that URLs may lead to.
    #[must_use]
    pub fn networks(&self) -> Vec<IpNet> {
        nets(&self.allow_private_urls)
            .filter_map(Result::ok)
            .collect()
    }
}

impl Config {
    /// The artifact store: as set, else a folder in the data folder.
    #[must_use]
    pub fn artifacts(&self) -> String {
        if !self.storage.artifacts.is_empty() {
            return self.storage.artifacts.clone();
        }
        let folder = self.store.data_dir.join("artifacts");
        let absolute = std::path::absolute(&folder).unwrap_or(folder);
        absolute.display().to_string()
    }

    pub(super) fn check_datasets(&self) -> Result<(), ConfigError> {
        for (name, text) in &self.storage_options {
            if let Some(words) = storage::bad_options(name, text.expose()) {
                return Err(ConfigError::Check(words));
            }
        }
        if !(5..=4_000).contains(&self.storage.part_mib) {
            let words = format!(
                "storage.part_mib is {}; it must be from 5 to 4000, which is what S3 and Azure take",
                self.storage.part_mib
            );
            return Err(ConfigError::Check(words));
        }
        let labeler = &self.labeler;
        if self.datasets.provider == Provider::Labeler {
            let missing = match () {
                () if labeler.url.is_empty() => Some("labeler.url"),
                () if labeler.secret.expose().is_empty() => Some("labeler.secret"),
                () => None,
            };
            if let Some(key) = missing {
                let words = format!("datasets.provider is labeler and {key} is empty; set it");
                return Err(ConfigError::Check(words));
            }
        }
        Ok(())
    }
}

pub(super) fn artifacts(text: &str) -> Option<&'static str> {
    let fine = text.is_empty()
        || matches!(
            Address::parse(text),
            Ok(Address::Folder(_) | Address::Bucket { .. })
        );
    (!fine).then_some("an absolute path, or a URL with s3://, gs:// or az://")
}

pub(super) fn web(text: &str) -> Option<&'static str> {
    let url = Url::parse(text);
    let fine = url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    (!fine && !text.is_empty()).then_some("a URL with http:// or https://")
}

pub(super) fn provider(text: &str) -> Option<&'static str> {
    (!matches!(text, "catalog" | "labeler")).then_some("catalog or labeler")
}

pub(super) fn roots(text: &str) -> Option<&'static str> {
    let mut roots = text.split(':').filter(|root| !root.is_empty());
    let relative = roots.any(|root| !Path::new(root).is_absolute());
    relative.then_some("absolute paths separated by ':'")
}

pub(super) fn networks(text: &str) -> Option<&'static str> {
    let bad = nets(text).any(|net| net.is_err());
    bad.then_some("networks such as 10.7.0.0/16, separated by ','")
}

fn nets(text: &str) -> impl Iterator<Item = Result<IpNet, ipnet::AddrParseError>> + '_ {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words.map(|word| match word.parse::<std::net::IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => word.parse(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(pairs: &[(&str, &str)]) -> String {
        let owned =
            |(name, value): &(&str, &str)| (format!("TRAINYARD__{name}"), (*value).to_owned());
        Config::load(None, pairs.iter().map(owned))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_labeler_needs_its_address_and_its_secret() {
        let labeler = ("DATASETS__PROVIDER", "labeler");
        assert!(error(&[labeler]).contains("labeler.url is empty"));
        let told = error(&[labeler, ("LABELER__URL", "http://l:8011")]);
        assert!(told.contains("labeler.secret is empty"), "{told}");
    }

    #[test]
    fn wrong_places_networks_and_options_name_the_key_and_no_secret() {
        for (name, value, key) in [
            ("STORAGE__ARTIFACTS", "http://x/", "storage.artifacts"),
            ("DATASETS__PROVIDER", "both", "datasets.provider"),
            ("DATASETS__LOCAL_ROOTS", "data", "datasets.local_roots"),
            (
                "DATASETS__ALLOW_PRIVATE_URLS",
                "10.0.0.0/40",
                "datasets.allow_private_urls",
            ),
            ("LABELER__URL", "labeler", "labeler.url"),
            ("STORAGE__PART_MIB", "4", "storage.part_mib"),
            ("STORAGE__PART_MIB", "4001", "storage.part_mib"),
            ("STORAGE_OPTIONS__S3", "hunter2", "storage_options"),
        ] {
            let told = error(&[(name, value)]);
            assert!(told.contains(key), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn lists_are_read_and_the_artifacts_have_a_place() {
        let pairs = [
            ("DATASETS__LOCAL_ROOTS", "/a:/b"),
            ("DATASETS__ALLOW_PRIVATE_URLS", "10.0.0.0/8, 192.168.7.1"),
            ("STORAGE_OPTIONS__S3", "region=x"),
        ];
        let owned = pairs.map(|(name, value)| (format!("TRAINYARD__{name}"), value.to_owned()));
        let config = Config::load(None, owned).unwrap();
        assert_eq!(config.datasets.roots().len(), 2);
        assert_eq!(config.datasets.networks().len(), 2);
        assert_eq!(config.storage_options["s3"].expose(), "region=x");
        assert!(config.artifacts().ends_with("/data/artifacts"));
        assert!(!format!("{config:?}").contains("region=x"));
    }
}
