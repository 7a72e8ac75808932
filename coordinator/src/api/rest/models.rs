//! What can be trained. Known to anyone: it stands in the open source as well.

use axum::Json;
use serde::Serialize;
use serde_json::{Map, Value};
use trainyard_core::spec::TaskType;
use trainyard_proto::status::Kind;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::Answer,
    openapi::Finding,
    request::{Asked, ModelName, Named},
};
use crate::api::{
    ApiError, Service,
    models::{self, Capabilities, Model},
};

/// The calls.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(capabilities))
        .routes(routes!(model))
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelView {
    framework: &'static str,
    model_name: &'static str,
    /// Under their short names.
    task_types: &'static [String],
    description: &'static str,
    /// Whether it is tried and meant to be used.
    supported: bool,
}

/// What a trainer can do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CapabilitiesView {
    framework: &'static str,
    models: Vec<ModelView>,
    /// Whatever else its author says of it, such as `dataset_formats` and `devices`.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    more: &'static Map<String, Value>,
}

/// List models
#[utoipa::path(
    get,
    path = "/models/list",
    tag = "models",
    params(
        ("framework" = Option<String>, Query, description = "Only of this framework"),
        ("task_type" = Option<String>, Query, description = "Only for this task, under its long or short name"),
        ("supported_only" = Option<bool>, Query, description = "Only models that are meant to be used; true when it is left out"),
    ),
    responses((status = 200, description = "Models by framework", body = Vec<ModelView>), Finding)
)]
pub(super) async fn list(asked: Asked) -> Answer<Vec<ModelView>> {
    let (framework, task, supported_only) = asked.read(|fields| {
        (
            fields.optional_text("framework"),
            fields.optional_text("task_type"),
            fields.optional_flag("supported_only").unwrap_or(true),
        )
    })?;
    let trainers = match framework {
        Some(name) => std::slice::from_ref(trainer(&name)?),
        None => models::all(),
    };
    let wanted = |model: &Model| {
        let task = task.as_deref();
        (model.supported || !supported_only) && task.is_none_or(|task| does(model, task))
    };
    let all = trainers.iter().flat_map(|trainer| {
        let models = trainer.models.iter().filter(|model| wanted(model));
        models.map(|model| view(trainer, model))
    });
    Ok(Json(all.collect()))
}

/// Look at a model
#[utoipa::path(
    get,
    path = "/models/get",
    tag = "models",
    params(
        ("framework" = String, Query, description = "Its framework"),
        ("model_name" = String, Query, description = "Its name"),
    ),
    responses((status = 200, description = "The model", body = ModelView), Finding)
)]
pub(super) async fn get(asked: Asked) -> Answer<ModelView> {
    let (framework, name) =
        asked.read(|fields| (fields.text("framework"), fields.text("model_name")))?;
    found(&framework, &name)
}

/// Look at a model by its path
#[utoipa::path(
    get,
    path = "/models/{framework}/{model}",
    tag = "models",
    params(
        ("framework" = String, Path, description = "Its framework"),
        ("model" = String, Path, description = "Its name"),
    ),
    responses((status = 200, description = "The model", body = ModelView), Finding)
)]
pub(super) async fn model(ModelName(framework, name): ModelName) -> Answer<ModelView> {
    found(&framework, &name)
}

/// What a trainer can do
#[utoipa::path(
    get,
    path = "/models/capabilities/{framework}",
    tag = "models",
    params(("framework" = String, Path, description = "The framework")),
    responses((status = 200, description = "Its models and more", body = CapabilitiesView), Finding)
)]
pub(super) async fn capabilities(Named(framework): Named) -> Answer<CapabilitiesView> {
    let trainer = trainer(&framework)?;
    let models = trainer.models.iter().map(|model| view(trainer, model));
    Ok(Json(CapabilitiesView {
        framework: &trainer.framework,
        models: models.collect(),
        more: &trainer.more,
    }))
}

fn found(framework: &str, name: &str) -> Answer<ModelView> {
    let trainer = trainer(framework)?;
    let model = trainer.models.iter().find(|model| model.model_name == name);
    let model = model.ok_or_else(|| {
        let words = format!(
            "Model '{name}' not found in framework '{framework}'; GET /models/list names them"
        );
        ApiError::new(Kind::NotFound, words)
    })?;
    Ok(Json(view(trainer, model)))
}

fn trainer(framework: &str) -> Result<&'static Capabilities, ApiError> {
    models::of(framework).ok_or_else(|| {
        let known = models::all().iter().map(|found| found.framework.as_str());
        let known: Vec<_> = known.collect();
        let words = format!(
            "Framework '{framework}' not found; known are {}",
            known.join(", ")
        );
        ApiError::new(Kind::NotFound, words)
    })
}

fn does(model: &Model, task: &str) -> bool {
    let wanted = TaskType::parse(task);
    let does = |name: &String| name == task || wanted.is_some() && TaskType::parse(name) == wanted;
    model.task_types.iter().any(does)
}

fn view(trainer: &'static Capabilities, model: &'static Model) -> ModelView {
    ModelView {
        framework: &trainer.framework,
        model_name: &model.model_name,
        task_types: &model.task_types,
        description: &model.description,
        supported: model.supported,
    }
}
