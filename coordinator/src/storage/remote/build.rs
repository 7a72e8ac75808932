//! How a store is made from its URL and the settings.
//!
//! Owns time-outs, repetitions and which option goes where. Never shows the value of an option. Called by
//! [`Remote`](super::Remote).

use std::{sync::Arc, time::Duration};

use object_store::{
    ClientOptions, ObjectStore, Result, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    azure::{MicrosoftAzure, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder},
    multipart::MultipartStore,
    signer::Signer,
};

use super::{Options, StorageError};
use crate::storage::Service;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a store may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// The same where it works on much before it answers: it copies 5 GiB, or makes one file of parts.
const WORK: Duration = Duration::from_secs(900);
/// How long a request with its repetitions may take.
const RETRIES: Duration = Duration::from_secs(60);

/// One store by what it can do.
pub(super) struct Made {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) signer: Arc<dyn Signer>,
    /// Bears a longer silence.
    pub(super) patient: Arc<dyn ObjectStore>,
    pub(super) parts: Arc<dyn MultipartStore>,
}

/// Of two clients, the second of which bears a longer silence.
fn made<S: ObjectStore + Signer + MultipartStore>(
    build: impl Fn(Duration) -> Result<S>,
) -> Result<Made> {
    let (store, patient) = (Arc::new(build(SILENCE)?), Arc::new(build(WORK)?));
    Ok(Made {
        store: Arc::clone(&store) as Arc<dyn ObjectStore>,
        signer: store,
        patient: Arc::clone(&patient) as Arc<dyn ObjectStore>,
        parts: patient,
    })
}

/// A bucket of a service.
pub(super) fn bucket(
    service: Service,
    name: &str,
    options: &Options,
) -> std::result::Result<Made, StorageError> {
    let built = match service {
        Service::S3 => made(|silence| s3(name, options, silence)),
        Service::Gcs => made(|silence| gcs(name, options, silence)),
        Service::Azure => made(|silence| azure(name, options, silence)),
    };
    // The words of the builder may repeat a value of the settings.
    built.map_err(|error| {
        let kind = name_of(&error);
        tracing::debug!(%kind, "a store could not be set up");
        let scheme = service.scheme();
        StorageError::Failed(format!(
            "{scheme}://{name} cannot be set up ({kind}); see storage_options of the coordinator's settings"
        ))
    })
}

/// What is tried again, with how much patience: 5xx, 408 and 429, and connections that fail.
pub(super) fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 4,
        retry_timeout: RETRIES,
        ..RetryConfig::default()
    }
}

/// Bodies may take as long as they like while they move. Plain text is for an endpoint that says so.
fn client(options: &Options, silence: Duration) -> ClientOptions {
    let endpoint = |key: &str| key.contains("endpoint") || key.contains("base_url");
    let plain = |(key, value): &(String, String)| endpoint(key) && value.starts_with("http://");
    ClientOptions::new()
        .with_allow_http(options.iter().any(plain))
        .with_connect_timeout(CONNECT)
        .with_timeout_disabled()
        .with_read_timeout(silence)
}

fn s3(bucket: &str, options: &Options, silence: Duration) -> Result<AmazonS3> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retries())
        .with_client_options(client(options, silence));
    for (key, value) in options {
        builder = match key.as_str() {
            "path_style" => builder.with_virtual_hosted_style_request(value == "false"),
            key => builder.with_config(key.parse()?, value),
        };
    }
    builder.build()
}

fn gcs(bucket: &str, options: &Options, silence: Duration) -> Result<GoogleCloudStorage> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retries())
        .with_client_options(client(options, silence));
    for (key, value) in options {
        builder = builder.with_config(key.parse()?, value);
    }
    builder.build()
}

fn azure(container: &str, options: &Options, silence: Duration) -> Result<MicrosoftAzure> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_retry(retries())
        .with_client_options(client(options, silence));
    for (key, value) in options {
        builder = builder.with_config(key.parse()?, value);
    }
    builder.build()
}

/// The kind of an error, without its words.
fn name_of(error: &object_store::Error) -> String {
    if let object_store::Error::UnknownConfigurationKey { key, .. } = error {
        return format!("unknown option '{key}'");
    }
    if let object_store::Error::Generic { source, .. } = error {
        let words = source.to_string();
        return words
            .split(['\'', '"', ':'])
            .next()
            .unwrap_or_default()
            .to_owned();
    }
    "an option is missing or wrong".to_owned()
}
