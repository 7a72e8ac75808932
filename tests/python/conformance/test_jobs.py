"""The table of calls on jobs: a test for each row, with a trainer that reports where there must be something to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest
from conftest import JOB_KEYS, NAIVE, Api, Trainer, completion, problems, program, shows, trainyard, until, yolo

METRIC_KEYS = "id job_id epoch step loss accuracy learning_rate extra_metrics checkpoint_path created_at".split()


def read(api: Api, job: int, part: str) -> Any:
    answer = api.get(f"/training/jobs/{job}/{part}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def epochs(api: Api, job: int, query: str = "") -> Any:
    return [row["epoch"] for row in read(api, job, f"metrics?{query}")]


@pytest.fixture
def reported(api: Api, trainer: Trainer) -> Trainer:
    """A job with five epochs."""
    assert trainer.epoch(0).status_code == 200
    for number in range(1, 6):
        paths = {"checkpoint_path": f"/c/{number}.pt", "best_checkpoint_path": "/c/1.pt"}
        assert trainer.epoch(number, **paths).status_code == 200
    until("the epochs are shown", lambda: len(epochs(api, trainer.id)) == 5)
    return trainer


def test_get(api: Api, pending: Dict[str, Any]) -> None:
    assert api.job(pending["id"]) == pending


def test_status_has_the_job_and_the_ten_newest_points(api: Api, trainer: Trainer) -> None:
    for number in range(1, 13):
        assert trainer.epoch(number, total_epochs=12, progress_percent=None).status_code == 200
    until("the epochs are shown", lambda: len(epochs(api, trainer.id)) == 12)
    answer = read(api, trainer.id, "status")
    assert list(answer) == ["job", "latest_metrics"]
    assert list(answer["job"]) == JOB_KEYS
    assert [row["epoch"] for row in answer["latest_metrics"]] == list(range(3, 13))


def test_status_of_a_job_without_points(api: Api, pending: Dict[str, Any]) -> None:
    assert read(api, pending["id"], "status") == {"job": pending, "latest_metrics": []}


def test_metrics_are_a_bare_array_ascending_with_every_key(api: Api, reported: Trainer) -> None:
    rows = read(api, reported.id, "metrics")
    assert [list(row) for row in rows] == [METRIC_KEYS] * 5
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    first = rows[0]
    assert (first["job_id"], first["loss"], first["accuracy"], first["learning_rate"]) == (reported.id, 1.0, 0.1, 0.001)
    assert (first["step"], first["checkpoint_path"]) == (None, "/c/1.pt")
    assert NAIVE.fullmatch(first["created_at"])
    assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})


def test_metrics_limit_gives_the_oldest_rows(api: Api, reported: Trainer) -> None:
    assert epochs(api, reported.id, "limit=2") == [1, 2]


def test_metrics_without_a_limit_are_the_oldest_hundred(api: Api, trainer: Trainer) -> None:
    for number in range(1, 103):
        assert trainer.epoch(number, total_epochs=102, progress_percent=None).status_code == 200
    until("the epochs are shown", lambda: epochs(api, trainer.id, "limit=1000")[-1:] == [102])
    assert epochs(api, trainer.id) == list(range(1, 101))


def test_metrics_in_descending_order_and_from_an_epoch(api: Api, reported: Trainer) -> None:
    assert epochs(api, reported.id, "order=desc&limit=2") == [5, 4]
    assert epochs(api, reported.id, "since_epoch=4") == [4, 5]


def test_metrics_after_an_id(api: Api, reported: Trainer) -> None:
    third = read(api, reported.id, "metrics")[2]["id"]
    assert epochs(api, reported.id, f"after_id={third}") == [4, 5]
    assert epochs(api, reported.id, f"after_id={third}&limit=1") == [4]


def test_metric_schema(api: Api, reported: Trainer) -> None:
    answer = read(api, reported.id, "metric-schema")
    assert list(answer) == (
        "job_id framework task_type primary_metric primary_metric_mode available_metrics metric_count".split()
    )
    assert answer["job_id"] == reported.id
    assert answer["framework"] == "command"
    assert {"loss", "accuracy"} <= set(answer["available_metrics"])
    assert answer["metric_count"] == 5


def test_logs_are_the_newest_in_order_of_time(api: Api) -> None:
    script = "for n in 1 2 3 4 5; do echo out $n; done; echo bad >&2"
    job = api.submit(program("sh", "-c", script))["id"]
    api.reaches(job, "completed")
    rows = read(api, job, "logs")
    assert all(list(row) == ["id", "job_id", "log_type", "content", "created_at"] for row in rows)
    assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
    assert {row["log_type"] for row in rows} == {"stdout", "stderr"}
    assert all(row["job_id"] == job and NAIVE.fullmatch(row["created_at"]) for row in rows)
    own = [row["content"] for row in rows if row["content"].startswith("out ")]
    assert own == [f"out {n}" for n in range(1, 6)]
    assert [row["content"] for row in read(api, job, "logs?log_type=stderr")] == ["bad"]
    assert all(row["log_type"] == "stdout" for row in read(api, job, "logs?log_type=stdout"))
    assert read(api, job, "logs?limit=2") == rows[-2:]
    assert read(api, job, f"logs?after_id={rows[1]['id']}&limit=2") == rows[2:4]


def test_logs_without_a_limit_are_the_newest_five_hundred(api: Api) -> None:
    script = "n=0; while [ $n -lt 510 ]; do n=$((n + 1)); echo out $n; done"
    job = api.submit(program("sh", "-c", script))["id"]
    api.reaches(job, "completed")
    rows = read(api, job, "logs")
    assert len(rows) == 500
    assert rows == read(api, job, "logs?limit=1000")[-500:]
    own = [row["content"] for row in rows if row["content"].startswith("out ")]
    assert own == [f"out {n}" for n in range(511 - len(own), 511)]


def test_logs_of_an_unknown_type_are_422(api: Api, pending: Dict[str, Any]) -> None:
    answer = api.get(f"/training/jobs/{pending['id']}/logs?log_type=loud&limit=0")
    assert [place for place, _ in problems(answer)] == ["query.limit", "query.log_type"]


def test_cancel_gives_a_cancelled_job_and_a_second_one_is_400(api: Api) -> None:
    job = api.submit(yolo())["id"]
    answer = api.post(f"/training/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert list(answer.json()) == JOB_KEYS
    assert NAIVE.fullmatch(answer.json()["completed_at"])
    shows(api.post(f"/training/jobs/{job}/cancel"), 400, "Cannot cancel job with status 'cancelled'")


def test_cancel_reaches_the_process(api: Api, trainer: Trainer) -> None:
    assert trainer.runs()
    answer = api.post(f"/training/jobs/{trainer.id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    until("the process is gone", lambda: not trainer.runs())


def test_cancel_of_a_completed_job_is_400(api: Api) -> None:
    job = api.submit(program("true"))["id"]
    api.reaches(job, "completed")
    shows(api.post(f"/training/jobs/{job}/cancel"), 400, "Cannot cancel job with status 'completed'")


@pytest.mark.parametrize("end", ["cancelled", "completed", "failed"])
def test_restart_of_an_ended_job(api: Api, end: str) -> None:
    if end == "cancelled":
        job = api.submit(yolo())["id"]
        api.post(f"/training/jobs/{job}/cancel")
    else:
        job = api.submit(program("true" if end == "completed" else "false"))["id"]
        api.reaches(job, end)
    answer = api.post(f"/training/jobs/{job}/restart")
    assert (answer.status_code, answer.json()["status"]) == (200, "pending")
    assert answer.json()["id"] == job
    api.post(f"/training/jobs/{job}/cancel")


def test_restart_of_a_job_that_has_not_ended_is_400(api: Api, pending: Dict[str, Any]) -> None:
    shows(api.post(f"/training/jobs/{pending['id']}/restart"), 400, "Cannot restart job with status 'pending'")


def test_restart_of_a_running_job_is_400(api: Api, trainer: Trainer) -> None:
    shows(api.post(f"/training/jobs/{trainer.id}/restart"), 400, "Cannot restart job with status 'running'")


def test_start_of_a_pending_job_shows_it(api: Api, pending: Dict[str, Any]) -> None:
    answer = api.post(f"/training/jobs/{pending['id']}/start?checkpoint_path=/c/last.pt&resume=true")
    assert (answer.status_code, answer.json()["status"]) == (200, "pending")


def test_start_of_a_running_job_is_400(api: Api, trainer: Trainer) -> None:
    shows(api.post(f"/training/jobs/{trainer.id}/start"), 400, "Cannot start job with status 'running'")


def test_start_of_an_ended_job_runs_it_again(api: Api) -> None:
    """Old clients make a job, and start it whenever they like."""
    job = api.submit(program("true"))["id"]
    api.reaches(job, "completed")
    answer = api.post(f"/training/jobs/{job}/start")
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, job, "pending")
    api.reaches(job, "completed")


def test_the_older_stop(api: Api, pending: Dict[str, Any]) -> None:
    answer = api.post(f"/training/stop/{pending['id']}")
    assert answer.status_code == 200
    assert list(answer.json()) == ["job_id", "status", "message"]
    assert (answer.json()["job_id"], answer.json()["status"]) == (pending["id"], "stopped")


def test_checkpoints(api: Api, reported: Trainer) -> None:
    answer = read(api, reported.id, "checkpoints")
    assert list(answer) == ["checkpoints"]
    rows = answer["checkpoints"]
    assert all(list(row) == ["path", "filename", "is_best", "epoch"] for row in rows)
    assert [row["filename"] for row in rows if row["is_best"]] == ["1.pt"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]


def test_checkpoints_of_a_job_without_any(api: Api, pending: Dict[str, Any]) -> None:
    assert read(api, pending["id"], "checkpoints") == {"checkpoints": []}


def test_upload_url(api: Api, pending: Dict[str, Any]) -> None:
    path = f"/training/jobs/{pending['id']}/checkpoints/upload-url"
    body = {"checkpoint_filename": "best.pt", "content_type": "application/octet-stream"}
    answer = api.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["upload_url", "object_key", "expires_in"]
    assert answer.json()["expires_in"] == 3600
    assert answer.json()["object_key"] == f"checkpoints/{pending['id']}/best.pt"
    assert [place for place, _ in problems(api.post(path, json={}))][0] == "body.checkpoint_filename"


def test_what_is_put_to_the_upload_url_is_a_checkpoint(api: Api, pending: Dict[str, Any]) -> None:
    path = f"/training/jobs/{pending['id']}/checkpoints"
    body = {"checkpoint_filename": "best.pt", "content_type": "application/octet-stream"}
    told = api.post(f"{path}/upload-url", json=body).json()
    put = api.put(told["upload_url"], token=None, data=b"weights", headers={"Content-Type": body["content_type"]})
    assert put.status_code == 200, put.text
    rows = api.get(path).json()["checkpoints"]
    assert [row["filename"] for row in rows] == ["best.pt"]
    assert rows[0]["path"].endswith(told["object_key"])
    assert Path(rows[0]["path"].removeprefix("file://")).read_bytes() == b"weights"
    assert api.put(told["upload_url"] + "0", token=None, data=b"others").status_code == 403


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", ""])
def test_upload_url_refuses_a_name_that_leads_elsewhere(api: Api, pending: Dict[str, Any], name: str) -> None:
    path = f"/training/jobs/{pending['id']}/checkpoints/upload-url"
    answer = api.post(path, json={"checkpoint_filename": name, "content_type": "x"})
    assert answer.status_code in (400, 422), answer.text


def test_experiments_of_a_project_are_newest_first(api: Api, root: str) -> None:
    project = trainyard(root, str(api.token), "projects", "create", "conformance")
    number = project.get("project_id") or project.get("id")
    jobs = [api.submit({**yolo(), "project_id": number}) for _ in range(3)]
    answer = api.get(f"/projects/{number}/experiments")
    assert answer.status_code == 200
    assert [row["id"] for row in answer.json()] == [job["id"] for job in reversed(jobs)]
    assert all(list(row) == JOB_KEYS for row in answer.json())
    assert jobs[0]["project_name"] == "conformance"
    for job in jobs:
        api.post(f"/training/jobs/{job['id']}/cancel")


def test_experiments_of_no_project(api: Api) -> None:
    shows(api.get("/projects/987654/experiments"), 404, "Project not found")
    assert problems(api.get("/projects/x/experiments")) == [("path.project_id", "int_parsing")]


def test_the_list_has_pages_and_filters(api: Api) -> None:
    jobs = [api.submit(yolo())["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        query = {"status": "pending", "limit": 2, **({"cursor": cursor} if cursor else {})}
        answer = api.get("/training/jobs", params=query).json()
        assert len(answer["jobs"]) <= 2
        seen += [row["id"] for row in answer["jobs"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert [number for number in seen if number in jobs] == sorted(jobs, reverse=True)
    assert len(seen) == len(set(seen))
    for job in jobs:
        api.post(f"/training/jobs/{job}/cancel")
    found = api.get("/training/jobs", params={"status": "cancelled", "limit": 5}).json()["jobs"]
    assert [row["id"] for row in found] == sorted(jobs, reverse=True)
    assert [place for place, _ in problems(api.get("/training/jobs?status=lost"))] == ["query.status"]


def test_the_list_of_a_project_has_its_jobs_alone(api: Api, root: str) -> None:
    projects = [trainyard(root, str(api.token), "projects", "create", f"listed {n}") for n in (1, 2)]
    numbers = [project.get("project_id") or project.get("id") for project in projects]
    jobs = [api.submit({**yolo(), "project_id": number}) for number in (*numbers, numbers[0])]
    for number in numbers:
        found = api.get(f"/training/jobs?project_id={number}").json()
        assert found == {"jobs": [job for job in reversed(jobs) if job["project_id"] == number], "next_cursor": None}
    for job in jobs:
        api.post(f"/training/jobs/{job['id']}/cancel")
    shows(api.get("/training/jobs?project_id=987654"), 404, "Project not found")
    assert problems(api.get("/training/jobs?project_id=x")) == [("query.project_id", "int_parsing")]


def test_final_accuracy_and_checkpoints_are_on_the_completed_job(api: Api, reported: Trainer) -> None:
    body = completion(
        reported.id,
        final_metrics={"accuracy": 0.75, "loss": 0.1},
        best_checkpoint_path="/c/best.pt",
        last_checkpoint_path="/c/last.pt",
    )
    assert reported.says("completion", body).status_code == 200
    job = reported.exits()
    assert job["final_accuracy"] == 0.75
    assert (job["best_checkpoint_path"], job["last_checkpoint_path"]) == ("/c/best.pt", "/c/last.pt")


READS = ["", "/status", "/metrics", "/metric-schema", "/logs", "/checkpoints"]


@pytest.mark.parametrize("part", READS)
def test_every_read_needs_a_token(api: Api, pending: Dict[str, Any], part: str) -> None:
    answer = api.get(f"/training/jobs/{pending['id']}{part}", token=None)
    shows(answer, 401, "Not authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["jobs/{}/cancel", "jobs/{}/restart", "jobs/{}/start", "stop/{}"])
def test_every_action_needs_a_token(api: Api, pending: Dict[str, Any], path: str) -> None:
    shows(api.post("/training/" + path.format(pending["id"]), token=None), 401, "Not authenticated")
    assert api.job(pending["id"])["status"] == "pending"
