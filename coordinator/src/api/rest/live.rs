//! Live updates over a WebSocket: `/api/v1/ws/training?job_id=`.
//!
//! Owns the messages of the contract and the bounds of one connection. What happens to a job comes from
//! the service, by cursors in the store: a slow client falls behind and loses nothing, and one that takes
//! nothing for a while is cut off. Not part of the OpenAPI document, which knows no WebSockets.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures::Stream;
use http::{
    HeaderMap, HeaderValue,
    header::{HOST, ORIGIN},
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::MissedTickBehavior;
use tokio_stream::{StreamExt as _, StreamMap};
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState},
    record::{Completion, LogLine, LogStream},
};
use trainyard_proto::{
    http::{Bound, Fields},
    status::Kind,
};

use super::{error::Refusal, request::Asked};
use crate::{
    api::{ApiError, Caller, Service, live::Update, peer::bearer},
    clock,
    config::Http,
    store::StoredPoint,
};

/// Jobs that one connection may follow.
const JOBS: usize = 16;
/// The largest message of a client, in bytes.
const MESSAGE: usize = 4 << 10;
/// How long a client may take to take one message.
const TAKE: Duration = Duration::from_secs(10);
/// How often a client is asked whether it is there, and looked at whether it may still be; and after how
/// many silent times it is not.
const BEAT: Duration = Duration::from_secs(10);
const SILENT: u32 = 6;

/// What the server says.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    Connected {
        message: &'static str,
        timestamp: String,
    },
    Pong,
    Subscribed {
        job_id: JobId,
    },
    Error {
        message: String,
    },
    TrainingProgress {
        job_id: JobId,
        status: &'static str,
        current_epoch: u32,
        total_epochs: u32,
        progress_percent: f64,
        metrics: Option<Metrics>,
        checkpoint_path: Option<String>,
        best_checkpoint_path: Option<String>,
    },
    TrainingLog {
        job_id: JobId,
        level: String,
        event_type: &'static str,
        message: String,
        timestamp: String,
    },
    TrainingComplete(Box<End>),
    TrainingError(Box<End>),
}

/// Metrics in the shape in which trainers report them.
#[derive(Debug, Serialize)]
struct Metrics {
    loss: Option<f64>,
    accuracy: Option<f64>,
    learning_rate: Option<f64>,
    extra_metrics: BTreeMap<String, f64>,
}

/// How a job ended.
#[derive(Debug, Serialize)]
struct End {
    job_id: JobId,
    status: &'static str,
    total_epochs_completed: u32,
    final_metrics: Option<Metrics>,
    best_metrics: Option<Metrics>,
    best_epoch: Option<u32>,
    final_checkpoint_path: Option<String>,
    best_checkpoint_path: Option<String>,
    clearml_task_id: Option<String>,
    error_message: Option<String>,
}

/// The token comes in the header, or in the query from browsers, which cannot send one.
pub(super) async fn training(
    State(service): State<Service>,
    headers: HeaderMap,
    asked: Asked,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    from_page(&headers, service.http())?;
    let (job, token) = asked.read(|fields| {
        let job = fields.whole_within("job_id", &[Bound::Ge(0)]);
        (job, fields.optional_text("token"))
    })?;
    let token = bearer(&headers).map(str::to_owned).or(token);
    let caller = service.identify(token.as_deref()).await?;
    let job = job.and_then(|id| u64::try_from(id).ok()).map(JobId);
    if let Some(id) = job {
        service.job(&caller, id).await?;
    }
    let upgrade = upgrade.map_err(|rejection| {
        let words = format!("Only a WebSocket is spoken here: {rejection}");
        ApiError::new(Kind::Invalid, words)
    })?;
    let upgrade = upgrade.max_message_size(MESSAGE).max_frame_size(MESSAGE);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let mut watcher = Watcher {
            socket,
            service,
            caller,
            jobs: StreamMap::new(),
        };
        // A client that is gone needs no answer.
        watcher.run(job).await.ok();
    }))
}

/// Browsers ask nobody before they open a WebSocket, so what CORS is for other calls is looked at here: a
/// page may call from its own coordinator or from an origin of the settings. Who is no browser names none.
fn from_page(headers: &HeaderMap, settings: &Http) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let own = || {
        let host = headers.get(HOST)?.to_str().ok()?;
        let (_, page) = origin.to_str().ok()?.split_once("://")?;
        Some(page.eq_ignore_ascii_case(host))
    };
    let listed = |known: &HeaderValue| known == "*" || known == origin;
    if settings.origins().iter().any(listed) || own() == Some(true) {
        return Ok(());
    }
    let words =
        "pages of this origin may not call (http.cors_origins in the coordinator's settings)";
    Err(ApiError::new(Kind::Forbidden, words).into())
}

