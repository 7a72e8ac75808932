//! What the body of a submission looks like, for the document of this door.
//!
//! Only described here: bodies are read field by field in `create`, so that every field that is wrong
//! is named at once. The two must say the same; schemathesis compares them in the tests.

#![expect(
    dead_code,
    reason = "these types describe bodies that are read field by field"
)]

use std::collections::BTreeMap;

use trainyard_core::{
    dataset::trained_tasks,
    spec::{
        FRAMEWORKS, MOST_AWAITED, MOST_LABELS, TaskType,
        texts::{
            LONGEST_NAME, LONGEST_STRING, LONGEST_TAG, LONGEST_WORD, MOST_ARGUMENTS, MOST_TAGS,
            MOST_VARIABLES,
        },
    },
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        AllOfBuilder, Array, ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, RefOr, Schema,
        Type,
        schema::{AdditionalProperties, AnyOfBuilder, SchemaType},
    },
};

/// A submission. Fields that are not known are ignored.
#[derive(Debug, ToSchema)]
pub(super) struct TrainingJobRequest {
    /// Given by old clients, kept for them.
    #[schema(minimum = -9007199254740991_i64, maximum = 9007199254740991_i64)]
    session_id: Option<i64>,
    /// The project that owns the job; without one it is the caller's own.
    #[schema(minimum = -9007199254740991_i64, maximum = 9007199254740991_i64)]
    project_id: Option<i64>,
    #[schema(max_length = 200)]
    experiment_name: Option<String>,
    /// At most 100 of at most 200 characters.
    #[schema(schema_with = tags)]
    tags: Option<Vec<String>>,
    #[schema(max_length = 65536)]
    notes: Option<String>,
    /// What is to run: a training from a dataset by its id or its path, or a program.
    config: ConfigRequest,
}

