//! Jobs: submitting, listing, starting and stopping. What a job has reported is read in `series`.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse as _, Response},
};
use futures::stream::BoxStream;
use http::{HeaderMap, header};
use serde::Serialize;
use serde_json::json;
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState, Resume},
    spec::texts::path_problem,
};
use trainyard_proto::http::{Bound, SAFE, problem};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    create,
    error::{Answer, Refusal, both},
    openapi::{About, Acting, Again, Sending},
    request::{Asked, Body as Given, Id, ProjectId, Reader, User},
    submission::TrainingJobRequest,
    views::TrainingJob,
};
use crate::api::{Jobs, LONGEST_WAIT, Service};

/// How long after its grace a job may take to end before a cancel is answered without its end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Text of jobs that is held while all of a project are sent, in bytes.
const PART: usize = 1 << 20;
/// The same key again answers with the first job.
const KEY: &str = "idempotency-key";
/// Characters of such a key.
const LONGEST_KEY: usize = 200;
/// The contract's words for where a job stands.
const STATUSES: [&str; 6] = [
    "pending",
    "running",
    "completed",
    "failed",
    "cancelled",
    "stopped",
];

/// The calls.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(job))
        .routes(routes!(cancel))
        .routes(routes!(restart))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(experiments))
}

/// A page of jobs, newest first. It may be shorter than asked for, or empty, and not be the last:
/// only a null `next_cursor` says that.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobPage {
    jobs: Vec<TrainingJob>,
    /// The `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// The answer to the older way to cancel.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stopped {
    #[schema(value_type = u64)]
    job_id: JobId,
    /// Always `stopped`, also while the trainer is still given its time to end.
    status: &'static str,
    /// Says whether it has ended, or is still being stopped.
    message: String,
}

/// Submit a job
///
/// It is on disk when this answers. The same `Idempotency-Key` with the same
/// submission again answers with the first job; with another submission it is refused with 409.
#[utoipa::path(
    post,
    path = "/training/jobs",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]*$", max_length = 200,
        description = "Chosen by the caller; the same submission with it makes no second job, another one is refused with 409")),
    request_body = TrainingJobRequest,
    responses((status = 200, description = "Accepted", body = TrainingJob), Sending)
)]
pub(super) async fn create(
    State(service): State<Service>,
    User(caller): User,
    headers: HeaderMap,
    Given(body): Given,
) -> Answer<TrainingJob> {
    let (key, spec) = both(key(&headers), create::spec(&body))?;
    let job = service.submit(&caller, spec, key).await;
    let job = job.map_err(|error| create::refusal(&body, error))?;
    shown(&service, job)
}

/// The key of a submission: none when it is empty, refused when another client could not send it again.
fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(KEY) else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    if bytes.len() > LONGEST_KEY || !bytes.iter().all(u8::is_ascii_graphic) {
        let place = json!(["header", KEY]);
        let words = format!("Give at most {LONGEST_KEY} visible ASCII characters without blanks");
        let given = String::from_utf8_lossy(bytes).into_owned().into();
        let entry = problem("string_pattern_mismatch", &place, &words, &given);
        return Err(Refusal::Fields(vec![entry]));
    }
    let key = String::from_utf8_lossy(bytes).into_owned();
    Ok(Some(key).filter(|key| !key.is_empty()))
}

