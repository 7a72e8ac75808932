"""Owns the calls that found no answer: that they are sent later, in order, and how much memory they may take.

A thread sends them that is there only while some wait. It knows nothing of what stands in them, but whether they are
lines or reports. Callers: `trainer`.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, Optional, Tuple

from .errors import CallbackError

MOST_BYTES = 64 << 20
"""What may wait, as JSON: lines up to a quarter of it; of reports beyond the rest every second one is left out."""

EXIT_PATIENCE = 60.0
"""Seconds for which an interpreter that ends goes on trying, at most."""

Body = Dict[str, Any]
Send = Callable[[str, Body, int, bool, float], None]
"""Sends a call: path, body, how many are behind it, whether it is tried only once, and the patience in seconds."""


class Outbox:
    """The calls of one process that wait.

    Args:
        send: sends one call; raises CallbackError.
        refused: is told of a call that was refused, which would be refused again.
        every: seconds between two tries.
        patience: seconds for which an interpreter that ends tries at most.
    """

    def __init__(
        self, send: Send, refused: Callable[[str, Body, CallbackError], None], every: float, patience: float
    ) -> None:
        self.order = threading.RLock()
        """Held by whoever sends, so that calls arrive in the order in which they were made."""
        self._send = send
        self._refused = refused
        self._every = every
        self._patience = min(patience, EXIT_PATIENCE)
        self._calls: Deque[Tuple[str, Body, int]] = deque()
        self._bytes = {"line": 0, "report": 0}
        # Guards the calls and the sender, and is held for no more than a moment.
        self._guard = threading.Lock()
        self._sender: Optional[threading.Thread] = None
        self._at_exit = False
        self.process = os.getpid()

    def __len__(self) -> int:
        return len(self._calls)

    def put_behind(self, path: str, body: Body) -> Optional[bool]:
        """Keep a call behind those that are being sent; None when there are none, False when there is no room."""
        with self._guard:
            return self._add(path, body) if self._calls and self._sender is not None else None

    def keep(self, path: str, body: Body, why: CallbackError) -> bool:
        """Keep a call that found no answer; False when there is no room. Called with `order` held."""
        with self._guard:
            first = not self._calls
            if not self._add(path, body):
                return False
            self._call_sender()
        if first:
            print(f"callback kept for later: {why}", file=sys.stderr, flush=True)
        return True

    def send_all(self, once: bool = False, patience: float = 0.0) -> None:
        """Send what waits, in order. What is refused would be refused again: it must not hold up the others.

        Raises:
            CallbackError: no answer; what is left stays.
        """
        with self.order:
            while self._calls:
                path, body, size = self._calls[0]
                refusal: Optional[CallbackError] = None
                try:
                    self._send(path, body, len(self._calls) - 1, once, patience)
                except CallbackError as error:
                    if error.transient:
                        raise
                    refusal = error
                with self._guard:
                    self._calls.popleft()
                    self._bytes[_kind(path)] -= size
                if refusal is not None:
                    self._refused(path, body, refusal)

    def _add(self, path: str, body: Body) -> bool:
        size, kind = len(json.dumps(body)), _kind(path)
        room = MOST_BYTES // 4 if kind == "line" else MOST_BYTES // 4 * 3
        while self._bytes[kind] + size > room:
            if kind == "line" or not self._thin():
                return False
        self._calls.append((path, body, size))
        self._bytes[kind] += size
        return True

    def _thin(self) -> bool:
        """Leave out every second report of metrics but the one that may be on its way; False when there are none."""
        curve = [i for i, (_, body, _) in enumerate(self._calls) if i > 0 and body.get("metrics") is not None]
        gone = set(curve[::2])
        for i in gone:
            path, _, size = self._calls[i]
            self._bytes[_kind(path)] -= size
        self._calls = deque(call for i, call in enumerate(self._calls) if i not in gone)
        if gone:
            print(f"{len(gone)} reports are left out: too many wait to be sent", file=sys.stderr, flush=True)
        return bool(gone)

    def _call_sender(self) -> None:
        if not self._at_exit:
            self._at_exit = True
            atexit.register(_flush, weakref.ref(self))
        if self._sender is not None:
            return
        sender = threading.Thread(target=self._work, name="trainyard-outbox", daemon=True)
        try:
            sender.start()
        except RuntimeError as error:  # no thread is to be had: the next call sends what waits
            print(f"callbacks are sent later by the next call only: {error}", file=sys.stderr, flush=True)
        else:
            self._sender = sender

    def _work(self) -> None:
        while True:
            time.sleep(self._every)
            try:
                self.send_all(once=True)
            except CallbackError:
                continue
            with self._guard:
                if not self._calls:
                    self._sender = None
                    return

    def flush_at_exit(self) -> None:
        """Send what waits before the interpreter ends, within bounded time, and say what is lost."""
        if self.process != os.getpid():
            return
        try:
            self.send_all(patience=self._patience)
        except CallbackError as error:
            print(f"{len(self)} callbacks are lost: {error}", file=sys.stderr, flush=True)


def _flush(outbox: "weakref.ref[Outbox]") -> None:
    found = outbox()
    if found is not None:
        found.flush_at_exit()


def _kind(path: str) -> str:
    return "line" if path.endswith("/logs") else "report"
