//! Frames to and from the coordinator: wire types outside, core types inside. Pure. Called by the
//! session.

use std::{collections::BTreeMap, time::Duration};

use trainyard_config::Secret;
use trainyard_core::{
    failure::StopCause,
    ids::TaskKey,
    snapshot::Snapshot,
    spec::JobSpec,
    task::{Meeting, Phase, Report},
};
use trainyard_proto::{
    convert::{WireError, span},
    v1::{self, ConnectRequest, connect_request::Frame},
};

use crate::{actors::runs::RunsMsg, board::Blocked, folder::Order, spool::Spooled};

/// What the last lines of all tasks of a frame may take together, in bytes. A frame with all tasks has to come through also
/// where there are many, and on a slow link in time.
const LAST_LINES: usize = 4 << 20;
/// What a line takes besides its text, at most.
const LINE: usize = 8;

/// What the coordinator wants of the tasks.
pub(super) fn order_of(start: v1::StartTask) -> Result<RunsMsg, WireError> {
    let task = key("start.task", start.task)?;
    let spec = start.spec.ok_or(WireError::Missing("start.spec"))?;
    Ok(RunsMsg::Start(Box::new(Order {
        task,
        spec: JobSpec::try_from(spec)?,
        gpu_uuids: start.gpu_uuids,
        world_size: start.world_size,
        secret: Secret::new(start.secret),
        snapshot: start.snapshot.map(Snapshot::try_from).transpose()?,
    })))
}

/// The word that a gang starts.
pub(super) fn launch_of(launch: v1::LaunchTask) -> Result<RunsMsg, WireError> {
    let task = key("launch.task", launch.task)?;
    let port = u16::try_from(launch.port).ok().filter(|port| *port > 0);
    let meeting = Meeting {
        addresses: launch.addresses,
        port: port.ok_or(WireError::Missing("launch.port"))?,
    };
    Ok(RunsMsg::Launch(task, meeting))
}

/// A stop; one without a cause is a fence: the coordinator does not want the task.
pub(super) fn stop_of(stop: v1::StopTask) -> Result<RunsMsg, WireError> {
    let cause = match stop.cause() {
        v1::StopCause::Cancelled => StopCause::Cancelled,
        v1::StopCause::TimeLimit => StopCause::TimeLimit,
        v1::StopCause::PeerFailed => StopCause::PeerFailed,
        v1::StopCause::Preempted => StopCause::Preempted,
        v1::StopCause::Fenced | v1::StopCause::Unspecified => StopCause::Fenced,
    };
    let grace = stop.grace_period.as_ref();
    let grace = grace.map(|grace| span("stop.grace_period", grace));
    Ok(RunsMsg::Stop {
        task: key("stop.task", stop.task)?,
        cause,
        grace: grace.transpose()?,
    })
}

/// The task that may be forgotten.
pub(super) fn forget_of(forget: v1::ForgetTask) -> Result<RunsMsg, WireError> {
    Ok(RunsMsg::Forget(key("forget.task", forget.task)?))
}

fn key(field: &'static str, wire: Option<v1::TaskKey>) -> Result<TaskKey, WireError> {
    wire.map(Into::into).ok_or(WireError::Missing(field))
}

/// The GPUs that get no jobs, as the coordinator hears of them.
pub(super) fn blocked(gpus: BTreeMap<String, Blocked>) -> Vec<v1::BlockedGpu> {
    let wire = |(uuid, Blocked { reason, .. })| v1::BlockedGpu { uuid, reason };
    gpus.into_iter().map(wire).collect()
}

/// How all tasks stand. Where many have ended the newest of their last lines stay: the log has them all, and of an end that
/// the coordinator has heard of already it takes none any more.
pub(super) fn all_tasks(mut reports: Vec<Report>) -> Vec<v1::TaskReport> {
    let said = reports.iter_mut().filter_map(|report| {
        let Phase::Ended(ended) = &mut report.phase else {
            return None;
        };
        Some(&mut ended.end.last_lines).filter(|lines| !lines.is_empty())
    });
    let said: Vec<_> = said.collect();
    let size = |lines: &[String]| lines.iter().map(|line| line.len() + LINE).sum::<usize>();
    let all: usize = said.iter().map(|lines| size(lines)).sum();
    if all > LAST_LINES {
        let share = LAST_LINES / said.len();
        for lines in said {
            shorten(lines, share);
        }
    }
    reports.into_iter().map(Into::into).collect()
}

