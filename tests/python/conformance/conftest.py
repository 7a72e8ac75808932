"""Owns what the suite shares: a foreign client on plain `requests`, jobs to look at, and bounded waiting.

The coordinator is given by BASE_URL, EMAIL and PASSWORD, its Labeler's datasets by DATASET_ID (an imagefolder that the
user may read) and DATASET_OF_OTHERS; LONELY_URL is a coordinator whose Labeler
cannot be reached; TRAINYARD_BIN is the command line, for what has no HTTP call.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "sdk" / "python"))

LIMIT = 60.0
"""Seconds a condition may take before the test fails. Generous: a busy machine is no error."""

NAIVE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")
"""Naive UTC with microseconds, the contract's way to write a time."""

JOB_KEYS = (
    "id session_id project_id project_name experiment_name tags notes mlflow_run_id workflow_id dataset_snapshot_id "
    "framework model_name task_type num_classes custom_docker_image dataset_path dataset_format output_dir epochs "
    "batch_size learning_rate advanced_config status error_message process_id final_accuracy best_checkpoint_path "
    "last_checkpoint_path primary_metric primary_metric_mode created_at started_at completed_at"
).split()


def until(what: str, probe: Callable[[], Any]) -> Any:
    """Ask `probe` until it answers with something true."""
    deadline = time.monotonic() + LIMIT
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"after {LIMIT} s still not: {what}"
        time.sleep(0.05)


class Api:
    """Calls below /api/v1, with a token unless `token=None` is given."""

    def __init__(self, root: str, token: Optional[str]) -> None:
        self.root = root
        self.base = f"{root}/api/v1"
        self.token = token

    def call(self, method: str, path: str, token: Optional[str] = "", **more: Any) -> requests.Response:
        headers = dict(more.pop("headers", {}))
        bearer = self.token if token == "" else token
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        url = path if path.startswith("http") else self.base + path
        return requests.request(method, url, headers=headers, timeout=30, **more)

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.call("GET", path, **more)

    def post(self, path: str, **more: Any) -> requests.Response:
        return self.call("POST", path, **more)

    def put(self, path: str, **more: Any) -> requests.Response:
        return self.call("PUT", path, **more)

    def job(self, job_id: int) -> Dict[str, Any]:
        answer = self.get(f"/training/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def submit(self, body: Dict[str, Any]) -> Dict[str, Any]:
        answer = self.post("/training/jobs", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def reaches(self, job_id: int, status: str) -> Dict[str, Any]:
        def look() -> Optional[Dict[str, Any]]:
            job = self.job(job_id)
            ended = job["status"] in ("completed", "failed", "cancelled") and job["status"] != status
            assert not ended, f"job {job_id} ended otherwise: {job}"
            return job if job["status"] == status else None

        return dict(until(f"job {job_id} is {status}", look))


def shows(answer: requests.Response, status: int, detail: Any) -> None:
    """The answer is `{"detail": detail}` with this status, and nothing beside it."""
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})


def problems(answer: requests.Response) -> List[Tuple[str, str]]:
    """Place and type of every entry of a 422, after a check of their shape."""
    assert answer.status_code == 422, answer.text
    body = answer.json()
    assert list(body) == ["detail"]
    for entry in body["detail"]:
        assert set(entry) in ({"type", "loc", "msg", "input"}, {"type", "loc", "msg", "input", "ctx"}), entry
        assert entry["loc"][0] in ("body", "path", "query"), entry
        assert isinstance(entry["msg"], str)
    return [(".".join(map(str, entry["loc"])), entry["type"]) for entry in body["detail"]]


def yolo(**config: Any) -> Dict[str, Any]:
    """A submission as the old front end makes one. It stays pending: `occupied` holds the only GPU that there is."""
    made: Dict[str, Any] = {
        "framework": "ultralytics",
        "model_name": "yolo11n",
        "task_type": "object_detection",
        "dataset_path": "/data/set",
        "dataset_format": "yolo",
        "resources": {"gpus": 1},
    }
    made.update(config)
    return {"config": {key: value for key, value in made.items() if value is not ...}}


def program(*command: str, **config: Any) -> Dict[str, Any]:
    """A submission that runs a program."""
    return {"config": {"framework": "command", "command": list(command), **config}}


@pytest.fixture(scope="session")
def root() -> str:
    return os.environ["BASE_URL"].rstrip("/")


@pytest.fixture(scope="session")
def email() -> str:
    return os.environ.get("EMAIL", "admin@example.com")


@pytest.fixture(scope="session")
def password() -> str:
    return os.environ.get("PASSWORD", "admin123")


