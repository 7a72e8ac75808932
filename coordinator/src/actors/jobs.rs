//! The supervisor of jobs: accepts submissions, wakes job actors, routes to them, lets them go.
//!
//! Child of Root. Owns the numbers of jobs and who is awake. A job actor that has nothing to hold is
//! drained; mail that comes meanwhile waits for its end, so that a job never has two owners. A job
//! actor that fails is started again from the store by the next mail.

mod coming;
mod numbers;
mod under_way;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent,
};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use trainyard_core::{
    ids::JobId,
    invariants::Invariant,
    job::{Event, Illegal, Job},
    spec::{Indices, JobSpec},
};

pub use self::coming::{Coming, OnTheWay};
use self::{numbers::Numbers, under_way::UnderWay};
use super::{
    job::{Ack, ActError, JobActor, JobMsg, Peers, Told},
    nodes::NodesRef,
    scheduler::{SchedulerMsg, SchedulerRef, answer},
};
use crate::{
    broken::Broken,
    clock,
    store::{Change, Document, ReadError, Store},
};

/// Where to send [`JobsMsg`].
pub type JobsRef = ActorRef<JobsMsg>;

/// A checked submission.
#[derive(Debug)]
pub struct Submission {
    /// What is asked for.
    pub spec: JobSpec,
    /// By whom.
    pub submitted_by: String,
    /// The same key again answers with the first job.
    pub key: Option<RequestKey>,
    /// What it trains on, when it names a dataset by its id.
    pub snapshot: Option<Prepared>,
    /// Of an array: a job for each of them.
    pub indices: Option<Indices>,
    /// Where its project may have so many waiting: these count until the scheduler knows them.
    pub coming: Option<OnTheWay>,
}

/// What a caller calls its submission, and what it asked for by that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// Made unique by the caller's number.
    pub key: String,
    /// Of the specification.
    pub fingerprint: String,
}

impl Document for RequestKey {
    const KIND: &'static str = "request_key";

    fn key(&self) -> String {
        self.key.clone()
    }
}

/// A snapshot that is ready in the artifact store.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Its id.
    pub id: String,
    /// What makes it known; stored with the job, so that neither is there without the other. Empty for
    /// one that is known already.
    pub changes: Vec<Change>,
    /// The right to the dataset's snapshots. It goes with the submission, whatever becomes of the caller,
    /// and ends when the job is stored, so that nobody forgets a snapshot that a job is about to have.
    pub held: Option<OwnedMutexGuard<()>>,
}

/// What Jobs takes.
#[derive(Debug)]
pub enum JobsMsg {
    /// Accept a job; answered once it is on disk.
    Submit(Box<Submission>, RpcReplyPort<Job>),
    /// The job of an earlier submission with this key, once it is on disk. Where there is none, nobody answers.
    OfKey(RequestKey, RpcReplyPort<Job>),
    /// For a job, waking its actor if need be.
    Route(JobId, JobMsg),
    /// A job actor has nothing to hold.
    Idle(JobId),
}

/// Whom Jobs is given at start.
#[derive(Debug)]
pub struct JobsArgs {
    /// For all that is durable.
    pub store: Store,
    /// Told of new jobs.
    pub scheduler: SchedulerRef,
    /// Carries frames to nodes.
    pub nodes: NodesRef,
    /// What locations in the artifact store begin with.
    pub artifacts: String,
    /// For how long a gang waits for a rank that says nothing new.
    pub gang_patience: Duration,
    /// Where broken invariants are counted.
    pub broken: Broken,
}

/// The behaviour; the state is in [`State`].
#[derive(Debug)]
pub struct Jobs;

#[derive(Debug)]
enum Entry {
    /// With what its successor has to know if it fails.
    Awake(ActorRef<JobMsg>, Told),
    /// Drains; this mail is for its successor.
    Leaving(Vec<JobMsg>),
}

/// Who is awake, and which number is next.
#[derive(Debug)]
pub struct State {
    peers: Arc<Peers>,
    awake: BTreeMap<JobId, Entry>,
    ids: BTreeMap<ActorId, JobId>,
    numbers: Numbers,
    /// Submissions with a key that are not on disk yet.
    under_way: UnderWay,
}

impl Actor for Jobs {
    type Msg = JobsMsg;
    type State = State;
    type Arguments = JobsArgs;

