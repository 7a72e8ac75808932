//! Datasets, snapshots, and where to put a checkpoint.

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Value, json};
use trainyard_core::snapshot::Snapshot;
use trainyard_proto::http::{self as bodies, problem};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::{Answer, Refusal, both},
    openapi::{About, Acting, Sending},
    request::{Asked, Base, Body, Id, Named, User},
};
use crate::{
    api::{ApiError, Service},
    datasets::{DatasetRow, NewDataset, UPLOAD, check_filename},
};

/// The calls.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(add, list))
        .routes(routes!(show, remove))
        .routes(routes!(snapshots))
        .routes(routes!(snapshot, delete_snapshot))
        .routes(routes!(upload_url))
}

/// A dataset to be registered. Fields that are not known are ignored.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes a body that is read field by field")]
pub(super) struct DatasetRequest {
    /// Its name, unique: letters, digits, `.`, `_` and `-`.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[.]*[A-Za-z0-9_-][A-Za-z0-9._-]*$"
    )]
    id: String,
    /// A folder's absolute path on the coordinator, or a URL such as `s3://bucket/prefix`.
    #[schema(min_length = 1, max_length = 300)]
    storage_path: String,
    /// Found out when it is left out or empty.
    #[schema(pattern = "^(dice|yolo|coco|imagefolder|image_folder|)$")]
    format: Option<String>,
    /// For people: the task that it is made for, under its long or short name.
    #[schema(
        pattern = "^((image_)?classification|(object_)?detection|(instance_)?segmentation|pose(_estimation)?|)$"
    )]
    task_type: Option<String>,
    /// For people.
    #[schema(max_length = 2000)]
    description: Option<String>,
}

/// A dataset.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DatasetView {
    id: String,
    storage_path: String,
    format: String,
    task_type: String,
    description: String,
    owner: String,
    created_at: String,
}

/// A page of datasets.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DatasetPage {
    datasets: Vec<DatasetView>,
    /// The `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// A snapshot: what a job trains on, described and never copied.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SnapshotView {
    snapshot_id: String,
    dataset_id: String,
    /// Where the files lie.
    dataset_path: String,
    dataset_format: String,
    /// The resolved split: `source`, `method`, `ratio`, `seed`, and how many images each part has.
    #[schema(value_type = Object)]
    split_config: Value,
    /// Over name, size and content of every file.
    dataset_version_hash: String,
    /// Over the part of every image.
    assignment_hash: String,
    files: u64,
    bytes: u64,
    created_by: String,
    created_at: String,
    notes: String,
}

/// A page of snapshots.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SnapshotPage {
    snapshots: Vec<SnapshotView>,
    /// The `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Which checkpoint is to be stored.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes a body that is read field by field")]
pub(super) struct UploadUrlRequest {
    /// Such as `best.pt`: no folders, at most 200 bytes.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = "^[^./\\\\\\x00-\\x1f\\x7f-\\x9f][^/\\\\\\x00-\\x1f\\x7f-\\x9f]*$"
    )]
    checkpoint_filename: String,
    /// Taken and not needed.
    content_type: Option<String>,
}

/// A way to store a checkpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UploadUrl {
    /// PUT the bytes here, without a token.
    upload_url: String,
    /// `checkpoints/{job_id}/{filename}`.
    object_key: String,
    /// How long the URL is good, in seconds.
    expires_in: u64,
}

/// That it was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Removed {
    message: String,
}

impl From<DatasetRow> for DatasetView {
    fn from(row: DatasetRow) -> Self {
        Self {
            id: row.id,
            storage_path: row.storage_path,
            format: row.format,
            task_type: row.task_type,
            description: row.description,
            owner: row.owner,
            created_at: row.created_at.to_naive_iso(),
        }
    }
}

impl From<Snapshot> for SnapshotView {
    fn from(row: Snapshot) -> Self {
        Self {
            snapshot_id: row.id,
            dataset_id: row.dataset_id,
            dataset_path: row.storage_path,
            dataset_format: row.format,
            split_config: row.split,
            dataset_version_hash: row.version_hash,
            assignment_hash: row.assignment_hash,
            files: row.files,
            bytes: row.bytes,
            created_by: row.created_by,
            created_at: row.created_at.to_naive_iso(),
            notes: row.notes,
        }
    }
}

/// Register a dataset
#[utoipa::path(
    post,
    path = "/datasets",
    tag = "datasets",
    security(("token" = []), ("login" = [])),
    request_body = DatasetRequest,
    responses((status = 200, description = "Registered", body = DatasetView), Sending)
)]
pub(super) async fn add(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Answer<DatasetView> {
    let new = bodies::read(&body, |fields, _| {
        let mut optional = |name| fields.optional_text(name).unwrap_or_default();
        let (format, task_type) = (optional("format"), optional("task_type"));
        let new = NewDataset {
            format,
            task_type,
            description: optional("description"),
            id: fields.text("id"),
            storage_path: fields.text("storage_path"),
        };
        let place = |field: &str| match field {
            "dataset_id" => vec!["id".to_owned()],
            field => vec![field.to_owned()],
        };
        fields.also(&new.problems(), place);
        new
    })?;
    Ok(Json(service.add_dataset(&caller, new).await?.into()))
}

/// List datasets
#[utoipa::path(
    get,
    path = "/datasets",
    tag = "datasets",
    security(("token" = []), ("login" = [])),
    params(
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 when it is left out"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = DatasetPage), Acting)
)]
pub(super) async fn list(
    State(service): State<Service>,
    User(caller): User,
    asked: Asked,
) -> Answer<DatasetPage> {
    let (token, limit) = page(&service, &asked)?;
    let listed = service.datasets(&caller, (&token, limit)).await;
    let (rows, next_cursor) = listed.map_err(|error| at_cursor(error, &token))?;
    let datasets = rows.into_iter().map(DatasetView::from).collect();
    Ok(Json(DatasetPage {
        datasets,
        next_cursor,
    }))
}

