"""Owns the use of httpx: how it is imported, set up, and how its errors become an `Answer`. Callers: `sync`, `aio`."""

from __future__ import annotations

import importlib
import os
import ssl
from typing import TYPE_CHECKING, Any, Dict, Optional, Union

from .protocol import API, Answer, Send

if TYPE_CHECKING:
    import httpx

Verify = Union[bool, str, ssl.SSLContext]

CONNECT_SECONDS = 5.0


def load() -> Any:
    """Import httpx. Raises ImportError that says how to get it."""
    try:
        return importlib.import_module("httpx")
    except ImportError as error:
        raise ImportError("trainyard_sdk.Client needs httpx; install trainyard-sdk[client]") from error


def arguments(base: str, verify: Verify, timeout: float, transport: Any) -> Dict[str, Any]:
    """Keyword arguments of `httpx.Client` and `httpx.AsyncClient`.

    Args:
        base: the coordinator's address.
        verify: True for the system's authorities (or the file in TRAINYARD_CA), the path of a CA file, a context, or
            False to trust anyone.
        timeout: seconds for an answer; a connection gets at most 5.
        transport: another transport of httpx, for tests.
    """
    httpx = load()
    made: Dict[str, Any] = {
        "base_url": base,
        "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        "verify": _context(verify),
        "follow_redirects": False,
        "headers": {"Accept": "application/json", "User-Agent": "trainyard-sdk"},
    }
    if transport is not None:
        made["transport"] = transport
    return made


def request_of(step: Send, usual: "httpx.Timeout") -> Dict[str, Any]:
    """Keyword arguments of `request`; `usual` are the client's own time-outs, which a step may only shorten."""
    asked = step.request
    made: Dict[str, Any] = {
        "method": asked.method,
        "url": f"{API}{asked.path}",
        "headers": {**asked.headers, **step.headers},
    }
    if asked.params is not None:
        made["params"] = dict(asked.params)
    if asked.form is not None:
        made["data"] = dict(asked.form)
    if asked.body is not None:
        made["json"] = asked.body
    if step.timeout is not None:
        bound = step.timeout
        limits = {name: bound if own is None else min(own, bound) for name, own in usual.as_dict().items()}
        made["timeout"] = load().Timeout(**limits)
    return made


def answer_of(response: "httpx.Response") -> Answer:
    """What came back; its body has been read."""
    return Answer(response.status_code, response.content, _seconds(response.headers.get("retry-after")))


def failure_of(error: "httpx.HTTPError") -> Answer:
    """No answer, and whether the request may have arrived."""
    httpx = load()
    sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    late = sent and isinstance(error, httpx.TimeoutException)
    return Answer(0, failure=str(error) or type(error).__name__, sent=sent, late=late)


def _context(verify: Verify) -> Union[bool, ssl.SSLContext]:
    if verify is True:
        verify = os.environ.get("TRAINYARD_CA") or True
    return ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify


def _seconds(text: Optional[str]) -> Optional[float]:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None  # a date: our own back-off will do
