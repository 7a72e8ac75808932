"""Owns the error types of a trainer and how any exception is sorted into one of them.

The platform shows a failure as ``[<ErrorType>] <text>``; the type decides what the owner of a job is told to do,
so a trainer should raise one of these classes where it knows better than `classify` can guess.
"""

from __future__ import annotations

import errno
import socket
import urllib.error
from types import TracebackType
from typing import Optional, Tuple, Type


class TrainerError(Exception):
    """Base of all errors with a known type; `error_type` is the word the platform prints in brackets."""

    error_type = "UnknownError"


class DatasetError(TrainerError):
    """The dataset is missing, empty or not in the layout that the trainer reads."""

    error_type = "DatasetError"


class CheckpointError(TrainerError):
    """A checkpoint could not be read or written."""

    error_type = "CheckpointError"


class ConfigError(TrainerError):
    """A setting is missing, unreadable or out of range; the text names it."""

    error_type = "ConfigError"


class ResourceError(TrainerError):
    """Memory, disk or an accelerator ran out."""

    error_type = "ResourceError"


class NetworkError(TrainerError):
    """Something outside the machine could not be reached."""

    error_type = "NetworkError"


class FrameworkError(TrainerError):
    """The training framework itself failed or is not installed."""

    error_type = "FrameworkError"


class ValidationError(TrainerError):
    """The validation pass failed or its results are unusable."""

    error_type = "ValidationError"


class UnknownError(TrainerError):
    """Anything that fits no other type."""


class CallbackError(NetworkError):
    """A callback was not accepted.

    Attributes:
        url: the address that was called.
        status: the HTTP status of the last answer; None when there was no answer at all.
        attempts: how many times it was tried.
    """

    def __init__(self, message: str, url: str = "", status: Optional[int] = None, attempts: int = 0) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.attempts = attempts

    @property
    def transient(self) -> bool:
        """True when a later try may succeed: no answer, or a 5xx."""
        return self.status is None or self.status >= 500


ERROR_TYPES: Tuple[Type[TrainerError], ...] = (
    DatasetError,
    CheckpointError,
    ConfigError,
    ResourceError,
    NetworkError,
    FrameworkError,
    ValidationError,
    UnknownError,
)

_FRAMEWORKS = ("torch", "torchvision", "ultralytics", "sklearn", "tensorflow", "keras", "timm", "transformers", "jax")
_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def classify(error: BaseException) -> str:
    """Return the name of the error type that fits `error` best, one of the eight the platform knows."""
    if isinstance(error, TrainerError):
        return error.error_type
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "no space left on device" in text:
        return ResourceError.error_type
    if isinstance(error, OSError) and error.errno in _OUT_OF_SPACE:
        return ResourceError.error_type
    network = (ConnectionError, TimeoutError, socket.timeout, socket.gaierror, urllib.error.URLError)
    if isinstance(error, network):
        return NetworkError.error_type
    if isinstance(error, ImportError):
        return FrameworkError.error_type
    if "checkpoint" in text:
        return CheckpointError.error_type
    if "dataset" in text or (isinstance(error, FileNotFoundError) and "data" in text):
        return DatasetError.error_type
    if _raised_in_framework(error):
        return FrameworkError.error_type
    return UnknownError.error_type


def describe(error: BaseException, error_type: Optional[str] = None) -> str:
    """Return ``[<ErrorType>] <text>`` for an exception; an exception without text is named by its class."""
    text = str(error).strip() or type(error).__name__
    if not isinstance(error, TrainerError) and str(error).strip():
        # A bare KeyError says only the key: its class makes the line readable.
        text = f"{type(error).__name__}: {text}"
    return f"[{error_type or classify(error)}] {text}"


def _raised_in_framework(error: BaseException) -> bool:
    """True when the exception's class, or the frame that raised it, belongs to a training framework."""
    names = [type(error).__module__]
    frame: Optional[TracebackType] = error.__traceback__
    while frame is not None:
        if frame.tb_next is None:
            names.append(str(frame.tb_frame.f_globals.get("__name__", "")))
        frame = frame.tb_next
    return any(name.split(".")[0] in _FRAMEWORKS for name in names)
