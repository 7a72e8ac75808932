//! What the scheduler keeps in mind between messages: its queue, places that are not answered, and its alarm.

use std::time::Duration;

use trainyard_core::{
    ids::{JobId, Rank, TaskKey},
    job::{Attempt, Event, Job, JobState},
    record::Checkpoint,
    resources::{Capacity, Gpu},
    sched::{Allocation, Standing},
    spec::JobSpec,
};

use super::{alarm::SOON, *};
use crate::store::{Change, Store, StoreOptions};

/// A job that waits since `at` for the only CPU.
fn waiting(id: u64, at: i64) -> Job {
    let job = Job::accepted(JobId(id), JobSpec::default(), String::new(), Timestamp(at));
    job.step(Timestamp(at), Event::Prepared).unwrap().job
}

fn one_cpu() -> State {
    let mut state = State::default();
    let capacity = Capacity {
        cpus: 1,
        ..Capacity::default()
    };
    state.set_node(NodeName("n1".into()), capacity, true);
    state
}

fn holds(state: &State, id: u64) -> bool {
    !state.planner.ledger().held_by(JobId(id)).is_empty()
}

/// A job that failed by its node's fault and is tried again ten seconds after `at`.
fn tried_again(id: u64, at: i64) -> Job {
    let allocation = Allocation {
        node: NodeName("n1".into()),
        cpus: 1,
        memory_bytes: 0,
        gpus: Vec::new(),
        address: String::new(),
    };
    let placed = Event::Placed {
        queued_at: Timestamp(at),
        allocations: vec![allocation],
        secret: "s".to_owned().into(),
    };
    let starts = waiting(id, at).step(Timestamp(at), placed).unwrap().job;
    let lost = Event::NodeLost(AttemptNo(1), NodeName("n1".into()), "it was silent".into());
    starts.step(Timestamp(at), lost).unwrap().job
}

#[test]
fn a_wait_between_attempts_ends_though_the_clock_was_set_back_meanwhile() {
    let mut state = one_cpu();
    let at = 1_000_000_000;
    state.job_is(tried_again(1, at));
    let (now, before) = (Timestamp(at), Timestamp(at - 300_000_000));
    assert_eq!(state.next_alarm(now), Some(Duration::from_secs(10)));
    assert_eq!(state.next_alarm(now), None, "it is seen to");
    // It rings, and the clock says that it is five minutes earlier.
    state.rings();
    assert_eq!(state.next_alarm(before), Some(Duration::from_secs(60)));
    assert!(state.dirty);
}

#[test]
fn whatever_it_is_tried_again_for_a_job_stands_where_its_user_put_it() {
    let mut halved = waiting(1, 10);
    halved.tried.halved = true;
    halved.state_since = Timestamp(500);
    assert_eq!(halved.queued().age, Timestamp(10));
    let mut started_again = tried_again(2, 10);
    started_again.asked_at = Some(Timestamp(900));
    assert_eq!(started_again.queued().age, Timestamp(900));
}

#[test]
fn a_place_stays_taken_until_its_job_answers_whatever_is_said_of_it_meanwhile() {
    let mut state = one_cpu();
    state.job_is(waiting(1, 10));
    state.place(Timestamp(1_000)).unwrap();
    let mut urgent = waiting(2, 20);
    urgent.spec.priority = 5;
    state.job_is(urgent);
    // Said before the placement reached it.
    state.job_is(waiting(1, 10));
    state.place(Timestamp(1_000)).unwrap();
    assert!(holds(&state, 1) && !holds(&state, 2));
    let reason = state.reason(JobId(1)).unwrap();
    assert_eq!(reason, "has a place on n1, which is being stored");
    let proposal = state.unanswered.get(&JobId(1)).cloned().unwrap();
    let JobMsg::Decided(placed, _) = proposal.into() else {
        panic!("not an event");
    };
    let started = waiting(1, 10).step(Timestamp(30), placed).unwrap().job;
    state.job_is(started.clone());
    assert_eq!(
        state.planner.ledger().held_by(JobId(1)),
        started.allocations()
    );
    assert!(state.unanswered.is_empty());
}

