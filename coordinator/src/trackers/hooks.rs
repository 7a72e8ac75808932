//! Webhooks: changes into a durable outbox, and out of it to the receiver.
//!
//! Owns the outbox of one webhook: its order for each job, its tries, its signatures. A change and the
//! note that it is in the outbox are one commit; a delivery leaves it when it was taken, refused for
//! good, or a day old. Never decides which changes there are. Called by the tracker's actor.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use aws_lc_rs::hmac;
use futures::future::join_all;
use reqwest::{Client, StatusCode, header::CONTENT_TYPE};
use trainyard_core::{
    ids::{JobId, Rank},
    job::Job,
    time::Timestamp,
};

use super::{
    events::{Event, Page, untold},
    feed::Tally,
    http::{self, Failure},
    parked::Failing,
    rows::{DeliveryRow, ToldRow, WaitingRow},
    waits::wait_after,
};
use crate::{
    clock,
    config::WebhookConfig,
    store::{Change, Store},
};

/// Deliveries that wait before no more are made; what changes beyond that is found later.
const MOST: usize = 100_000;
/// Deliveries under way at once, each of another job.
const AT_ONCE: usize = 8;
/// For so long a delivery is tried.
const KEPT: Duration = Duration::from_secs(86_400);
/// Points that are read at once.
const PAGE: usize = 1_000;

/// One webhook.
#[derive(Debug)]
pub(super) struct Hook {
    name: String,
    store: Store,
    client: Client,
    config: WebhookConfig,
    /// What waits, oldest first, by job.
    queues: BTreeMap<JobId, Queue>,
    waiting: usize,
    last_number: u64,
    failing: Failing,
}

#[derive(Debug, Default)]
struct Queue {
    numbers: VecDeque<u64>,
    due_at: Timestamp,
}

impl Hook {
    /// With the outbox as it was left.
    pub(super) fn open(
        name: String,
        store: Store,
        client: Client,
        config: WebhookConfig,
    ) -> Result<Self, Failure> {
        let kept = store.documents::<WaitingRow>(&format!("{name}/"))?;
        let mut hook = Self {
            name,
            store,
            client,
            config,
            queues: BTreeMap::new(),
            waiting: 0,
            last_number: 0,
            failing: Failing::default(),
        };
        for delivery in kept {
            hook.last_number = hook.last_number.max(delivery.number);
            hook.enqueue(delivery.job, delivery.number, delivery.due_at);
        }
        Ok(hook)
    }

    fn enqueue(&mut self, job: JobId, number: u64, due_at: Timestamp) {
        let queue = self.queues.entry(job).or_default();
        if queue.numbers.is_empty() {
            queue.due_at = due_at;
        }
        queue.numbers.push_back(number);
        self.waiting += 1;
    }

    /// What was not taken since anything was.
    pub(super) fn failing(&self) -> &Failing {
        &self.failing
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting >= MOST
    }

    /// Puts what changed of a job into the outbox, a page of its points at a time.
    pub(super) async fn job(&mut self, id: JobId) -> Result<(), Failure> {
        let Some(job) = self.store.job(id)? else {
            return Ok(());
        };
        let key = ToldRow::key_of(&self.name, id);
        let told = self.store.document::<ToldRow>(&key)?;
        let mut told = told.unwrap_or_else(|| ToldRow {
            tracker: self.name.clone(),
            job: id,
            ..ToldRow::default()
        });
        loop {
            let page = self.page(&job, told.last_point)?;
            let (events, next) = untold(self.store.instance(), &job, &told, &page);
            if next != told {
                self.put(&next, events).await?;
            }
            if page.more.is_none() {
                return Ok(());
            }
            told = next;
        }
    }

    /// The deliveries and the note that they are made are one commit.
    async fn put(&mut self, next: &ToldRow, events: Vec<Event>) -> Result<(), Failure> {
        let wanted = |kind: &str| {
            let events = &self.config.events;
            events.is_empty() || events.iter().any(|event| event == kind)
        };
        let now = clock::now();
        let mut changes = vec![Change::put(next)];
        let first = self.last_number + 1;
        for event in events.into_iter().filter(|event| wanted(event.kind)) {
            self.last_number += 1;
            let row = DeliveryRow {
                tracker: self.name.clone(),
                number: self.last_number,
                job: next.job,
                event: event.kind.to_owned(),
                id: event.id,
                body: event.body.to_string(),
                since: now,
                tries: 0,
                due_at: now,
            };
            changes.push(Change::put(&row));
        }
        self.store.commit_and_wait(changes).await?;
        for number in first..=self.last_number {
            self.enqueue(next.job, number, now);
        }
        Ok(())
    }

    /// The next points of a job that name a checkpoint. Those of an attempt that began after the job was
    /// read are left for the next time.
    fn page(&self, job: &Job, after: u64) -> Result<Page, Failure> {
        let newest = job.attempt().map(|newest| newest.number);
        let mut points = self.store.points(job.id, after, PAGE)?;
        // A page may also end by its text.
        let more = match points.last() {
            Some(last) => !self.store.points(job.id, last.id, 1)?.is_empty(),
            None => false,
        };
        let known = points.partition_point(|point| Some(point.attempt) <= newest);
        points.truncate(known);
        let more = more.then(|| points.last().map(|last| (last.attempt, last.id)));
        points.retain(|point| point.rank == Rank(0));
        points.retain(|point| {
            point.progress.checkpoint.is_some() || point.progress.best_checkpoint.is_some()
        });
        Ok(Page {
            points,
            more: more.flatten(),
        })
    }

