//! Jobs: submitting, listing, starting and stopping. What a job has reported is read in `series`.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State};
use http::HeaderMap;
use serde::Serialize;
use serde_json::json;
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState, Resume},
};
use trainyard_proto::http::{Bound, SAFE, problem};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    create,
    error::{Answer, Refusal},
    openapi::{About, Acting, Sending},
    request::{Asked, Body, Id, ProjectId, Reader, User},
    submission::TrainingJobRequest,
    views::TrainingJob,
};
use crate::api::{Jobs, Service};

/// How long after its grace a job may take to end before a cancel is answered without its end.
const PATIENCE: Duration = Duration::from_secs(5);
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

/// A page of jobs, newest first.
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
    /// Always `stopped`.
    status: &'static str,
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
    Body(body): Body,
) -> Answer<TrainingJob> {
    let key = key(&headers)?;
    let spec = create::spec(&body)?;
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
/// Those that the caller may read, newest first.
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
    })?;
    let page = service.jobs(&caller, wanted).await?;
    let last = page.rows.last().filter(|_| page.more);
    let next_cursor = last.map(|job| job.id.to_string());
    let jobs = Names::of(&service).all(page.rows)?;
    Ok(Json(JobPage { jobs, next_cursor }))
}

/// All jobs of a project, newest first
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
) -> Answer<Vec<TrainingJob>> {
    let mut names = Names::of(&service);
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let wanted = Jobs {
            before,
            project_id: Some(project),
            limit: usize::MAX,
            ..Jobs::default()
        };
        let page = service.jobs(&caller, wanted).await?;
        before = page.rows.last().map(|job| job.id);
        found.extend(names.all(page.rows)?);
        if !page.more {
            return Ok(Json(found));
        }
    }
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
/// Waits for its end as long as its grace allows; 400 when it has ended already.
#[utoipa::path(
    post,
    path = "/training/jobs/{id}/cancel",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "The job as it is then", body = TrainingJob), Acting)
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
    responses((status = 200, description = "The job, which waits again", body = TrainingJob), Acting)
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
        ("checkpoint_path" = Option<String>, Query, description = "A stored checkpoint by its location, or a path as the trainer's node sees it"),
        ("resume" = Option<bool>, Query, description = "Go on where that checkpoint ended, epochs and optimizer included"),
    ),
    responses((status = 200, description = "The job, which waits", body = TrainingJob), Acting)
)]
pub(super) async fn start(
    State(service): State<Service>,
    User(caller): User,
    Id(id): Id,
    asked: Asked,
) -> Answer<TrainingJob> {
    let wanted = asked.read(|fields| Resume {
        checkpoint: fields
            .optional_text("checkpoint_path")
            .filter(|path| !path.is_empty()),
        whole: fields.optional_flag("resume").unwrap_or(false),
    })?;
    shown(&service, service.start(&caller, id, wanted).await?)
}

/// The older way to stop a job
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
    service.cancel_and_wait(&caller, id, PATIENCE).await?;
    Ok(Json(Stopped {
        job_id: id,
        status: "stopped",
        message: format!("Training job {id} stopped"),
    }))
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
