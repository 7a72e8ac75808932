"""Owns how a call is made: who calls, what is tried again, and when tokens are renewed. Without sockets.

Every operation is a generator of steps (send this, sleep, do that alone); `sync` and `aio` carry the steps out, so that
both clients are one piece of logic. Callers: `calls`.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Generator, Generic, Mapping, Optional, TypeVar, Union

from .errors import AuthError, RequestTimeout, ServerError, TrainyardError, Unavailable, error_of
from .models import Tokens, build

T = TypeVar("T")

API = "/api/v1"
LOCAL = "http://127.0.0.1:8000"
LONGEST_DELAY = 20.0
LEAST_TIMEOUT = 1.0
"""Seconds that an answer gets at least, however near the end of a bounded wait is: the last look must be possible."""


@dataclass(frozen=True)
class Request:
    """One HTTP request, path relative to `/api/v1`.

    Attributes:
        repeatable: sending it twice does no more than once, so it may be sent again when the answer was lost.
        conflict: a 400 means that the job's state does not allow it.
        open: it carries no credentials.
        once: its answer cannot be had again, so it is waited for when the caller's time is up.
    """

    method: str
    path: str
    params: Optional[Mapping[str, Any]] = None
    body: Any = None
    form: Optional[Mapping[str, str]] = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    conflict: bool = False
    open: bool = False
    once: bool = False


@dataclass(frozen=True)
class Answer:
    """What came back. `body` is empty and `status` 0 when nothing did; then `failure` says why.

    Attributes:
        sent: whether the request may have reached the coordinator.
        late: the time for the answer was up.
    """

    status: int
    body: bytes = b""
    retry_after: Optional[float] = None
    failure: str = ""
    sent: bool = True
    late: bool = False


@dataclass(frozen=True)
class Send:
    """Step: send it; the reply is an `Answer`, also when there was none. `timeout` shortens the client's own."""

    request: Request
    headers: Mapping[str, str]
    timeout: Optional[float] = None


@dataclass(frozen=True)
class Sleep:
    """Step: wait so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Alone:
    """Step: run an operation while no other `Alone` of this client runs; the reply is its result."""

    operation: "Op[Any]"


@dataclass(frozen=True)
class Emit(Generic[T]):
    """Step of a stream: hand this to the reader."""

    item: T


Step = Union[Send, Sleep, Alone]
Op = Generator[Step, Any, T]
Stream = Generator[Union[Send, Sleep, Alone, Emit[T]], Any, None]


@dataclass
class Credentials:
    """Who calls; nothing of it is shown by `repr`."""

    token: Optional[str] = field(default=None, repr=False)
    refresh_token: Optional[str] = field(default=None, repr=False)
    api_key: Optional[str] = field(default=None, repr=False)
    email: Optional[str] = None
    password: Optional[str] = field(default=None, repr=False)

    @classmethod
    def given(cls, environ: Optional[Mapping[str, str]] = None, **named: Optional[str]) -> "Credentials":
        """What was named; when nothing was, TRAINYARD_TOKEN or TRAINYARD_API_KEY."""
        env = os.environ if environ is None else environ
        if not any(named.values()):
            named = {"token": env.get("TRAINYARD_TOKEN"), "api_key": env.get("TRAINYARD_API_KEY")}
        return cls(**{key: value or None for key, value in named.items()})

    @property
    def bearer(self) -> Optional[str]:
        """What goes into the Authorization header. A token is short-lived and so more specific than a key."""
        return self.token or self.api_key


def base_url(url: Optional[str]) -> str:
    """The coordinator's address without a trailing slash and without `/api/v1`; TRAINYARD_URL when None."""
    found = (url or os.environ.get("TRAINYARD_URL") or LOCAL).strip().rstrip("/")
    found = found[: -len(API)] if found.endswith(API) else found
    return found if "://" in found else f"http://{found}"


