"""What a training script uses to tell Trainyard about itself: progress, validation, logs, and how it ended.

Standard library only. `TrainerSDK` is the client; the functions of the same names use one shared client that is made
from the environment on first use. `TrainerConfig` reads a job's settings.
"""

from .client import TrainerSDK
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

__version__ = "0.1.0"

__all__ = [
    "CallbackError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "FrameworkError",
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