/// One dataset
#[utoipa::path(
    get,
    path = "/datasets/{id}",
    tag = "datasets",
    security(("token" = []), ("login" = [])),
    params(("id" = String, Path, description = "The dataset")),
    responses((status = 200, description = "The dataset", body = DatasetView), About)
)]
pub(super) async fn show(
    State(service): State<Service>,
    User(caller): User,
    Named(id): Named,
) -> Answer<DatasetView> {
    Ok(Json(service.dataset(&caller, &id).await?.into()))
}

/// Take a dataset out of the catalog
///
/// Its files and its snapshots stay.
#[utoipa::path(
    delete,
    path = "/datasets/{id}",
    tag = "datasets",
    security(("token" = []), ("login" = [])),
    params(("id" = String, Path, description = "The dataset")),
    responses((status = 200, description = "Removed", body = Removed), Acting)
)]
pub(super) async fn remove(
    State(service): State<Service>,
    User(caller): User,
    Named(id): Named,
) -> Answer<Removed> {
    service.remove_dataset(&caller, &id).await?;
    let message = format!("dataset '{id}' removed; its files and snapshots stay");
    Ok(Json(Removed { message }))
}

/// List snapshots
#[utoipa::path(
    get,
    path = "/snapshots",
    tag = "datasets",
    security(("token" = []), ("login" = [])),
    params(
        ("dataset_id" = Option<String>, Query, description = "Only those of this dataset"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 when it is left out"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = SnapshotPage), Acting)
)]
pub(super) async fn snapshots(
    State(service): State<Service>,
    User(caller): User,
    asked: Asked,
) -> Answer<SnapshotPage> {
    let (token, limit) = page(&service, &asked)?;
    let dataset = asked.read(|fields| fields.optional_text("dataset_id"))?;
    let found = service.snapshots(&caller, dataset, (&token, limit)).await?;
    let (rows, next_cursor) = found;
    let snapshots = rows.into_iter().map(SnapshotView::from).collect();
    Ok(Json(SnapshotPage {
        snapshots,
        next_cursor,
    }))
}

/// One snapshot
#[utoipa::path(
    get,
    path = "/snapshots/{id}",
    tag = "datasets",
    security(("token" = []), ("login" = [])),
    params(("id" = String, Path, description = "The snapshot")),
    responses((status = 200, description = "The snapshot", body = SnapshotView), About)
)]
pub(super) async fn snapshot(
    State(service): State<Service>,
    User(caller): User,
    Named(id): Named,
) -> Answer<SnapshotView> {
    Ok(Json(service.snapshot(&caller, &id).await?.into()))
}

/// Forget a snapshot
///
/// The dataset is not touched. Refused while a job that has not ended trains on it.
#[utoipa::path(
    delete,
    path = "/snapshots/{id}",
    tag = "datasets",
    security(("token" = []), ("login" = [])),
    params(("id" = String, Path, description = "The snapshot")),
    responses((status = 200, description = "Forgotten", body = Removed), Acting)
)]
pub(super) async fn delete_snapshot(
    State(service): State<Service>,
    User(caller): User,
    Named(id): Named,
) -> Answer<Removed> {
    service.delete_snapshot(&caller, &id).await?;
    let message = format!("snapshot '{id}' deleted; the dataset is as it was");
    Ok(Json(Removed { message }))
}

/// A way to store a checkpoint
#[utoipa::path(
    post,
    path = "/training/jobs/{id}/checkpoints/upload-url",
    tag = "training",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The job")),
    request_body = UploadUrlRequest,
    responses((status = 200, description = "Where to PUT it", body = UploadUrl), Sending)
)]
pub(super) async fn upload_url(
    State(service): State<Service>,
    User(caller): User,
    id: Result<Id, Refusal>,
    Base(base): Base,
    Body(body): Body,
) -> Answer<UploadUrl> {
    let filename = bodies::read(&body, |fields, _| {
        fields.optional_text("content_type");
        let name = fields.text("checkpoint_filename");
        let wrong = check_filename(&name).err();
        let wrong = wrong.iter().flat_map(|error| &error.violations).next();
        fields.check(
            "checkpoint_filename",
            wrong.map(|found| found.message.as_str()),
        );
        name
    });
    let (Id(id), filename) = both(id, filename)?;
    let upload = service.upload_url(&caller, id, &filename).await?;
    let upload_url = match upload.url.strip_prefix('/') {
        Some(path) => format!("{base}/{path}"),
        None => upload.url,
    };
    Ok(Json(UploadUrl {
        upload_url,
        object_key: upload.key,
        expires_in: UPLOAD.as_secs(),
    }))
}

/// Only the provider knows what a token of its pages looks like.
fn at_cursor(error: ApiError, token: &str) -> Refusal {
    let named = error
        .violations
        .iter()
        .find(|one| one.field == "page_token");
    let Some(named) = named else {
        return error.into();
    };
    let place = json!(["query", "cursor"]);
    Refusal::Fields(vec![problem(
        "value_error",
        &place,
        &named.message,
        &json!(token),
    )])
}

fn page(service: &Service, asked: &Asked) -> Result<(String, usize), Refusal> {
    let most = service.page_rows();
    asked.read(|fields| {
        let token = fields.optional_text("cursor").unwrap_or_default();
        (token, fields.limit(50, most))
    })
}
