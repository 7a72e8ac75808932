"""What our client does with answers that a healthy coordinator does not give: retries, renewals, and what is unsafe."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import httpx
import pytest
from conftest import JOB_KEYS
from trainyard_sdk import AsyncClient, Client
from trainyard_sdk.client import (
    AuthError,
    Conflict,
    PermissionDenied,
    RateLimited,
    RequestTimeout,
    ServerError,
    Unavailable,
    WaitTimeout,
)

JOB = {key: None for key in JOB_KEYS}
JOB.update(id=7, status="pending", created_at="2026-11-23T01:20:22.543843")  # type: ignore[call-overload]
Step = Callable[[httpx.Request], httpx.Response]


def says(status: int, body: Any = None, **headers: str) -> Step:
    return lambda _request: httpx.Response(status, json={"detail": "x"} if body is None else body, headers=headers)


def fails(kind: Callable[..., Exception]) -> Step:
    def step(request: httpx.Request) -> httpx.Response:
        raise kind("broken", request=request)

    return step


class Script(httpx.MockTransport):
    """Answers with the steps in turn, the last one for ever, and records the requests."""

    def __init__(self, *steps: Step) -> None:
        self.seen: List[httpx.Request] = []
        self._steps = list(steps)
        super().__init__(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        return step(request)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    waits: List[float] = []

    async def later(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("trainyard_sdk.client.sync.time.sleep", waits.append)
    monkeypatch.setattr("trainyard_sdk.client.aio.asyncio.sleep", later)
    return waits


def client(script: Script, **more: Any) -> Client:
    return Client("http://nowhere", transport=script, **{"token": "t", **more})


@pytest.mark.parametrize(
    "trouble", [says(503), says(502), says(504), says(429), fails(httpx.ReadTimeout), fails(httpx.ConnectError)]
)
def test_a_read_is_tried_again(trouble: Step) -> None:
    script = Script(trouble, trouble, says(200, JOB))
    assert client(script).get(7).id == 7
    assert len(script.seen) == 3


def test_tries_are_bounded_and_their_delays_grow(no_waiting: List[float]) -> None:
    script = Script(says(503))
    with pytest.raises(Unavailable):
        client(script, retries=3).get(7)
    assert len(script.seen) == 4
    bounds = [(0.125, 0.25), (0.25, 0.5), (0.5, 1.0)]
    assert all(low <= wait <= high for wait, (low, high) in zip(no_waiting, bounds, strict=True))


def test_the_wish_of_the_server_is_followed(no_waiting: List[float]) -> None:
    script = Script(says(429, **{"Retry-After": "3"}), says(200, JOB))
    client(script).get(7)
    assert no_waiting == [3.0]


def test_a_submission_is_tried_again_with_the_same_key() -> None:
    script = Script(fails(httpx.ReadTimeout), says(503), says(200, JOB))
    client(script).submit(framework="command", command=["true"])
    keys = {request.headers["idempotency-key"] for request in script.seen}
    assert (len(script.seen), len(keys)) == (3, 1)


@pytest.mark.parametrize("call", ["cancel", "restart"])
def test_an_action_whose_answer_was_lost_is_not_repeated(call: str) -> None:
    for trouble, kind in ((fails(httpx.ReadTimeout), RequestTimeout), (says(503), Unavailable)):
        script = Script(trouble)
        with pytest.raises(kind):
            getattr(client(script), call)(7)
        assert len(script.seen) == 1


def test_an_action_that_cannot_have_arrived_is_repeated() -> None:
    script = Script(fails(httpx.ConnectError), says(200, JOB))
    assert client(script).cancel(7).id == 7


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthError), (403, PermissionDenied), (409, Conflict), (500, ServerError), (429, RateLimited)],
)
def test_kinds_of_errors(status: int, kind: Any) -> None:
    with pytest.raises(kind) as caught:
        client(Script(says(status)), retries=0).get(7)
    assert (caught.value.status, caught.value.detail) == (status, "x")


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"id": 1}'])
def test_an_answer_of_something_else_is_a_server_error(body: bytes) -> None:
    with pytest.raises(ServerError):
        client(Script(lambda _request: httpx.Response(200, content=body))).get(7)


def renewing(request: httpx.Request) -> httpx.Response:
    """Takes `new` and nothing else; a refresh token works once."""
    if request.url.path.endswith("/auth/refresh"):
        spent = request.url.params["refresh_token"]
        if spent != "r1":
            return httpx.Response(401, json={"detail": "Invalid refresh token: reused"})
        return httpx.Response(200, json={"access_token": "new", "refresh_token": "r2", "token_type": "bearer"})
    if request.url.path.endswith("/auth/login"):
        return httpx.Response(200, json={"access_token": "new", "refresh_token": "r1", "token_type": "bearer"})
    right = request.headers.get("authorization") == "Bearer new"
    return httpx.Response(200, json=JOB) if right else httpx.Response(401, json={"detail": "Could not validate"})


def paths(script: Script) -> List[str]:
    return [request.url.path.rsplit("/", 1)[-1] for request in script.seen]


def test_an_expired_token_is_renewed_and_the_call_made_again() -> None:
    script = Script(renewing)
    made = client(script, token="old", refresh_token="r1")
    assert made.get(7).id == made.get(7).id == 7
    assert paths(script) == ["7", "refresh", "7", "7"]


def test_a_spent_refresh_token_falls_back_to_the_password() -> None:
    script = Script(renewing)
    made = client(script, token="old", refresh_token="gone", email="a@b.c", password="p")
    assert made.get(7).id == 7
    assert paths(script) == ["7", "refresh", "login", "7"]


def test_a_refresh_whose_answer_was_lost_is_not_sent_again() -> None:
    """The token may be spent: to send it twice would end the whole session."""
    script = Script(says(401), fails(httpx.ReadTimeout))
    made = client(script, token="old", refresh_token="r1")
    with pytest.raises(RequestTimeout):
        made.get(7)
    assert paths(script) == ["7", "refresh"]


def test_without_credentials_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRAINYARD_TOKEN", "TRAINYARD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    script = Script(says(200, JOB))
    with pytest.raises(AuthError, match="TRAINYARD_API_KEY"):
        client(script, token=None).get(7)
    assert script.seen == []


def test_many_tasks_renew_once() -> None:
    script = Script(renewing)

    async def play() -> None:
        async with AsyncClient("http://nowhere", token="old", refresh_token="r1", transport=script) as made:
            jobs = await asyncio.gather(*(made.get(7) for _ in range(8)))
            assert {job.id for job in jobs} == {7}

    asyncio.run(play())
    assert paths(script).count("refresh") == 1


def test_an_api_key_is_sent_as_a_bearer_and_no_secret_is_shown() -> None:
    script = Script(says(200, JOB))
    made = client(script, token=None, api_key="secret-key")
    made.get(7)
    assert script.seen[0].headers["authorization"] == "Bearer secret-key"
    assert "secret-key" not in repr(made._session.credentials)


def test_a_stream_outlasts_a_coordinator_that_is_away() -> None:
    ended = {**JOB, "status": "completed"}
    row = {"id": 4, "job_id": 7, "log_type": "stdout", "content": "hi", "created_at": "2026-11-23T01:20:22.543843"}
    away = [fails(httpx.ConnectError)] * 12
    script = Script(says(200, ended), *away, says(200, [row]), says(200, []))
    assert [line.content for line in client(script, retries=1).stream_logs(7)] == ["hi"]


@pytest.fixture(params=["refused", "silent"])
def away(request: pytest.FixtureRequest) -> Iterator[str]:
    """A port where nobody listens, or one where nobody ever answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if request.param == "silent":
            held.listen()
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_wait_is_bounded_while_the_coordinator_is_away(away: str) -> None:
    begun = time.monotonic()
    with Client(away, token="t") as made, pytest.raises(WaitTimeout) as caught:
        made.wait(7, timeout=0.2)
    assert caught.value.job is None

    async def play() -> None:
        async with AsyncClient(away, token="t") as made:
            await made.wait(7, timeout=0.2)

    with pytest.raises(WaitTimeout):
        asyncio.run(play())
    # The last look of each may take a second. One time-out of a client alone would be 30.
    assert time.monotonic() - begun < 20.0


