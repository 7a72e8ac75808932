"""Checks what the trainer SDK keeps while nobody answers: it goes out by itself, in order, once, and within bounds."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
import time
import unittest
from typing import Callable, List, Optional
from unittest import mock

from support import SDK, Platform

from trainyard_sdk import TrainerSDK, waiting


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, ten seconds at most."""
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come")
        time.sleep(0.005)


class Away(unittest.TestCase):
    """The endpoint has gone, as that of an agent that is replaced."""

    def setUp(self) -> None:
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

    def test_a_client_goes_on_while_nobody_answers_and_what_it_said_goes_out_by_itself_in_order(self) -> None:
        sdk = TrainerSDK(self.url, 7, retry_delays=(0.01,))
        sdk.report_started(3)
        self.assertTrue(sdk.log("one"))
        sdk.report_progress(1, 3, {"loss": 0.5})
        sdk.report_validation(1, "classification", {"accuracy": 0.5})
        self.assertTrue(sdk.log("two"))
        self.assertEqual(self.words.getvalue().count("kept for later"), 1, "it is said once")
        platform = self.back()
        until(lambda: len(platform.calls) == 5)
        said = [(path.rsplit("/", 1)[-1], body.get("message")) for path, body in platform.calls]
        self.assertEqual(
            said, [("progress", None), ("logs", "one"), ("progress", None), ("results", None), ("logs", "two")]
        )
        self.assertEqual(platform.kept, ["4", "3", "2", "1", "0"], "each says how many are behind it")
        until(lambda: sdk._outbox._sender is None)
        sdk.report_progress(2, 3, {"loss": 0.4})
        self.assertEqual((len(platform.calls), platform.kept[-1]), (6, None), "others may keep some: of them it says nothing")

    def test_the_end_is_reported_behind_what_was_kept_as_soon_as_somebody_answers(self) -> None:
        sdk = TrainerSDK(self.url, 7, retry_delays=(0.01,))
        sdk.report_progress(1, 1, {"loss": 0.5})
        platform = self.back()
        sdk.report_completed({"loss": 0.5})
        self.assertEqual([path.rsplit("/", 1)[-1] for path, _ in platform.calls], ["progress", "completion"])

    def test_an_interpreter_that_ends_sends_what_is_kept_or_says_that_it_is_lost(self) -> None:
        script = (
            "import sys; from trainyard_sdk import TrainerSDK\n"
            "sdk = TrainerSDK(sys.argv[1], 7, patience=0, retry_delays=())\n"
            "sdk.report_progress(1, 2, {'loss': 0.5}); sdk.report_progress(2, 2, {'loss': 0.4})\n"
        )
        answers: List[Optional[Platform]] = [Platform(), None]
        for platform in answers:
            url = self.url
            if platform is not None:
                platform.answers = [503]
                url = platform.url
            call = [sys.executable, "-c", script, url]
            done = subprocess.run(call, env={**os.environ, "PYTHONPATH": str(SDK)}, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            if platform is None:
                self.assertIn("2 callbacks are lost", done.stderr)
            else:
                self.assertEqual([body["current_epoch"] for body in platform.bodies("progress")], [1, 1, 2])
                platform.close()

    def test_neither_a_child_nor_a_copy_sends_what_its_parent_keeps(self) -> None:
        sdk = TrainerSDK(self.url, 7, retry_delays=())
        sdk.report_progress(1, 3, {"loss": 0.5})
        platform = self.back()
        pickle.loads(pickle.dumps(sdk)).flush()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                sdk.flush()
                sdk.log("the child's")
            os._exit(0)
        os.waitpid(child, 0)
        self.assertEqual([path.rsplit("/", 1)[-1] for path, _ in platform.calls], ["logs"])
        sdk.flush()
        self.assertEqual(len(platform.bodies("progress")), 1)

    def test_what_is_kept_is_bounded_and_a_curve_becomes_coarser(self) -> None:
        sdk = TrainerSDK(self.url, 7, retry_delays=())
        with mock.patch.object(waiting, "MOST_BYTES", 40_000):
            sdk.report_started(400)
            for epoch in range(1, 401):
                sdk.report_progress(epoch, 400, {"loss": 0.5})
            kept = [sdk.log("x" * 1_000) for _ in range(20)]
        self.assertTrue(kept[0])
        self.assertFalse(kept[-1], "the last ones went to standard error")
        self.assertIn("x" * 1_000, self.words.getvalue())
        platform = self.back()
        sdk.flush()
        epochs = [body["current_epoch"] for body in platform.bodies("progress")]
        self.assertEqual((epochs[0], epochs[-1], epochs), (0, 400, sorted(epochs)))
        self.assertTrue(40 < len(epochs) < 200, epochs)
        self.assertLess(max(b - a for a, b in zip(epochs, epochs[1:])), 64)
        self.assertEqual(len(platform.bodies("logs")), kept.count(True))


if __name__ == "__main__":
    unittest.main()
