"""Owns the blocking client: carries out the steps of `calls` with `httpx.Client`. Safe to share between threads."""

from __future__ import annotations

import datetime
import threading
import time
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, Optional, Type, TypeVar, Union

from . import http
from .calls import Calls
from .errors import TrainyardError
from .jobspec import JobConfig, JobSpec
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
    Tokens,
    TrainingJob,
    UploadUrl,
    Usage,
    User,
    ValidationResult,
)
from .protocol import Alone, Credentials, Emit, Op, Send, Session, Step, Stream, base_url

T = TypeVar("T")
Progress = Callable[[TrainingJob, Optional[MetricPoint]], None]


class Client:
    """The platform over HTTP.

    Args:
        url: the coordinator, `https://host:8000`; TRAINYARD_URL when None, then this machine.
        token: an access token; with `refresh_token` it is renewed when it expires.
        api_key: the key of a service account.
        email, password: used to log in at the first call, and again when tokens cannot be renewed.
            Without any of these TRAINYARD_TOKEN or TRAINYARD_API_KEY is used.
        timeout: seconds for one answer.
        retries: further tries of a call that may safely be made again, when the coordinator is away or busy.
        patience: seconds for which `wait` and the streams outlast a coordinator that is away.
        verify: True, the path of a CA file (also TRAINYARD_CA), an SSL context, or False to trust anyone.
        transport: another transport of httpx, for tests.

    Raises:
        ImportError: httpx is not installed.
    """

    def __init__(
        self,
        url: Optional[str] = None,
        *,
        token: Optional[str] = None,
        refresh_token: Optional[str] = None,
        api_key: Optional[str] = None,
        email: Optional[str] = None,
        password: Optional[str] = None,
        timeout: float = 30.0,
        retries: int = 4,
        patience: float = 300.0,
        verify: http.Verify = True,
        transport: Any = None,
    ) -> None:
        self.url = base_url(url)
        credentials = Credentials.given(
            token=token, refresh_token=refresh_token, api_key=api_key, email=email, password=password
        )
        self._session = Session(credentials, retries)
        self._calls = Calls(self._session, patience)
        self._alone = threading.Lock()
        self._httpx = http.load()
        self._http = self._httpx.Client(**http.arguments(self.url, verify, timeout, transport))

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- who calls

    def login(self, email: str, password: str) -> Tokens:
        """Log in; later calls use and renew the tokens. Raises AuthError."""
        return self._run(self._session.login(email, password))

    def refresh(self) -> Tokens:
        """Renew the tokens now; calls do it by themselves when a token has expired."""
        return self._run(self._session.refresh())

    def logout(self) -> None:
        """End the session at the coordinator and forget the credentials."""
        self._run(self._calls.logout())

    def me(self) -> User:
        """The user that calls."""
        return self._run(self._calls.me())

    def health(self) -> Dict[str, Any]:
        """What the coordinator says of itself; needs no credentials. Raises Unavailable when it is not well."""
        return self._run(self._calls.health())

    # --- jobs

    def submit(
        self,
        spec: Union[JobSpec, JobConfig, None] = None,
        *,
        idempotency_key: Optional[str] = None,
        **settings: Any,
    ) -> TrainingJob:
        """Submit a job, described by an object, by fields of JobSpec and JobConfig as keywords, or by both.

        Args:
            spec: the description.
            idempotency_key: the same submission with it again answers with the first job, another one is refused
                with 409; made up when None, so that a retry after a lost answer makes no second job.
            settings: win over the same fields of `spec`.

        Raises:
            ValidationError: the description is not in order; `fields` names each bad field.
            TypeError: a keyword that no description has.
        """
        return self._run(self._calls.submit(spec, idempotency_key, settings))

    def get(self, job_id: int) -> TrainingJob:
        """One job. Raises NotFound."""
        return self._run(self._calls.job(job_id))

    def status(self, job_id: int) -> JobStatus:
        """One job with its ten newest points."""
        return self._run(self._calls.status(job_id))

    def list(
        self, *, status: Optional[str] = None, project_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> Iterator[TrainingJob]:
        """All jobs that fit, newest first; pages are fetched while you read."""
        filters = {"status": status, "project_id": project_id, "limit": page_size}
        return self._iterate(self._calls.jobs(filters))

    def page(
        self,
        *,
        status: Optional[str] = None,
        project_id: Optional[int] = None,
        limit: Optional[int] = None,
        cursor: Optional[str] = None,
    ) -> JobPage:
        """One page of jobs; go on with `cursor=page.next_cursor`."""
        filters = {"status": status, "project_id": project_id, "limit": limit, "cursor": cursor}
        return self._run(self._calls.page(filters))

    def experiments(self, project_id: int) -> List[TrainingJob]:
        """All jobs of a project, newest first."""
        return self._run(self._calls.experiments(project_id))

    def explain(self, job_id: int) -> Optional[Explanation]:
        """Why a job waits, and until when; None when it does not wait."""
        return self._run(self._calls.explain(job_id))

    def dry_run(self, spec: Union[JobSpec, JobConfig, None] = None, **settings: Any) -> DryRun:
        """What would become of a job, described as for `submit`, without submitting it. Raises what `submit` raises."""
        return self._run(self._calls.dry_run(spec, settings))

    def usage(
        self,
        *,
        since: Optional[datetime.datetime] = None,
        until: Optional[datetime.datetime] = None,
        by: Optional[str] = None,
    ) -> Usage:
        """What jobs have used and how long they have waited.

        Args:
            since: the first moment that is counted, 30 days before `until` when None; naive ones are UTC.
            until: the first that is not; now when None.
            by: `project` (when None), `user` or `both`.
        """
        return self._run(self._calls.usage(since, until, by))

    def events(
        self,
        *,
        job_id: Optional[int] = None,
        node: Optional[str] = None,
        since: Optional[datetime.datetime] = None,
        page_size: Optional[int] = None,
    ) -> Iterator[Event]:
        """What was decided, oldest first: about a job, a node, or all; pages are fetched while you read."""
        filters = {"job_id": job_id, "node": node, "limit": page_size}
        return self._iterate(self._calls.events(since, filters))

    def cancel(self, job_id: int) -> TrainingJob:
        """Stop a job. Raises Conflict when it has ended."""
        return self._run(self._calls.cancel(job_id))

    def restart(self, job_id: int) -> TrainingJob:
        """Run an ended job again. Raises Conflict when it has not ended."""
        return self._run(self._calls.restart(job_id))

    def wait(
        self,
        job_id: int,
        *,
        timeout: Optional[float] = None,
        poll: float = 1.0,
        progress: Optional[Progress] = None,
    ) -> TrainingJob:
        """Wait until a job has ended, and return it, whatever the end was; see `TrainingJob.require_completed`.

        Args:
            job_id: the job.
            timeout: seconds at most, also while the coordinator is away; no bound when None.
            poll: seconds between two looks.
            progress: called with the job and its newest point (or None) when one of them changed.

        Raises:
            WaitTimeout: it has not ended in time, or the coordinator did not say so in time.
            Unavailable: the coordinator was away for longer than `patience`.
        """
        return self._run(self._calls.wait(job_id, timeout, poll, progress))

    # --- what a job reports

    def metrics(
        self,
        job_id: int,
        *,
        limit: Optional[int] = None,
        order: Optional[str] = None,
        since_epoch: Optional[int] = None,
    ) -> List[MetricPoint]:
        """Points of the curve over its attempts: the oldest `limit` (100), or with `order="desc"` the newest."""
        query = {"limit": limit, "order": order, "since_epoch": since_epoch}
        return self._run(self._calls.metrics(job_id, query))

    def metric_schema(self, job_id: int) -> MetricSchema:
        """Which metrics a job has."""
        return self._run(self._calls.metric_schema(job_id))

    def stream_metrics(self, job_id: int, *, after_id: int = 0, poll: float = 1.0) -> Iterator[MetricPoint]:
        """Each point once, in order, until the job has ended; go on after a break with the last `id` you have seen."""
        return self._iterate(self._calls.stream_metrics(job_id, after_id, poll))

    def logs(self, job_id: int, *, limit: Optional[int] = None, log_type: Optional[str] = None) -> List[LogLine]:
        """The newest `limit` (500) lines in order of time, of `stdout`, `stderr` or both."""
        return self._run(self._calls.logs(job_id, {"limit": limit, "log_type": log_type}))

    def stream_logs(self, job_id: int, *, after_id: int = 0, poll: float = 1.0) -> Iterator[LogLine]:
        """Each line once, in order, until the job has ended; go on after a break with the last `id` you have seen."""
        return self._iterate(self._calls.stream_logs(job_id, after_id, poll))

    def checkpoints(self, job_id: int) -> List[Checkpoint]:
        """Checkpoints that the trainer reported."""
        return self._run(self._calls.checkpoints(job_id))

    def upload_url(
        self, job_id: int, checkpoint_filename: str, content_type: str = "application/octet-stream"
    ) -> UploadUrl:
        """A short-lived address to PUT a checkpoint to."""
        return self._run(self._calls.upload_url(job_id, checkpoint_filename, content_type))

    def validations(self, job_id: int) -> List[ValidationResult]:
        """Validation results, one an epoch."""
        return self._run(self._calls.validations(job_id))

    # --- the steps

    def _run(self, operation: Op[T]) -> T:
        reply: Any = None
        error: Optional[TrainyardError] = None
        while True:
            try:
                step = operation.throw(error) if error else operation.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            reply, error = self._try(step)

    def _iterate(self, operation: Stream[T]) -> Iterator[T]:
        reply: Any = None
        error: Optional[TrainyardError] = None
        try:
            while True:
                try:
                    step = operation.throw(error) if error else operation.send(reply)
                except StopIteration:
                    return
                reply, error = None, None
                if isinstance(step, Emit):
                    yield step.item
                else:
                    reply, error = self._try(step)
        finally:
            operation.close()

    def _try(self, step: Step) -> "tuple[Any, Optional[TrainyardError]]":
        try:
            return self._perform(step), None
        except TrainyardError as error:
            return None, error

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Send):
            try:
                return http.answer_of(self._http.request(**http.request_of(step, self._http.timeout)))
            except self._httpx.HTTPError as error:
                return http.failure_of(error)
        if isinstance(step, Alone):
            with self._alone:
                return self._run(step.operation)
        time.sleep(step.seconds)
        return None