def test_a_wait_that_loses_the_coordinator_tells_the_job_as_it_was_seen_last() -> None:
    script = Script(says(200, {"job": JOB, "latest_metrics": []}), fails(httpx.ConnectError))
    with pytest.raises(WaitTimeout) as caught:
        client(script).wait(7, timeout=0.2)
    assert caught.value.job.id == 7
    with pytest.raises(Unavailable):
        client(Script(says(503)), patience=0.0).wait(7, timeout=60)


def test_a_renewal_is_not_cut_short_by_the_end_of_a_wait() -> None:
    """Its token is spent once it is sent, so that its answer must be had."""
    script = Script(says(401), renewing, says(200, {"job": {**JOB, "status": "completed"}, "latest_metrics": []}))
    client(script, token="old", refresh_token="r1", timeout=30.0).wait(7, timeout=5.0)
    limits = [request.extensions["timeout"]["read"] for request in script.seen]
    assert paths(script) == ["status", "refresh", "status"]
    assert limits[1] == 30.0
    assert limits[0] <= 5.0 and limits[2] <= 5.0


def test_certificates_are_checked_unless_said_otherwise(tmp_path: Path) -> None:
    from trainyard_sdk.client.http import arguments

    assert arguments("https://x", True, 1.0, None)["verify"] is True
    assert arguments("https://x", False, 1.0, None)["verify"] is False
    own: Optional[ssl.SSLContext] = ssl.create_default_context()
    assert arguments("https://x", own, 1.0, None)["verify"] is own
    with pytest.raises(FileNotFoundError):
        arguments("https://x", str(tmp_path / "no.pem"), 1.0, None)
