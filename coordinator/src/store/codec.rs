//! Values as bytes: a crc32 of our own in front, then JSON for rows that evolve, or a format byte
//! and postcard for chunks, for blocks compressed by zstd.
//!
//! Owns the encoding. redb does not verify its own checksums on reads, so every value is checked
//! here. Never touches a table. Used by the store's own modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use trainyard_core::{
    ids::{AttemptNo, JobId, NodeName, Rank},
    job::{Attempt, GoesOn, Job, JobState, LastAsked, served},
    record::Checkpoint,
    resources::ResourceRequest,
    sched::{Gate, QueuedJob},
    spec::{ArrayPlace, Placing},
    time::Timestamp,
};

use super::error::ReadError;

/// Rows as they came.
const CHUNK_FORMAT: u8 = 1;
/// Rows by columns, compressed.
const BLOCK_FORMAT: u8 = 2;
/// Rows as they came, of a rank above 0, which stands in front.
const RANKED_CHUNK_FORMAT: u8 = 3;
/// Rows by columns, compressed, some of them of ranks above 0, which stand with them.
const RANKED_BLOCK_FORMAT: u8 = 4;
/// Bytes of a checksum.
const CRC: usize = 4;
/// Room for most rows.
const ROW: usize = 1_024;
/// How hard zstd tries: its own default.
const ZSTD_LEVEL: i32 = 3;

/// Where a value stands, for errors.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) table: &'a str,
    pub(super) key: &'a dyn Display,
}

impl Place<'_> {
    pub(super) fn decode(&self, reason: impl Display) -> ReadError {
        ReadError::Decode {
            table: self.table.to_owned(),
            key: self.key.to_string(),
            reason: reason.to_string(),
        }
    }
}

/// Puts the checksum in front.
pub(super) fn seal(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + CRC);
    bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Puts the checksum in the room that was left for it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some((room, body)) = bytes.split_first_chunk_mut::<CRC>() {
        *room = crc32fast::hash(body).to_le_bytes();
    }
    bytes
}

/// Whether its checksum is right.
pub(super) fn is_sealed(bytes: &[u8]) -> bool {
    body_of(bytes).is_some()
}

fn body_of(bytes: &[u8]) -> Option<&[u8]> {
    let (crc, body) = bytes.split_first_chunk::<CRC>()?;
    (u32::from_le_bytes(*crc) == crc32fast::hash(body)).then_some(body)
}

/// Checks the checksum and takes it off.
pub(super) fn unseal<'b>(place: Place<'_>, bytes: &'b [u8]) -> Result<&'b [u8], ReadError> {
    match body_of(bytes) {
        Some(body) => Ok(body),
        None => Err(ReadError::Checksum {
            table: place.table.to_owned(),
            key: place.key.to_string(),
        }),
    }
}

pub(super) fn to_json<T: Serialize>(place: Place<'_>, row: &T) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::with_capacity(ROW);
    bytes.extend_from_slice(&[0; CRC]);
    serde_json::to_writer(&mut bytes, row).map_err(|error| place.decode(error))?;
    Ok(sealed(bytes))
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
    let mut bytes = Vec::with_capacity(ROW);
    bytes.extend_from_slice(&[0; CRC]);
    bytes.push(CHUNK_FORMAT);
    let bytes = postcard::to_extend(rows, bytes).map_err(|error| place.decode(error))?;
    Ok(sealed(bytes))
}

/// Rows as one task has sent them.
pub(super) fn to_rows<T: Serialize>(
    place: Place<'_>,
    rank: Rank,
    rows: &T,
) -> Result<Vec<u8>, ReadError> {
    if rank == Rank(0) {
        return to_chunk(place, rows);
    }
    let mut bytes = Vec::with_capacity(ROW);
    bytes.extend_from_slice(&[0; CRC]);
    bytes.push(RANKED_CHUNK_FORMAT);
    bytes.extend_from_slice(&rank.0.to_le_bytes());
    let bytes = postcard::to_extend(rows, bytes).map_err(|error| place.decode(error))?;
    Ok(sealed(bytes))
}

/// What a value of points or lines is, by its format.
pub(super) enum Body<'b> {
    /// Rows as they came, of this rank.
    Chunk(Rank, &'b [u8]),
    /// A compressed block.
    Block(BlockBytes<'b>),
}

/// A compressed block.
#[derive(Clone, Copy)]
pub(super) struct BlockBytes<'b> {
    body: &'b [u8],
    ranked: bool,
}

