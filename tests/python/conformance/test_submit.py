"""POST /training/jobs: a test for each row of the config's table, the answer, and the errors."""

from __future__ import annotations

import os
import re
import uuid
from typing import Any, Dict, Iterator, List

import pytest
from conftest import JOB_KEYS, Api, problems, program, shows, yolo


@pytest.fixture
def submit(api: Api) -> Iterator[Any]:
    made: List[int] = []

    def call(body: Dict[str, Any]) -> Dict[str, Any]:
        job = api.submit(body)
        made.append(job["id"])
        return job

    yield call
    for job_id in made:
        api.post(f"/training/jobs/{job_id}/cancel")


def refused(api: Api, **config: Any) -> List[Any]:
    return problems(api.post("/training/jobs", json=yolo(**config)))


def test_success_is_200_with_a_pending_job(submit: Any) -> None:
    job = submit(yolo())
    assert list(job) == JOB_KEYS
    assert job["status"] == "pending"
    assert job["workflow_id"] == f"training-job-{job['id']}"
    assert job["dataset_snapshot_id"] is None
    assert (job["started_at"], job["completed_at"], job["error_message"]) == (None, None, None)


def test_what_a_job_is_filed_under_is_kept(submit: Any) -> None:
    filed = {"session_id": 7, "experiment_name": "first", "tags": ["a", "b"], "notes": "line\nline"}
    job = submit({**filed, **yolo()})
    assert {key: job[key] for key in filed} == filed


def test_experiment_name_has_at_most_200_characters(api: Api, submit: Any) -> None:
    assert submit({**yolo(), "experiment_name": "ä" * 200})["experiment_name"] == "ä" * 200
    answer = api.post("/training/jobs", json={**yolo(), "experiment_name": "x" * 201})
    assert problems(answer) == [("body.experiment_name", "string_too_long")]


@pytest.mark.parametrize("field", ["session_id", "project_id"])
def test_numbers_of_the_filing_must_be_whole(api: Api, field: str) -> None:
    answer = api.post("/training/jobs", json={**yolo(), field: "seven"})
    assert problems(answer) == [(f"body.{field}", "int_parsing")]


def test_tags_must_be_texts(api: Api) -> None:
    answer = api.post("/training/jobs", json={**yolo(), "tags": ["a", 1]})
    assert problems(answer) == [("body.tags.1", "string_type")]


def test_config_is_required(api: Api) -> None:
    assert problems(api.post("/training/jobs", json={})) == [("body.config", "missing")]


def test_framework_is_timm_by_default(submit: Any) -> None:
    body = yolo(framework=..., model_name="resnet18", task_type="classification")
    assert submit(body)["framework"] == "timm"


def test_an_unknown_framework_is_422_beside_all_else_that_is_wrong(api: Api) -> None:
    answer = api.post("/training/jobs", json=yolo(framework="no-such-framework", task_type="sing", epochs=0))
    found = {("body.config.framework", "value_error"), ("body.config.task_type", "value_error")}
    assert set(problems(answer)) == {*found, ("body.config.epochs", "greater_than_equal")}
    assert "no-such-framework" in answer.text


def test_the_same_key_with_another_submission_is_409(api: Api) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first = api.post("/training/jobs", json=yolo(), headers=headers).json()
    assert api.post("/training/jobs", json=yolo(), headers=headers).json()["id"] == first["id"]
    answer = api.post("/training/jobs", json=yolo(epochs=3), headers=headers)
    assert answer.status_code == 409
    assert f"job {first['id']}" in answer.json()["detail"]
    api.post(f"/training/jobs/{first['id']}/cancel")


def test_a_labeler_that_cannot_be_reached_is_503(lonely: Api) -> None:
    answer = lonely.post("/training/jobs", json=yolo(dataset_id="7", dataset_path=...))
    assert answer.status_code == 503
    assert list(answer.json()) == ["detail"]
    assert "Labeler" in answer.json()["detail"]


@pytest.mark.parametrize("field", ["model_name", "task_type"])
def test_required_texts(api: Api, field: str) -> None:
    assert refused(api, **{field: ...}) == [(f"body.config.{field}", "missing")]
    shows(api.post("/training/jobs", json=yolo(**{field: ""})), 400, f"{field} is required")


@pytest.mark.parametrize(
    "task",
    "image_classification object_detection instance_segmentation pose_estimation "
    "classification detection segmentation pose".split(),
)
def test_long_and_short_names_of_tasks(submit: Any, task: str) -> None:
    assert submit(yolo(task_type=task))["task_type"] == task


def test_num_classes_is_null_by_default_and_at_least_2(api: Api, submit: Any) -> None:
    assert submit(yolo())["num_classes"] is None
    assert submit(yolo(num_classes=2))["num_classes"] == 2
    assert refused(api, num_classes=1) == [("body.config.num_classes", "greater_than_equal")]