#[test]
fn a_job_cancelled_before_its_place_reached_it_gives_it_back() {
    let mut state = one_cpu();
    state.job_is(waiting(1, 10));
    state.place(Timestamp(1_000)).unwrap();
    state.job_is(waiting(2, 20));
    let cancelled = waiting(1, 10).step(Timestamp(30), Event::CancelRequested);
    state.job_is(cancelled.unwrap().job);
    state.place(Timestamp(1_000)).unwrap();
    assert!(!holds(&state, 1) && holds(&state, 2));
    // Queued anew: the place from before is not what it waits for.
    state.job_is(waiting(1, 40));
    assert!(!holds(&state, 1) && state.planner.queue().get(JobId(1)).is_some());
}

/// It has run twice for a minute and made room, and its checkpoint is that of the first time.
fn made_room_since_it_saved() -> Job {
    let minute = |from: i64| (Timestamp(from), Timestamp(from + 60_000_000));
    let mut job = waiting(4, 10);
    job.spec.resume = true;
    job.resumable = Some(Checkpoint {
        path: "s3://b/last.pt".into(),
        size_bytes: None,
    });
    job.saved_in = [("s3://b/last.pt".into(), AttemptNo(1))].into();
    for (number, (from, until)) in [(1, minute(100)), (2, minute(90_000_000))] {
        let held = Allocation {
            node: NodeName("n1".into()),
            cpus: 1,
            memory_bytes: 0,
            gpus: Vec::new(),
            address: String::new(),
        };
        let secret = Secret::from("s".to_owned());
        let mut attempt = Attempt::placed(AttemptNo(number), held, Vec::new(), (secret, from));
        (attempt.lead.started_at, attempt.lead.ended_at) = (Some(from), Some(until));
        (attempt.makes_room_for, attempt.tried_again) = (Some(JobId(9)), true);
        job.attempts.push(attempt);
    }
    job
}

#[tokio::test]
async fn the_queue_is_at_a_start_what_it_was_told_job_by_job() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(folder.path().join("trainyard.redb"));
    let store = Store::open(options, Box::new(|error| panic!("{error}"))).unwrap();
    let mut again = waiting(1, 50);
    again.spec.priority = 3;
    again.spec.resources.cpus = 4;
    again.tried.again = 1;
    again.not_before = Some(Timestamp(60));
    again.failed_on = [NodeName("n1".into())].into();
    let mut running = waiting(2, 10);
    running.state = JobState::Running;
    let gone = made_room_since_it_saved();
    assert_eq!(
        (gone.queued().has_run.as_secs(), gone.queued().in_vain),
        (60, 1)
    );
    let put = |job: &Job| Change::PutJob(Box::new(job.clone()));
    let changes = vec![put(&again), put(&running), put(&waiting(3, 20)), put(&gone)];
    store.commit_and_wait(changes).await.unwrap();
    let (queue, others) = store.open_jobs_apart().unwrap();
    let told = [again.queued(), waiting(3, 20).queued(), gone.queued()];
    assert_eq!(queue, told);
    assert_eq!(others, [running]);
}

/// A job that waits for another one to succeed.
fn dependant(id: u64, at: i64, other: u64) -> Job {
    let spec = JobSpec {
        after: vec![JobId(other)],
        ..JobSpec::default()
    };
    let job = Job::accepted(JobId(id), spec, String::new(), Timestamp(at));
    job.step(Timestamp(at), Event::Prepared).unwrap().job
}

