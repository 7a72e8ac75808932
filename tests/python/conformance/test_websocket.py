"""The WebSocket /api/v1/ws/training: every message of the contract, with a real trainer behind it."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List

import pytest
import websocket
from conftest import NAIVE, Api, Trainer, completion

END_KEYS = (
    "type job_id status total_epochs_completed final_metrics best_metrics best_epoch final_checkpoint_path "
    "best_checkpoint_path clearml_task_id error_message"
).split()


class Live:
    """A connection. Browsers cannot send headers, so the token may stand in the query; here both are tried."""

    def __init__(self, api: Api, query: str = "", header: bool = True, token: Any = "") -> None:
        url = api.base.replace("http", "ws", 1) + "/ws/training" + query
        bearer = api.token if token == "" else token
        headers = [f"Authorization: Bearer {bearer}"] if header and bearer else []
        self._socket = websocket.create_connection(url, timeout=30, header=headers)

    def send(self, message: Any) -> None:
        self._socket.send(message if isinstance(message, str) else json.dumps(message))

    def next(self) -> Dict[str, Any]:
        return dict(json.loads(self._socket.recv()))

    def until(self, kind: str) -> Dict[str, Any]:
        """The next message of this kind; others are passed over, a hundred at most."""
        seen: List[str] = []
        for _ in range(100):
            message = self.next()
            if message["type"] == kind:
                return message
            seen.append(message["type"])
        raise AssertionError(f"no {kind} among {seen}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def live(api: Api) -> Iterator[Live]:
    made = Live(api)
    yield made
    made.close()


def test_connected_is_the_first_message(live: Live) -> None:
    message = live.next()
    assert message["type"] == "connected"
    assert isinstance(message["message"], str)
    assert NAIVE.fullmatch(message["timestamp"])


def test_ping_is_answered_with_pong(live: Live) -> None:
    live.send({"type": "ping"})
    assert live.until("pong")["type"] == "pong"


def test_subscribe_is_answered_with_the_job(live: Live, pending: Dict[str, Any]) -> None:
    live.send({"type": "subscribe", "job_id": pending["id"]})
    assert live.until("subscribed")["job_id"] == pending["id"]


@pytest.mark.parametrize(
    "message",
    ["no json", {"type": "dance"}, {"no": "type"}, {"type": "subscribe"}, {"type": "subscribe", "job_id": "x"}],
)
def test_what_is_not_understood_is_an_error_and_the_connection_stays(live: Live, message: Any) -> None:
    live.send(message)
    assert isinstance(live.until("error")["message"], str)
    live.send({"type": "ping"})
    live.until("pong")


def test_subscribing_to_an_unknown_job_is_an_error(live: Live) -> None:
    live.send({"type": "subscribe", "job_id": 99999999})
    assert live.until("error")["message"]


def test_a_job_of_the_query_is_followed_to_its_end(api: Api, trainer: Trainer) -> None:
    live = Live(api, f"?job_id={trainer.id}")
    try:
        live.until("connected")
        trainer.epoch(0)
        trainer.epoch(1, checkpoint_path="/c/last.pt", best_checkpoint_path="/c/best.pt")
        message = live.until("training_progress")
        while message["current_epoch"] == 0:
            message = live.until("training_progress")
        keys = "job_id status current_epoch total_epochs progress_percent metrics checkpoint_path best_checkpoint_path"
        for key in keys.split():
            assert key in message, key
        assert (message["job_id"], message["status"], message["current_epoch"]) == (trainer.id, "running", 1)
        assert message["metrics"]["loss"] == 1.0
        trainer.says("logs", {"job_id": trainer.id, "event_type": "log", "message": "hello live"})
        line = live.until("training_log")
        while line["message"] != "hello live":
            line = live.until("training_log")
        assert set(line) == {"type", "job_id", "level", "event_type", "message", "timestamp"}
        assert NAIVE.fullmatch(line["timestamp"])
        trainer.says("completion", completion(trainer.id, final_metrics={"accuracy": 0.5}))
        trainer.exits()
        end = live.until("training_complete")
        assert sorted(end) == sorted(END_KEYS)
        assert (end["job_id"], end["status"], end["final_metrics"]["accuracy"]) == (trainer.id, "completed", 0.5)
    finally:
        live.close()


def test_a_failure_is_a_training_error(live: Live, trainer: Trainer) -> None:
    live.send({"type": "subscribe", "job_id": trainer.id})
    live.until("subscribed")
    words = "[ConfigError] wrong"
    trainer.epoch(1)
    body = completion(trainer.id, status="failed", exit_code=1, error_message=words, total_epochs_completed=1)
    trainer.says("completion", body)
    trainer.exits(1)
    end = live.until("training_error")
    assert sorted(end) == sorted(END_KEYS)
    assert (end["total_epochs_completed"], end["best_epoch"], end["clearml_task_id"]) == (1, 1, None)
    assert (end["job_id"], end["status"]) == (trainer.id, "failed")
    assert words in end["error_message"]


def test_after_unsubscribe_nothing_comes(live: Live, trainer: Trainer) -> None:
    live.send({"type": "subscribe", "job_id": trainer.id})
    live.until("subscribed")
    live.send({"type": "unsubscribe", "job_id": trainer.id})
    live.send({"type": "ping"})
    live.until("pong")
    trainer.epoch(1)
    trainer.exits()
    live.send({"type": "ping"})
    assert live.next()["type"] == "pong"


def test_without_a_token_nothing_of_a_job_is_told(api: Api, trainer: Trainer) -> None:
    """Refused at the handshake, closed, or an error: but never a message about the job."""
    try:
        live = Live(api, f"?job_id={trainer.id}", token=None)
    except websocket.WebSocketBadStatusException as refused:
        assert refused.status_code in (401, 403)
        return
    trainer.epoch(1)
    trainer.exits()
    seen = []
    try:
        live.send({"type": "subscribe", "job_id": trainer.id})
        live.send({"type": "ping"})
        for _ in range(10):
            seen.append(live.next()["type"])
            if seen[-1] == "pong":
                break
    except (websocket.WebSocketException, OSError, ValueError):
        pass
    finally:
        live.close()
    assert not [kind for kind in seen if kind.startswith("training_")]
    assert "subscribed" not in seen
