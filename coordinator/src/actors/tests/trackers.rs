//! What becomes of a job whose tracker is away: it trains as if nobody had asked for one.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};
use trainyard_core::{
    ids::{AttemptNo, NodeName, Rank, TaskKey},
    record::{Progress, Record},
};

use super::{
    retries::{exits, running, say, until},
    *,
};
use crate::{
    actors::job::{Ack, Batch},
    clock,
    trackers::tests::{Desk, Server, nobody},
};

const MINUTE: Duration = Duration::from_secs(60);
/// One a minute.
const EPOCHS: u32 = 60;

/// The report of an epoch, from the node on which the job runs.
fn report_of(
    (job, epoch): (JobId, u32),
    (acks, permits): (&mpsc::Sender<Ack>, &std::sync::Arc<Semaphore>),
) -> Batch {
    let report = Record::Progress(Progress {
        at: clock::now(),
        epoch,
        total_epochs: EPOCHS,
        step: None,
        values: BTreeMap::from([("loss".to_owned(), 1.0 / f64::from(epoch))]),
        has_metrics: true,
        checkpoint: None,
        best_checkpoint: None,
    });
    Batch {
        kept_from: epoch.into(),
        task: TaskKey {
            job,
            attempt: AttemptNo(1),
            rank: Rank(0),
        },
        node: NodeName("n1".into()),
        first_seq: epoch.into(),
        records: vec![report],
        acks: acks.clone(),
        permit: std::sync::Arc::clone(permits).try_acquire_owned().unwrap(),
    }
}

/// It trains for an hour, and the tracker takes nothing: each epoch is acknowledged at once, since there is but one permit
/// and the clock stands still until then.
async fn trains_for_an_hour(world: &World, job: JobId, desk: &Desk) {
    let (acks, mut acknowledged) = mpsc::channel::<Ack>(1);
    let permits = std::sync::Arc::new(Semaphore::new(1));
    for epoch in 1..=EPOCHS {
        let began = clock::now();
        let batch = report_of((job, epoch), (&acks, &permits));
        let message = JobsMsg::Route(job, JobMsg::Records(batch));
        world.tree.jobs.cast(message).unwrap();
        let acknowledged = tokio::time::timeout(MINUTE, acknowledged.recv()).await;
        let acknowledged = acknowledged.expect("nobody waits for a tracker").unwrap();
        assert_eq!(acknowledged.seq, u64::from(epoch));
        assert!(clock::now().since(began) < MINUTE);
        drop(acknowledged);
        desk.fails_again().await;
        clock::ahead::pass(MINUTE);
    }
}

#[tokio::test]
async fn a_job_trains_to_its_end_while_its_tracker_is_away_for_an_hour_and_then_all_of_it_is_there()
{
    let lease = Lease {
        suspect_after: 1_000 * MINUTE,
        lost_after: 2_000 * MINUTE,
    };
    let world = world(lease).await;
    let address = nobody().await;
    let desk = Desk::at(&address, world.store.clone(), world.tree.jobs.clone()).await;
    let (job, session, _frames, task) = running(&world, RetryPolicy::default()).await;

    trains_for_an_hour(&world, job, &desk).await;
    let mut exit = exits(task);
    if let Some(end) = &mut exit.end {
        end.last_seq = EPOCHS.into();
    }
    say(&session, exit);
    let ended = until(&world, job, |job| job.state.is_terminal()).await;
    assert_eq!(
        (ended.state, ended.attempts.len()),
        (JobState::Completed, 1)
    );
    assert_eq!(world.store.count_points(job).unwrap(), u64::from(EPOCHS));
    desk.fails_again().await;
    let away = desk.shown();
    assert_eq!((away.jobs_pending, away.points_pending), (1, 60));
    assert_eq!((away.delivered, ended.mlflow_run_id), (0, None));
    assert!((3_600..3_700).contains(&away.seconds_behind), "{away:?}");

    let (server, mut serving) = (Server::default(), JoinSet::new());
    server.at(&address, &mut serving).await;
    desk.due();
    let back = desk.has_everything().await;
    assert_eq!((back.delivered, back.dropped), (60, 0));
    let told: Vec<_> = (1..=60).map(|step| ("loss".to_owned(), step)).collect();
    assert_eq!(*server.metrics.lock().unwrap(), told, "each point once");
    assert!(server.ended.load(Ordering::SeqCst));
    until(&world, job, |job| job.mlflow_run_id.is_some()).await;
    world.root.stop_and_wait(None, None).await.unwrap();
}
