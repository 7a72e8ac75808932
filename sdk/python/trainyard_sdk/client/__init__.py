"""What a script outside a job uses to talk to the platform: submit, look at, follow and stop jobs.

`Client` and `AsyncClient` need httpx (`pip install "trainyard-sdk[client]"`), which is imported when one is made.
"""

from .aio import AsyncClient
from .errors import (
    AuthError,
    Conflict,
    FieldError,
    JobFailed,
    NotFound,
    PermissionDenied,
    RateLimited,
    RequestTimeout,
    ServerError,
    TooLarge,
    TrainyardError,
    Unavailable,
    ValidationError,
    WaitTimeout,
)
from .jobspec import JobConfig, JobSpec, Placement, Resources, Retry, SplitStrategy
from .models import (
    Checkpoint,
    JobPage,
    JobStatus,
    LogLine,
    MetricPoint,
    MetricSchema,
    Tokens,
    TrainingJob,
    UploadUrl,
    User,
    ValidationResult,
)
from .sync import Client

__all__ = [
    "AsyncClient",
    "AuthError",
    "Checkpoint",
    "Client",
    "Conflict",
    "FieldError",
    "JobConfig",
    "JobFailed",
    "JobPage",
    "JobSpec",
    "JobStatus",
    "LogLine",
    "MetricPoint",
    "MetricSchema",
    "NotFound",
    "PermissionDenied",
    "Placement",
    "RateLimited",
    "RequestTimeout",
    "Resources",
    "Retry",
    "ServerError",
    "SplitStrategy",
    "Tokens",
    "TooLarge",
    "TrainingJob",
    "TrainyardError",
    "Unavailable",
    "UploadUrl",
    "User",
    "ValidationError",
    "ValidationResult",
    "WaitTimeout",
]
