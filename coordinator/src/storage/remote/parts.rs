//! Files that are too large for one request: each part is sent by a URL of its own.
//!
//! Owns how large parts are, and what each service calls them. The bytes never come through the
//! coordinator. Called by `datasets` through [`Place`](crate::storage::Place).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use object_store::{multipart::PartId, signer::SignedUrlOptions};
use url::Url;

use super::{Bucket, Remote, StorageError};
use crate::storage::Service;

/// Parts of one file: few enough for one answer with their URLs, and for what services take.
const MOST_PARTS: u64 = 1_000;
/// The smallest part that S3 takes, but for the last.
const LEAST: u64 = 5 << 20;
/// The largest part that every service takes: Azure's blocks end there.
const LARGEST: u64 = 4_000 << 20;

/// A file that is sent in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// What the store calls this upload.
    pub id: String,
    /// In order.
    pub parts: Vec<Part>,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// PUT the bytes here.
    pub url: String,
    /// How many.
    pub size: u64,
}

impl Remote {
    /// Begins a file in parts of about `part` bytes; none where it goes in one request.
    pub(in crate::storage) async fn begin(
        &self,
        relative: &str,
        (size, part): (u64, u64),
        span: Duration,
    ) -> Result<Option<Parts>, StorageError> {
        let Some(bucket) = &self.bucket else {
            return Ok(None);
        };
        // What Google's store takes in one request ends at 5 TiB, where its objects do.
        if bucket.service == Service::Gcs {
            return Ok(None);
        }
        let Some(sizes) = sizes(size, part)? else {
            return Ok(None);
        };
        let at = self.at(relative)?;
        if !bucket.signs(&at) {
            return Err(super::odd_name(relative));
        }
        let told = |error| self.told(relative, &error);
        let id = match bucket.service {
            // Azure has no name for an upload: blocks of two must not be taken for each other.
            Service::Azure => format!("{:016x}", rand::random::<u64>()),
            Service::S3 | Service::Gcs => bucket.parts.create_multipart(&at).await.map_err(told)?,
        };
        let mut parts = Vec::with_capacity(sizes.len());
        for (number, size) in (1_u32..).zip(sizes) {
            let url = bucket.part(&at, (&id, number), span).await.map_err(told)?;
            let url = url.into();
            parts.push(Part { url, size });
        }
        Ok(Some(Parts { id, parts }))
    }

    /// Makes one file of parts that are all there; `tags` are what the store answered to each. One that
    /// was made already, and is `size` bytes, is good: the answer may have been lost.
    pub(in crate::storage) async fn complete(
        &self,
        relative: &str,
        (id, tags): (&str, Vec<String>),
        size: u64,
    ) -> Result<(), StorageError> {
        let bucket = self.in_parts()?;
        let at = self.at(relative)?;
        let part = |(number, tag): (u32, String)| PartId {
            content_id: match bucket.service {
                Service::Azure => block(id, number),
                Service::S3 | Service::Gcs => tag,
            },
        };
        let parts = (1..).zip(tags).map(part).collect();
        let id = id.to_owned();
        let done = bucket.parts.complete_multipart(&at, &id, parts).await;
        let Err(error) = done else { return Ok(()) };
        let error = self.told(relative, &error);
        let gone = match bucket.service {
            Service::S3 | Service::Gcs => matches!(error, StorageError::NotFound(_)),
            // Of blocks that are in the file already it says that they are no good list.
            Service::Azure => {
                matches!(error, StorageError::NotFound(_) | StorageError::Refused(_))
            }
        };
        match self.stat(relative).await {
            Ok(there) if gone && there.size == size => Ok(()),
            Ok(_) | Err(_) => Err(error),
        }
    }

    /// Forgets parts that will never be a file.
    pub(in crate::storage) async fn abort(
        &self,
        relative: &str,
        id: &str,
    ) -> Result<(), StorageError> {
        let bucket = self.in_parts()?;
        let at = self.at(relative)?;
        let gone = bucket.parts.abort_multipart(&at, &id.to_owned()).await;
        match gone {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.told(relative, &error)),
        }
    }

    fn in_parts(&self) -> Result<&Bucket, StorageError> {
        self.bucket
            .as_ref()
            .ok_or_else(|| super::read_only(&self.url))
    }
}

impl Bucket {
    /// A URL for one part.
    async fn part(
        &self,
        at: &object_store::path::Path,
        (id, number): (&str, u32),
        span: Duration,
    ) -> object_store::Result<Url> {
        if self.service == Service::Azure {
            // What is signed is the right to write this file; what for is said beside it.
            let mut url = self.signer.signed_url(http::Method::PUT, at, span).await?;
            url.query_pairs_mut()
                .append_pair("comp", "block")
                .append_pair("blockid", &STANDARD.encode(block(id, number)));
            return Ok(url);
        }
        let query = [
            ("partNumber", number.to_string()),
            ("uploadId", id.to_owned()),
        ];
        let options = SignedUrlOptions::new().with_query(query);
        let signed = self
            .signer
            .signed_url_opts(http::Method::PUT, at, span, &options);
        signed.await
    }
}

/// What a block of Azure is called; all names of one file are equally long.
fn block(id: &str, number: u32) -> String {
    format!("{id}-{number:08}")
}

/// The sizes of the parts; none where one request will do.
fn sizes(size: u64, part: u64) -> Result<Option<Vec<u64>>, StorageError> {
    let part = part.max(size.div_ceil(MOST_PARTS)).max(LEAST);
    if size <= part {
        return Ok(None);
    }
    if part > LARGEST {
        let most = LARGEST.saturating_mul(MOST_PARTS) >> 40;
        let words = format!(
            "a file of {size} bytes is larger than the store takes (about {most} TiB); store less in it"
        );
        return Err(StorageError::TooLarge(words));
    }
    let (whole, rest) = (size / part, size % part);
    let mut sizes: Vec<u64> = (0..whole).map(|_| part).collect();
    sizes.extend(Some(rest).filter(|rest| *rest > 0));
    Ok(Some(sizes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_are_neither_too_many_nor_too_small_nor_too_large_for_a_store() {
        assert_eq!(sizes(0, MIB).unwrap(), None);
        assert_eq!(sizes(5 * MIB, MIB).unwrap(), None);
        let some = sizes(11 * MIB, MIB).unwrap().unwrap();
        assert_eq!(some, [5 * MIB, 5 * MIB, MIB]);
        for size in [6 << 30, 64 << 30, 3_u64 << 40] {
            let some = sizes(size, 256 * MIB).unwrap().unwrap();
            assert_eq!(some.iter().sum::<u64>(), size);
            assert!(some.len() as u64 <= MOST_PARTS);
            assert!(some.iter().all(|part| *part <= LARGEST));
        }
        let told = sizes(u64::MAX, MIB).unwrap_err().to_string();
        assert!(told.contains("larger than the store takes"), "{told}");
    }
}
