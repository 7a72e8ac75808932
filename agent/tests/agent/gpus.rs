//! GPUs of tasks that have ended: given back when they are free, and otherwise kept from further jobs.
//!
//! Owns these cases, with a driver of their own. Called by the cases' main.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use trainyard_agent::{boot::AgentOptions, devices::Devices, inventory::parse_simulated_gpus};
use trainyard_core::device::{GivingBack, Used};
use trainyard_proto::v1::{LogStream, StopCause, connect_response::Frame};

use crate::{
    fake::Fake,
    harness::{
        Agent, LIMIT, folder, launch, options, said, shell, start_of, stop_of, task_folder, until,
    },
};

const GPU: &str = "GPU-SIM-n1-0";

/// A card with so many bytes in use, which counts how often it was asked.
#[derive(Debug, Default)]
struct Card {
    used: AtomicU64,
    asked: AtomicU64,
}

impl Card {
    fn set(&self, used: u64) {
        self.used.store(used, Ordering::Relaxed);
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Devices for Card {
    fn used(&self, uuid: &str) -> Used {
        self.asked
            .fetch_add(u64::from(uuid == GPU), Ordering::Relaxed);
        Ok(self.used.load(Ordering::Relaxed))
    }
}

/// A card that processes hold whose pids stand in a file: 3 GiB as long as one of them lives.
#[derive(Debug)]
struct HeldCard(PathBuf);

impl HeldCard {
    fn pids(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn is_held(&self) -> bool {
        let lives = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            // One that nobody has waited for holds nothing.
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        self.pids().iter().any(lives)
    }
}

impl Devices for HeldCard {
    fn used(&self, _uuid: &str) -> Used {
        Ok(if self.is_held() { 3 << 30 } else { 0 })
    }
}

/// An agent with one GPU, which is given back within `patience`.
async fn node(card: &Arc<Card>, patience: Duration) -> (Fake, Agent, TempDir) {
    node_on(folder(), Arc::clone(card) as Arc<dyn Devices>, patience).await
}

async fn node_on(
    data: TempDir,
    card: Arc<dyn Devices>,
    patience: Duration,
) -> (Fake, Agent, TempDir) {
    let fake = Fake::start().await;
    let options = options_on(&fake, &data, card, patience);
    (fake, launch(options), data)
}

fn options_on(
    fake: &Fake,
    data: &TempDir,
    card: Arc<dyn Devices>,
    patience: Duration,
) -> AgentOptions {
    let mut options = options(fake, data.path());
    options.devices = Some(card);
    options.simulated_gpus = Some(parse_simulated_gpus("1xT4-16GB").expect("a GPU"));
    options.giving_back = GivingBack {
        patience,
        ..GivingBack::default()
    };
    options
}

/// A trainer that holds the GPU until the file is there that this answers with.
async fn holds_gpu(fake: &Fake, data: &TempDir) -> PathBuf {
    let go = data.path().join("go");
    let script = format!(
        "trap '' TERM; echo up; until [ -e {} ]; do sleep 0.01; done",
        go.display()
    );
    fake.send(on_gpu(1, &script)).await;
    said(fake, 1, "up").await;
    go
}

fn on_gpu(job: u64, script: &str) -> Frame {
    let Frame::Start(mut start) = start_of(job, shell(script)) else {
        panic!("not a start");
    };
    start.gpu_uuids = vec![GPU.to_owned()];
    Frame::Start(start)
}

/// One that ends, and leaves memory in use.
async fn leaves_memory(fake: &Fake, card: &Card, data: &TempDir) {
    let go = holds_gpu(fake, data).await;
    card.set(3 << 30);
    std::fs::write(go, "").expect("the go is given");
}

pub(crate) async fn the_end_of_a_task_is_told_when_the_memory_of_its_gpu_is_free() {
    let card = Arc::new(Card::default());
    let (fake, agent, data) = node(&card, Duration::from_secs(60)).await;
    leaves_memory(&fake, &card, &data).await;
    let exit = task_folder(&data, 1).join("exit.json");
    until(|| exit.exists()).await;
    let asked = card.asked();
    until(|| card.asked() > asked + 2).await;
    let end = task_folder(&data, 1).join("end.json");
    assert!(!end.exists() && fake.known().blocked.is_empty());
    card.set(5 << 20);
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    assert_eq!(fake.known().blocked, []);
    agent.stop().await;
}

pub(crate) async fn a_gpu_whose_memory_stays_in_use_is_blocked_before_the_end_is_told_and_until_it_is_free()
 {
    let card = Arc::new(Card::default());
    let (fake, agent, data) = node(&card, Duration::from_millis(300)).await;
    leaves_memory(&fake, &card, &data).await;
    // What is known at the first word of the end.
    let blocked = fake
        .until(|known| {
            let ended = known
                .reports
                .get(&1)
                .is_some_and(|report| report.end.is_some());
            ended.then(|| known.blocked.clone())
        })
        .await;
    let [gpu] = blocked.as_slice() else {
        panic!("{blocked:?}");
    };
    assert_eq!(gpu.uuid, GPU);
    assert!(
        gpu.reason.starts_with("3 GiB of its memory"),
        "{}",
        gpu.reason
    );
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    let own = fake.lines(1, LogStream::System);
    assert!(
        own.iter().any(|line| line.contains("gets no more jobs")),
        "{own:?}"
    );
    card.set(0);
    fake.until(|known| known.blocked.is_empty().then_some(()))
        .await;
    agent.stop().await;
}

pub(crate) async fn a_gpu_that_is_held_when_the_agent_starts_gets_no_jobs() {
    let card = Arc::new(Card::default());
    card.set(3 << 30);
    let (fake, agent, _data) = node(&card, Duration::from_secs(60)).await;
    let hello = fake.hello(0).await;
    assert_eq!(hello.blocked_gpus.len(), 1, "it is told before all else");
    card.set(0);
    fake.until(|known| known.blocked.is_empty().then_some(()))
        .await;
    agent.stop().await;
}

pub(crate) async fn a_restarted_agent_says_at_once_that_what_an_ended_task_left_on_its_gpu_is_still_there()
 {
    let card = Arc::new(Card::default());
    let (fake, agent, data) = node(&card, Duration::from_millis(300)).await;
    leaves_memory(&fake, &card, &data).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    agent.stop().await;
    let agent = launch(options_on(&fake, &data, card, Duration::from_millis(300)));
    let hello = fake.hello(1).await;
    assert_eq!(hello.blocked_gpus.len(), 1, "{:?}", hello.blocked_gpus);
    agent.stop().await;
}

pub(crate) async fn killing_the_parent_of_a_trainer_leaves_no_process_and_no_gpu_memory() {
    let data = folder();
    let card = Arc::new(HeldCard(data.path().join("pids")));
    let held = Arc::clone(&card) as Arc<dyn Devices>;
    let (fake, agent, data) = node_on(data, held, Duration::from_secs(60)).await;
    // The trainer, a child, and one in a session of its own whose parent is gone.
    let script = format!(
        "say() {{ echo $1 >> {0}; }}
        sleep 1000 & say $!
        (setsid sh -c 'echo $$ >> {0}; exec sleep 1000' &)
        say $$; echo up; exec sleep 1000",
        card.0.display()
    );
    let Frame::Start(mut start) = start_of(1, shell(&script)) else {
        panic!("not a start");
    };
    start.gpu_uuids = vec![GPU.to_owned()];
    fake.send(Frame::Start(start)).await;
    said(&fake, 1, "up").await;
    until(|| card.pids().len() == 3).await;
    let record = std::fs::read(task_folder(&data, 1).join("proc.json")).expect("proc.json");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let shim = record
        .pointer("/shim/pid")
        .and_then(serde_json::Value::as_i64);
    let shim = i32::try_from(shim.expect("it names its shim")).expect("a pid");
    assert!(card.is_held());
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("it lives");
    // At the first word of the end its GPU may be given to another.
    let held = fake
        .until(|known| {
            let report = known.reports.get(&1)?;
            report.end.as_ref().map(|_| card.is_held())
        })
        .await;
    assert!(!held, "a process of the trainer still holds the GPU");
    let end = fake.whole_end(1).await;
    assert!(end.infrastructure, "{end:?}");
    assert_eq!(fake.known().blocked, []);
    agent.stop().await;
}

pub(crate) async fn a_gpu_stays_held_while_it_cannot_be_seen_what_its_task_has_left_behind() {
    let card = Arc::new(Card::default());
    let (fake, agent, data) = node(&card, Duration::from_millis(300)).await;
    let go = holds_gpu(&fake, &data).await;
    let (record, aside) = (
        task_folder(&data, 1).join("proc.json"),
        data.path().join("aside"),
    );
    std::fs::rename(&record, &aside).expect("it is put aside");
    std::fs::create_dir(&record).expect("a folder cannot be read");
    std::fs::write(go, "").expect("the go is given");
    let blocked = fake
        .until(|known| {
            let report = known.reports.get(&1)?;
            report.end.as_ref().map(|_| known.blocked.clone())
        })
        .await;
    let [gpu] = blocked.as_slice() else {
        panic!("{blocked:?}");
    };
    assert!(gpu.reason.contains("cannot be looked at"), "{}", gpu.reason);
    let asked = card.asked();
    std::fs::remove_dir(&record).expect("it is empty");
    std::fs::rename(&aside, &record).expect("it is back");
    fake.until(|known| known.blocked.is_empty().then_some(()))
        .await;
    assert!(card.asked() > asked, "it was looked at once more");
    agent.stop().await;
}

/// Waits until `job` is not started for what another task has.
async fn waits(fake: &Fake, job: u64) {
    fake.until(|known| {
        let report = known.reports.get(&job)?;
        let waits = report.detail.starts_with("waits for its place: ");
        waits.then_some(())
    })
    .await;
}

/// One that is being stopped and takes its time, as one of an attempt that was given up.
pub(crate) async fn a_task_whose_gpu_another_one_still_has_starts_when_that_has_ended() {
    let (fake, agent, data) = node(&Arc::default(), Duration::from_secs(60)).await;
    let go = holds_gpu(&fake, &data).await;
    fake.send(stop_of(1, LIMIT)).await;
    fake.send(on_gpu(2, "echo $CUDA_VISIBLE_DEVICES")).await;
    waits(&fake, 2).await;
    assert!(!task_folder(&data, 2).join("launch.json").exists());
    std::fs::write(go, "").expect("the go is given");
    assert_eq!(fake.whole_end(2).await.exit_code, Some(0));
    assert_eq!(fake.lines(2, LogStream::Stdout), [GPU]);
    let own = fake.lines(2, LogStream::System);
    let words = "not started yet: job 1 attempt 1 rank 0 still has GPU GPU-SIM-n1-0".to_owned();
    assert!(own.contains(&words), "{own:?}");
    agent.stop().await;
}

pub(crate) async fn a_task_that_waits_for_what_another_one_has_is_cancelled_at_once() {
    let (fake, agent, data) = node(&Arc::default(), Duration::from_secs(60)).await;
    let go = holds_gpu(&fake, &data).await;
    fake.send(on_gpu(2, "exit 0")).await;
    waits(&fake, 2).await;
    fake.send(stop_of(2, LIMIT)).await;
    let end = fake.whole_end(2).await;
    assert_eq!(end.stop_cause(), StopCause::Cancelled);
    assert!(!task_folder(&data, 2).join("launch.json").exists());
    std::fs::write(go, "").expect("the go is given");
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    agent.stop().await;
}

pub(crate) async fn a_restarted_agent_gives_nobody_the_gpu_of_a_trainer_that_it_has_not_adopted_yet()
 {
    let card: Arc<Card> = Arc::default();
    let (fake, agent, data) = node(&card, Duration::from_secs(60)).await;
    let go = holds_gpu(&fake, &data).await;
    agent.stop().await;
    fake.hang_up();
    // Who runs there cannot be read for now, so that it is not adopted.
    let (record, aside) = (
        task_folder(&data, 1).join("proc.json"),
        data.path().join("aside"),
    );
    std::fs::rename(&record, &aside).expect("it is put aside");
    std::fs::create_dir(&record).expect("a folder cannot be read");
    let agent = launch(options_on(&fake, &data, card, Duration::from_secs(60)));
    fake.hello(1).await;
    fake.send(on_gpu(2, "exit 0")).await;
    waits(&fake, 2).await;
    std::fs::remove_dir(&record).expect("it is empty");
    std::fs::rename(&aside, &record).expect("it is back");
    std::fs::write(go, "").expect("the go is given");
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    assert_eq!(fake.whole_end(2).await.exit_code, Some(0));
    agent.stop().await;
}
