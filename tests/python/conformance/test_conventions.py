"""The section "Conventions" of the contract: errors, times, unknown fields, nulls, documentation."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from conftest import JOB_KEYS, NAIVE, Api, problems, program, shows, yolo

OF_A_JOB = ["", "/status", "/metrics", "/metric-schema", "/logs", "/checkpoints"]
ACTIONS = ["jobs/{}/cancel", "jobs/{}/restart", "jobs/{}/start", "stop/{}"]


@pytest.mark.parametrize("path", ["/nothing", "/training", "/training/jobs/1/nothing"])
def test_an_unknown_path_is_404(api: Api, path: str) -> None:
    shows(api.get(path), 404, "Not Found")


def test_an_unknown_path_outside_of_the_api_is_404(api: Api, root: str) -> None:
    shows(api.get(f"{root}/nothing"), 404, "Not Found")


@pytest.mark.parametrize("path", ["/training/jobs/1", "/auth/me", "/training/jobs/1/logs"])
def test_a_wrong_method_is_405(api: Api, path: str) -> None:
    shows(api.call("DELETE", path), 405, "Method Not Allowed")


@pytest.mark.parametrize("part", OF_A_JOB)
def test_an_unknown_job_is_404(api: Api, part: str) -> None:
    shows(api.get(f"/training/jobs/99999999{part}"), 404, "Training job not found")


@pytest.mark.parametrize("path", ACTIONS)
def test_an_action_on_an_unknown_job_is_404(api: Api, path: str) -> None:
    shows(api.post("/training/" + path.format(99999999)), 404, "Training job not found")


@pytest.mark.parametrize("part", OF_A_JOB)
def test_an_id_that_is_no_number_is_422_at_the_path(api: Api, part: str) -> None:
    answer = api.get(f"/training/jobs/abc{part}")
    assert problems(answer) == [("path.job_id", "int_parsing")]
    entry = answer.json()["detail"][0]
    assert entry["loc"] == ["path", "job_id"]
    assert entry["msg"] == "Input should be a valid integer, unable to parse string as an integer"
    assert entry["input"] == "abc"


@pytest.mark.parametrize("path", ACTIONS)
def test_an_action_on_no_number_is_422(api: Api, path: str) -> None:
    assert problems(api.post("/training/" + path.format("abc"))) == [("path.job_id", "int_parsing")]


def test_a_query_that_is_no_number_is_422_at_the_query(api: Api, pending: Dict[str, Any]) -> None:
    for part in ("metrics", "logs"):
        answer = api.get(f"/training/jobs/{pending['id']}/{part}?limit=many")
        assert problems(answer) == [("query.limit", "int_parsing")]


def test_a_body_that_is_no_json_is_422(api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    answer = api.post("/training/jobs", data='{"config": ', headers=headers)
    assert [kind for _, kind in problems(answer)] == ["json_invalid"]
    assert answer.json()["detail"][0]["loc"][0] == "body"
    assert "error" in answer.json()["detail"][0]["ctx"]


def test_a_missing_body_is_422(api: Api) -> None:
    assert problems(api.post("/training/jobs")) == [("body", "missing")]


def test_every_bad_field_is_named_at_once(api: Api) -> None:
    body = yolo(epochs=0, batch_size=513, learning_rate=1, num_classes=1)
    found = dict(problems(api.post("/training/jobs", json=body)))
    assert found == {
        "body.config.epochs": "greater_than_equal",
        "body.config.batch_size": "less_than_equal",
        "body.config.learning_rate": "less_than",
        "body.config.num_classes": "greater_than_equal",
    }


def test_unknown_fields_are_ignored(api: Api) -> None:
    body = {**yolo(colour="green"), "shoe_size": 43}
    job = api.submit(body)
    assert "colour" not in job
    api.post(f"/training/jobs/{job['id']}/cancel")


def test_every_key_of_a_job_is_there_in_order_and_null_where_nothing_is(api: Api, pending: Dict[str, Any]) -> None:
    job = api.job(pending["id"])
    assert list(job) == JOB_KEYS
    for key in ("session_id", "project_name", "mlflow_run_id", "error_message", "process_id", "started_at"):
        assert job[key] is None, key


def test_times_are_naive_utc_with_microseconds(api: Api) -> None:
    job = api.submit(program("true"))
    job = api.reaches(job["id"], "completed")
    for key in ("created_at", "started_at", "completed_at"):
        assert NAIVE.fullmatch(job[key]), (key, job[key])
    assert job["created_at"] <= job["started_at"] <= job["completed_at"]


def test_ids_are_integers_that_grow(api: Api) -> None:
    ids = [api.submit(program("true"))["id"] for _ in range(3)]
    assert all(isinstance(number, int) for number in ids)
    assert ids == sorted(set(ids))


def test_openapi_describes_the_contract(api: Api) -> None:
    answer = api.get("/openapi.json", token=None)
    assert answer.status_code == 200
    document = answer.json()
    assert document["openapi"].startswith("3.")
    paths = {path.replace("/api/v1", "") for path in document["paths"]}
    for path in ("/auth/login", "/training/jobs", "/auth/register", "/models/list"):
        assert path in paths, path


def test_docs_are_browsable_and_load_nothing_from_elsewhere(api: Api, root: str) -> None:
    answer = api.get(f"{root}/docs", token=None)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    for source in ('src="http', 'href="http', "//cdn", "//unpkg"):
        assert source not in answer.text, source


def test_a_body_of_more_than_a_mebibyte_is_413(api: Api) -> None:
    answer = api.post("/training/jobs", json={**yolo(), "notes": "x" * (3 << 20)})
    assert answer.status_code == 413
    assert isinstance(answer.json()["detail"], str)


PAGE = "https://front.example"
"""The one origin that the coordinator's settings allow."""


def test_a_page_of_an_allowed_origin_may_call(api: Api) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    answer = api.call("OPTIONS", "/training/jobs", token=None, headers={"Origin": PAGE, **asked})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert "authorization" in allowed and "content-type" in allowed
    called = api.get("/auth/me", headers={"Origin": PAGE})
    assert (called.status_code, called.headers["Access-Control-Allow-Origin"]) == (200, PAGE)


def test_a_page_of_another_origin_may_not(api: Api) -> None:
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = api.call("OPTIONS", "/training/jobs", token=None, headers=asked)
    assert "Access-Control-Allow-Origin" not in answer.headers