/// Rows of ranks above 0, with their ranks.
pub(super) type Ranks = Vec<(u32, u32)>;

pub(super) fn body<'b>(place: Place<'_>, bytes: &'b [u8]) -> Result<Body<'b>, ReadError> {
    match unseal(place, bytes)?.split_first() {
        Some((&CHUNK_FORMAT, body)) => Ok(Body::Chunk(Rank(0), body)),
        Some((&RANKED_CHUNK_FORMAT, body)) => match body.split_first_chunk::<4>() {
            Some((rank, body)) => Ok(Body::Chunk(Rank(u32::from_le_bytes(*rank)), body)),
            None => Err(place.decode("the chunk is cut off")),
        },
        Some((&BLOCK_FORMAT, body)) => Ok(Body::Block(BlockBytes {
            body,
            ranked: false,
        })),
        Some((&RANKED_BLOCK_FORMAT, body)) => Ok(Body::Block(BlockBytes { body, ranked: true })),
        Some((format, _)) => Err(place.decode(format_args!("chunk format {format} is unknown"))),
        None => Err(place.decode("the chunk is empty")),
    }
}

pub(super) fn from_chunk<T: DeserializeOwned>(
    place: Place<'_>,
    body: &[u8],
) -> Result<T, ReadError> {
    postcard::from_bytes(body).map_err(|error| place.decode(error))
}

/// A block: its length before it was compressed, then the compressed bytes.
pub(super) fn to_block<T: Serialize>(
    place: Place<'_>,
    ranks: &Ranks,
    block: &T,
) -> Result<Vec<u8>, ReadError> {
    let plain = match ranks.is_empty() {
        true => postcard::to_stdvec(block),
        false => postcard::to_stdvec(&(ranks, block)),
    };
    let plain = plain.map_err(|error| place.decode(error))?;
    let length = u32::try_from(plain.len()).map_err(|error| place.decode(error))?;
    let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(|error| place.decode(error))?;
    let mut body = Vec::with_capacity(packed.len() + 5);
    body.push(match ranks.is_empty() {
        true => BLOCK_FORMAT,
        false => RANKED_BLOCK_FORMAT,
    });
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&packed);
    Ok(seal(&body))
}

