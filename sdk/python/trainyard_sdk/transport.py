"""Owns the HTTP side of a callback: what is valid JSON, what is tried again, and when to give up.

It knows nothing of jobs or metrics. Callers: `trainer`, `outbox`.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import time
import urllib.error
import urllib.request
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .errors import CallbackError

RETRY_DELAYS: Tuple[float, ...] = (2.0, 4.0, 8.0)
"""Seconds to wait before the second, third and fourth try."""

REQUEST_TIMEOUT = 30.0
"""Seconds one request may take."""

GRACE = 5.0
"""Seconds for which calls may go on that are answered, where there is no patience with those that are not."""

MAX_DEPTH = 32

Headers = Callable[[], Mapping[str, str]]
"""What is asked anew for each try: while one waits for the next, what a header tells may change."""

_ADDRESS = re.compile(r"https?://[!-~]+")


class NoAddress(CallbackError):
    """Nothing can ever be sent there."""

    @property
    def transient(self) -> bool:
        """False: each later try would fail as well."""
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: urllib would turn a redirected POST into a GET and lose the body."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


# The endpoint is on this machine, so proxy variables that are meant for the world outside must not apply.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def to_json_value(value: Any, path: str = "", bad: Optional[List[str]] = None, depth: int = 0) -> Any:
    """Return `value` as plain JSON types.

    NaN and infinities have no JSON form: they become None, and their dotted path is appended to `bad`. Scalars of array
    libraries are unwrapped with ``.item()``, arrays with ``.tolist()``; what is left over is sent as its text.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        if bad is not None:
            bad.append(path or "value")
        return None
    if depth >= MAX_DEPTH:
        return str(value)
    if isinstance(value, dict):
        return {str(k): to_json_value(v, f"{path}.{k}" if path else str(k), bad, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json_value(v, f"{path}[{i}]", bad, depth + 1) for i, v in enumerate(value)]
    for method in ("item", "tolist"):
        convert = getattr(value, method, None)
        if callable(convert):
            try:
                plain = convert()
            except (TypeError, ValueError, RuntimeError):
                continue  # .item() of an array with several elements; .tolist() comes next
            return to_json_value(plain, path, bad, depth + 1)
    return str(value)


class Tries:
    """How often, and until when, the calls are tried that are sent in one go. Failures count over all of them.

    Args:
        delays: seconds to wait after the first failures; after these `delays[-1]` for as long as there is patience.
        patience: seconds from now for which it goes on.
        bounded: patience is all: neither the first failures nor a request that hangs outlast it, and no call begins
            after it; without patience none begins after `GRACE`.
        sleep: replaced in tests.
    """

    def __init__(
        self,
        delays: Sequence[float] = RETRY_DELAYS,
        patience: float = 0.0,
        bounded: bool = False,
        sleep: Optional[Callable[[float], None]] = None,
    ) -> None:
        self._delays = tuple(delays)
        self._bounded = bounded
        self._sleep = sleep or time.sleep
        self._failed = 0
        self._until = time.monotonic() + patience
        self._end = time.monotonic() + (patience if patience > 0 else GRACE) if bounded else math.inf

    @property
    def left(self) -> float:
        """Seconds until no call begins any more; infinite when there is no such bound."""
        return max(self._end - time.monotonic(), 0.0)

    @property
    def timeout(self) -> float:
        """Seconds that one request may take now."""
        return min(REQUEST_TIMEOUT, max(self.left, 0.05))

    def again(self) -> bool:
        """Wait after a failure; False when that was the last try."""
        patience = self._until - time.monotonic()
        first = not self._bounded and self._failed < len(self._delays)
        if not self._delays or not (first or patience > 0):
            return False
        pause = self._delays[min(self._failed, len(self._delays) - 1)]
        self._failed += 1
        self._sleep(min(pause, patience) if self._bounded else pause)
        return True

    def without_patience(self) -> "Tries":
        """The first tries alone, for who must not wait for long."""
        return Tries(self._delays, sleep=self._sleep)

    def renew(self) -> "Tries":
        """Begin with the first failures again; patience stays what is left of it."""
        self._failed = 0
        return self


def post_json(
    url: str,
    body: Dict[str, Any],
    delays: Sequence[float] = RETRY_DELAYS,
    patience: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
    headers: Optional[Headers] = None,
) -> Optional[Dict[str, Any]]:
    """`post` for `body`, which must already be plain JSON; the other arguments are those of `Tries`."""
    data = json.dumps(body, allow_nan=False).encode("utf-8")
    return post(url, data, Tries(delays, patience, sleep=sleep), headers)


def post(url: str, data: bytes, tries: Tries, headers: Optional[Headers] = None) -> Optional[Dict[str, Any]]:
    """POST a JSON object and return the decoded answer (None when it is not an object).

    Args:
        url: absolute address.
        data: the encoded object.
        tries: how often.
        headers: gives further ones for each try.

    Raises:
        NoAddress: `url` is none.
        CallbackError: at once on an answer below 500 that is not 2xx; after the last try on 5xx and network errors.
    """
    if not _ADDRESS.fullmatch(url):
        raise NoAddress(f"{url!r} is no address: CALLBACK_URL must begin with http:// and have no spaces", url)
    attempt = 0
    while True:
        attempt += 1
        answer, error = _post_once(url, data, attempt, headers() if headers else {}, tries.timeout)
        if error is None:
            return answer
        if not error.transient or not tries.again():
            raise error


def _post_once(
    url: str, data: bytes, attempt: int, headers: Mapping[str, str], timeout: float
) -> Tuple[Optional[Dict[str, Any]], Optional[CallbackError]]:
    """One try: the decoded answer and no error, or the error as a value."""
    sent = {"Content-Type": "application/json", "Accept": "application/json", **headers}
    request = urllib.request.Request(url, data=data, headers=sent, method="POST")
    try:
        with _OPENER.open(request, timeout=timeout) as response:
            answer = response.read()
    except urllib.error.HTTPError as error:
        detail = _detail_of(error)
        return None, CallbackError(f"{url} answered {error.code}: {detail}", url, error.code, attempt)
    except (urllib.error.URLError, http.client.HTTPException, OSError, UnicodeError) as error:  # a host's name too
        reason = getattr(error, "reason", error)
        return None, CallbackError(f"{url} could not be reached ({reason}) in {attempt} tries", url, None, attempt)
    try:
        decoded = json.loads(answer)
    except ValueError:
        return None, None  # accepted is what counts; the answer's body is a courtesy
    return (decoded if isinstance(decoded, dict) else None), None


def _detail_of(error: urllib.error.HTTPError) -> str:
    """The server's own words, cut to a readable length."""
    try:
        return error.read(2000).decode("utf-8", "replace").strip() or str(error.reason)
    except (OSError, http.client.HTTPException):
        return str(error.reason)