/// The settings of a job.
#[derive(Debug, ToSchema)]
struct SettingsRequest {
    /// The trainer; `command` runs any program.
    #[schema(required = false, default = "timm")]
    framework: String,
    /// Not used by `command`.
    #[schema(max_length = 1000, pattern = "^[^\\x00]*$")]
    model_name: Option<String>,
    /// Not used by `command`. Both the long and the short names are known.
    #[schema(max_length = 1000, pattern = "^[^\\x00]*$")]
    task_type: Option<String>,
    #[schema(minimum = 2, maximum = 4294967295_i64)]
    num_classes: Option<u32>,
    /// A dataset that a provider knows; goes before `dataset_path`.
    #[schema(max_length = 1000, pattern = "^[^\\x00]*$")]
    dataset_id: Option<String>,
    /// A dataset as the agents see it.
    #[schema(max_length = 4096, pattern = "^[^\\x00]*$")]
    dataset_path: Option<String>,
    /// The provider's own word replaces it when `dataset_id` is given.
    #[schema(required = false, default = "imagefolder", max_length = 1000)]
    dataset_format: String,
    split_strategy: Option<SplitStrategyRequest>,
    #[schema(required = false, default = 50, minimum = 1, maximum = 1000)]
    epochs: u32,
    #[schema(required = false, default = 32, minimum = 1, maximum = 512)]
    batch_size: u32,
    #[schema(
        required = false,
        default = 0.001,
        exclusive_minimum = 0,
        exclusive_maximum = 1
    )]
    learning_rate: f64,
    /// `optimizer`, `scheduler`, `augmentation` and so on, handed to the trainer in its variable `CONFIG`, where
    /// they stand twice: 52,000 bytes as JSON, less where a split or prompts stand there too.
    #[schema(value_type = Option<Object>)]
    advanced_config: Option<serde_json::Value>,
    /// By the task when it is left out.
    #[schema(max_length = 1000)]
    primary_metric: Option<String>,
    #[schema(required = false, default = "max", pattern = "^(max|min)$")]
    primary_metric_mode: String,
    /// Words for models that are asked in words, handed to the trainer.
    custom_prompts: Option<Vec<String>>,
    #[schema(required = false, default = "offline", max_length = 1000)]
    prompt_mode: String,
    /// Given by old clients, kept for them.
    #[schema(max_length = 1000)]
    custom_docker_image: Option<String>,
    /// Pixels.
    #[schema(minimum = 1, maximum = 4294967295_i64)]
    image_size: Option<u32>,
    /// Another name of `image_size`.
    #[schema(minimum = 1, maximum = 4294967295_i64)]
    imgsz: Option<u32>,
    /// `cpu`, `0`, `0,1`; the trainer chooses when it is left out.
    #[schema(schema_with = device)]
    device: Option<serde_json::Value>,
    /// Program and arguments of framework `command`: 120,000 bytes each, 500,000 in all.
    #[schema(schema_with = arguments)]
    command: Option<Vec<String>>,
    /// Variables for the trainer: 120,000 bytes each with its name, 500,000 in all.
    #[schema(schema_with = environment)]
    environment: Option<BTreeMap<String, String>>,
    resources: Option<ResourcesRequest>,
    /// Higher runs first.
    #[schema(required = false, default = 0, minimum = 0, maximum = 1000)]
    priority: i32,
    /// How long the trainer may run.
    #[schema(minimum = 0.001, maximum = 315360000)]
    time_limit_seconds: Option<f64>,
    /// Between SIGTERM and SIGKILL.
    #[schema(required = false, default = 10.0, minimum = 0, maximum = 86400)]
    grace_period_seconds: f64,
    retry: Option<RetryRequest>,
    /// Nodes, each of which holds `resources`; more than one for framework `command`.
    #[schema(required = false, default = 1, minimum = 1, maximum = 1024)]
    nodes: u32,
    /// How the processes of framework `command` are started.
    #[schema(default = "plain", pattern = "^(plain|torchrun)$")]
    launcher: Option<String>,
    /// Processes that `torchrun` starts on each node; without it one a GPU, or one.
    #[schema(minimum = 1, maximum = 1024)]
    procs_per_node: Option<u32>,
    placement: Option<PlacementRequest>,
    /// It may be told to save its work and go, and goes on from its last checkpoint when there is room.
    preemptible: Option<bool>,
    /// It does not start before this moment (RFC 3339).
    #[schema(format = "date-time")]
    not_before: Option<String>,
    /// It starts when these jobs have succeeded, and is cancelled when one of them has not.
    #[schema(schema_with = awaited)]
    after: Option<Vec<u64>>,
    /// It starts when these jobs have ended, well or ill; none of them in `after` too.
    #[schema(schema_with = awaited)]
    after_any: Option<Vec<u64>>,
    /// Makes a job for each of these indices, at most 10,000: `0-99`, `1,3,7-9`, `0-99%5` for at most 5 at once. The
    /// answer is the first of them; the numbers of the others follow it without gaps.
    #[schema(
        pattern = "^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?){0,20}(%[0-9]{1,4})?$"
    )]
    array: Option<String>,
}

/// When a job is tried again by itself: never after a failure of its own.
#[expect(dead_code, reason = "it describes the body; `create` reads it")]
#[derive(Debug, ToSchema)]
struct RetryRequest {
    /// New attempts after failures of the platform or of a node.
    #[schema(required = false, default = 3, minimum = 0, maximum = 100)]
    limit: u32,
    /// Before the first of them, doubled for each further one.
    #[schema(required = false, default = 10.0, minimum = 0, maximum = 600)]
    backoff_seconds: f64,
    /// When its node is lost: another attempt elsewhere, or wait for the node.
    #[schema(required = false, default = "retry", pattern = "^(retry|wait)$")]
    on_lost: String,
    /// Once with half of the batch, for trainers that have one.
    #[schema(required = false, default = "fail", pattern = "^(fail|halve_batch)$")]
    out_of_memory: String,
}

/// Which images train, validate and test.
#[derive(Debug, ToSchema)]
struct SplitStrategyRequest {
    #[schema(pattern = "^(use_dataset|auto|custom)$")]
    method: String,
    /// Shares of train, validation and test, which make 1.
    #[schema(schema_with = shares)]
    ratio: Option<Vec<f64>>,
    /// 42 when it is left out.
    #[schema(minimum = -9007199254740991_i64, maximum = 9007199254740991_i64)]
    seed: Option<i64>,
    /// The part of an image, by the image's id. With `dataset_path` they must fit into the trainer's variable
    /// `CONFIG`, some 104,000 bytes as JSON; with `dataset_id` there may be any number.
    #[schema(schema_with = parts)]
    custom_splits: Option<BTreeMap<String, String>>,
    /// Images that take no part.
    exclude_images: Option<Vec<String>>,
}

