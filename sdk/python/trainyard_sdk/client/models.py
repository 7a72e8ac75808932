"""Owns what the coordinator answers, as typed values. Pure: no network, no httpx.

Times are aware datetimes in UTC. A key that this version does not know stays in `raw`. Callers: `calls`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Mapping, Optional, Type, TypeVar

from .errors import JobFailed, ServerError

T = TypeVar("T")

ENDED = frozenset(("completed", "failed", "cancelled", "stopped"))
"""Statuses that a job never leaves by itself."""

_TIMES = frozenset(
    ("created_at", "started_at", "completed_at", "expected_early", "expected_middle", "expected_late", "at")
)


def parse_time(text: str) -> datetime.datetime:
    """A time of the coordinator (naive UTC, or with a zone) as an aware datetime in UTC."""
    made = datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    if made.tzinfo is None:
        return made.replace(tzinfo=datetime.timezone.utc)
    return made.astimezone(datetime.timezone.utc)


def build(cls: Type[T], document: Any) -> T:
    """Make a dataclass of an answer's object; `raw` keeps the object as it came.

    Raises:
        ServerError: the answer is no object, or lacks a field that must be there.
    """
    if not isinstance(document, Mapping):
        raise ServerError(f"the answer should be a {cls.__name__}, but is a {type(document).__name__}")
    known: Dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name == "raw" or item.name not in document:
            continue
        value = document[item.name]
        known[item.name] = parse_time(value) if item.name in _TIMES and isinstance(value, str) else value
    make: Any = cls
    try:
        made: T = make(raw=dict(document), **known)
    except TypeError as error:
        raise ServerError(f"the answer is no {cls.__name__}: {error}; is this a Trainyard coordinator?") from error
    return made


def _raw() -> Any:
    return field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Tokens:
    """A pair of tokens; neither is shown by `repr`."""

    access_token: str = field(repr=False)
    refresh_token: Optional[str] = field(default=None, repr=False)
    token_type: str = "bearer"
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class User:
    """A user, as `/auth/me` shows the caller."""

    id: int
    email: str
    system_role: str
    is_active: bool
    created_at: datetime.datetime
    full_name: Optional[str] = None
    company: Optional[str] = None
    company_custom: Optional[str] = None
    division: Optional[str] = None
    division_custom: Optional[str] = None
    department: Optional[str] = None
    phone_number: Optional[str] = None
    bio: Optional[str] = None
    badge_color: Optional[str] = None
    avatar_name: Optional[str] = None
    organization_id: Optional[int] = None
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class TrainingJob:
    """A job. `status` is pending, running, completed, failed, cancelled or stopped."""

    id: int
    framework: str
    model_name: str
    task_type: str
    dataset_path: str
    dataset_format: str
    output_dir: str
    epochs: int
    batch_size: int
    learning_rate: float
    status: str
    created_at: datetime.datetime
    session_id: Optional[int] = None
    project_id: Optional[int] = None
    project_name: Optional[str] = None
    experiment_name: Optional[str] = None
    tags: Optional[List[str]] = None
    notes: Optional[str] = None
    mlflow_run_id: Optional[str] = None
    workflow_id: Optional[str] = None
    dataset_snapshot_id: Optional[str] = None
    num_classes: Optional[int] = None
    custom_docker_image: Optional[str] = None
    advanced_config: Optional[Dict[str, Any]] = None
    error_message: Optional[str] = None
    process_id: Optional[int] = None
    final_accuracy: Optional[float] = None
    best_checkpoint_path: Optional[str] = None
    last_checkpoint_path: Optional[str] = None
    primary_metric: Optional[str] = None
    primary_metric_mode: Optional[str] = None
    started_at: Optional[datetime.datetime] = None
    completed_at: Optional[datetime.datetime] = None
    raw: Dict[str, Any] = _raw()

    @property
    def ended(self) -> bool:
        """True once it is completed, failed, cancelled or stopped."""
        return self.status in ENDED

    def require_completed(self) -> "TrainingJob":
        """Return the job itself when it completed. Raises JobFailed when it ended otherwise or has not ended."""
        if self.status == "completed":
            return self
        words = f"job {self.id} is {self.status}"
        raise JobFailed(f"{words}: {self.error_message}" if self.error_message else words, self)


@dataclass(frozen=True)
class MetricPoint:
    """What a trainer reported for an epoch; `extra_metrics` holds every value by name. `id` grows within a job."""

    id: int
    job_id: int
    epoch: int
    created_at: datetime.datetime
    step: Optional[int] = None
    loss: Optional[float] = None
    accuracy: Optional[float] = None
    learning_rate: Optional[float] = None
    extra_metrics: Optional[Dict[str, float]] = None
    checkpoint_path: Optional[str] = None
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log; `log_type` is stdout or stderr. `id` grows within a job."""

    id: int
    job_id: int
    log_type: str
    content: str
    created_at: datetime.datetime
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that the trainer reported."""

    path: str
    filename: str
    is_best: bool
    epoch: Optional[int] = None
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class MetricSchema:
    """Which metrics a job has, and which one names its best epoch."""

    job_id: int
    framework: str
    task_type: str
    primary_metric: str
    primary_metric_mode: str
    available_metrics: List[str]
    metric_count: int
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class ValidationResult:
    """What a trainer reported of a validation pass."""

    id: int
    job_id: int
    epoch: int
    task_type: str
    primary_metric_name: Optional[str] = None
    primary_metric_value: Optional[float] = None
    overall_loss: Optional[float] = None
    metrics: Optional[Dict[str, Any]] = None
    per_class_metrics: Optional[Any] = None
    confusion_matrix: Optional[Any] = None
    pr_curves: Optional[Any] = None
    class_names: Optional[List[str]] = None
    visualization_urls: Optional[Any] = None
    image_results: Optional[Any] = None
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class JobStatus:
    """A job with its newest points, oldest of them first."""

    job: TrainingJob
    latest_metrics: List[MetricPoint]


@dataclass(frozen=True)
class JobPage:
    """One page of a list; `next_cursor` is None on the last one."""

    jobs: List[TrainingJob]
    next_cursor: Optional[str]


@dataclass(frozen=True)
class UploadUrl:
    """Where a checkpoint may be PUT to, for `expires_in` seconds."""

    upload_url: str = field(repr=False)
    object_key: str = ""
    expires_in: int = 0
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class Explanation:
    """Why a job waits. `place`, `short_nodes` and `changes` are as the coordinator shows them: any one of `changes`
    would start it now, or where there are none, all of `together`. It is expected to start before `expected_early` in
    one case of ten, `expected_middle` in five, `expected_late` in nine."""

    reason: str
    place: Optional[Dict[str, Any]] = None
    short_nodes: List[Dict[str, Any]] = field(default_factory=list)
    changes: List[Dict[str, Any]] = field(default_factory=list)
    together: List[Dict[str, Any]] = field(default_factory=list)
    expected_early: Optional[datetime.datetime] = None
    expected_middle: Optional[datetime.datetime] = None
    expected_late: Optional[datetime.datetime] = None
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class DryRun:
    """What would become of a job: the nodes where it would start at once, or why it would wait."""

    nodes: List[str]
    explanation: Optional[Explanation] = None
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class Usage:
    """What jobs have used between two moments: `rows` and `total` as the coordinator shows them."""

    since: datetime.datetime
    until: datetime.datetime
    rows: List[Dict[str, Any]]
    total: Dict[str, Any]
    raw: Dict[str, Any] = _raw()


@dataclass(frozen=True)
class Event:
    """Something that was decided. `id` grows, and is 0 for the acceptance of a job."""

    id: int
    at: datetime.datetime
    kind: str
    words: str
    job_id: Optional[int] = None
    attempt: Optional[int] = None
    nodes: List[str] = field(default_factory=list)
    for_job_id: Optional[int] = None
    raw: Dict[str, Any] = _raw()