@pytest.fixture(scope="session")
def tokens(root: str, email: str, password: str) -> Dict[str, str]:
    form = {"username": email, "password": password}
    answer = requests.post(f"{root}/api/v1/auth/login", data=form, timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.fixture(scope="session")
def api(root: str, tokens: Dict[str, str]) -> Api:
    return Api(root, tokens["access_token"])


@pytest.fixture(scope="session")
def lonely(email: str, password: str) -> Api:
    """A coordinator whose Labeler cannot be reached."""
    made = Api(os.environ["LONELY_URL"].rstrip("/"), None)
    return Api(made.root, log_in(made, email, password).json()["access_token"])


@pytest.fixture(scope="session", autouse=True)
def occupied(api: Api) -> Iterator[None]:
    """Holds the one (simulated) GPU, so that what asks for a GPU waits. First in the queue, also after a test's end."""
    job = api.submit(program("sleep", "3600", resources={"gpus": 1}, priority=1000))
    api.reaches(job["id"], "running")
    yield
    api.post(f"/training/jobs/{job['id']}/cancel")


@pytest.fixture
def pending(api: Api) -> Iterator[Dict[str, Any]]:
    """A job that waits."""
    job = api.submit(yolo())
    yield job
    api.post(f"/training/jobs/{job['id']}/cancel")


class Trainer:
    """A running job whose trainer is this test: it speaks through the CALLBACK_URL that the job was given."""

    def __init__(self, api: Api, job_id: int, url: str, folder: Path) -> None:
        self.api = api
        self.id = job_id
        self.url = url
        self._folder = folder

    def says(self, name: str, body: Any, job: Optional[int] = None, **more: Any) -> requests.Response:
        """POST to `callback/<name>`, or to the validation results, without any token, as trainers do."""
        job = self.id if job is None else job
        path = f"validation/jobs/{job}/results" if name == "validation" else f"training/jobs/{job}/callback/{name}"
        return requests.post(f"{self.url}/{path}", timeout=30, **({"json": body} if "data" not in more else {}), **more)

    def runs(self) -> bool:
        """Whether its process is there; the suite runs on the machine of the agent."""
        try:
            os.kill(int((self._folder / "pid").read_text()), 0)
        except ProcessLookupError:
            return False
        return True

    def epoch(self, number: int, **more: Any) -> requests.Response:
        """The report of an epoch."""
        return self.says("progress", progress(self.id, number, **more))

    def exits(self, code: int = 0) -> Dict[str, Any]:
        """Let the process end and wait until the platform shows the end."""
        (self._folder / "part").write_text(str(code))
        (self._folder / "part").rename(self._folder / "exit")
        return self.api.reaches(self.id, "completed" if code == 0 else "failed")


def progress(job_id: int, epoch: int, **more: Any) -> Dict[str, Any]:
    """The body of a progress callback, as the old trainers send it."""
    metrics = None if epoch == 0 else {"loss": 1.0 / epoch, "accuracy": epoch / 10, "learning_rate": 0.001}
    return {
        "job_id": job_id,
        "status": "running",
        "current_epoch": epoch,
        "total_epochs": 5,
        "progress_percent": 20.0 * epoch,
        "metrics": metrics,
        **more,
    }


def completion(job_id: int, **more: Any) -> Dict[str, Any]:
    """The body of a completion callback."""
    return {"job_id": job_id, "status": "completed", "total_epochs_completed": 5, "exit_code": 0, **more}


WAITER = 'echo $$ > "$1/pid"; echo "$CALLBACK_URL" > "$1/part-url"; mv "$1/part-url" "$1/url"; until [ -f "$1/exit" ]; do sleep 0.05; done; exit $(cat "$1/exit")'  # noqa: E501


@pytest.fixture
def trainer(api: Api, tmp_path: Path) -> Iterator[Trainer]:
    job = api.submit(program("sh", "-c", WAITER, "sh", str(tmp_path), epochs=5))
    url = tmp_path / "url"
    until("the trainer runs", url.exists)
    api.reaches(job["id"], "running")
    yield Trainer(api, job["id"], url.read_text().strip(), tmp_path)
    api.post(f"/training/jobs/{job['id']}/cancel")


def trainyard(root: str, token: str, *words: str) -> Any:
    """Run the command line and return what it says with --json."""
    env = {**os.environ, "TRAINYARD_COORDINATOR": root, "TRAINYARD_ACCESS_TOKEN": token}
    command = [os.environ["TRAINYARD_BIN"], *words, "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return json.loads(done.stdout or "null")


def new_user(api: Api, password: str = "pass-word-1", **profile: Any) -> Tuple[str, requests.Response]:
    """Register somebody; the address, and the answer."""
    address = f"{uuid.uuid4().hex}@example.com"
    body = {"email": address, "password": password, **profile}
    return address, api.post("/auth/register", token=None, json=body)


def log_in(api: Api, address: str, password: str) -> requests.Response:
    return api.post("/auth/login", token=None, data={"username": address, "password": password})
