"""`trainyard_sdk.Client` and `AsyncClient` against the real coordinator."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from conftest import Trainer, until
from trainyard_sdk import AsyncClient, Client, JobConfig, JobSpec
from trainyard_sdk.client import (
    AuthError,
    Conflict,
    JobFailed,
    NotFound,
    Resources,
    TrainingJob,
    Unavailable,
    ValidationError,
    WaitTimeout,
)

TALK = "for n in $(seq 1 2500); do echo line $n; done"


@pytest.fixture(scope="module")
def client(root: str, email: str, password: str) -> Iterator[Client]:
    with Client(root, email=email, password=password) as made:
        yield made


def waiting(**more: Any) -> JobSpec:
    return JobSpec(JobConfig(framework="command", command=["true"], resources=Resources(gpus=1)), **more)


def test_it_logs_in_by_itself_and_tells_who_calls(client: Client, email: str) -> None:
    user = client.me()
    assert (user.email, user.system_role) == (email, "admin")
    assert user.created_at.tzinfo is datetime.timezone.utc


def test_a_token_of_the_environment_is_used(root: str, api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_URL", f"{root}/api/v1/")
    monkeypatch.setenv("TRAINYARD_TOKEN", str(api.token))
    with Client() as made:
        assert made.me().is_active


def test_a_job_from_submit_to_its_end(client: Client) -> None:
    spec = JobSpec(JobConfig(framework="command", command=["sh", "-c", "exit 0"]), experiment_name="sdk", tags=["a"])
    seen: List[str] = []
    job = client.submit(spec, notes="by keyword")
    done = client.wait(job.id, timeout=60, poll=0.05, progress=lambda job, newest: seen.append(job.status))
    assert done.require_completed().ended
    assert (done.experiment_name, done.tags, done.notes) == ("sdk", ["a"], "by keyword")
    assert done.started_at is not None
    assert done.created_at <= done.started_at
    assert seen[-1] == "completed"
    assert client.get(job.id) == done
    assert done.raw["workflow_id"] == f"training-job-{job.id}"


def test_an_end_that_is_no_success_can_be_raised(client: Client) -> None:
    job = client.submit(framework="command", command=["false"])
    with pytest.raises(JobFailed, match="exit code 1"):
        client.wait(job.id, timeout=60, poll=0.05).require_completed()


def test_the_same_key_makes_one_job(client: Client) -> None:
    first = client.submit(waiting(), idempotency_key="sdk-key")
    assert client.submit(waiting(), idempotency_key="sdk-key").id == first.id
    other = client.submit(waiting())
    assert other.id != first.id
    for job in (first, other):
        assert client.cancel(job.id).status == "cancelled"
    with pytest.raises(Conflict, match="Cannot cancel"):
        client.cancel(first.id)
    assert client.restart(first.id).status == "pending"
    client.cancel(first.id)


def test_errors_have_kinds(client: Client, root: str) -> None:
    with pytest.raises(NotFound, match="Training job not found"):
        client.get(99999999)
    with pytest.raises(ValidationError) as caught:
        client.submit(framework="timm", model_name="x", task_type="classification", dataset_path="/d", epochs=0)
    assert [(field.path, field.kind) for field in caught.value.fields] == [("config.epochs", "greater_than_equal")]
    with pytest.raises(ValidationError, match="Either dataset_id") as caught:
        client.submit(framework="timm", model_name="x", task_type="classification")
    assert (caught.value.status, caught.value.fields) == (400, ())
    with pytest.raises(TypeError, match="colour"):
        client.submit(colour="green")
    with Client(root, token="rubbish") as made, pytest.raises(AuthError, match="Could not validate"):
        made.me()
    with (
        Client(root, email="nobody-sdk@example.com", password="x") as made,
        pytest.raises(AuthError, match="Incorrect"),
    ):
        made.me()
    with Client("127.0.0.1:9", token="x", retries=0) as made, pytest.raises(Unavailable):
        made.me()


def test_a_wait_is_bounded(client: Client) -> None:
    job = client.submit(waiting())
    with pytest.raises(WaitTimeout) as caught:
        client.wait(job.id, timeout=0.2, poll=0.05)
    assert caught.value.job.status == "pending"
    client.cancel(job.id)


def test_the_list_goes_over_all_pages(client: Client) -> None:
    made = [client.submit(waiting()).id for _ in range(5)]
    found = [job.id for job in client.list(status="pending", page_size=2)]
    assert [number for number in found if number in made] == made[::-1]
    assert len(found) == len(set(found))
    page = client.page(status="pending", limit=2)
    assert len(page.jobs) == 2
    assert page.next_cursor is not None
    for number in made:
        client.cancel(number)


def test_logs_are_streamed_without_loss_or_doubles_and_go_on_after_a_break(client: Client) -> None:
    job = client.submit(framework="command", command=["sh", "-c", TALK])
    lines = []
    for line in client.stream_logs(job.id, poll=0.05):
        lines.append(line)
        if len(lines) == 700:
            break
    lines += client.stream_logs(job.id, after_id=lines[-1].id, poll=0.05)
    assert [line.id for line in lines] == sorted({line.id for line in lines})
    own = [line.content for line in lines if line.content.startswith("line ")]
    assert own == [f"line {n}" for n in range(1, 2501)]
    assert client.get(job.id).ended


def test_metrics_are_streamed_while_they_come(client: Client, trainer: Trainer) -> None:
    trainer.epoch(1)
    stream = client.stream_metrics(trainer.id, poll=0.05)
    first = next(stream)
    assert (first.epoch, first.loss, first.extra_metrics and first.extra_metrics["accuracy"]) == (1, 1.0, 0.1)
    trainer.epoch(2)
    assert next(stream).epoch == 2
    trainer.epoch(3, checkpoint_path="/c/3.pt")
    trainer.exits()
    assert [(point.epoch, point.checkpoint_path) for point in stream] == [(3, "/c/3.pt")]
    assert [point.epoch for point in client.stream_metrics(trainer.id, after_id=first.id)] == [2, 3]
    assert [point.epoch for point in client.metrics(trainer.id, order="desc", limit=2)] == [3, 2]
    assert [checkpoint.path for checkpoint in client.checkpoints(trainer.id)] == ["/c/3.pt"]
    assert client.metric_schema(trainer.id).metric_count == 3
    assert client.status(trainer.id).latest_metrics[-1].epoch == 3


def test_an_expired_token_is_renewed_once_for_many_threads(root: str, email: str, password: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with Client(root, email=email, password=password) as made:
        made.login(email, password)
        made._session.credentials.token = "expired"
        with ThreadPoolExecutor(8) as pool:
            users = list(pool.map(lambda _: made.me(), range(16)))
        assert {user.email for user in users} == {email}


def test_async(root: str, email: str, password: str) -> None:
    async def play() -> None:
        async with AsyncClient(root, email=email, password=password) as client:
            jobs: List[TrainingJob] = await asyncio.gather(
                *(client.submit(framework="command", command=["sh", "-c", f"echo hi {n}"]) for n in range(4))
            )
            ends = await asyncio.gather(*(client.wait(job.id, timeout=60, poll=0.05) for job in jobs))
            assert {job.status for job in ends} == {"completed"}
            lines = [line.content async for line in client.stream_logs(jobs[0].id)]
            assert "hi 0" in lines
            found = [job.id async for job in client.list(page_size=3, status="completed")]
            assert {job.id for job in jobs} <= set(found)
            with pytest.raises(NotFound):
                await client.get(99999999)

    asyncio.run(play())


def test_async_metrics_are_streamed_while_they_come(root: str, email: str, password: str, trainer: Trainer) -> None:
    async def play() -> None:
        async with AsyncClient(root, email=email, password=password) as client:
            trainer.epoch(1)
            stream = client.stream_metrics(trainer.id, poll=0.05)
            first = await anext(stream)
            assert (first.epoch, first.loss) == (1, 1.0)
            # It waits for what is not there yet, and holds up nothing beside it.
            second = asyncio.ensure_future(anext(stream))
            assert (await client.get(trainer.id)).status == "running"
            assert not second.done()
            await asyncio.to_thread(trainer.epoch, 2)
            assert (await asyncio.wait_for(second, 60)).epoch == 2
            await asyncio.to_thread(trainer.epoch, 3)
            await asyncio.to_thread(trainer.exits)
            assert [point.epoch async for point in stream] == [3]
            later = [point.epoch async for point in client.stream_metrics(trainer.id, after_id=first.id)]
            assert later == [2, 3]

    asyncio.run(play())


def test_async_cancel_reaches_the_process(root: str, email: str, password: str, trainer: Trainer) -> None:
    async def play() -> None:
        async with AsyncClient(root, email=email, password=password) as client:
            assert trainer.runs()
            assert (await client.cancel(trainer.id)).status == "cancelled"
            done = await client.wait(trainer.id, timeout=60, poll=0.05)
            assert (done.status, done.ended) == ("cancelled", True)
            with pytest.raises(Conflict, match="Cannot cancel"):
                await client.cancel(trainer.id)
            assert [point async for point in client.stream_metrics(trainer.id, poll=0.05)] == []

    asyncio.run(play())
    until("the process is gone", lambda: not trainer.runs())


def test_callbacks_of_a_script_need_no_client(client: Client, tmp_path: Path) -> None:
    script = (
        "import sys; from trainyard_sdk import TrainerSDK\n"
        "with TrainerSDK() as sdk:\n"
        "    sdk.report_started(2)\n"
        "    for epoch in (1, 2): sdk.report_progress(epoch, 2, {'loss': 1 / epoch})\n"
        "    sdk.report_completed({'loss': 0.5})\n"
        "assert 'httpx' not in sys.modules and 'trainyard_sdk.client' not in sys.modules\n"
    )
    job = client.submit(framework="command", command=["python3", "-c", script], epochs=2)
    assert client.wait(job.id, timeout=60, poll=0.05).require_completed()
    assert [point.loss for point in client.metrics(job.id)] == [1.0, 0.5]
    until("the points are there", lambda: client.metrics(job.id))


def test_what_would_become_of_a_job_why_it_waits_what_was_used_and_what_was_decided(client: Client) -> None:
    foreseen = client.dry_run(waiting())
    assert foreseen.nodes or foreseen.explanation
    with pytest.raises(ValidationError):
        client.dry_run(framework="nothing", command=["true"])
    done = client.wait(client.submit(framework="command", command=["true"]).id, timeout=60, poll=0.05)
    assert client.explain(done.id) is None
    kinds = [event.kind for event in client.events(job_id=done.id, page_size=1)]
    assert kinds[0] == "accepted" and kinds[-2:] == ["placed", "completed"]
    usage = client.usage(by="user", since=done.created_at - datetime.timedelta(days=1))
    assert usage.total["jobs"] >= 1 and usage.since < usage.until
    assert all(row["user"] for row in usage.rows)
    assert all(event.at.tzinfo is datetime.timezone.utc for event in client.events(since=done.created_at))
