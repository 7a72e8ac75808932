"""Owns the calls of one process that wait to be sent: in which order, and what is left out when they are too many.

Nothing here sends or sleeps. A signal handler may run within any of it, in the thread that it interrupts: what the
handler adds is taken in by whom it interrupted, so that no list is changed twice at once. Callers: `outbox`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import deque
from typing import Any, Deque, Dict, Iterator, List, Mapping, Optional, Set

from .journal import Journal

MOST_BYTES = 64 << 20
"""What may wait, as JSON: lines up to a quarter of it, reports up to the rest."""


class Call:
    """One call: where it goes, its body as it is sent, and what decides whether it may be left out."""

    __slots__ = (
        "path",
        "data",
        "epoch",
        "total",
        "checkpoint",
        "has_figures",
        "weighs",
        "under_way",
        "done",
        "left_out",
        "number",
    )

    def __init__(self, path: str, body: Mapping[str, Any]) -> None:
        self.path = sys.intern(path)
        self.data = json.dumps(body, allow_nan=False).encode("utf-8")
        self.epoch = _whole(body.get("epoch", body.get("current_epoch")))
        self.total = _whole(body.get("total_epochs"))
        self.checkpoint = body.get("checkpoint_path")
        # Validations have no others: one without `metrics` still has its loss, or its classes.
        self.has_figures = path.endswith("/results") or body.get("metrics") is not None
        self.weighs = False
        """Names a new checkpoint, is of the last epoch, or has no figures: others go first."""
        self.under_way = False
        self.done = False
        self.left_out = False
        self.number = 0
        """That in the journal: the agent takes it in should this process be killed. 0 where it does not stand there."""

    @property
    def is_line(self) -> bool:
        """True for a line of the log, False for a report."""
        return self.path.endswith("/logs")

    def body(self) -> Dict[str, Any]:
        """What is sent."""
        body: Dict[str, Any] = json.loads(self.data)
        return body


class Waiting:
    """The calls that wait, the oldest first, each of them written down as long as it does."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        # Held for moments. A signal handler gets it too: `_busy` tells it that it has interrupted its holder.
        self._guard = threading.RLock()
        self._busy = False
        self._within: Set[int] = set()
        self._new: Deque[Call] = deque()
        self._calls: Deque[Call] = deque()
        self._bytes = {False: 0, True: 0}
        self._total: Optional[int] = None
        self._checkpoint: Optional[str] = None

    def __len__(self) -> int:
        return len(self._calls) + len(self._new)

    @property
    def is_interrupted(self) -> bool:
        """Whether this is a signal handler, and its own thread is within the books: it must wait for no other thread,
        which may be waiting for the books."""
        return threading.get_ident() in self._within

    def add(self, call: Call) -> bool:
        """Put a call behind the others; False when there is no room for it."""
        self._new.append(call)
        self.write_down(call)
        if call.done or call.left_out:
            # Another thread, or a signal handler, was done with it before it had its number.
            self.strike(call)
        self._settle(call)
        return not call.left_out

    def write_down(self, call: Call) -> None:
        """For the agent to find, should this process be killed."""
        call.number = call.number or self._journal.add(call.path, call.data)

    def strike(self, call: Call) -> None:
        """Nobody has to send it any more."""
        self._journal.done(call.number)

    @property
    def is_written(self) -> bool:
        """Whether all that waits is written down."""
        return all(call.number for call in [*self._calls, *self._new])

    def first(self) -> Optional[Call]:
        """The oldest call that nobody is sending."""
        self._settle()
        with self._books():
            before, self._busy = self._busy, True
            try:
                return next((call for call in self._calls if not (call.done or call.left_out or call.under_way)), None)
            finally:
                self._busy = before

    def remove(self, call: Call) -> None:
        """Forget a call, whatever stands before it."""
        call.done = True
        self.strike(call)
        self._settle()

    @contextlib.contextmanager
    def _books(self) -> Iterator[None]:
        thread = threading.get_ident()
        is_inner = thread in self._within
        self._within.add(thread)
        try:
            with self._guard:
                yield
        finally:
            if not is_inner:
                self._within.discard(thread)

    def _settle(self, own: Optional[Call] = None) -> None:
        """Take in what is new and forget what is done; others than `own` that find no room are told of."""
        left_out: List[Call] = []
        with self._books():
            if self._busy:
                return
            self._busy = True
            try:
                while self._calls and self._calls[0].done:
                    gone = self._calls.popleft()
                    self._bytes[gone.is_line] -= len(gone.data)
                while self._new:
                    self._take_in(self._new.popleft(), left_out)
            finally:
                self._busy = False
        for call in left_out:
            self.strike(call)
        told = sum(1 for call in left_out if call is not own or not call.is_line)
        if told:
            tell(f"{told} {'report is' if told == 1 else 'reports are'} left out: too many wait to be sent")

    def _take_in(self, call: Call, left_out: List[Call]) -> None:
        size, kind = len(call.data), call.is_line
        self._weigh(call)
        room = MOST_BYTES // 4 if kind else MOST_BYTES // 4 * 3
        lacking = self._bytes[kind] + size - room
        if lacking > 0:
            gone = [] if kind or size > room else self._droppable(lacking)
            if not gone:
                call.left_out = True
                left_out.append(call)
                return
            self._leave_out(gone)
            left_out.extend(gone)
        self._calls.append(call)
        self._bytes[kind] += size

    def _weigh(self, call: Call) -> None:
        """Judge a call by those before it: trainers name the same file again with each epoch."""
        if call.is_line:
            return
        self._total = call.total or self._total
        is_last = self._total is not None and call.epoch is not None and call.epoch >= self._total
        is_new = call.checkpoint is not None and call.checkpoint != self._checkpoint
        self._checkpoint = call.checkpoint or self._checkpoint
        call.weighs = is_last or is_new or not call.has_figures

    def _droppable(self, lacking: int) -> List[Call]:
        """Which reports make room for so many bytes; none when they cannot."""
        waiting = [call for call in self._calls if not (call.is_line or call.under_way or call.done)]
        curves: Dict[str, List[Call]] = {}
        for call in waiting:
            if not call.weighs:
                curves.setdefault(call.path, []).append(call)
        # The newest of each curve stays. Where all the others would not be enough, it need not become coarser.
        if sum(_bytes(curve[:-1]) for curve in curves.values()) >= lacking:
            return _every_second(curves, lacking)
        # The oldest go, results before what the platform counts epochs by.
        gone: List[Call] = []
        for call in sorted(waiting, key=lambda call: not call.path.endswith("/results")):
            if lacking <= 0:
                break
            gone.append(call)
            lacking -= len(call.data)
        return gone if lacking <= 0 else []

    def _leave_out(self, gone: List[Call]) -> None:
        for call in gone:
            call.left_out = True
            self._bytes[False] -= len(call.data)
        self._calls = deque(call for call in self._calls if not call.left_out)


def tell(words: str) -> None:
    """Say something on standard error. Never raises: a signal handler may have interrupted who writes there."""
    try:
        print(words, file=sys.stderr, flush=True)
    except (RuntimeError, OSError, ValueError):
        return


def _every_second(curves: Dict[str, List[Call]], lacking: int) -> List[Call]:
    """Every second call of each curve, and again of what is left, until they are enough."""
    gone: List[Call] = []
    while lacking > 0:
        for path, curve in curves.items():
            dropped = curve[-2::-2]
            gone.extend(dropped)
            lacking -= _bytes(dropped)
            curves[path] = curve[-1::-2][::-1]
    return gone


def _bytes(calls: List[Call]) -> int:
    return sum(len(call.data) for call in calls)


def _whole(value: Any) -> Optional[int]:
    return value if isinstance(value, int) else None