def test_a_dataset_must_be_named(api: Api) -> None:
    words = "Either dataset_id or dataset_path must be provided"
    shows(api.post("/training/jobs", json=yolo(dataset_path=...)), 400, words)
    shows(api.post("/training/jobs", json=yolo(dataset_path=None, dataset_id=None)), 400, words)


def test_with_a_dataset_path_there_is_no_snapshot(submit: Any) -> None:
    job = submit(yolo(dataset_path="/data/set"))
    assert (job["dataset_path"], job["dataset_snapshot_id"]) == ("/data/set", None)


def test_dataset_format_is_imagefolder_by_default(submit: Any) -> None:
    assert submit(yolo(dataset_format=...))["dataset_format"] == "imagefolder"
    assert submit(yolo(dataset_format="dice"))["dataset_format"] == "dice"


@pytest.mark.parametrize("method", ["use_dataset", "auto", "custom"])
def test_methods_of_a_split(submit: Any, method: str) -> None:
    split = {"method": method, "ratio": [0.7, 0.3], "seed": 3, "custom_splits": {"1": "val"}, "exclude_images": ["2"]}
    submit(yolo(split_strategy=split))


def test_the_seed_of_a_split_is_42_by_default(api: Api, submit: Any, dataset: str) -> None:
    def seed(**split: Any) -> Any:
        job = submit(yolo(**CLASSES, dataset_id=dataset, dataset_path=..., split_strategy={"method": "auto", **split}))
        answer = api.get(f"/snapshots/{job['dataset_snapshot_id']}")
        assert answer.status_code == 200, answer.text
        return answer.json()["snapshot_id"], answer.json()["split_config"]["seed"]

    default = seed()
    assert default[1] == 42
    assert seed(seed=42) == default
    assert seed(seed=3)[1] == 3


def test_a_split_needs_a_known_method(api: Api) -> None:
    assert refused(api, split_strategy={}) == [("body.config.split_strategy.method", "missing")]
    found = refused(api, split_strategy={"method": "by_hand", "seed": "x"})
    assert [place for place, _ in found] == ["body.config.split_strategy.method", "body.config.split_strategy.seed"]


@pytest.mark.parametrize(
    ("field", "default", "good", "bad"),
    [
        ("epochs", 50, [1, 1000], [0, 1001]),
        ("batch_size", 32, [1, 512], [0, 513]),
        ("learning_rate", 0.001, [1e-9, 0.999], [0, 1, -0.1]),
    ],
)
def test_ranges_and_defaults(api: Api, submit: Any, field: str, default: Any, good: Any, bad: Any) -> None:
    assert submit(yolo())[field] == default
    for value in good:
        assert submit(yolo(**{field: value}))[field] == value
    for value in bad:
        assert [place for place, _ in refused(api, **{field: value})] == [f"body.config.{field}"]


@pytest.mark.parametrize(
    ("value", "kind"), [("many", "int_parsing"), (1.5, "int_from_float"), ([], "int_type"), ({}, "int_type")]
)
def test_a_whole_number_of_the_wrong_kind(api: Api, value: Any, kind: str) -> None:
    assert refused(api, epochs=value) == [("body.config.epochs", kind)]


def test_numbers_in_texts_are_numbers(submit: Any) -> None:
    job = submit(yolo(epochs="7", learning_rate="0.5"))
    assert (job["epochs"], job["learning_rate"]) == (7, 0.5)


def test_advanced_config_is_kept_as_a_tree(submit: Any) -> None:
    tree = {
        "optimizer": {"type": "adamw", "weight_decay": 0.01},
        "scheduler": {"type": "cosine"},
        "augmentation": {"enabled": False},
        "preprocessing": {"image_size": 320},
        "validation": {"enabled": True},
        "mixed_precision": True,
        "gradient_clip_value": 1.0,
        "gradient_accumulation_steps": 2,
        "checkpoint_interval": 5,
        "keep_n_checkpoints": 3,
        "log_interval": 10,
        "of_a_framework": {"deep": [1, None, "x"]},
    }
    assert submit(yolo(advanced_config=tree))["advanced_config"] == tree
    assert submit(yolo())["advanced_config"] is None


@pytest.mark.parametrize(
    ("task", "metric", "mode"),
    [
        ("classification", "accuracy", "max"),
        ("image_classification", "accuracy", "max"),
        ("object_detection", "mAP50", "max"),
        ("segmentation", "mAP50", "max"),
        ("pose", "mAP50", "max"),
    ],
)
def test_the_primary_metric_by_task(submit: Any, task: str, metric: str, mode: str) -> None:
    job = submit(yolo(task_type=task))
    assert (job["primary_metric"], job["primary_metric_mode"]) == (metric, mode)