/// The client is gone, or takes nothing.
#[derive(Debug)]
struct Gone;

type Updates = Pin<Box<dyn Stream<Item = Result<Update, ApiError>> + Send>>;

/// One connection.
struct Watcher {
    socket: WebSocket,
    service: Service,
    caller: Caller,
    jobs: StreamMap<JobId, Updates>,
}

impl Watcher {
    async fn run(&mut self, job: Option<JobId>) -> Result<(), Gone> {
        // Before the first message: whoever has seen it misses nothing.
        let refused = job.and_then(|id| self.follow(id).err());
        self.say(&Said::Connected {
            message: "Connected to training updates",
            timestamp: clock::now().to_naive_iso(),
        })
        .await?;
        if let Some(error) = refused {
            self.refuse(error.message).await?;
        }
        let stop = self.service.stop().clone();
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = 0;
        loop {
            tokio::select! {
                heard = self.socket.recv() => {
                    silent = 0;
                    match heard {
                        Some(Ok(Message::Text(text))) => self.answer(text.as_str()).await?,
                        Some(Ok(Message::Binary(_))) => self.refuse("messages are text").await?,
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                    }
                }
                Some((id, update)) = self.jobs.next(), if !self.jobs.is_empty() => match update {
                    Ok(update) => self.say(&said(id, update)).await?,
                    Err(error) => {
                        self.jobs.remove(&id);
                        self.refuse(error.message).await?;
                    }
                },
                _ = beat.tick() => {
                    silent += 1;
                    self.ask(silent).await?;
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn answer(&mut self, text: &str) -> Result<(), Gone> {
        let said: Value = serde_json::from_str(text).unwrap_or_default();
        let kind = said.get("type").and_then(Value::as_str);
        let job = job_id(&said);
        match (kind, job) {
            (Some("ping"), _) => self.say(&Said::Pong).await,
            (Some("subscribe"), Some(job_id)) => match self.follow(job_id) {
                Ok(()) => self.say(&Said::Subscribed { job_id }).await,
                Err(error) => self.refuse(error.message).await,
            },
            (Some("unsubscribe"), Some(job)) => {
                self.jobs.remove(&job);
                Ok(())
            }
            // As old clients do: nothing in particular is everything.
            (Some("unsubscribe"), None) => {
                self.jobs.clear();
                Ok(())
            }
            (Some("subscribe"), None) => {
                self.refuse("subscribe needs job_id, the number of a job")
                    .await
            }
            (Some(_) | None, _) => {
                self.refuse(
                    "send {\"type\": \"ping\"}, or \"subscribe\" or \"unsubscribe\" with job_id",
                )
                .await
            }
        }
    }

    /// Asks whether the client is there, if it still may be.
    async fn ask(&mut self, silent: u32) -> Result<(), Gone> {
        if silent > SILENT {
            return Err(Gone);
        }
        if let Err(error) = self.service.still(&self.caller) {
            self.dismiss(error).await?;
            return Err(Gone);
        }
        self.send(Message::Ping(axum::body::Bytes::new())).await
    }

    /// Says why, and closes.
    async fn dismiss(&mut self, error: ApiError) -> Result<(), Gone> {
        self.refuse(error.message).await?;
        let frame = CloseFrame {
            code: close_code::POLICY,
            reason: "the login has ended".into(),
        };
        self.send(Message::Close(Some(frame))).await
    }

    /// A job that is followed already is followed on. Asks with the caller's rights of this moment.
    fn follow(&mut self, id: JobId) -> Result<(), ApiError> {
        self.caller = self.service.still(&self.caller)?;
        if self.jobs.contains_key(&id) {
            return Ok(());
        }
        if self.jobs.len() >= JOBS {
            let words = format!("one connection follows {JOBS} jobs at most; open another");
            return Err(ApiError::new(Kind::Exhausted, words));
        }
        let updates = self.service.live(self.caller.clone(), id)?;
        self.jobs.insert(id, Box::pin(updates));
        Ok(())
    }

    async fn refuse(&mut self, message: impl Into<String>) -> Result<(), Gone> {
        let message = message.into();
        self.say(&Said::Error { message }).await
    }

    async fn say(&mut self, said: &Said) -> Result<(), Gone> {
        let Ok(text) = serde_json::to_string(said) else {
            return Err(Gone);
        };
        self.send(Message::text(text)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Gone> {
        let sent = tokio::time::timeout(TAKE, self.socket.send(message)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// The job of a message: a number, or one as text, as in the paths and queries of REST.
fn job_id(said: &Value) -> Option<JobId> {
    let mut fields = Fields::new(said.as_object()?, Vec::new());
    let id = fields.whole_within("job_id", &[Bound::Ge(0)]);
    id.and_then(|id| u64::try_from(id).ok()).map(JobId)
}

fn said(job_id: JobId, update: Update) -> Said {
    match update {
        Update::Progress(job, point) => progress(*job, point.map(|point| *point)),
        Update::Line(row) => {
            let line = row.line;
            Said::TrainingLog {
                job_id,
                event_type: event_type(line.stream),
                level: level(&line),
                message: line.text,
                timestamp: line.at.to_naive_iso(),
            }
        }
        Update::Ended(job, best) => end(*job, best.map(|best| *best)),
    }
}

fn progress(job: Job, point: Option<StoredPoint>) -> Said {
    let told = point.is_some();
    let report = point.map(|point| point.progress).or(job.progress);
    let epochs = report
        .as_ref()
        .map(|report| (report.epoch, report.total_epochs));
    let (current_epoch, total_epochs) = epochs.unwrap_or((0, job.spec.epochs));
    let share = f64::from(current_epoch) / f64::from(total_epochs.max(1));
    let report = report.filter(|_| told);
    let (metrics, checkpoint, best) = report.map_or((None, None, None), |report| {
        let metrics = report.has_metrics.then(|| metrics(report.values));
        (metrics, report.checkpoint, report.best_checkpoint)
    });
    Said::TrainingProgress {
        job_id: job.id,
        status: job.state.contract_name(),
        current_epoch,
        total_epochs,
        progress_percent: (share * 100.0).min(100.0),
        metrics,
        checkpoint_path: checkpoint.map(|checkpoint| checkpoint.path),
        best_checkpoint_path: best.map(|checkpoint| checkpoint.path),
    }
}

fn end(job: Job, best: Option<StoredPoint>) -> Said {
    let completion = job.attempt().and_then(|newest| newest.completion.as_ref());
    let reported = job.progress.as_ref().map_or(0, |report| report.epoch);
    let total_epochs_completed = completion.map_or(reported, |word| word.epochs_completed);
    let status = job.state.contract_name();
    let completed = job.state == JobState::Completed;
    let (best_epoch, best_metrics) = best_of(completion, best);
    let outcome = job.outcome.filter(|_| !completed);
    let end = Box::new(End {
        job_id: job.id,
        status,
        total_epochs_completed,
        final_metrics: (!job.final_metrics.is_empty()).then(|| metrics(job.final_metrics)),
        best_metrics: best_metrics.map(metrics),
        best_epoch,
        final_checkpoint_path: job.last_checkpoint.map(|checkpoint| checkpoint.path),
        best_checkpoint_path: job.best_checkpoint.map(|checkpoint| checkpoint.path),
        clearml_task_id: job.clearml_task_id,
        error_message: outcome.map(|outcome| outcome.message),
    });
    match completed {
        true => Said::TrainingComplete(end),
        false => Said::TrainingError(end),
    }
}

/// What the trainer said is its best epoch; else the best point.
fn best_of(
    word: Option<&Completion>,
    best: Option<StoredPoint>,
) -> (Option<u32>, Option<BTreeMap<String, f64>>) {
    let found = best.map(|best| (best.progress.epoch, best.progress.values));
    let said = word.filter(|word| word.best_epoch.is_some() || !word.best_metrics.is_empty());
    let Some(word) = said else {
        return found.unzip();
    };
    let same = found.filter(|(epoch, _)| Some(*epoch) == word.best_epoch);
    let own = Some(word.best_metrics.clone()).filter(|own| !own.is_empty());
    (
        word.best_epoch,
        own.or_else(|| same.map(|(_, values)| values)),
    )
}

fn metrics(mut values: BTreeMap<String, f64>) -> Metrics {
    Metrics {
        loss: values.remove("loss"),
        accuracy: values.remove("accuracy"),
        learning_rate: values.remove("learning_rate"),
        extra_metrics: values,
    }
}

fn event_type(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::System => "system",
        LogStream::Callback => "log",
    }
}

/// Plain output has no level of its own.
fn level(line: &LogLine) -> String {
    match (line.level.as_str(), line.stream) {
        ("", LogStream::Stderr) => "ERROR".to_owned(),
        ("", _) => "INFO".to_owned(),
        (level, _) => level.to_owned(),
    }
}