/// The newest lines that have room; of one that is too long alone its beginning.
fn shorten(lines: &mut Vec<String>, room: usize) {
    let mut used = 0;
    let newest = lines.iter().rev().take_while(|line| {
        used += line.len() + LINE;
        used <= room
    });
    let kept = newest.count();
    if kept > 0 {
        lines.drain(..lines.len() - kept);
        return;
    }
    let room = room.saturating_sub(LINE);
    let newest = lines.pop().map(|mut line| {
        line.truncate(line.floor_char_boundary(room));
        line
    });
    *lines = newest.filter(|line| !line.is_empty()).into_iter().collect();
}

/// How often to give a sign of life.
pub(super) fn heartbeat_of(welcome: &v1::Welcome) -> Result<Duration, WireError> {
    let interval = welcome.heartbeat_interval.as_ref();
    let interval = interval.ok_or(WireError::Missing("welcome.heartbeat_interval"))?;
    let interval = span("welcome.heartbeat_interval", interval)?;
    Ok(interval.max(Duration::from_millis(10)))
}

/// Records of one task, as they follow each other in its spool.
pub(super) fn batch(task: TaskKey, kept_from: u64, records: Vec<Spooled>) -> ConnectRequest {
    request(Frame::Batch(v1::RecordBatch {
        task: Some(task.into()),
        first_seq: records.first().map_or(0, |first| first.seq),
        records: records.into_iter().map(|one| one.record.into()).collect(),
        kept_from_seq: kept_from,
    }))
}

/// A frame to the coordinator.
pub(super) fn request(frame: Frame) -> ConnectRequest {
    ConnectRequest { frame: Some(frame) }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use trainyard_core::{
        failure::TaskEnd,
        ids::{AttemptNo, JobId, Rank},
        task::Ended,
        time::Timestamp,
    };

    use super::*;

    fn task() -> TaskKey {
        TaskKey {
            job: JobId(7),
            attempt: AttemptNo(2),
            rank: Rank(0),
        }
    }

    #[test]
    fn a_stop_without_grace_leaves_it_to_the_job() {
        let stop = v1::StopTask {
            task: Some(task().into()),
            cause: v1::StopCause::Fenced.into(),
            grace_period: None,
        };
        let message = stop_of(stop).unwrap();
        let RunsMsg::Stop { cause, grace, .. } = message else {
            panic!("{message:?}");
        };
        assert_eq!((cause, grace), (StopCause::Fenced, None));
        assert!(stop_of(v1::StopTask::default()).is_err());
    }

    /// As many tasks as that which have ended, each with these last lines.
    fn ended(count: u64, last_lines: &[String]) -> Vec<Report> {
        let report = |job| Report {
            task: TaskKey {
                job: JobId(job),
                ..task()
            },
            phase: Phase::Ended(Box::new(Ended {
                started: Some(Timestamp(1)),
                at: Timestamp(2),
                end: TaskEnd {
                    exit_code: Some(1),
                    last_lines: last_lines.to_vec(),
                    last_seq: 99,
                    ..TaskEnd::default()
                },
            })),
            detail: String::new(),
            kept_from: 1,
        };
        (1..=count).map(report).collect()
    }

    fn lines_of(report: &v1::TaskReport) -> &[String] {
        &report.end.as_ref().unwrap().last_lines
    }

    #[test]
    fn however_many_tasks_have_ended_a_frame_with_all_of_them_has_room_and_the_newest_lines_stay() {
        let long = |number| format!("{number:02} {}", "é".repeat(1_000));
        let twenty: Vec<String> = (1..=20).map(long).collect();
        for (count, kept) in [(1, 20), (100, 20), (105, 19), (400, 5), (2_000, 1)] {
            let tasks = all_tasks(ended(count, &twenty));
            assert_eq!(tasks.len() as u64, count);
            for report in &tasks {
                assert_eq!(lines_of(report), &twenty[20 - kept..], "{count}");
            }
            let bytes: usize = tasks.iter().map(|report| report.encoded_len() + 8).sum();
            assert!(bytes < 5 << 20, "{count}: {bytes}");
        }
        // Where not one line has room its beginning stays, and of short ones all do.
        let mut tasks = ended(5_000, &twenty[18..]);
        tasks.extend(ended(1, &["short".to_owned()]));
        let tasks = all_tasks(tasks);
        let (last, others) = tasks.split_last().unwrap();
        assert_eq!(lines_of(last), ["short"]);
        for report in others {
            let [line] = lines_of(report) else {
                panic!("{report:?}");
            };
            assert!(line.starts_with("20 é") && line.len() < 840, "{line}");
        }
        let said: usize = others.iter().map(|report| lines_of(report)[0].len()).sum();
        assert!(said < LAST_LINES);
    }
}