#[test]
fn what_is_read_of_a_job_that_others_wait_for_counts_unless_that_has_said_more_since() {
    let mut state = one_cpu();
    let now = Timestamp(1_000);
    state.job_is(dependant(2, 10, 1));
    assert_eq!(state.unread, [JobId(1)].into());
    state.unread.clear();
    state.reading.insert(JobId(1), 1);
    // It has succeeded after it was read.
    let mut over = waiting(1, 5);
    over.state = JobState::Completed;
    state.job_is(over);
    state.stood(1, vec![(JobId(1), Some((Standing::Open, None)))]);
    state.place(now).unwrap();
    assert!(holds(&state, 2), "{:?}", state.reason(JobId(2)));
    // Nobody has said anything of this one, so what was read is true.
    state.job_is(dependant(4, 10, 3));
    state.unread.clear();
    state.reading.insert(JobId(3), 2);
    state.stood(2, vec![(JobId(3), Some((Standing::Failed, None)))]);
    state.place(now).unwrap();
    assert!(state.planner.never(JobId(4)).is_some());
    // What could not be read is asked for again.
    state.job_is(dependant(6, 10, 5));
    state.reading.insert(JobId(5), 3);
    state.unread.clear();
    state.stood(3, vec![(JobId(5), None)]);
    state.rings();
    assert_eq!(state.unread, [JobId(5)].into());
}

#[test]
fn a_job_whose_wait_is_in_vain_is_told_so_until_it_has_heard() {
    let mut state = one_cpu();
    let now = Timestamp(1_000);
    state.job_is(dependant(2, 10, 1));
    let mut failed = waiting(1, 5);
    failed.state = JobState::Failed;
    state.job_is(failed);
    state.place(now).unwrap();
    assert!(!holds(&state, 2));
    let told = || "it was to start when job 1 has succeeded, and that has failed";
    assert_eq!(state.planner.never(JobId(2)), Some(told()));
    // Whatever became of that word, it is said again soon, and when the job speaks as if it had not heard.
    assert_eq!(state.next_alarm(now), Some(SOON));
    state.rings();
    assert_eq!(state.next_alarm(now), Some(SOON));
    state.job_is(dependant(2, 10, 1));
    state.place(now).unwrap();
    assert!(!holds(&state, 2));
    let hopeless = dependant(2, 10, 1).step(now, Event::Hopeless(told().to_owned()));
    state.job_is(hopeless.unwrap().job);
    assert_eq!(state.planner.nevers().count(), 0);
    state.rings();
    assert_eq!(state.next_alarm(now), None);
    // It is run again, and so is what it waits for.
    state.job_is(waiting(1, 50));
    state.job_is(dependant(2, 60, 1));
    assert_eq!(state.planner.never(JobId(2)), None);
}

