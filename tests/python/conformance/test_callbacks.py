"""The section "Callbacks": what a trainer sends to the CALLBACK_URL of its job, and what the platform then shows."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
import requests
from conftest import Api, Trainer, completion, problems, progress, shows, until

NO_JOB = "Training job not found"
NAMES = ["progress", "completion", "logs", "log", "validation"]


def body_of(name: str, job: int) -> Dict[str, Any]:
    return {
        "progress": progress(job, 1),
        "completion": completion(job),
        "logs": {"job_id": job, "event_type": "log", "message": "hello"},
        "log": {"job_id": job, "event_type": "log", "message": "hello"},
        "validation": {"job_id": job, "epoch": 1, "task_type": "classification"},
    }[name]


def metrics(api: Api, job: int) -> List[Dict[str, Any]]:
    return list(api.get(f"/training/jobs/{job}/metrics").json())


def lines(api: Api, job: int, kind: str = "") -> List[str]:
    rows = api.get(f"/training/jobs/{job}/logs?limit=500{kind}").json()
    return [row["content"] for row in rows]


def test_the_callback_url_ends_in_api_v1(trainer: Trainer) -> None:
    assert trainer.url.endswith("/api/v1")


@pytest.mark.parametrize("name", ["progress", "completion", "logs", "log"])
def test_an_accepted_callback_is_200_with_success_and_message(trainer: Trainer, name: str) -> None:
    answer = trainer.says(name, body_of(name, trainer.id))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) <= {"success", "message", "job_status"}
    assert body["success"] is True
    assert isinstance(body["message"], str)


@pytest.mark.parametrize(
    ("name", "more", "status"),
    [
        ("progress", {}, "running"),
        ("completion", {}, "completed"),
        ("completion", {"status": "completed", "exit_code": 1}, "failed"),
        ("completion", {"status": "failed", "exit_code": None}, "failed"),
        ("logs", {}, None),
    ],
)
def test_the_status_in_the_answer_is_that_of_the_report(trainer: Trainer, name: str, more: Any, status: Any) -> None:
    answer = trainer.says(name, {**body_of(name, trainer.id), **more})
    assert (answer.status_code, answer.json()["job_status"]) == (200, status)


@pytest.mark.parametrize("name", NAMES)
def test_a_callback_for_another_job_is_404(trainer: Trainer, name: str) -> None:
    shows(trainer.says(name, body_of(name, 99999999), job=99999999), 404, NO_JOB)


@pytest.mark.parametrize(
    ("name", "required"),
    [
        ("progress", ["job_id", "status", "current_epoch", "total_epochs"]),
        ("completion", ["job_id", "status", "total_epochs_completed"]),
        ("logs", ["job_id", "event_type", "message"]),
        ("log", ["job_id", "event_type", "message"]),
        ("validation", ["job_id", "epoch", "task_type"]),
    ],
)
def test_required_fields_of_a_callback(trainer: Trainer, name: str, required: List[str]) -> None:
    found = problems(trainer.says(name, {}))
    assert sorted(place for place, _ in found) == sorted(f"body.{field}" for field in required)
    assert {kind for _, kind in found} == {"missing"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("current_epoch", -1), ("total_epochs", 0), ("progress_percent", 101), ("progress_percent", -1)],
)
def test_ranges_of_progress(trainer: Trainer, field: str, value: Any) -> None:
    found = problems(trainer.says("progress", {**progress(trainer.id, 1), field: value}))
    assert [place for place, _ in found] == [f"body.{field}"]


def test_the_first_progress_only_says_started(api: Api, trainer: Trainer) -> None:
    assert trainer.epoch(0).status_code == 200
    assert trainer.epoch(1).status_code == 200
    until("the epoch is shown", lambda: metrics(api, trainer.id))
    assert [row["epoch"] for row in metrics(api, trainer.id)] == [1]


def test_every_field_of_progress_is_taken(api: Api, trainer: Trainer) -> None:
    extra = {"mAP50": 0.5, "box_loss": 0.25}
    body = progress(
        trainer.id,
        2,
        checkpoint_path="/c/last.pt",
        best_checkpoint_path="/c/best.pt",
        epoch_duration_seconds=1.5,
        estimated_time_remaining=60,
        logs="a word",
        error_message=None,
        traceback=None,
    )
    body["metrics"]["extra_metrics"] = extra
    assert trainer.says("progress", body).status_code == 200
    row = until("the epoch is shown", lambda: metrics(api, trainer.id))[0]
    assert {name: row["extra_metrics"][name] for name in extra} == extra
    assert (row["loss"], row["accuracy"], row["learning_rate"]) == (0.5, 0.2, 0.001)
    assert row["checkpoint_path"] == "/c/last.pt"
    until("the words are in the log", lambda: "a word" in lines(api, trainer.id))


def test_an_epoch_that_is_sent_again_is_one_row(api: Api, trainer: Trainer) -> None:
    for number in (1, 1, 2, 1):
        assert trainer.epoch(number).status_code == 200
    trainer.says("completion", completion(trainer.id))
    trainer.exits()
    assert [row["epoch"] for row in metrics(api, trainer.id)] == [1, 2]


@pytest.mark.parametrize(("code", "status"), [(0, "completed"), (1, "failed")])
def test_the_exit_code_overrides_the_status(trainer: Trainer, code: int, status: str) -> None:
    said = "failed" if code == 0 else "completed"
    trainer.says("completion", completion(trainer.id, status=said, exit_code=code))
    assert trainer.exits(code)["status"] == status


def test_a_reported_failure_is_shown(trainer: Trainer) -> None:
    words = "[DatasetError] no pictures"
    trainer.says("completion", completion(trainer.id, status="failed", exit_code=1, error_message=words, traceback="T"))
    assert words in trainer.exits(1)["error_message"]


@pytest.mark.parametrize("name", ["logs", "log"])
def test_lines_of_both_paths_are_in_the_log(api: Api, trainer: Trainer, name: str) -> None:
    body = {"job_id": trainer.id, "event_type": "log", "message": f"by {name}", "timestamp": "2026-01-01T00:00:00"}
    assert trainer.says(name, body).status_code == 200
    assert trainer.says(name, {**body, "message": "ill", "level": "ERROR", "data": {"a": 1}}).status_code == 200
    until("the line is shown", lambda: f"by {name}" in lines(api, trainer.id, "&log_type=stdout"))
    kind = "&log_type=stderr"
    until("the error is shown", lambda: any(line.startswith("ill") for line in lines(api, trainer.id, kind)))


def test_validation_results_are_one_row_an_epoch(api: Api, trainer: Trainer) -> None:
    body = {
        "job_id": trainer.id,
        "epoch": 1,
        "task_type": "classification",
        "primary_metric_name": "accuracy",
        "primary_metric_value": 0.5,
        "overall_loss": 0.7,
        "metrics": {"accuracy": 0.5},
        "per_class_metrics": {"cat": {"recall": 1.0}},
        "confusion_matrix": [[1, 2], [3, 4]],
        "pr_curves": None,
        "class_names": ["cat", "dog"],
        "visualization_urls": {"a": "b"},
        "image_results": [{"file_name": "1.png", "correct": True}],
    }
    answer = trainer.says("validation", body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"status", "validation_result_id", "job_id", "epoch"}
    assert (answer.json()["status"], answer.json()["job_id"], answer.json()["epoch"]) == ("success", trainer.id, 1)
    trainer.says("validation", {**body, "primary_metric_value": 0.75})
    trainer.says("validation", {**body, "epoch": 2})

    def both() -> Any:
        found = api.get(f"/validation/jobs/{trainer.id}/results").json()
        return found if len(found["results"]) == 2 else None

    found = until("two results are shown", both)
    assert list(found) == ["job_id", "total_count", "results"]
    assert found["total_count"] == 2
    assert [row["epoch"] for row in found["results"]] == [1, 2]
    assert found["results"][0]["primary_metric_value"] == 0.75
    for key in ("metrics", "per_class_metrics", "confusion_matrix", "class_names", "image_results"):
        assert found["results"][1][key] == body[key], key
    summary = api.get(f"/validation/jobs/{trainer.id}/summary")
    assert summary.status_code == 200
    rows = [
        {
            "epoch": epoch,
            "primary_metric_name": body["primary_metric_name"],
            "primary_metric_value": value,
            "overall_loss": body["overall_loss"],
        }
        for epoch, value in ((1, 0.75), (2, body["primary_metric_value"]))
    ]
    assert summary.json() == {"job_id": trainer.id, "total_epochs": 2, "last_epoch": 2, "epochs": rows}


def test_validation_results_need_a_token_and_a_job(api: Api, trainer: Trainer) -> None:
    for part in ("results", "summary"):
        shows(api.get(f"/validation/jobs/{trainer.id}/{part}", token=None), 401, "Not authenticated")
        shows(api.get(f"/validation/jobs/99999999/{part}"), 404, NO_JOB)


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_callback_is_refused(api: Api, trainer: Trainer, name: str) -> None:
    """Wrong secret at the agent, and none, a user's or a wrong one at the coordinator: all as if there were no job."""
    secret = trainer.url.split("/t/")[1].split("/")[0]
    path = trainer.url.replace(secret, "f" * len(secret))
    other = "validation/jobs/{}/results" if name == "validation" else f"training/jobs/{{}}/callback/{name}"
    other = other.format(trainer.id)
    body = body_of(name, trainer.id)
    shows(requests.post(f"{path}/{other}", json=body, timeout=30), 404, NO_JOB)
    for token in (None, api.token, "wrong"):
        shows(api.post(f"/{other}", token=token, json=body), 404, NO_JOB)
    assert api.job(trainer.id)["status"] == "running"
    assert metrics(api, trainer.id) == []


def test_a_late_callback_after_the_end_changes_nothing(api: Api, trainer: Trainer) -> None:
    trainer.epoch(1)
    trainer.says("completion", completion(trainer.id, final_metrics={"accuracy": 0.5}))
    ended = trainer.exits()
    before = metrics(api, trainer.id)
    for name in ("progress", "completion", "logs", "validation"):
        late = body_of(name, trainer.id)
        late.update({"status": "running"} if name == "progress" else {})
        assert trainer.says(name, late).status_code in (200, 404)
    assert api.job(trainer.id) == ended
    assert metrics(api, trainer.id) == before


def test_a_report_of_five_mebibytes_is_413(trainer: Trainer) -> None:
    body = {"job_id": trainer.id, "event_type": "log", "message": "x" * (5 << 20)}
    assert trainer.says("logs", body).status_code == 413