class Session:
    """Sends requests for one caller: adds credentials, renews them, and repeats what may be repeated.

    Args:
        credentials: who calls.
        retries: tries after the first one.
        backoff: seconds before the second try; doubled each time, with jitter.
    """

    def __init__(self, credentials: Credentials, retries: int = 4, backoff: float = 0.25) -> None:
        self.credentials = credentials
        self._retries = retries
        self._backoff = backoff

    def call(self, request: Request, until: Optional[float] = None) -> Op[Any]:
        """Send with credentials and return the decoded answer.

        Args:
            request: what is sent.
            until: when (monotonic) the caller's time is up: nothing is tried again after it.

        Raises:
            TrainyardError: the kind says what went wrong.
        """
        if request.open:
            return (yield from self._tried(request, {}, until))
        if self.credentials.bearer is None:
            yield Alone(self._renewed(None, until))
        used = self.credentials.bearer
        try:
            return (yield from self._tried(request, _authorization(used), until))
        except AuthError:
            if not self._renewable:
                raise
        # Refused before it was carried out, so every request may be sent again with a new token.
        yield Alone(self._renewed(used, until))
        return (yield from self._tried(request, _authorization(self.credentials.bearer), until))

    def login(self, email: str, password: str, until: Optional[float] = None) -> Op[Tokens]:
        """Log in and use the new tokens from now on."""
        form = {"grant_type": "password", "username": email, "password": password}
        answer = yield from self._tried(Request("POST", "/auth/login", form=form, open=True), {}, until)
        tokens = build(Tokens, answer)
        self._keep(tokens)
        self.credentials.email, self.credentials.password = email, password
        return tokens

    def refresh(self, until: Optional[float] = None) -> Op[Tokens]:
        """Change the refresh token for new tokens; the old one is spent by this."""
        spent = self.credentials.refresh_token
        if spent is None:
            raise AuthError("there is no refresh token; log in with email and password")
        self.credentials.refresh_token = None
        request = Request("POST", "/auth/refresh", params={"refresh_token": spent}, open=True, once=True)
        try:
            answer = yield from self._tried(request, {}, until)
        except Unavailable as error:
            if not isinstance(error, RequestTimeout):
                self.credentials.refresh_token = spent
            raise
        tokens = build(Tokens, answer)
        self._keep(tokens)
        return tokens

    def forget(self) -> None:
        """Drop all credentials."""
        self.credentials = Credentials()

    @property
    def _renewable(self) -> bool:
        held = self.credentials
        return bool(held.refresh_token or (held.email and held.password))

    def _renewed(self, used: Optional[str], until: Optional[float]) -> Op[None]:
        """New tokens, unless another call has fetched them since `used` was refused."""
        held = self.credentials
        if held.bearer is not None and held.bearer != used:
            return
        if held.refresh_token is not None:
            try:
                yield from self.refresh(until)
                return
            except AuthError:
                if not (held.email and held.password):
                    raise
        if held.email and held.password:
            yield from self.login(held.email, held.password, until)
            return
        raise AuthError(
            "no credentials; pass token, api_key, or email and password, or set TRAINYARD_TOKEN or TRAINYARD_API_KEY"
        )

    def _keep(self, tokens: Tokens) -> None:
        self.credentials.token = tokens.access_token
        self.credentials.refresh_token = tokens.refresh_token or self.credentials.refresh_token

    def _tried(self, request: Request, headers: Mapping[str, str], until: Optional[float]) -> Op[Any]:
        """Send, again where that is safe, and decode."""
        attempt = 0
        while True:
            timeout = None if until is None or request.once else max(until - time.monotonic(), LEAST_TIMEOUT)
            answer: Answer = yield Send(request, headers, timeout)
            error = _error_of(answer, request)
            if error is None:
                return _decoded(answer)
            # What never arrived was not carried out; a 429 was refused before it was.
            safe = request.repeatable or not answer.sent or answer.status == 429
            if not (safe and isinstance(error, Unavailable)) or attempt >= self._retries:
                raise error
            delay = _delay(self._backoff, attempt, error.retry_after)
            if until is not None and time.monotonic() + delay >= until:
                raise error
            yield Sleep(delay)
            attempt += 1


def _delay(first: float, attempt: int, wanted: Optional[float]) -> float:
    """Seconds until the next try: what the server wants, else a random share of a doubled time."""
    if wanted is not None:
        return min(max(wanted, 0.0), LONGEST_DELAY)
    return min(first * (2.0**attempt), LONGEST_DELAY) * random.uniform(0.5, 1.0)


def _authorization(bearer: Optional[str]) -> Dict[str, str]:
    return {} if bearer is None else {"Authorization": f"Bearer {bearer}"}


def _error_of(answer: Answer, request: Request) -> Optional[TrainyardError]:
    if 200 <= answer.status < 300:
        return None
    if answer.status:
        return error_of(answer.status, answer.body, answer.retry_after, request.conflict)
    kind = RequestTimeout if answer.late else Unavailable
    return kind(f"{request.method} {request.path}: {answer.failure}")


def _decoded(answer: Answer) -> Any:
    if not answer.body:
        return None
    try:
        return json.loads(answer.body)
    except ValueError as error:
        raise ServerError(f"the answer is no JSON: {error}", answer.status) from error
