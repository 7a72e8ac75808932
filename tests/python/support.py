"""Owns what the Python tests share: paths, and a platform endpoint on a real socket that records every call."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "sdk" / "python"
TRAINERS = ROOT / "trainers"

if str(SDK) not in sys.path:
    sys.path.insert(0, str(SDK))

from trainyard_sdk import outbox  # noqa: E402


class Platform:
    """A callback endpoint. `answers` holds the statuses of the next calls; 200 once it is used up. `kept` is what each
    call said that its client still keeps; `on_call` is done before a call is answered."""

    def __init__(self, port: int = 0) -> None:
        self.calls: List[Tuple[str, Dict[str, Any]]] = []
        self.raw: List[bytes] = []
        self.answers: List[int] = []
        self.kept: List[Optional[str]] = []
        self.on_call: Callable[[str, Dict[str, Any]], None] = lambda _path, _body: None
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        serve = functools.partial(self._server.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def bodies(self, ending: str) -> List[Dict[str, Any]]:
        """Bodies of all calls whose path ends so."""
        return [body for path, body in self.calls if path.endswith(ending)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> Any:
        platform = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                platform.raw.append(data)
                platform.kept.append(self.headers["X-Trainyard-Kept"])
                platform.calls.append((self.path, json.loads(data)))
                platform.on_call(*platform.calls[-1])
                status = platform.answers.pop(0) if platform.answers else 200
                answer = json.dumps({"success": status == 200, "message": "recorded"}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_args: Any) -> None:
                pass

        return Handler


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, ten seconds at most."""
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come")
        time.sleep(0.005)


def forget_all() -> None:
    """Lose what clients keep."""
    for keeping in outbox.kept_by_all():
        keeping.forget()


class AwayCase(unittest.TestCase):
    """The endpoint has gone, as that of an agent that is replaced. What is said on standard error is in `words`.

    A test that hangs ends the run, and says where; one that fails leaves nothing that is tried at the end of the run.
    """

    def setUp(self) -> None:
        faulthandler.dump_traceback_later(30, exit=True, file=sys.__stderr__)
        self.addCleanup(faulthandler.cancel_dump_traceback_later)
        self.addCleanup(forget_all)
        gone = Platform()
        self.url, self.port = gone.url, gone.port
        gone.close()
        self.words = io.StringIO()
        redirected = contextlib.redirect_stderr(self.words)
        redirected.__enter__()
        self.addCleanup(redirected.__exit__, None, None, None)

    def back(self) -> Platform:
        platform = Platform(self.port)
        self.addCleanup(platform.close)
        return platform


def checkpoints_when_reported(platform: Platform, path: Path) -> List[Tuple[int, Optional[int]]]:
    """For each report of an epoch, of its progress and its validation, the epoch and which file the checkpoint was by then:
    None for none. Filled while a trainer runs."""
    seen: List[Tuple[int, Optional[int]]] = []

    def look(called: str, body: Dict[str, Any]) -> None:
        epoch = body.get("epoch", body.get("current_epoch"))
        if epoch and called.endswith(("/progress", "/results")):
            seen.append((epoch, path.stat().st_mtime_ns if path.is_file() else None))

    platform.on_call = look
    return seen


def refuse_first(platform: Platform, ending: str) -> None:
    """Refuse the first epoch's call whose path ends so, as one that is too large."""

    def look(called: str, body: Dict[str, Any]) -> None:
        if called.endswith(ending) and body.get("epoch", body.get("current_epoch")) == 1:
            platform.answers = [413]

    platform.on_call = look


def assert_reported_first(case: unittest.TestCase, seen: List[Tuple[int, Optional[int]]], epochs: int) -> None:
    """Each epoch's checkpoint had its name only once the epoch was reported."""
    files = [file for _, file in seen]
    case.assertEqual([epoch for epoch, _ in seen], [epoch + 1 for epoch in range(epochs) for _ in range(2)])
    case.assertEqual(files[0], None, "the first epoch is in no checkpoint before it is reported")
    case.assertEqual(files[::2], files[1::2], "none is published between two reports of an epoch")
    case.assertEqual(len(set(files)), epochs, "each epoch finds the checkpoint of the one before")


def run_trainer(
    name: str, cwd: Path, env: Mapping[str, str], script: str = "train.py", args: Optional[List[str]] = None
) -> "subprocess.CompletedProcess[str]":
    """Run a trainer's script as the agent does: clean environment, the SDK on PYTHONPATH, a work folder of its own."""
    full = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(cwd),
        "PYTHONPATH": str(SDK),
        "PYTHONDONTWRITEBYTECODE": "1",
        **env,
    }
    command = [sys.executable, str(TRAINERS / name / script), *(args if args is not None else ["--log-level", "INFO"])]
    return subprocess.run(command, cwd=cwd, env=full, capture_output=True, text=True, timeout=600, check=False)
