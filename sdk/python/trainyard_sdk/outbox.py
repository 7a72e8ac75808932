"""Owns when the calls of one process are sent: one at a time, in the order in which they were made.

Calls that found no answer wait; a thread that is there only while some do sends them later. Nothing that waits ends a
training, neither for want of room nor for want of an answer. A signal handler that calls while its own thread is
sending only puts behind. Callers: `trainer`.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from typing import Any, Callable, Dict, List, Optional, Sequence

from .errors import CallbackError
from .journal import NOWHERE, Journal, close_all
from .transport import RETRY_DELAYS, Tries
from .waiting import Call, Waiting, tell

EXIT_PATIENCE = 60.0
"""Seconds for which an interpreter that ends goes on trying, at most, however many clients it has."""

# All that keep something, by their ids. Unlike a WeakSet it can be listed while a thread or a signal handler adds one.
_KEEPING: "weakref.WeakValueDictionary[int, Outbox]" = weakref.WeakValueDictionary()

Answer = Optional[Dict[str, Any]]
Kept = Callable[[], Optional[int]]
"""How many are kept behind a call by now; None when nothing is to be said of that."""

Send = Callable[[Call, Kept, Tries], Answer]
"""Sends a call: what is kept behind it, asked for each try, and how often it is tried."""


class Outbox:
    """The calls of one process.

    Args:
        send: sends one call; raises CallbackError.
        refused: is told of a call that had waited and was refused, which would be refused again; with it, how many are
            kept behind it.
        delays: seconds between the tries of one call; what waits is tried again after the first of them.
        patience: seconds for which an interpreter that ends tries at most.
        journal: where each call stands until it is answered.
    """

    def __init__(
        self,
        send: Send,
        refused: Callable[[Call, CallbackError, Kept], None],
        delays: Sequence[float],
        patience: float,
        journal: Journal,
    ) -> None:
        self._send = send
        self._refused = refused
        self._delays = tuple(delays)
        self._every = max(delays[0], 0.05) if delays else RETRY_DELAYS[0]
        self._patience = min(patience, EXIT_PATIENCE)
        self._waiting = Waiting(journal)
        # Held by whoever sends. A signal handler gets it too: `_sending` tells it that its own thread has it already.
        self._turn = threading.RLock()
        self._sending = False
        # A call found no answer, and since then some have waited all the time.
        self._away = False
        self._sender: Optional[threading.Thread] = None
        self._starting = False
        self.process = os.getpid()
        self.ending = threading.Lock()
        """Held while the end of the job is under way; nobody waits for it."""

    def __len__(self) -> int:
        return len(self._waiting)

    def report(self, call: Call) -> Answer:
        """Send a call after those that wait, in order, or keep it: None then.

        Raises:
            CallbackError: it is refused.
        """
        if self._is_away() or self._waiting.is_interrupted:
            self._put_behind(call)
            return None
        with self._turn:
            if self._sending:
                self._put_behind(call)
                return None
            return self._in_turn(call, Tries(self._delays))

    def line(self, call: Call) -> bool:
        """Send a line of the log, or keep it; it is tried once and waits for nobody. False when there is no room.

        Raises:
            CallbackError: it is refused.
        """
        if self._is_away() or self._waiting.is_interrupted or not self._turn.acquire(blocking=False):
            return self._put_behind(call)
        try:
            if self._sending:
                return self._put_behind(call)
            self._in_turn(call, Tries(()))
            return not call.left_out
        finally:
            self._turn.release()

    def last(self, call: Call, tries: Tries) -> Answer:
        """Send a call that is not kept in memory, after those that wait. A signal handler's goes before what it has
        interrupted: it may be the last that this process does. None also when it is left to the agent.

        Raises:
            CallbackError: no answer to it or to one before it, and they are not written down; or it is refused.
        """
        self._register()
        self._waiting.write_down(call)
        try:
            answer = self._send_last(call, tries)
        except CallbackError as error:
            if error.transient and call.number and self._waiting.is_written:
                tell(f"the last callback is left for the agent to find: {error}")
                return None
            self._waiting.strike(call)
            raise
        self._waiting.strike(call)
        return answer

    def _send_last(self, call: Call, tries: Tries) -> Answer:
        if self._waiting.is_interrupted:
            # The books are held for so long, and others wait for them.
            return self._send(call, lambda: None, tries.without_patience())
        with self._turn:
            self._send_waiting(tries)
            return self._send(call, lambda: self._kept(0), tries.renew())

    def send_all(self, tries: Tries) -> None:
        """Send what waits, in order. What is refused would be refused again: it must not hold up the others. In a
        signal handler whose own thread is sending it does nothing.

        Raises:
            CallbackError: no answer; what is left stays.
        """
        if self._waiting.is_interrupted:
            return
        if not self._turn.acquire(timeout=min(tries.left, threading.TIMEOUT_MAX)):
            raise CallbackError("another thread is still waiting for an answer")
        try:
            if not self._sending:
                self._send_waiting(tries)
        finally:
            self._turn.release()

    def flush_at_exit(self, left: float = EXIT_PATIENCE) -> None:
        """Send what waits before the interpreter ends, and say what is lost. Never raises.

        Args:
            left: seconds that there are for it; with none it is not tried.
        """
        if self.process != os.getpid() or not len(self):
            return
        try:
            if left <= 0:
                raise CallbackError("there was no time for more")
            self.send_all(Tries((self._every,), min(self._patience, left), bounded=True))
        except Exception as error:  # also a signal handler's: it must not keep other clients from theirs
            fate = "left for the agent to find" if self._waiting.is_written else "lost"
            tell(f"{len(self)} callbacks are {fate}: {error}")

    def forget(self) -> None:
        """Lose what waits, for tests."""
        self._waiting = Waiting(NOWHERE)

    def _in_turn(self, call: Call, tries: Tries) -> Answer:
        """Send a call that may be kept, with those before it."""
        self._register()
        if not self._waiting.add(call):
            return None
        try:
            return self._send_waiting(tries, call)
        except CallbackError as error:
            if not error.transient:
                raise
            return None

    def _put_behind(self, call: Call) -> bool:
        self._register()
        taken = self._waiting.add(call)
        self._call_sender()
        return taken

    def _send_waiting(self, tries: Tries, own: Optional[Call] = None) -> Answer:
        """Send what waits, up to `own`, and return the answer to that. Called with the turn."""
        before, self._sending = self._sending, True
        answer: Answer = None
        try:
            while not (own is not None and (own.done or own.left_out)):
                call = self._waiting.first()
                if call is None:
                    break
                if tries.left <= 0:
                    raise CallbackError("there was no time for more")
                answer = self._send_first(call, tries, call is own)
            self._away = self._away and len(self._waiting) > 0
        except CallbackError as error:
            if error.transient:
                self._fail(error)
            raise
        finally:
            self._sending = before
        return answer if own is not None and own.done else None

    def _send_first(self, call: Call, tries: Tries, is_own: bool) -> Answer:
        refusal: Optional[CallbackError] = None
        answer: Answer = None
        call.under_way = True
        try:
            answer = self._send(call, lambda: self._kept(1), tries)
        except CallbackError as error:
            if error.transient:
                raise
            refusal = error
        finally:
            # Whatever else passes through is a signal handler's, and says nothing of the call: that stays kept.
            call.under_way = False
        self._waiting.remove(call)
        if refusal is not None:
            if is_own:
                raise refusal
            self._refused(call, refusal, lambda: self._kept(0))
        return answer

    def _kept(self, own: int) -> Optional[int]:
        """What a call says that is kept behind it: only an outbox that keeps something, or is sending the last of it,
        can say. Others of the same task may keep calls, of which this one knows nothing."""
        return max(len(self._waiting) - own, 0) if self._away else None

    def _fail(self, error: CallbackError) -> None:
        """There was no answer: from now on calls are put behind, and a thread sends them."""
        if not len(self._waiting):
            return
        first, self._away = not self._away, True
        if first:
            tell(f"callback kept for later: {error}")
        self._call_sender()

    def _is_away(self) -> bool:
        """Whether somebody else will send what waits: then nobody has to wait for an answer."""
        sender = self._sender
        return self._away and len(self._waiting) > 0 and sender is not None and (self._starting or sender.is_alive())

    def _register(self) -> None:
        _KEEPING.setdefault(id(self), self)

    def _call_sender(self) -> None:
        """See to it that a thread sends what waits. No lock is held: two of them would send in turn as well."""
        if self._starting or (self._sender is not None and self._sender.is_alive()):
            return
        self._starting = True
        try:
            self._sender = threading.Thread(target=self._work, name="trainyard-outbox", daemon=True)
            self._sender.start()
        except RuntimeError as error:  # no thread is to be had: the next call sends what waits
            self._sender = None
            tell(f"callbacks are sent later by the next call only: {error}")
        finally:
            self._starting = False

    def _work(self) -> None:
        while True:
            if self._away:
                time.sleep(self._every)
            try:
                self.send_all(Tries(()))
            except CallbackError:
                continue
            # Whoever puts something behind from here on finds no sender, or is seen.
            self._sender = None
            if not len(self._waiting):
                return
            self._sender = threading.current_thread()


def kept_by_all() -> List[Outbox]:
    """All that have kept something, the oldest first, also those of a parent process."""
    found = (reference() for reference in _KEEPING.valuerefs())
    return [outbox for outbox in found if outbox is not None]


def flush_all_at_exit() -> None:
    """Send what all clients keep, within one deadline for all of them."""
    until = time.monotonic() + EXIT_PATIENCE
    for outbox in kept_by_all():
        outbox.flush_at_exit(until - time.monotonic())
    close_all()


atexit.register(flush_all_at_exit)
