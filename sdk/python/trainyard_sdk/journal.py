"""Owns the file in which the calls of one process stand until they are answered.

What a process keeps in memory is lost with it if it is killed. So each call is written down before it is sent, and
marked when it is done with: the agent takes in what is not marked once the process has ended
(`agent/src/callbacks/unsent.rs`). A line is `+NUMBER PATH BODY` or `-NUMBER`. Nothing is waited for on the disk: the file
outlives the process, and with the machine the agent's own records of that moment are gone too. Callers: `waiting`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import Optional

FOLDER = "TRAINYARD_KEPT_DIR"
"""The variable that says where the agent looks for it; without it nothing is written."""

MOST_BYTES = 128 << 20
"""What a file may have in it, marks and answered calls included; beyond it calls are in memory alone."""

_NAMES = itertools.count(1)


class Journal:
    """The file of one process; it is made with the first call.

    Args:
        folder: where; FOLDER when None, and empty for no file at all.
    """

    def __init__(self, folder: Optional[str] = None) -> None:
        self._folder = os.environ.get(FOLDER, "") if folder is None else folder
        self._process = os.getpid()
        self._numbers = itertools.count(1)
        self._path = ""
        self._file = -1
        self._bytes = 0

    def number(self) -> int:
        """That of the next call."""
        return next(self._numbers)

    def add(self, number: int, path: str, data: bytes) -> bool:
        """Write a call down; False where that cannot be. Twice is as good as once."""
        return self._write(b"+%d %s %s" % (number, path.encode("utf-8"), data), MOST_BYTES)

    def done(self, number: int) -> None:
        """Mark a call: nobody has to send it any more."""
        if self._file >= 0:
            self._write(b"-%d" % number, MOST_BYTES * 2)

    def empty(self) -> None:
        """Forget all calls."""
        if self._file >= 0 and self._is_own():
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
                self._bytes = 0

    def remove(self) -> None:
        """Remove the file: nothing in it is anybody's to send."""
        if self._file >= 0 and self._is_own():
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _write(self, line: bytes, most: int) -> bool:
        """One call of the system, so that a signal handler's line stands before or behind it. It begins with the end of
        a line: the one before may have come to the disk in part."""
        if not self._is_own() or self._bytes + len(line) > most or not self._open():
            return False
        try:
            written = os.write(self._file, b"\n" + line + b"\n")
        except OSError:
            return False
        self._bytes += written
        return written == len(line) + 2

    def _open(self) -> bool:
        if self._file >= 0:
            return True
        path = os.path.join(self._folder, f"kept-{self._process}-{next(_NAMES)}")
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self._folder = ""
            return False
        self._path = path
        return True

    def _is_own(self) -> bool:
        return bool(self._folder) and self._process == os.getpid()