/// What a job holds while it runs.
#[derive(Debug, ToSchema)]
struct ResourcesRequest {
    #[schema(required = false, default = 1, minimum = 1, maximum = 4096)]
    cpus: u32,
    /// A number of bytes, or a number with a unit.
    #[schema(schema_with = bytes)]
    memory: Option<serde_json::Value>,
    /// Another name of `memory`.
    #[schema(schema_with = bytes)]
    memory_bytes: Option<serde_json::Value>,
    #[schema(required = false, default = 0, minimum = 0, maximum = 1024)]
    gpus: u32,
    /// Part of the model's name. It and the sizes below are refused where neither `gpus` nor `gpus_total` says how many.
    gpu_model: Option<String>,
    /// Of each GPU: a number of bytes, or a number with a unit.
    #[schema(schema_with = bytes)]
    gpu_memory: Option<serde_json::Value>,
    /// Another name of `gpu_memory`.
    #[schema(schema_with = bytes)]
    gpu_memory_bytes: Option<serde_json::Value>,
    /// The most that each GPU may have, not less than `gpu_memory`: a number of bytes, or a number with a unit.
    #[schema(schema_with = bytes)]
    gpu_memory_max: Option<serde_json::Value>,
    /// Another name of `gpu_memory_max`.
    #[schema(schema_with = bytes)]
    gpu_memory_max_bytes: Option<serde_json::Value>,
}

/// Which nodes will do, and how the job lies on them.
#[derive(Debug, ToSchema)]
struct PlacementRequest {
    /// `key=value`, one value of a key: what each node must have.
    #[schema(schema_with = labels)]
    labels: Option<Vec<String>>,
    /// `key=value`: what no node may have.
    #[schema(schema_with = labels)]
    anti_labels: Option<Vec<String>>,
    /// Which nodes are taken first: the fullest that do, or the emptiest.
    #[schema(default = "pack", pattern = "^(pack|spread)$")]
    arrange: Option<String>,
    /// The key of a label that must have one value on all its nodes.
    #[schema(pattern = "^[A-Za-z0-9._/-]{1,63}$")]
    fabric: Option<String>,
    /// Nobody else on its nodes.
    exclusive: Option<bool>,
    /// GPUs in all, on as few nodes as hold them, for framework `command`; in place of `nodes` and `resources.gpus`.
    #[schema(minimum = 1, maximum = 65536)]
    gpus_total: Option<u32>,
}

/// The settings, and what each kind of job must have among them.
#[derive(Debug)]
struct ConfigRequest;

impl ToSchema for ConfigRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        SettingsRequest::schemas(schemas);
    }
}

impl PartialSchema for ConfigRequest {
    fn schema() -> RefOr<Schema> {
        let training = |framework: &'static str, dataset: &str| {
            let none = ArrayBuilder::new()
                .items(Object::with_type(Type::String))
                .max_items(Some(0));
            let given = Object::builder()
                .schema_type(Type::String)
                .min_length(Some(1))
                .build();
            let object = Object::builder()
                .property("framework", words([framework]))
                .property("model_name", given.clone())
                .property("task_type", words(tasks_of(framework)))
                .property(dataset, given)
                .property("command", nullable(none))
                .required("model_name")
                .required("task_type")
                .required(dataset);
            // It is the contract's default.
            match framework {
                "timm" => object,
                _ => object.required("framework"),
            }
        };
        let first = given().min_length(Some(1));
        let program = ArrayBuilder::new()
            .prefix_items([first.build()])
            .items(given())
            .min_items(Some(1));
        let command = Object::builder()
            .property("framework", words(["command"]))
            .property("command", program)
            .required("framework")
            .required("command");
        let trainers = FRAMEWORKS.iter().filter(|name| **name != "command");
        let kinds = trainers.fold(AnyOfBuilder::new(), |kinds, framework| {
            let of = |dataset| training(framework, dataset);
            kinds.item(of("dataset_path")).item(of("dataset_id"))
        });
        let kinds = kinds.item(command);
        AllOfBuilder::new()
            .item(SettingsRequest::schema())
            .item(kinds)
            .into()
    }
}