/// List jobs
///
/// Those that the caller may read, newest first. A page ends at `limit`, at 8 MiB of text, or when many
/// jobs that are not asked for, or not the caller's to read, were looked at: it may be short or even empty
/// and still have a `next_cursor`. Go on until that is null.
#[utoipa::path(
    get,
    path = "/training/jobs",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(
        ("status" = Option<String>, Query, pattern = "^(pending|running|completed|failed|cancelled|stopped)$",
            description = "Only jobs that stand so; `stopped` means `cancelled`"),
        ("project_id" = Option<i64>, Query, minimum = -9007199254740991_i64, maximum = 9007199254740991_i64, description = "Only jobs of this project"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 when it is left out"),
        ("cursor" = Option<i64>, Query, minimum = 0, maximum = 9007199254740991_i64, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = JobPage), About)
)]
pub(super) async fn list(
    State(service): State<Service>,
    Reader(caller): Reader,
    asked: Asked,
) -> Answer<JobPage> {
    let most = service.page_rows();
    let wanted = asked.read(|fields| Jobs {
        states: fields
            .one_of("status", &STATUSES)
            .map_or_else(Vec::new, states),
        project_id: fields.whole_within("project_id", &SAFE),
        limit: fields.limit(50, most),
        before: fields
            .whole_within("cursor", &[Bound::Ge(0), SAFE[1]])
            .and_then(|id| u64::try_from(id).ok())
            .map(JobId),
        bytes: 0,
    })?;
    let page = service.jobs(&caller, wanted).await?;
    let next_cursor = page.next.map(|id| id.to_string());
    let jobs = Names::of(&service).all(page.rows)?;
    Ok(Json(JobPage { jobs, next_cursor }))
}

/// All jobs of a project, newest first
///
/// Sent as they are read, however many there are; a fault in the middle breaks the connection. Parts of the
/// list: `GET /training/jobs?project_id=`.
#[utoipa::path(
    get,
    path = "/projects/{id}/experiments",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The project")),
    responses((status = 200, description = "Its jobs", body = Vec<TrainingJob>), About)
)]
pub(super) async fn experiments(
    State(service): State<Service>,
    Reader(caller): Reader,
    ProjectId(project): ProjectId,
) -> Result<Response, Refusal> {
    let wanted = move |before| Jobs {
        before,
        project_id: Some(project),
        limit: usize::MAX,
        bytes: PART,
        ..Jobs::default()
    };
    // A refusal has a status only before the first byte.
    let mut page = service.jobs(&caller, wanted(None)).await?;
    let parts = async_stream::try_stream! {
        let mut text = vec![b'['];
        let mut first = true;
        loop {
            for job in Names::of(&service).all(page.rows).map_err(broken)? {
                if !std::mem::take(&mut first) {
                    text.push(b',');
                }
                serde_json::to_writer(&mut text, &job).map_err(broken)?;
            }
            let Some(next) = page.next else { break };
            if !text.is_empty() {
                yield Bytes::from(std::mem::take(&mut text));
            }
            page = service.jobs(&caller, wanted(Some(next))).await.map_err(broken)?;
        }
        text.push(b']');
        yield Bytes::from(text);
    };
    let parts: BoxStream<'static, Result<Bytes, Broken>> = Box::pin(parts);
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, Body::from_stream(parts)).into_response())
}

/// A list that cannot be gone on with: what was sent is not the whole, so the connection breaks.
#[derive(Debug, thiserror::Error)]
#[error("the list could not be read to its end")]
struct Broken;

fn broken(error: impl std::fmt::Debug) -> Broken {
    tracing::warn!(?error, "a list of jobs broke in the middle");
    Broken
}

/// Look at a job
#[utoipa::path(
    get,
    path = "/training/jobs/{id}",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "The job", body = TrainingJob), About)
)]
pub(super) async fn job(
    State(service): State<Service>,
    Reader(caller): Reader,
    Id(id): Id,
) -> Answer<TrainingJob> {
    shown(&service, service.job(&caller, id).await?)
}

/// Stop a job
///
/// Waits for its end as long as its grace allows, and 25 s at most: with a longer grace the job that is
/// shown may still be `running`, and ends later by itself. 400 when it has ended already.
#[utoipa::path(
    post,
    path = "/training/jobs/{id}/cancel",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "The job as it is then: `cancelled`, or still on its way out", body = TrainingJob), Acting)
)]
pub(super) async fn cancel(
    State(service): State<Service>,
    User(caller): User,
    Id(id): Id,
) -> Answer<TrainingJob> {
    let job = service.cancel_and_wait(&caller, id, PATIENCE).await?;
    shown(&service, job)
}

/// Run an ended job again
#[utoipa::path(
    post,
    path = "/training/jobs/{id}/restart",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "The job, which waits again", body = TrainingJob), Again)
)]
pub(super) async fn restart(
    State(service): State<Service>,
    User(caller): User,
    Id(id): Id,
) -> Answer<TrainingJob> {
    shown(&service, service.restart(&caller, id).await?)
}

