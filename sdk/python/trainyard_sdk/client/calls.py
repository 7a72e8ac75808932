"""Owns what the clients can do, as operations over `protocol`: one place for the sync and the async client.

Callers: `sync`, `aio`.
"""

from __future__ import annotations

import datetime
import time
import uuid
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Optional, Type, TypeVar, Union

from .errors import ServerError, Unavailable, WaitTimeout
from .jobspec import JobConfig, JobSpec, spec_of
from .models import (
    Checkpoint,
    DryRun,
    Event,
    Explanation,
    JobPage,
    JobStatus,
    LogLine,
    MetricPoint,
    MetricSchema,
    TrainingJob,
    UploadUrl,
    Usage,
    User,
    ValidationResult,
    build,
    parse_time,
)
from .protocol import Emit, Op, Request, Session, Sleep, Stream

T = TypeVar("T")
Row = TypeVar("Row", MetricPoint, LogLine)


class Calls:
    """The operations of one session.

    Args:
        session: sends.
        patience: seconds for which `wait` and the streams go on while the coordinator cannot be reached.
    """

    def __init__(self, session: Session, patience: float = 300.0) -> None:
        self.session = session
        self._patience = patience

    def me(self) -> Op[User]:
        return build(User, (yield from self._get("/auth/me")))

    def logout(self) -> Op[None]:
        yield from self.session.call(Request("POST", "/auth/logout"))
        self.session.forget()

    def health(self) -> Op[Dict[str, Any]]:
        answer = yield from self.session.call(Request("GET", "/health", repeatable=True, open=True))
        return dict(answer)

    def submit(
        self, spec: Union[JobSpec, JobConfig, None], key: Optional[str], settings: Mapping[str, Any]
    ) -> Op[TrainingJob]:
        body = spec_of(spec, settings).to_json()
        # With a key a second try of the same submission answers with the first job, so a lost answer costs nothing.
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        request = Request("POST", "/training/jobs", body=body, headers=headers, repeatable=True)
        return build(TrainingJob, (yield from self.session.call(request)))

    def job(self, job_id: int) -> Op[TrainingJob]:
        return build(TrainingJob, (yield from self._get(f"/training/jobs/{job_id}")))

    def status(self, job_id: int, until: Optional[float] = None) -> Op[JobStatus]:
        answer = yield from self._get(f"/training/jobs/{job_id}/status", until=until)
        points = _rows(MetricPoint, answer["latest_metrics"])
        return JobStatus(build(TrainingJob, answer["job"]), points)

    def page(self, filters: Mapping[str, Any]) -> Op[JobPage]:
        answer = yield from self._get("/training/jobs", filters)
        return JobPage(_rows(TrainingJob, answer["jobs"]), answer.get("next_cursor"))

    def jobs(self, filters: Mapping[str, Any]) -> Stream[TrainingJob]:
        """Every job that fits, page by page, newest first."""
        cursor: Optional[str] = None
        while True:
            page = yield from self.page({**filters, "cursor": cursor})
            for job in page.jobs:
                yield Emit(job)
            cursor = page.next_cursor
            if cursor is None:
                return

    def experiments(self, project_id: int) -> Op[List[TrainingJob]]:
        return _rows(TrainingJob, (yield from self._get(f"/projects/{project_id}/experiments")))

    def explain(self, job_id: int) -> Op[Optional[Explanation]]:
        answer = yield from self._get(f"/training/jobs/{job_id}/explain")
        return _explanation(answer)

    def dry_run(self, spec: Union[JobSpec, JobConfig, None], settings: Mapping[str, Any]) -> Op[DryRun]:
        body = spec_of(spec, settings).to_json()
        request = Request("POST", "/training/jobs/dry-run", body=body, repeatable=True)
        answer = yield from self.session.call(request)
        return DryRun(list(answer["nodes"]), _explanation(answer), dict(answer))

    def usage(
        self, since: Optional[datetime.datetime], until: Optional[datetime.datetime], by: Optional[str]
    ) -> Op[Usage]:
        query = {"from": _moment(since), "to": _moment(until), "by": by}
        answer = yield from self._get("/usage", query)
        begins, ends = parse_time(answer["from"]), parse_time(answer["to"])
        return Usage(begins, ends, list(answer["rows"]), dict(answer["total"]), dict(answer))

    def events(self, since: Optional[datetime.datetime], filters: Mapping[str, Any]) -> Stream[Event]:
        """Everything that was decided and fits, page by page, oldest first."""
        filters = {**filters, "since": _moment(since)}
        cursor: Optional[str] = None
        while True:
            answer = yield from self._get("/events", {**filters, "cursor": cursor})
            for event in _rows(Event, answer["events"]):
                yield Emit(event)
            cursor = answer.get("next_cursor")
            if cursor is None:
                return

    def cancel(self, job_id: int) -> Op[TrainingJob]:
        return build(TrainingJob, (yield from self._act(f"/training/jobs/{job_id}/cancel")))

    def restart(self, job_id: int) -> Op[TrainingJob]:
        return build(TrainingJob, (yield from self._act(f"/training/jobs/{job_id}/restart")))

    def metrics(self, job_id: int, query: Mapping[str, Any]) -> Op[List[MetricPoint]]:
        return _rows(MetricPoint, (yield from self._get(f"/training/jobs/{job_id}/metrics", query)))

    def metric_schema(self, job_id: int) -> Op[MetricSchema]:
        return build(MetricSchema, (yield from self._get(f"/training/jobs/{job_id}/metric-schema")))

    def logs(self, job_id: int, query: Mapping[str, Any]) -> Op[List[LogLine]]:
        return _rows(LogLine, (yield from self._get(f"/training/jobs/{job_id}/logs", query)))

    def checkpoints(self, job_id: int) -> Op[List[Checkpoint]]:
        answer = yield from self._get(f"/training/jobs/{job_id}/checkpoints")
        return _rows(Checkpoint, answer["checkpoints"])

    def upload_url(self, job_id: int, filename: str, content_type: str) -> Op[UploadUrl]:
        body = {"checkpoint_filename": filename, "content_type": content_type}
        path = f"/training/jobs/{job_id}/checkpoints/upload-url"
        return build(UploadUrl, (yield from self.session.call(Request("POST", path, body=body))))

    def validations(self, job_id: int) -> Op[List[ValidationResult]]:
        answer = yield from self._get(f"/validation/jobs/{job_id}/results")
        return _rows(ValidationResult, answer["results"])

    def wait(
        self,
        job_id: int,
        timeout: Optional[float],
        poll: float,
        progress: Optional[Callable[[TrainingJob, Optional[MetricPoint]], None]],
    ) -> Op[TrainingJob]:
        """Until the job has ended; `progress` gets the job and its newest point whenever one of them changed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        shown: Any = None
        job: Optional[TrainingJob] = None
        while True:
            try:
                status = yield from self._patiently(lambda: self.status(job_id, deadline), deadline)
            except Unavailable as error:
                if deadline is None or time.monotonic() < deadline:
                    raise
                raise WaitTimeout(
                    f"the coordinator did not say in {timeout} s how job {job_id} is: {error}", job
                ) from error
            job = status.job
            newest = status.latest_metrics[-1] if status.latest_metrics else None
            if progress is not None and (job, newest) != shown:
                shown = (job, newest)
                progress(job, newest)
            if job.ended:
                return job
            left = poll if deadline is None else min(poll, deadline - time.monotonic())
            if left <= 0:
                raise WaitTimeout(f"job {job_id} is still {job.status} after {timeout} s", job)
            yield Sleep(left)

    def stream_metrics(self, job_id: int, after_id: int, poll: float) -> Stream[MetricPoint]:
        return self._followed(MetricPoint, job_id, "metrics", after_id, poll)

    def stream_logs(self, job_id: int, after_id: int, poll: float) -> Stream[LogLine]:
        return self._followed(LogLine, job_id, "logs", after_id, poll)

    def _followed(self, kind: Type[Row], job_id: int, name: str, after_id: int, poll: float) -> Stream[Row]:
        """Rows in order of their ids, each once, until the job has ended and all were given."""
        path = f"/training/jobs/{job_id}/{name}"
        while True:
            # Asked before the rows: a job ends when all its rows are stored, so none can come after that.
            ended = (yield from self._patiently(lambda: self.job(job_id))).ended
            while True:
                query = {"after_id": after_id}
                answer = yield from self._patiently(partial(self._get, path, query))
                rows = [row for row in _rows(kind, answer) if row.id > after_id]
                for row in rows:
                    after_id = row.id
                    yield Emit(row)
                if not rows:
                    break
            if ended:
                return
            yield Sleep(poll)

    def _patiently(self, call: Callable[[], Op[T]], until: Optional[float] = None) -> Op[T]:
        """A call that only reads, made again while the coordinator is away: as long as patience lasts, and no longer
        than the caller's own time."""
        deadline = time.monotonic() + self._patience
        deadline = deadline if until is None else min(deadline, until)
        while True:
            try:
                return (yield from call())
            except Unavailable:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
                yield Sleep(min(1.0, left))

    def _get(self, path: str, query: Optional[Mapping[str, Any]] = None, until: Optional[float] = None) -> Op[Any]:
        params = {key: value for key, value in (query or {}).items() if value is not None}
        request = Request("GET", path, params=params or None, repeatable=True)
        return (yield from self.session.call(request, until))

    def _act(self, path: str) -> Op[Any]:
        # Not repeated when the answer was lost: a second cancel is refused, a second restart would restart again.
        return (yield from self.session.call(Request("POST", path, conflict=True)))


def _rows(kind: Type[T], answer: Any) -> List[T]:
    if not isinstance(answer, list):
        raise ServerError(f"the answer should be a list of {kind.__name__}, but is a {type(answer).__name__}")
    return [build(kind, row) for row in answer]


def _explanation(answer: Any) -> Optional[Explanation]:
    why = answer.get("explanation")
    return None if why is None else build(Explanation, why)


def _moment(at: Optional[datetime.datetime]) -> Optional[str]:
    """A moment as the coordinator reads it; a naive one is UTC."""
    if at is None:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=datetime.timezone.utc)).isoformat()
