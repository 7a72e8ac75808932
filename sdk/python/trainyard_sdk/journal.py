"""Owns the file in which the calls of one process stand until they are answered.

What a process keeps in memory is lost with it if it is killed. So each call is written down before it is sent, and
marked when it is done with: the agent takes in what is not marked once the task has ended
(`agent/src/callbacks/unsent.rs`). A line is `+NUMBER PATH BODY` or `-NUMBER`. Nothing is waited for on the disk: the
file outlives the process, and with the machine the agent's own records of that moment are gone too.

No lock is held while a signal handler or another thread could want it, but for the moment in which the file is made.
Callers: `outbox`, `waiting`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from typing import Dict, Optional, Tuple

FOLDER = "TRAINYARD_KEPT_DIR"
"""The variable that says where the agent looks for it; without it nothing is written."""

MOST_BYTES = 128 << 20
"""What a file may have in it, answered calls included; beyond it calls are in memory alone, until nothing waits."""

MARKS_BYTES = 16 << 20
"""What there is beyond that for marks."""


class Journal:
    """The file of one process, for all its clients; it is made with the first call.

    Args:
        folder: where; empty for no file at all.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._process = os.getpid()
        self._numbers = itertools.count(1)
        self._making = threading.RLock()
        self._path = ""
        self._file = -1
        self._bytes = 0
        # What nobody has answered. It is changed before the file is.
        self._open: Dict[int, Tuple[str, bytes]] = {}

    def add(self, path: str, data: bytes) -> int:
        """Write a call down. Its number; 0 where it is not written."""
        if not self._is_own():
            return 0
        number = next(self._numbers)
        self._open[number] = (path, data)
        if self._write(_line(number, path, data), MOST_BYTES):
            return number
        self._open.pop(number, None)
        return 0

    def done(self, number: int) -> None:
        """Mark a call: nobody has to send it any more."""
        if not number or not self._is_own() or self._open.pop(number, None) is None:
            return
        if self._open:
            self._mark(number)
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            self._bytes = 0
        # What has come meanwhile, from another thread or a signal handler, is written down again: twice is as good as
        # once.
        for other, call in list(self._open.items()):
            self._write(_line(other, *call), MOST_BYTES)
            if other not in self._open:
                self._mark(other)

    def close(self) -> None:
        """Remove the file if nothing in it is anybody's to send. The next call makes a new one."""
        if not self._open and self._file >= 0 and self._is_own():
            path, file = self._path, self._file
            self._file, self._bytes = -1, 0
            with contextlib.suppress(OSError):
                os.close(file)
                os.unlink(path)

    def _mark(self, number: int) -> None:
        self._write(b"-%d" % number, MOST_BYTES + MARKS_BYTES)

    def _write(self, line: bytes, most: int) -> bool:
        """One call of the system, so that a signal handler's line stands before or behind it. It begins with the end of
        a line: the one before may have come to the disk in part."""
        if self._bytes + len(line) > most or not self._make():
            return False
        try:
            written = os.write(self._file, b"\n" + line + b"\n")
        except OSError:
            return False
        self._bytes += written
        return written == len(line) + 2

    def _make(self) -> bool:
        if self._file >= 0:
            return True
        with self._making:
            # A name of its own: a process of the same number may have left something, or live in another namespace.
            path = os.path.join(self._folder, f"kept-{self._process}-{os.urandom(8).hex()}")
            try:
                file = -1 if self._file >= 0 else os.open(path, _HOW, 0o600)
            except OSError:
                return False
            if self._file < 0:
                self._file, self._path = file, path
            elif file >= 0:  # a signal handler has made one just now
                os.close(file)
                os.unlink(path)
        return True

    def _is_own(self) -> bool:
        return bool(self._folder) and self._process == os.getpid()


NOWHERE = Journal("")
"""Of who keeps nothing, or speaks to somebody else than the agent."""

_HOW = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_JOURNALS: Dict[Tuple[int, str], Journal] = {}


def of_process(folder: Optional[str] = None) -> Journal:
    """That of this process; each child that is begun by fork has its own.

    Args:
        folder: where; FOLDER when None.
    """
    folder = os.environ.get(FOLDER, "") if folder is None else folder
    return _JOURNALS.setdefault((os.getpid(), folder), Journal(folder)) if folder else NOWHERE


def close_all() -> None:
    """The interpreter ends: files that nobody must read go."""
    for journal in list(_JOURNALS.values()):
        journal.close()


def _line(number: int, path: str, data: bytes) -> bytes:
    return b"+%d %s %s" % (number, path.encode("utf-8"), data)
