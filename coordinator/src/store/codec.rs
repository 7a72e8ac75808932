//! Values as bytes: a crc32 of our own in front, then JSON for rows that evolve, or a format byte
//! and postcard for chunks.
//!
//! Owns the encoding. redb does not verify its own checksums on reads, so every value is checked
//! here. Never touches a table. Used by the store's own modules.

use std::{collections::BTreeMap, fmt::Display};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use trainyard_core::job::{Job, JobState};

use super::error::ReadError;

/// The only format of chunks so far.
const CHUNK_FORMAT: u8 = 1;

/// Where a value stands, for errors.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) table: &'a str,
    pub(super) key: &'a dyn Display,
}

impl Place<'_> {
    fn decode(&self, reason: impl Display) -> ReadError {
        ReadError::Decode {
            table: self.table.to_owned(),
            key: self.key.to_string(),
            reason: reason.to_string(),
        }
    }
}

/// Puts the checksum in front.
pub(super) fn seal(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 4);
    bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Checks the checksum and takes it off.
pub(super) fn unseal<'b>(place: Place<'_>, bytes: &'b [u8]) -> Result<&'b [u8], ReadError> {
    match bytes.split_first_chunk::<4>() {
        Some((crc, body)) if u32::from_le_bytes(*crc) == crc32fast::hash(body) => Ok(body),
        _ => Err(ReadError::Checksum {
            table: place.table.to_owned(),
            key: place.key.to_string(),
        }),
    }
}

pub(super) fn to_json<T: Serialize>(place: Place<'_>, row: &T) -> Result<Vec<u8>, ReadError> {
    let body = serde_json::to_vec(row).map_err(|error| place.decode(error))?;
    Ok(seal(&body))
}

pub(super) fn from_json<T: DeserializeOwned>(
    place: Place<'_>,
    bytes: &[u8],
) -> Result<T, ReadError> {
    serde_json::from_slice(unseal(place, bytes)?).map_err(|error| place.decode(error))
}

pub(super) fn to_text(place: Place<'_>, bytes: &[u8]) -> Result<String, ReadError> {
    let body = unseal(place, bytes)?;
    String::from_utf8(body.to_vec()).map_err(|error| place.decode(error))
}

pub(super) fn to_chunk<T: Serialize>(place: Place<'_>, rows: &T) -> Result<Vec<u8>, ReadError> {
    let body =
        postcard::to_extend(rows, vec![CHUNK_FORMAT]).map_err(|error| place.decode(error))?;
    Ok(seal(&body))
}

pub(super) fn from_chunk<T: DeserializeOwned>(
    place: Place<'_>,
    bytes: &[u8],
) -> Result<T, ReadError> {
    match unseal(place, bytes)?.split_first() {
        Some((&CHUNK_FORMAT, body)) => {
            postcard::from_bytes(body).map_err(|error| place.decode(error))
        }
        Some((format, _)) => Err(place.decode(format_args!("chunk format {format} is unknown"))),
        None => Err(place.decode("the chunk is empty")),
    }
}

/// A job as JSON. JSON has no NaN and no infinity, so such metrics stand apart, as text.
#[derive(Serialize, Deserialize)]
struct JobRow {
    job: Job,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    non_finite: Vec<(usize, String, String)>,
}

pub(super) fn job_to_json(place: Place<'_>, mut job: Job) -> Result<Vec<u8>, ReadError> {
    let mut non_finite = Vec::new();
    for (index, metrics) in metric_maps(&mut job).into_iter().enumerate() {
        metrics.retain(|name, value| {
            if !value.is_finite() {
                non_finite.push((index, name.clone(), value.to_string()));
            }
            value.is_finite()
        });
    }
    to_json(place, &JobRow { job, non_finite })
}

pub(super) fn job_from_json(place: Place<'_>, bytes: &[u8]) -> Result<Job, ReadError> {
    let JobRow {
        mut job,
        non_finite,
    } = from_json(place, bytes)?;
    let mut maps = metric_maps(&mut job);
    for (index, name, text) in non_finite {
        let value = text.parse::<f64>().map_err(|error| place.decode(error))?;
        if let Some(metrics) = maps.get_mut(index) {
            metrics.insert(name, value);
        }
    }
    Ok(job)
}

/// Of a job no more than its state: the rest is passed over.
#[derive(Deserialize)]
struct StateRow {
    job: OnlyState,
}

#[derive(Deserialize)]
struct OnlyState {
    state: JobState,
}

pub(super) fn state_from_json(place: Place<'_>, bytes: &[u8]) -> Result<JobState, ReadError> {
    let row: StateRow = from_json(place, bytes)?;
    Ok(row.job.state)
}

/// Every map of metrics of a job, always in the same order.
fn metric_maps(job: &mut Job) -> Vec<&mut BTreeMap<String, f64>> {
    let mut maps = vec![&mut job.final_metrics];
    maps.extend(job.progress.as_mut().map(|progress| &mut progress.values));
    let words = job.attempts.iter_mut();
    let words = words.filter_map(|attempt| attempt.completion.as_mut());
    let (last, best): (Vec<_>, Vec<_>) = words
        .map(|word| (&mut word.final_metrics, &mut word.best_metrics))
        .unzip();
    maps.extend(last);
    maps.extend(best);
    maps
}