/// Start a job
///
/// The platform starts jobs by itself: a waiting one is only shown, an ended one runs again. With
/// `resume` it goes on from its last checkpoint, or from the one that is named.
#[utoipa::path(
    post,
    path = "/training/jobs/{id}/start",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(
        ("id" = i64, Path, description = "The job"),
        ("checkpoint_path" = Option<String>, Query, max_length = 4096, pattern = "^[^\\x00]*$", description = "A stored checkpoint by its location, or a path as the trainer's node sees it"),
        ("resume" = Option<bool>, Query, description = "Go on where that checkpoint ended, epochs and optimizer included"),
    ),
    responses((status = 200, description = "The job, which waits", body = TrainingJob), Again)
)]
pub(super) async fn start(
    State(service): State<Service>,
    User(caller): User,
    id: Result<Id, Refusal>,
    asked: Asked,
) -> Answer<TrainingJob> {
    let wanted = asked.read(|fields| {
        let checkpoint = fields.optional_text("checkpoint_path");
        let checkpoint = checkpoint.filter(|path| !path.is_empty());
        fields.check(
            "checkpoint_path",
            checkpoint.as_deref().and_then(path_problem),
        );
        let whole = fields.optional_flag("resume").unwrap_or(false);
        Resume { checkpoint, whole }
    });
    let (Id(id), wanted) = both(id, wanted)?;
    shown(&service, service.start(&caller, id, wanted).await?)
}

/// The older way to stop a job
///
/// Waits as `cancel` does; `message` says when the job has not ended yet.
#[utoipa::path(
    post,
    path = "/training/stop/{id}",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "It stops", body = Stopped), Acting)
)]
pub(super) async fn stop(
    State(service): State<Service>,
    User(caller): User,
    Id(id): Id,
) -> Answer<Stopped> {
    let job = service.cancel_and_wait(&caller, id, PATIENCE).await?;
    Ok(Json(stopped(&job)))
}

/// What is told of a stop: not that it is over when it is not.
fn stopped(job: &Job) -> Stopped {
    let id = job.id;
    let message = match job.state.is_terminal() {
        true => format!("Training job {id} stopped"),
        false => format!(
            "Training job {id} is being stopped and is still {}: its trainer has {} s to end by itself, an answer waits {} s at most; look at GET /training/jobs/{id}",
            job.state.contract_name(),
            job.spec.grace_period.as_secs(),
            LONGEST_WAIT.as_secs()
        ),
    };
    Stopped {
        job_id: id,
        status: "stopped",
        message,
    }
}

/// One job as the contract shows it.
fn shown(service: &Service, job: Job) -> Answer<TrainingJob> {
    Ok(Json(Names::of(service).one(job)?))
}

/// Jobs with the names of their projects, each looked up once.
pub(super) struct Names<'s> {
    service: &'s Service,
    known: BTreeMap<i64, Option<String>>,
}

impl<'s> Names<'s> {
    pub(super) fn of(service: &'s Service) -> Self {
        let known = BTreeMap::new();
        Self { service, known }
    }

    pub(super) fn one(&mut self, job: Job) -> Result<TrainingJob, Refusal> {
        let name = match job.spec.project_id {
            None => None,
            Some(id) => match self.known.get(&id) {
                Some(name) => name.clone(),
                None => {
                    let name = self.service.project_name(id)?;
                    self.known.insert(id, name.clone());
                    name
                }
            },
        };
        Ok(TrainingJob::of(job, name))
    }

    fn all(&mut self, jobs: Vec<Job>) -> Result<Vec<TrainingJob>, Refusal> {
        jobs.into_iter().map(|job| self.one(job)).collect()
    }
}

fn states(word: &str) -> Vec<JobState> {
    let word = match word {
        "stopped" => "cancelled",
        word => word,
    };
    let of_word = |state: &JobState| state.contract_name() == word;
    JobState::ALL.into_iter().filter(of_word).collect()
}