    async fn pre_start(
        &self,
        myself: JobsRef,
        args: JobsArgs,
    ) -> Result<State, ActorProcessingErr> {
        let last = args.store.last_job()?;
        Ok(State {
            peers: Arc::new(Peers {
                store: args.store,
                scheduler: args.scheduler,
                nodes: args.nodes,
                jobs: myself,
                artifacts: args.artifacts,
                gang_patience: args.gang_patience,
                broken: args.broken,
            }),
            awake: BTreeMap::new(),
            ids: BTreeMap::new(),
            numbers: Numbers::after(last),
            under_way: UnderWay::default(),
        })
    }

    async fn handle(
        &self,
        myself: JobsRef,
        message: JobsMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            JobsMsg::Submit(submission, reply) => state.submit(*submission, reply).await,
            JobsMsg::OfKey(asked, reply) => {
                state.of_key(&asked, reply);
                Ok(())
            }
            JobsMsg::Route(job, message) => state.route(&myself, job, message).await,
            JobsMsg::Idle(job) => {
                state.let_go(job);
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: JobsRef,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => Ok(()),
            SupervisionEvent::ActorTerminated(child, _, _) => {
                state.gone(&myself, &child, false).await;
                Ok(())
            }
            SupervisionEvent::ActorFailed(child, error) => {
                let job = state.ids.get(&child.get_id());
                tracing::error!(?job, %error, "a job actor failed; it starts again from the store");
                // Its steps that are under way must be there before anyone loads it.
                state.peers.store.commit_and_wait(Vec::new()).await?;
                state.gone(&myself, &child, true).await;
                Ok(())
            }
        }
    }
}

impl State {
    /// Nothing here waits for the disk, so that all who submit share its commits.
    async fn submit(
        &mut self,
        submission: Submission,
        reply: RpcReplyPort<Job>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(reply) = self.first_of_its_key(submission.key.as_ref(), reply) else {
            return Ok(());
        };
        let id = self.numbers.next();
        let Submission {
            spec,
            submitted_by,
            indices,
            coming,
            ..
        } = submission;
        let (mut changes, mut held, mut snapshot_id) = (Vec::new(), None, None);
        if let Some(snapshot) = submission.snapshot {
            snapshot_id = Some(snapshot.id);
            (changes, held) = (snapshot.changes, snapshot.held);
        }
        let mut jobs = Vec::new();
        for spec in specs(spec, id, indices.as_ref()) {
            let number = self.numbers.give();
            let accepted = Job::accepted(number, spec, submitted_by.clone(), clock::now());
            jobs.push(prepared(accepted, snapshot_id.clone())?);
        }
        let Some(first) = jobs.first().cloned() else {
            return Ok(());
        };
        changes.extend(jobs.iter().cloned().map(Box::new).map(Change::PutJob));
        let mut stored = None;
        if let Some(asked) = submission.key {
            changes.push(Change::put(&asked));
            let key = asked.key;
            stored = Some(self.under_way.begin(key.clone()));
            changes.push(Change::PutRequestKey { key, job: id });
        }
        let scheduler = self.peers.scheduler.clone();
        let then = move |_: &crate::store::Committed| {
            drop(held);
            for job in jobs {
                scheduler.cast(SchedulerMsg::JobIs(Box::new(job))).ok();
            }
            drop(coming);
            if let Some(stored) = stored {
                stored.stored(&first);
            }
            answer(reply, first);
        };
        self.peers.store.commit(changes, Box::new(then)).await?;
        Ok(())
    }

    /// Whoever is not the first with its key waits for that one's job, or has it; a first one gets its reply back.
    fn first_of_its_key(
        &self,
        key: Option<&RequestKey>,
        reply: RpcReplyPort<Job>,
    ) -> Option<RpcReplyPort<Job>> {
        // Before the store is asked: one that was under way and is not any more is there.
        let reply = match key {
            Some(asked) => self.under_way.join(&asked.key, reply)?,
            None => reply,
        };
        match self.earlier(key) {
            Ok(None) => return Some(reply),
            Ok(Some(job)) => answer(reply, job),
            Err(error) => {
                tracing::error!(%error, "the job of a submission's key cannot be read");
            }
        }
        None
    }

    fn of_key(&self, asked: &RequestKey, reply: RpcReplyPort<Job>) {
        if let Some(reply) = self.under_way.join(&asked.key, reply)
            && let Ok(Some(job)) = self.earlier(Some(asked))
        {
            answer(reply, job);
        }
    }

    fn earlier(&self, key: Option<&RequestKey>) -> Result<Option<Job>, ReadError> {
        let Some(asked) = key else { return Ok(None) };
        let Some(job) = self.peers.store.request_key(&asked.key)? else {
            return Ok(None);
        };
        let found = self.peers.store.job(job)?;
        if found.is_none() {
            let words = format!("job {job} of a submission's key is not there");
            self.peers.broken.note(Invariant::Accepted, &words);
        }
        Ok(found)
    }