def test_the_primary_metric_of_what_is_none_of_these_tasks(submit: Any) -> None:
    job = submit(program("true", resources={"gpus": 1}))
    assert (job["primary_metric"], job["primary_metric_mode"]) == ("loss", "min")


def test_a_primary_metric_of_ones_own(submit: Any) -> None:
    job = submit(yolo(primary_metric="loss", primary_metric_mode="min"))
    assert (job["primary_metric"], job["primary_metric_mode"]) == ("loss", "min")
    assert submit(yolo(primary_metric="recall"))["primary_metric_mode"] == "max"


def test_prompts_and_a_docker_image_are_taken(submit: Any) -> None:
    job = submit(yolo(custom_prompts=["a cat"], prompt_mode="offline", custom_docker_image="me/image:1"))
    assert job["custom_docker_image"] == "me/image:1"


def test_an_unknown_dataset_is_404(api: Api) -> None:
    answer = api.post("/training/jobs", json=yolo(dataset_id="no-such-set", dataset_path=...))
    shows(answer, 404, "Dataset 'no-such-set' not found in Labeler")


def test_an_unknown_project_is_404(api: Api) -> None:
    shows(api.post("/training/jobs", json={**yolo(), "project_id": 987654}), 404, "Project not found")


CLASSES = {"task_type": "image_classification", "model_name": "yolo11n-cls"}


@pytest.fixture(scope="module")
def dataset() -> str:
    """An imagefolder of the Labeler that the user may read."""
    return os.environ.get("DATASET_ID", "7")


def test_with_a_dataset_id_there_is_a_snapshot(api: Api, submit: Any, dataset: str) -> None:
    job = submit(yolo(**CLASSES, dataset_id=dataset, dataset_path=...))
    assert re.fullmatch(r"snap_[0-9a-f]{12}", job["dataset_snapshot_id"])
    assert job["dataset_path"] == dataset
    assert api.job(job["id"])["dataset_snapshot_id"] == job["dataset_snapshot_id"]


def test_the_format_of_the_dataset_replaces_the_one_that_was_sent(submit: Any, dataset: str) -> None:
    assert submit(yolo(**CLASSES, dataset_id=dataset, dataset_path=..., dataset_format="yolo"))["dataset_format"] == "imagefolder"


def test_the_id_wins_over_the_path(submit: Any, dataset: str) -> None:
    assert submit(yolo(**CLASSES, dataset_id=dataset, dataset_path="/data/set"))["dataset_path"] == dataset


def test_what_no_trainer_could_train_is_422_at_its_field(api: Api, submit: Any, dataset: str) -> None:
    answer = api.post("/training/jobs", json=yolo(framework="timm"))
    assert problems(answer) == [("body.config.task_type", "value_error")]
    answer = api.post("/training/jobs", json=yolo(dataset_id=dataset, dataset_path=...))
    assert problems(answer) == [("body.config.dataset_format", "value_error")]
    # A path is judged by the trainer, whatever format was sent: clients that send none send imagefolder.
    assert submit(yolo(dataset_format=...))["dataset_format"] == "imagefolder"
    assert submit(yolo(**CLASSES, dataset_format="yolo"))["dataset_format"] == "yolo"
    assert submit(program("true", dataset_id=dataset, task_type="object_detection"))["dataset_path"] == dataset


def test_an_unchanged_dataset_has_one_snapshot(submit: Any, dataset: str) -> None:
    first = submit(yolo(**CLASSES, dataset_id=dataset, dataset_path=...))["dataset_snapshot_id"]
    assert submit(yolo(**CLASSES, dataset_id=dataset, dataset_path=...))["dataset_snapshot_id"] == first


def test_a_dataset_of_others_is_403(api: Api) -> None:
    other = os.environ.get("DATASET_OF_OTHERS", "8")
    answer = api.post("/training/jobs", json=yolo(dataset_id=other, dataset_path=...))
    shows(answer, 403, f"Access denied to dataset '{other}'")


def test_submitting_needs_a_token(api: Api) -> None:
    shows(api.post("/training/jobs", token=None, json=yolo()), 401, "Not authenticated")
    shows(api.post("/training/jobs", token="rubbish", json=yolo()), 401, "Could not validate credentials")


def test_an_idempotency_key_gives_the_first_job_again(api: Api, submit: Any) -> None:
    first = api.post("/training/jobs", json=yolo(), headers={"Idempotency-Key": "conformance"}).json()
    again = api.post("/training/jobs", json=yolo(), headers={"Idempotency-Key": "conformance"}).json()
    assert first["id"] == again["id"]
    api.post(f"/training/jobs/{first['id']}/cancel")