/// The task names of the contract.
const TASKS: [&str; 8] = [
    "image_classification",
    "object_detection",
    "instance_segmentation",
    "pose_estimation",
    "classification",
    "detection",
    "segmentation",
    "pose",
];

/// Those that a trainer knows, under all their names.
fn tasks_of(framework: &str) -> impl Iterator<Item = &'static str> {
    let known = trained_tasks(framework).unwrap_or(&TaskType::ALL);
    let trained = |task: TaskType| known.contains(&task);
    TASKS
        .into_iter()
        .filter(move |name| TaskType::parse(name).is_some_and(trained))
}

fn words<'w>(words: impl IntoIterator<Item = &'w str>) -> ObjectBuilder {
    Object::builder()
        .schema_type(Type::String)
        .enum_values(Some(words))
}

fn nullable(array: ArrayBuilder) -> Array {
    let kinds = [Type::Array, Type::Null];
    array.schema_type(SchemaType::from_iter(kinds)).build()
}

fn device() -> RefOr<Schema> {
    let kinds = [Type::String, Type::Number, Type::Null];
    Object::builder()
        .schema_type(SchemaType::from_iter(kinds))
        .max_length(Some(LONGEST_WORD))
        .pattern(Some("^[^\\x00]*$"))
        .into()
}

fn tags() -> RefOr<Schema> {
    let tag = Object::builder().schema_type(Type::String);
    let tag = tag.max_length(Some(LONGEST_TAG));
    let tags = ArrayBuilder::new().items(tag).max_items(Some(MOST_TAGS));
    nullable(tags).into()
}

/// A text that a process can be given.
fn given() -> ObjectBuilder {
    Object::builder()
        .schema_type(Type::String)
        .max_length(Some(LONGEST_STRING))
        .pattern(Some("^[^\\x00]*$"))
}

fn labels() -> RefOr<Schema> {
    let label = Object::builder()
        .schema_type(Type::String)
        .pattern(Some("^[A-Za-z0-9._/-]{1,63}=[A-Za-z0-9._/-]{1,63}$"));
    let labels = ArrayBuilder::new().items(label);
    nullable(labels.max_items(Some(MOST_LABELS))).into()
}

fn awaited() -> RefOr<Schema> {
    let job = Object::builder()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(9_007_199_254_740_991_i64));
    let jobs = ArrayBuilder::new().items(job);
    nullable(jobs.max_items(Some(MOST_AWAITED))).into()
}

fn arguments() -> RefOr<Schema> {
    let arguments = ArrayBuilder::new().items(given());
    nullable(arguments.max_items(Some(MOST_ARGUMENTS))).into()
}

/// Above 0 for what is trained and measured on; that they make 1 no schema can say.
fn shares() -> RefOr<Schema> {
    let share = Object::builder().schema_type(Type::Number);
    let share = share.minimum(Some(0)).exclusive_maximum(Some(1));
    let shares = ArrayBuilder::new().items(share);
    nullable(shares.min_items(Some(2)).max_items(Some(3))).into()
}

fn parts() -> RefOr<Schema> {
    let part = words([
        "train",
        "training",
        "val",
        "valid",
        "validation",
        "test",
        "testing",
    ]);
    let values = AdditionalProperties::RefOr(part.into());
    Object::builder()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .additional_properties(Some(values))
        .into()
}

fn environment() -> RefOr<Schema> {
    let kinds = SchemaType::from_iter([Type::Object, Type::Null]);
    let name = Object::builder()
        .schema_type(Type::String)
        .max_length(Some(LONGEST_NAME))
        .pattern(Some("^[A-Za-z_][A-Za-z0-9_]*$"));
    let values = AdditionalProperties::RefOr(given().into());
    Object::builder()
        .schema_type(kinds)
        .max_properties(Some(MOST_VARIABLES))
        .property_names(Some(name))
        .additional_properties(Some(values))
        .into()
}

fn bytes() -> RefOr<Schema> {
    let text = Object::builder()
        .schema_type(Type::String)
        .pattern(Some("^[0-9]{1,6}(\\.[0-9]{1,3})? ?([KMGT]i?B)?$"));
    let number = Object::builder()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .maximum(Some(8_000_000_000_000_000_000_i64));
    OneOfBuilder::new()
        .item(text)
        .item(number)
        .item(Object::with_type(Type::Null))
        .into()
}
