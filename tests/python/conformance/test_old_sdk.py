"""The exact sequence of calls of the old trainer SDK, sent from inside a real job, and what the platform then shows.

The script below is what a trainer of the old platform does: no token, no import of ours, retries of 5xx and of network
errors after 2, 4 and 8 seconds, and an end at once on 4xx. It also tells, in its log, what it was answered.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List

import pytest
from conftest import Api, program

OLD_TRAINER = r"""
import http.server, json, os, sys, threading, time, traceback, urllib.error, urllib.request

BASE, JOB = os.environ["CALLBACK_URL"], int(os.environ["JOB_ID"])
MODE = sys.argv[1]

def post(path, body, base=BASE):
    data = json.dumps(body).encode()
    for attempt, delay in enumerate((2, 4, 8, None)):
        request = urllib.request.Request(f"{base}{path}", data=data, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code < 500 or delay is None:
                return error.code, json.loads(error.read())
        except OSError:
            if delay is None:
                raise
        time.sleep(delay)

class LosesOne(http.server.BaseHTTPRequestHandler):
    # Passes calls on, and puts a 502 in place of the first answer: the call has arrived, its sender cannot know.
    times = []
    log_message = lambda *_words: None

    def do_POST(self):
        self.times.append(time.monotonic())
        data = self.rfile.read(int(self.headers["Content-Length"]))
        request = urllib.request.Request(BASE + self.path, data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, words = answer.status, answer.read()
        status, words = (502, b"{}") if len(self.times) == 1 else (status, words)
        self.send_response(status)
        self.send_header("Content-Length", str(len(words)))
        self.end_headers()
        self.wfile.write(words)

way = http.server.ThreadingHTTPServer(("127.0.0.1", 0), LosesOne)
threading.Thread(target=way.serve_forever, daemon=True).start()

def callback(name, body, base=BASE):
    return post(f"/training/jobs/{JOB}/callback/{name}", {"job_id": JOB, **body}, base)

def epoch(number, metrics, base=BASE):
    return callback("progress", {
        "status": "running", "current_epoch": number, "total_epochs": 3, "progress_percent": number / 3 * 100,
        "metrics": metrics, "checkpoint_path": f"s3://training-checkpoints/checkpoints/{JOB}/last.pt",
        "best_checkpoint_path": f"s3://training-checkpoints/checkpoints/{JOB}/best.pt"}, base)

def figures(number):
    extra = {"loss": 1 / number, "box_loss": 0.5, "cls_loss": 0.3, "dfl_loss": 0.2, "mAP50": number / 4,
             "mAP50-95": number / 8, "precision": 0.5, "recall": 0.4, "fitness": number / 8}
    return {"loss": extra["loss"], "accuracy": None, "learning_rate": 0.01, "extra_metrics": extra}

answers = {}
answers["start"] = callback("progress", {"status": "running", "current_epoch": 0, "total_epochs": 3,
                                         "progress_percent": 0, "metrics": None})
for number in (1, 2, 3):
    base = f"http://127.0.0.1:{way.server_port}" if number == 3 and MODE != "fails" else BASE
    answers[f"epoch {number}"] = epoch(number, figures(number), base)
    answers[f"log {number}"] = callback("logs", {
        "event_type": "epoch", "message": f"epoch {number} done", "level": "INFO", "data": None,
        "timestamp": "2026-11-23T01:20:22.543843"})
    answers[f"older log {number}"] = callback("log", {
        "event_type": "epoch", "message": f"old words {number}", "level": "INFO"})
    answers[f"validation {number}"] = post(f"/validation/jobs/{JOB}/results", {
        "job_id": JOB, "epoch": number, "task_type": "detection", "primary_metric_name": "mAP50",
        "primary_metric_value": number / 4, "overall_loss": 1 / number, "metrics": {"mAP50": number / 4},
        "per_class_metrics": None, "confusion_matrix": None, "pr_curves": None, "class_names": ["a"],
        "visualization_urls": None, "image_results": []})
answers["epoch 2 again"] = epoch(2, figures(2))
answers["start again"] = callback("progress", {"status": "running", "current_epoch": 0, "total_epochs": 3,
                                               "progress_percent": 0, "metrics": None})
answers["job of others"] = post(f"/training/jobs/{JOB + 1000}/callback/progress", {
    "job_id": JOB + 1000, "status": "completed", "current_epoch": 1, "total_epochs": 3})
secret = BASE.split("/t/")[1].split("/")[0] if "/t/" in BASE else "x"
answers["wrong secret"] = post(f"/training/jobs/{JOB}/callback/completion", {
    "job_id": JOB, "status": "failed", "total_epochs_completed": 0, "exit_code": 1},
    BASE.replace(secret, "0" * len(secret)))
answers["bad body"] = callback("progress", {"status": "running"})
if MODE == "fails":
    try:
        raise ValueError("no pictures")
    except ValueError as error:
        answers["end"] = callback("completion", {
            "status": "failed", "total_epochs_completed": 3, "exit_code": 1,
            "error_message": f"[DatasetError] {error}", "traceback": traceback.format_exc()})
else:
    answers["end"] = callback("completion", {
        "status": "completed", "total_epochs_completed": 3, "final_metrics": {**figures(3), "accuracy": 0.75},
        "best_metrics": figures(3), "best_epoch": 3, "exit_code": 0,
        "best_checkpoint_path": f"s3://training-checkpoints/checkpoints/{JOB}/best.pt",
        "last_checkpoint_path": f"s3://training-checkpoints/checkpoints/{JOB}/last.pt"})
answers["late epoch"] = epoch(9, figures(9))
answers["late failure"] = callback("completion", {
    "status": "failed", "total_epochs_completed": 1, "exit_code": 1, "error_message": "forged"})
print("CALLS", json.dumps(LosesOne.times), flush=True)
print("ANSWERS", json.dumps(answers), flush=True)
names = ("JOB_ID EPOCHS BATCH_SIZE LEARNING_RATE IMGSZ MODEL_NAME TASK_TYPE FRAMEWORK DEVICE CONFIG").split()
print("ENVIRONMENT", json.dumps({name: os.environ.get(name) for name in names}), flush=True)
sys.exit(1 if MODE == "fails" else 0)
"""

ADVANCED = {
    "optimizer": {"type": "sgd", "momentum": 0.8},
    "gradient_clip_value": 2.5,
    "checkpoint_interval": 1,
    "mixed_precision": False,
}


class Ran:
    """A job of the old trainer that has ended, and what it said."""

    def __init__(self, api: Api, mode: str, status: str) -> None:
        config: Dict[str, Any] = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01, "imgsz": 96, "device": "cpu"}
        config.update(task_type="detection", model_name="yolo11n", advanced_config=ADVANCED)
        body = program("python3", "-c", OLD_TRAINER, mode, **config)
        self.api = api
        self.id = api.submit(body)["id"]
        self.job = api.reaches(self.id, status)
        self.lines: List[str] = [row["content"] for row in self.read("logs?limit=1000")]
        self.answers: Dict[str, Any] = self._said("ANSWERS")
        self.calls: List[float] = self._said("CALLS")
        self.environment: Dict[str, str] = self._said("ENVIRONMENT")

    def read(self, part: str, base: str = "training") -> Any:
        answer = self.api.get(f"/{base}/jobs/{self.id}/{part}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _said(self, word: str) -> Any:
        line = next(line for line in self.lines if line.startswith(f"{word} "))
        return json.loads(line[len(word) + 1 :])


@pytest.fixture(scope="module")
def ran(api: Api) -> Ran:
    return Ran(api, "completes", "completed")


@pytest.fixture(scope="module")
def failed(api: Api) -> Ran:
    return Ran(api, "fails", "failed")


def test_every_call_of_the_sequence_is_accepted(ran: Ran) -> None:
    accepted = ["start", "end", "epoch 2 again", "start again"]
    accepted += [f"{what} {n}" for what in ("epoch", "log", "older log", "validation") for n in (1, 2, 3)]
    for name in accepted:
        status, body = ran.answers[name]
        assert status == 200, (name, body)
        assert body.get("success") is True or body.get("status") == "success", (name, body)


def test_each_epoch_is_there_once_although_one_was_sent_again(ran: Ran) -> None:
    rows = ran.read("metrics")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[1]["loss"] == 0.5
    extra = rows[2]["extra_metrics"]
    assert (extra["mAP50"], extra["mAP50-95"], extra["box_loss"], extra["fitness"]) == (0.75, 0.375, 0.5, 0.375)
    assert rows[2]["checkpoint_path"].endswith("/last.pt")


def test_an_epoch_is_there_once_although_its_answer_was_lost(ran: Ran) -> None:
    assert len(ran.calls) == 2
    assert ran.calls[1] - ran.calls[0] >= 2.0
    assert ran.answers["epoch 3"][0] == 200
    assert [row["epoch"] for row in ran.read("metrics")].count(3) == 1


def test_the_end_is_what_the_trainer_said(ran: Ran) -> None:
    assert ran.job["status"] == "completed"
    assert ran.job["final_accuracy"] == 0.75
    assert ran.job["best_checkpoint_path"].endswith("/best.pt")
    assert ran.job["last_checkpoint_path"].endswith("/last.pt")


def test_a_late_callback_after_the_end_changes_nothing(ran: Ran) -> None:
    """The process still lives then, so the calls may be accepted; but an end that was announced stays."""
    assert ran.answers["late failure"][0] in (200, 404)
    assert ran.job["error_message"] is None
    assert ran.api.job(ran.id) == ran.job
    assert 9 not in [row["epoch"] for row in ran.read("metrics")]


def test_a_forged_callback_is_refused(ran: Ran) -> None:
    none = [404, {"detail": "Training job not found"}]
    assert ran.answers["wrong secret"] == none
    assert ran.answers["job of others"] == none


def test_a_bad_body_is_422_and_not_fatal(ran: Ran) -> None:
    status, body = ran.answers["bad body"]
    assert status == 422
    assert [entry["loc"] for entry in body["detail"]] == [["body", "current_epoch"], ["body", "total_epochs"]]


def test_lines_of_both_paths_are_in_the_log_in_order(ran: Ran) -> None:
    wanted = [line for n in (1, 2, 3) for line in (f"epoch {n} done", f"old words {n}")]
    assert [line for line in ran.lines if re.fullmatch(r"epoch \d done|old words \d", line)] == wanted


def test_validation_results_are_there_by_epoch(ran: Ran) -> None:
    found = ran.read("results", "validation")
    assert [row["epoch"] for row in found["results"]] == [1, 2, 3]
    assert found["results"][2]["primary_metric_value"] == 0.75


def test_hyper_parameters_reach_the_trainer(ran: Ran) -> None:
    found = ran.environment
    assert found["JOB_ID"] == str(ran.id)
    assert (found["EPOCHS"], found["BATCH_SIZE"], found["LEARNING_RATE"]) == ("3", "4", "0.01")
    assert (found["IMGSZ"], found["MODEL_NAME"], found["FRAMEWORK"]) == ("96", "yolo11n", "command")
    assert found["DEVICE"] == "cpu"
    config = json.loads(found["CONFIG"])
    assert config["device"] == "cpu"
    assert (config["epochs"], config["batch"], config["learning_rate"], config["imgsz"]) == (3, 4, 0.01, 96)
    assert config["advanced_config"] == ADVANCED
    for key, value in ADVANCED.items():
        assert config[key] == value, key


def test_a_failure_keeps_its_type_and_words(failed: Ran) -> None:
    assert failed.answers["end"][0] == 200
    assert "[DatasetError] no pictures" in failed.job["error_message"]
    assert [row["epoch"] for row in failed.read("metrics")] == [1, 2, 3]
