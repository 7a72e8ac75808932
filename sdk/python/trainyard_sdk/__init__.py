"""What a training script uses to tell Trainyard about itself: progress, validation, logs, and how it ended.

Standard library only. `TrainerSDK` reports; the functions of the same names use one shared `TrainerSDK` that is made
from the environment on first use. `TrainerConfig` reads a job's settings, `datasets` reads datasets of pictures, and
`callbacks` reports from within Ultralytics, Lightning and Transformers.

The other side, for scripts that submit and follow jobs, is `Client` and `AsyncClient` with what else is in
`trainyard_sdk.client`; it is loaded on first use, so that trainers do not pay for it.
"""

from typing import TYPE_CHECKING, Any

from .config import TrainerConfig, normalize_task
from .errors import (
    CallbackError,
    CheckpointError,
    ConfigError,
    DatasetError,
    FrameworkError,
    NetworkError,
    ResourceError,
    TrainerError,
    UnknownError,
    ValidationError,
    classify,
    describe,
)
from .shared import (
    default_sdk,
    log,
    report_completed,
    report_failed,
    report_progress,
    report_started,
    report_validation,
    reset_default_sdk,
)
from .trainer import TrainerSDK

if TYPE_CHECKING:
    from .client import AsyncClient, Client, JobConfig, JobSpec

_OF_THE_CLIENT = ("AsyncClient", "Client", "JobConfig", "JobSpec")


def __getattr__(name: str) -> Any:
    """Names of `trainyard_sdk.client`, loaded on first use."""
    if name in _OF_THE_CLIENT:
        from . import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "CallbackError",
    "CheckpointError",
    "Client",
    "ConfigError",
    "DatasetError",
    "FrameworkError",
    "JobConfig",
    "JobSpec",
    "NetworkError",
    "ResourceError",
    "TrainerConfig",
    "TrainerError",
    "TrainerSDK",
    "UnknownError",
    "ValidationError",
    "classify",
    "default_sdk",
    "describe",
    "log",
    "normalize_task",
    "report_completed",
    "report_failed",
    "report_progress",
    "report_started",
    "report_validation",
    "reset_default_sdk",
]