#[test]
fn for_whom_nodes_are_kept_is_noted_once_and_not_of_one_that_waits_no_more() {
    use trainyard_core::{
        decision::Kind,
        sched::{
            Planner,
            policy::{Config, Rule},
        },
    };
    let config = Config {
        rule: Rule::Easy,
        ..Config::default()
    };
    let mut state = State {
        planner: Planner::new(config),
        ..one_cpu()
    };
    let capacity = Capacity {
        cpus: 1,
        ..Capacity::default()
    };
    state.set_node(NodeName("n1".into()), capacity, true);
    let limited = |id, at| {
        let mut job = waiting(id, at);
        job.spec.time_limit = Some(Duration::from_secs(3_600));
        job
    };
    state.job_is(limited(1, 10));
    state.place(Timestamp(1_000)).unwrap();
    let kept = |state: &State| {
        let notes = state.notes.unwritten().iter();
        let kept = notes.filter(|note| note.kind == Kind::Kept);
        kept.map(|note| (note.job, note.nodes.clone(), note.words.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(&state), []);
    state.job_is(limited(2, 20));
    for second in 2..40 {
        state.place(Timestamp(second * 1_000_000)).unwrap();
    }
    let notes = kept(&state);
    let [(job, nodes, words)] = &notes[..] else {
        panic!("{notes:?}");
    };
    assert_eq!(
        (*job, nodes.as_slice()),
        (Some(JobId(2)), &[NodeName("n1".into())][..])
    );
    assert!(
        words.starts_with("nodes n1 are kept for it, and expected to be free at ")
            && words.ends_with(
                ": who comes behind it starts there only if it is expected to be gone by then"
            ),
        "{words}"
    );
    let cancelled = limited(2, 20).step(Timestamp(50), Event::CancelRequested);
    state.job_is(cancelled.unwrap().job);
    assert_eq!(kept(&state), []);
}

/// A job that has had the GPU of a node since it was accepted, and whose trainer runs.
fn on_gpu(id: u64, node: &str) -> Job {
    let mut job = waiting(id, 10);
    job.spec.preemptible = true;
    job.spec.resources.gpus = 1;
    let placed = Event::Placed {
        queued_at: Timestamp(10),
        allocations: vec![Allocation {
            node: NodeName(node.into()),
            cpus: 1,
            memory_bytes: 0,
            gpus: vec![format!("GPU-{node}")],
            address: String::new(),
        }],
        secret: "s".to_owned().into(),
    };
    let task = TaskKey {
        job: JobId(id),
        attempt: AttemptNo(1),
        rank: Rank(0),
    };
    let at = Timestamp(20);
    let starts = job.step(at, placed).unwrap().job;
    starts.step(at, Event::Started(task, at)).unwrap().job
}

#[test]
fn of_two_that_could_go_the_one_goes_whose_first_attempt_has_saved_something_by_now() {
    for saved in [1, 2] {
        let mut state = State::default();
        for node in ["n1", "n2"] {
            let gpu = Gpu {
                uuid: format!("GPU-{node}"),
                model: "Tesla T4".into(),
                memory_bytes: 16 << 30,
            };
            let capacity = Capacity {
                cpus: 4,
                gpus: vec![gpu],
                ..Capacity::default()
            };
            state.set_node(NodeName(node.into()), capacity, true);
        }
        let jobs = [on_gpu(1, "n1"), on_gpu(2, "n2")];
        for job in &jobs {
            state.job_is(job.clone());
        }
        // Told while it runs, as a checkpoint that is stored is.
        let mut told = jobs[saved - 1].clone();
        told.resumable = Some(Checkpoint {
            path: "s3://b/last.pt".into(),
            size_bytes: None,
        });
        state.job_is(told.clone());
        let mut urgent = waiting(3, 30);
        urgent.spec.priority = 9;
        urgent.spec.resources.gpus = 1;
        state.job_is(urgent);
        // A round later than the first look.
        let then = clock::now().plus(Duration::from_secs(61));
        state.place(then).unwrap();
        let goes = [1, 2].map(|id| state.planner.leaves_for(JobId(id)).is_some());
        assert_eq!(goes, [saved == 1, saved == 2]);
    }
}

#[tokio::test]
async fn a_scheduler_has_looked_once_it_was_told_of_the_whole_queue_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(folder.path().join("trainyard.redb"));
    let store = Store::open(options, Box::new(|error| panic!("{error}"))).unwrap();
    let has_looked: Arc<OnceLock<()>> = Arc::default();
    let args = SchedulerArgs {
        policy: policy::Config::default(),
        store,
        has_looked: Arc::clone(&has_looked),
    };
    let (scheduler, _) = Scheduler::spawn(None, Scheduler, args).await.unwrap();
    // The second answer comes behind the look at what was told before the first one.
    let asks = async || {
        let question = |reply| SchedulerMsg::Reasons(vec![JobId(1), JobId(2)], reply);
        crate::actors::ask(&scheduler, question).await.unwrap();
        crate::actors::ask(&scheduler, question).await.unwrap()
    };
    let one = SchedulerMsg::JobIs(Box::new(waiting(1, 0)));
    scheduler.cast(one).unwrap();
    let reasons = asks().await;
    assert!(reasons[0].is_some() && reasons[1].is_none(), "{reasons:?}");
    assert!(
        has_looked.get().is_none(),
        "it knows one of who knows how many"
    );
    scheduler.cast(SchedulerMsg::Waiting(Vec::new())).unwrap();
    asks().await;
    assert!(has_looked.get().is_some());
}