    /// Sends the oldest delivery of some jobs that are due, and says what failed of them. An error says
    /// that the receiver is to be left alone for a while: none was taken, and that is not one job's fault.
    pub(super) async fn deliver(&mut self, tally: &mut Tally) -> Result<Option<Failure>, Failure> {
        let now = clock::now();
        let mut rows = Vec::new();
        for number in self.heads(now) {
            let key = DeliveryRow::key_of(&self.name, number);
            rows.extend(self.store.document::<DeliveryRow>(&key)?);
        }
        let sent = join_all(rows.iter().map(|row| self.post(row))).await;
        let mut changes = Vec::new();
        let mut worst = None;
        let (mut moved, mut stands) = (false, false);
        for (row, result) in rows.into_iter().zip(sent) {
            let (job, again) = (row.job, row.tries > 0);
            match self.settle(row, result, tally, &mut changes) {
                Some(failure) => {
                    stands |= self.failing.failed(job, &failure, again);
                    worst = Some(failure);
                }
                None => moved = true,
            }
        }
        if moved {
            self.failing.taken();
        }
        self.store.commit_and_wait(changes).await?;
        match worst {
            Some(failure) if stands && !moved => Err(failure),
            failed => Ok(failed),
        }
    }

    /// The first of those queues that are due the longest: jobs that fail again and again come behind those
    /// that were not tried yet.
    fn heads(&self, now: Timestamp) -> Vec<u64> {
        let due = self.queues.values().filter(|queue| queue.due_at <= now);
        let mut heads: Vec<_> = due
            .filter_map(|queue| Some((queue.due_at, *queue.numbers.front()?)))
            .collect();
        heads.sort_unstable();
        heads.truncate(AT_ONCE);
        heads.into_iter().map(|(_, number)| number).collect()
    }

    /// Takes a delivery out of the outbox, or notes when it is tried again and says why.
    fn settle(
        &mut self,
        mut row: DeliveryRow,
        result: Result<(), Failure>,
        tally: &mut Tally,
        changes: &mut Vec<Change>,
    ) -> Option<Failure> {
        let now = clock::now();
        let (job, id) = (row.job, &row.id);
        match result {
            Ok(()) => {
                tally.taken += 1;
                tally.success = true;
            }
            // A refusal of credentials is tried again: a proxy answers so while a receiver is replaced.
            Err(Failure::Never(words)) => {
                tracing::warn!(tracker = self.name, %job, delivery = id, error = words,
                    "the receiver does not take this delivery; it is given up");
                tally.dropped += 1;
            }
            Err(failure) if now.since(row.since) >= KEPT => {
                tracing::warn!(tracker = self.name, %job, delivery = id, error = failure.words(),
                    "this delivery was not taken for a day; it is given up");
                tally.dropped += 1;
            }
            Err(failure) => {
                let wait = wait_after(&failure, row.tries);
                row.tries = row.tries.saturating_add(1);
                row.due_at = now.plus(wait);
                if let Some(queue) = self.queues.get_mut(&job) {
                    queue.due_at = row.due_at;
                }
                changes.push(Change::put(&row));
                return Some(failure);
            }
        }
        changes.push(Change::remove::<DeliveryRow>(DeliveryRow::key_of(
            &self.name, row.number,
        )));
        self.waiting = self.waiting.saturating_sub(1);
        if let Some(queue) = self.queues.get_mut(&job) {
            queue.numbers.pop_front();
            queue.due_at = now;
            if queue.numbers.is_empty() {
                self.queues.remove(&job);
            }
        }
        None
    }

    /// When the next delivery is due; none when none waits.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.queues.values().map(|queue| queue.due_at).min()
    }

    async fn post(&self, row: &DeliveryRow) -> Result<(), Failure> {
        let timestamp = clock::now().0.div_euclid(1_000_000).to_string();
        let signature = sign(self.config.secret.expose(), &timestamp, &row.body);
        let request = self
            .client
            .post(&self.config.url)
            .header(CONTENT_TYPE, "application/json")
            .header("X-Trainyard-Event", &row.event)
            .header("X-Trainyard-Delivery", &row.id)
            .header("X-Trainyard-Timestamp", &timestamp)
            .header("X-Trainyard-Signature", signature)
            .body(row.body.clone());
        let answer = http::send(request).await?;
        if answer.status.is_success() {
            return Ok(());
        }
        let words = http::without(&[&self.config.secret], &answer.text);
        let failure = http::judge(&answer, &words);
        // A receiver that is being replaced has no such address for a while; 410 says that it is gone.
        match answer.status {
            StatusCode::NOT_FOUND => Err(Failure::Later(
                failure.words().to_owned(),
                answer.retry_after,
            )),
            _ => Err(failure),
        }
    }
}

/// `sha256=` and the HMAC, in hexadecimal, of the timestamp, a dot and the body.
fn sign(secret: &str, timestamp: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body.as_bytes());
    let mut text = "sha256=".to_owned();
    for byte in context.sign().as_ref() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_hmac_of_timestamp_and_body() {
        // By `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key`.
        assert_eq!(
            sign("key", "1700000000", r#"{"a":1}"#),
            "sha256=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03"
        );
    }
}
