//! GPUs of tasks that have ended: given back when they are free, and otherwise kept from further jobs.
//!
//! Owns these cases, with a driver of their own. Called by the cases' main.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use trainyard_agent::{devices::Devices, inventory::parse_simulated_gpus};
use trainyard_core::device::{GivingBack, Used};
use trainyard_proto::v1::{LogStream, connect_response::Frame};

use crate::{
    fake::Fake,
    harness::{Agent, folder, launch, options, said, shell, start_of, task_folder, until},
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

/// An agent with one GPU, which is given back within `patience`.
async fn node(card: &Arc<Card>, patience: Duration) -> (Fake, Agent, TempDir) {
    let (fake, data) = (Fake::start().await, folder());
    let mut options = options(&fake, data.path());
    options.devices = Some(Arc::clone(card) as Arc<dyn Devices>);
    options.simulated_gpus = Some(parse_simulated_gpus("1xT4-16GB").expect("a GPU"));
    options.giving_back = GivingBack {
        patience,
        ..GivingBack::default()
    };
    (fake, launch(options), data)
}

/// A trainer that holds the GPU until its file is there, and then leaves memory in use.
async fn leaves_memory(fake: &Fake, card: &Card, data: &TempDir) {
    let go = data.path().join("go");
    let script = format!(
        "echo up; until [ -e {} ]; do sleep 0.01; done",
        go.display()
    );
    let Frame::Start(mut start) = start_of(1, shell(&script)) else {
        panic!("not a start");
    };
    start.gpu_uuids = vec![GPU.to_owned()];
    fake.send(Frame::Start(start)).await;
    said(fake, 1, "up").await;
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
    fake.until(|known| (known.blocked.len() == 1).then_some(()))
        .await;
    card.set(0);
    fake.until(|known| known.blocked.is_empty().then_some(()))
        .await;
    agent.stop().await;
}
