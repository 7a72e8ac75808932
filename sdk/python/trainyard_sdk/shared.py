"""Owns the one client that a process shares, and the functions that use it.

For scripts that would rather call functions than carry an object. The client is made from the environment on first use.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Union

from .bodies import Metrics
from .trainer import TrainerSDK

_shared: Optional[TrainerSDK] = None


def default_sdk() -> TrainerSDK:
    """Return the shared client. Raises ConfigError when CALLBACK_URL is set without a usable JOB_ID."""
    global _shared
    if _shared is None:
        _shared = TrainerSDK()
    return _shared


def reset_default_sdk() -> None:
    """Forget the shared client, so that the next call reads the environment again."""
    global _shared
    _shared = None


def report_started(total_epochs: int = 1, **fields: Any) -> Optional[Dict[str, Any]]:
    """See `TrainerSDK.report_started`."""
    return default_sdk().report_started(total_epochs, **fields)


def report_progress(
    epoch: int, total_epochs: Optional[int] = None, metrics: Optional[Metrics] = None, **fields: Any
) -> Optional[Dict[str, Any]]:
    """See `TrainerSDK.report_progress`."""
    return default_sdk().report_progress(epoch, total_epochs, metrics, **fields)


def report_validation(epoch: int, task_type: str, **fields: Any) -> Optional[Dict[str, Any]]:
    """See `TrainerSDK.report_validation`."""
    return default_sdk().report_validation(epoch, task_type, **fields)


def report_completed(final_metrics: Optional[Metrics] = None, **fields: Any) -> Optional[Dict[str, Any]]:
    """See `TrainerSDK.report_completed`."""
    return default_sdk().report_completed(final_metrics, **fields)


def report_failed(error: Union[BaseException, str], **fields: Any) -> Optional[Dict[str, Any]]:
    """See `TrainerSDK.report_failed`."""
    return default_sdk().report_failed(error, **fields)


def log(message: str, level: str = "INFO", **fields: Any) -> bool:
    """See `TrainerSDK.log`."""
    return default_sdk().log(message, level, **fields)
