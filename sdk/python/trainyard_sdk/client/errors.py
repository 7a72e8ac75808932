"""Owns what can go wrong between a client and the coordinator, as a hierarchy of exceptions.

Callers: `protocol`, which makes them of answers. Standard library only, so that `except` clauses need no httpx.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple, Type, Union


class TrainyardError(Exception):
    """Base of all errors of the client.

    Attributes:
        status: the HTTP status; None when there was no answer.
        detail: the coordinator's own words, or the list of bad fields as it came.
    """

    def __init__(self, message: str, status: Optional[int] = None, detail: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class AuthError(TrainyardError):
    """401, or nothing to log in with: the credentials are missing, wrong or no longer valid."""


class PermissionDenied(TrainyardError):
    """403: the caller is known but may not do this."""


class NotFound(TrainyardError):
    """404: there is no such thing, or the caller may not know of it."""


@dataclass(frozen=True)
class FieldError:
    """One bad field: where it stands (`("body", "config", "epochs")`), what is wrong, and what was given."""

    loc: Tuple[Union[str, int], ...]
    message: str
    kind: str = ""
    given: Any = None

    @property
    def path(self) -> str:
        """The place as `config.epochs`, without the part of the request."""
        return ".".join(str(part) for part in self.loc[1:]) or ".".join(str(part) for part in self.loc)


class ValidationError(TrainyardError):
    """400 or 422: the request is not in order. `fields` names every bad field of a 422; a 400 has only words."""

    def __init__(
        self, message: str, status: Optional[int] = None, detail: Any = None, fields: Tuple[FieldError, ...] = ()
    ) -> None:
        super().__init__(message, status, detail)
        self.fields = fields


class Conflict(TrainyardError):
    """The job is not in a state that allows this, or a name is taken."""


class TooLarge(TrainyardError):
    """413: the request is larger than the coordinator takes."""


class ServerError(TrainyardError):
    """A 5xx that a later try is unlikely to mend, or an answer that cannot be read."""


class Unavailable(TrainyardError):
    """No answer, or 502, 503, 504: it may work later. `retry_after` is the wish of the server in seconds, if any."""

    def __init__(
        self,
        message: str,
        status: Optional[int] = None,
        detail: Any = None,
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message, status, detail)
        self.retry_after = retry_after


class RateLimited(Unavailable):
    """429: too many requests or login attempts."""


class RequestTimeout(Unavailable):
    """The answer did not come in time; whether the request was carried out is not known."""


class WaitTimeout(TrainyardError, TimeoutError):
    """A bounded wait ended before the job did. `job` is the job as it was seen last; None when it never was."""

    def __init__(self, message: str, job: Any) -> None:
        super().__init__(message)
        self.job = job


class JobFailed(TrainyardError):
    """A job that was to complete has ended otherwise. `job` is that job."""

    def __init__(self, message: str, job: Any) -> None:
        super().__init__(message)
        self.job = job


_BY_STATUS: Dict[int, Type[TrainyardError]] = {
    401: AuthError,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
}


def error_of(status: int, body: bytes, retry_after: Optional[float] = None, conflict: bool = False) -> TrainyardError:
    """The exception for an answer that is no success.

    Args:
        status: the HTTP status.
        body: the answer's body; `{"detail": …}` where the coordinator itself answered.
        retry_after: seconds of a Retry-After header.
        conflict: a 400 says that the job's state does not allow the call.
    """
    detail = _detail(body)
    words = detail if isinstance(detail, str) else f"HTTP {status}"
    if status == 429:
        return RateLimited(words, status, detail, retry_after)
    if status in (502, 503, 504):
        return Unavailable(words, status, detail, retry_after)
    if status == 400 and conflict:
        return Conflict(words, status, detail)
    if status in (400, 422):
        fields = _fields(detail)
        if fields:
            words = "; ".join(f"{field.path}: {field.message}" for field in fields)
        return ValidationError(words, status, detail, fields)
    kind = _BY_STATUS.get(status)
    return kind(words, status, detail) if kind else ServerError(words, status, detail)


def _detail(body: bytes) -> Any:
    try:
        document = json.loads(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace").strip() or None
    return document.get("detail") if isinstance(document, dict) else None


def _fields(detail: Any) -> Tuple[FieldError, ...]:
    if not isinstance(detail, list):
        return ()
    return tuple(
        FieldError(
            tuple(entry.get("loc") or ()), str(entry.get("msg", "")), str(entry.get("type", "")), entry.get("input")
        )
        for entry in detail
        if isinstance(entry, dict)
    )