    async fn route(
        &mut self,
        myself: &JobsRef,
        job: JobId,
        message: JobMsg,
    ) -> Result<(), ActorProcessingErr> {
        match self.awake.get_mut(&job) {
            Some(Entry::Leaving(mail)) => mail.push(message),
            Some(Entry::Awake(actor, _)) => {
                if let Err(error) = actor.cast(message) {
                    // It has failed, and its end is on the way to us; agents will tell again.
                    tracing::warn!(%job, %error, "mail for a job actor that has just ended");
                }
            }
            None => match self.peers.store.job(job) {
                Ok(None) => self.unknown(job, message),
                Ok(Some(_)) => {
                    self.wake(myself, job, (vec![message], Told::default()))
                        .await;
                }
                // One damaged row must not take the others down: whoever asks is told to try again.
                Err(error) => tracing::error!(%job, %error, "mail for a job that cannot be read"),
            },
        }
        Ok(())
    }

    async fn wake(&mut self, myself: &JobsRef, job: JobId, (mail, told): (Vec<JobMsg>, Told)) {
        let args = (job, Arc::clone(&self.peers), told.clone());
        let spawned = JobActor::spawn_linked(None, JobActor, args, myself.get_cell()).await;
        let actor = match spawned {
            Ok((actor, _)) => actor,
            Err(error) => {
                tracing::error!(%job, %error, "a job actor did not start; its mail is dropped");
                return;
            }
        };
        for message in mail {
            if let Err(error) = actor.cast(message) {
                tracing::warn!(%job, %error, "mail for a job actor that has just ended");
            }
        }
        self.ids.insert(actor.get_id(), job);
        self.awake.insert(job, Entry::Awake(actor, told));
    }

    /// Nobody knows the job: its user is told so, its task is ended, its records are dropped.
    fn unknown(&mut self, job: JobId, message: JobMsg) {
        match message {
            JobMsg::Event(_, Some(reply)) | JobMsg::Direct { reply, .. } => {
                answer(reply, Err(ActError::NotFound));
            }
            JobMsg::Report(node, report, session) => {
                // It was given by a store that was restored from a backup since, or lost the job's row.
                self.numbers.hear_of(job);
                self.peers.refuse((node, session), &report);
            }
            JobMsg::Records(batch) => {
                self.numbers.hear_of(job);
                let ack = Ack {
                    task: batch.task,
                    seq: batch.last_seq(),
                    permit: batch.permit,
                };
                batch.acks.try_send(ack).ok();
            }
            JobMsg::Event(_, None)
            | JobMsg::Decided(..)
            | JobMsg::NoTrace(..)
            | JobMsg::LookForLate
            | JobMsg::Wake => {}
            #[cfg(test)]
            JobMsg::Fail => {}
        }
    }

    fn let_go(&mut self, job: JobId) {
        if let Some(Entry::Awake(actor, _)) = self.awake.get(&job) {
            // One that has failed meanwhile cannot be drained: the word of its end is on the way.
            if actor.drain().is_ok() {
                self.awake.insert(job, Entry::Leaving(Vec::new()));
            }
        }
    }

    /// One that failed has lost its mail: its successor says how the job stands.
    async fn gone(&mut self, myself: &JobsRef, child: &ActorCell, failed: bool) {
        let Some(job) = self.ids.remove(&child.get_id()) else {
            return;
        };
        let mut mail: Vec<JobMsg> = failed.then_some(JobMsg::Wake).into_iter().collect();
        let told = match self.awake.remove(&job) {
            Some(Entry::Leaving(waiting)) => {
                mail.extend(waiting);
                Told::default()
            }
            Some(Entry::Awake(_, told)) => told,
            None => Told::default(),
        };
        if !mail.is_empty() {
            self.wake(myself, job, (mail, told)).await;
        }
    }
}

/// The jobs that a submission makes: one, or one for each of its indices.
fn specs(spec: JobSpec, first: JobId, indices: Option<&Indices>) -> Vec<JobSpec> {
    let Some(indices) = indices else {
        return vec![spec];
    };
    let places = indices.places(first);
    let specs = places.map(|place| JobSpec {
        array: Some(place),
        ..spec.clone()
    });
    specs.collect()
}

/// As it waits.
fn prepared(mut accepted: Job, snapshot_id: Option<String>) -> Result<Job, Illegal> {
    accepted.snapshot_id = snapshot_id;
    let now = accepted.created_at;
    Ok(accepted.step(now, Event::Prepared)?.job)
}
