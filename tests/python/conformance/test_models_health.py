"""The section "Models, health": the shipped trainers' capabilities, checked health, and Prometheus text."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from conftest import Api


def models(api: Api, **query: Any) -> Any:
    answer = api.get("/models/list", params=query)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["models"] if isinstance(body, dict) else body


def test_the_list_of_models(api: Api) -> None:
    found = models(api)
    frameworks = {model["framework"] for model in found}
    assert {"timm", "ultralytics", "sklearn"} <= frameworks
    assert all({"framework", "model_name", "supported"} <= set(model) for model in found)
    assert all(model["supported"] for model in found)


def test_the_list_by_framework_and_task(api: Api) -> None:
    found = models(api, framework="ultralytics")
    assert {model["framework"] for model in found} == {"ultralytics"}
    poses = models(api, task_type="pose")
    assert poses
    assert {model["framework"] for model in poses} == {"ultralytics"}
    assert len(models(api, supported_only="false")) >= len(models(api))


@pytest.mark.parametrize(
    "path", ["/models/get?framework=ultralytics&model_name=yolo11n", "/models/ultralytics/yolo11n"]
)
def test_one_model(api: Api, path: str) -> None:
    answer = api.get(path)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["framework"], answer.json()["model_name"]) == ("ultralytics", "yolo11n")


@pytest.mark.parametrize("path", ["/models/get?framework=timm&model_name=nothing", "/models/timm/nothing"])
def test_an_unknown_model_is_404(api: Api, path: str) -> None:
    assert api.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/models/list?framework=nothing",
        "/models/get?framework=nothing&model_name=x",
        "/models/nothing/x",
        "/models/capabilities/nothing",
    ],
)
def test_an_unknown_framework_is_404(api: Api, path: str) -> None:
    answer = api.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"] != "Not Found", "the route is missing"


@pytest.mark.parametrize("framework", ["sklearn", "timm", "ultralytics"])
def test_capabilities(api: Api, framework: str) -> None:
    answer = api.get(f"/models/capabilities/{framework}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["framework"] == framework
    assert answer.json()["models"]


def health(api: Api, root: str, path: str) -> Dict[str, Any]:
    answer = api.get(f"{root}{path}", token=None)
    assert answer.status_code == 200
    return dict(answer.json())


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
def test_health_needs_no_token_and_tells_what_was_checked(api: Api, root: str, path: str) -> None:
    found = health(api, root, path)
    assert {"status", "service", "database"} <= set(found)
    assert found["status"] == "healthy"


def test_metrics_are_prometheus_text(api: Api, root: str) -> None:
    answer = api.get(f"{root}/metrics", token=None)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain")
    samples = [line for line in answer.text.splitlines() if line and not line.startswith("#")]
    assert samples
    assert any(line.startswith("trainyard_") for line in samples)
    for line in samples:
        float(line.rsplit(" ", 1)[1])