pub(super) fn from_block<T: DeserializeOwned>(
    place: Place<'_>,
    bytes: BlockBytes<'_>,
) -> Result<(Ranks, T), ReadError> {
    let Some((length, packed)) = bytes.body.split_first_chunk::<4>() else {
        return Err(place.decode("the block is cut off"));
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let plain = zstd::bulk::decompress(packed, length).map_err(|error| place.decode(error))?;
    let read = match bytes.ranked {
        true => postcard::from_bytes(&plain),
        false => postcard::from_bytes(&plain).map(|block| (Ranks::new(), block)),
    };
    read.map_err(|error| place.decode(error))
}

/// One column of a block: packed already, so nothing more is made of it.
pub(super) fn to_column<T: Serialize>(place: Place<'_>, column: &T) -> Result<Vec<u8>, ReadError> {
    to_chunk(place, column)
}

pub(super) fn from_column<T: DeserializeOwned>(
    place: Place<'_>,
    bytes: &[u8],
) -> Result<T, ReadError> {
    match body(place, bytes)? {
        Body::Chunk(_, body) => from_chunk(place, body),
        Body::Block(_) => Err(place.decode("it is a block, and no column")),
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

/// Of a job no more than what its place in the queue depends on.
#[derive(Deserialize)]
struct QueueRow {
    job: InQueue,
}

#[derive(Deserialize)]
struct InQueue {
    id: JobId,
    spec: Asked,
    state: JobState,
    state_since: Timestamp,
    #[serde(default)]
    asked_at: Option<Timestamp>,
    #[serde(default)]
    asked_after: Option<AttemptNo>,
    #[serde(default)]
    not_before: Option<Timestamp>,
    #[serde(default)]
    failed_on: BTreeSet<NodeName>,
    #[serde(default)]
    submitted_by: String,
    created_at: Timestamp,
    #[serde(default)]
    attempts: Vec<Attempt>,
    #[serde(default)]
    resumable: Option<Checkpoint>,
    #[serde(default)]
    saved_in: BTreeMap<String, AttemptNo>,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    resources: ResourceRequest,
    #[serde(default)]
    priority: i32,
    #[serde(default = "one")]
    nodes: u32,
    #[serde(default)]
    name: String,
    #[serde(default)]
    project_id: Option<i64>,
    #[serde(default)]
    preemptible: bool,
    #[serde(default)]
    placement: Placing,
    #[serde(default)]
    not_before: Option<Timestamp>,
    #[serde(default)]
    after: Vec<JobId>,
    #[serde(default)]
    after_any: Vec<JobId>,
    #[serde(default)]
    array: Option<ArrayPlace>,
    #[serde(default)]
    time_limit: Option<Duration>,
}

fn one() -> u32 {
    1
}

/// The job's place in the queue, if it is in the queue.
pub(super) fn queued_from_json(
    place: Place<'_>,
    bytes: &[u8],
) -> Result<Option<QueuedJob>, ReadError> {
    let QueueRow { job } = from_json(place, bytes)?;
    if job.state != JobState::Queued {
        return Ok(None);
    }
    let asked = LastAsked {
        at: job.asked_at.unwrap_or(job.created_at),
        had: job.asked_after,
    };
    let goes_on = GoesOn::of(job.resumable.as_ref(), &job.saved_in);
    let served = served(&job.attempts, asked, goes_on);
    Ok(Some(QueuedJob {
        has_run: served.has_run,
        in_vain: served.in_vain,
        passed: asked.placed(&job.attempts),
        placement: job.spec.placement,
        gate: Gate {
            not_before: job.spec.not_before,
            after: job.spec.after,
            after_any: job.spec.after_any,
            array: job.spec.array,
        },
        project: job.spec.project_id,
        user: job.submitted_by,
        name: job.spec.name,
        preemptible: job.spec.preemptible,
        limit: job.spec.time_limit,
        job: job.id,
        request: job.spec.resources,
        nodes: job.spec.nodes,
        priority: job.spec.priority,
        queued_at: job.state_since,
        age: QueuedJob::age(job.asked_at, job.state_since),
        not_before: job.not_before,
        avoid: job.failed_on,
    }))
}

/// Of a job no more than when it ended.
#[derive(Deserialize)]
struct EndRow {
    job: OnlyEnd,
}

#[derive(Deserialize)]
struct OnlyEnd {
    state_since: Timestamp,
    ended_at: Option<Timestamp>,
}

/// When a job that has ended did.
pub(super) fn end_from_json(place: Place<'_>, bytes: &[u8]) -> Result<Timestamp, ReadError> {
    let EndRow { job } = from_json(place, bytes)?;
    Ok(job.ended_at.unwrap_or(job.state_since))
}

/// When a job ended; none while it has not.
pub(super) fn ended_from_json(
    place: Place<'_>,
    bytes: &[u8],
) -> Result<Option<Timestamp>, ReadError> {
    let EndRow { job } = from_json(place, bytes)?;
    Ok(job.ended_at)
}

/// Of a job no more than when it ended, and whether it ever had a place.
#[derive(Deserialize)]
struct PlacedRow {
    job: OnlyPlaces,
}

#[derive(Deserialize)]
struct OnlyPlaces {
    #[serde(default)]
    ended_at: Option<Timestamp>,
    #[serde(default)]
    attempts: Vec<IgnoredAny>,
}

/// When a job ended, and whether it ever had a place.
pub(super) fn placed_from_json(
    place: Place<'_>,
    bytes: &[u8],
) -> Result<(Option<Timestamp>, bool), ReadError> {
    let PlacedRow { job } = from_json(place, bytes)?;
    Ok((job.ended_at, !job.attempts.is_empty()))
}

/// Of a job no more than when it was accepted.
#[derive(Deserialize)]
struct BeginRow {
    job: OnlyBegin,
}

#[derive(Deserialize)]
struct OnlyBegin {
    created_at: Timestamp,
}

/// When a job was accepted.
pub(super) fn begin_from_json(place: Place<'_>, bytes: &[u8]) -> Result<Timestamp, ReadError> {
    let BeginRow { job } = from_json(place, bytes)?;
    Ok(job.created_at)
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
