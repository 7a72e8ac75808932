"""Checks that what a trainer says stands in a file until it is answered, so that its agent finds it if it is killed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any, Dict, List, Tuple
from unittest import mock

from support import SDK, AwayCase, Platform, until

from trainyard_sdk import CallbackError, TrainerSDK, journal
from trainyard_sdk.waiting import Call, Waiting


def read(folder: Path) -> List[Tuple[str, str]]:
    """The calls that nobody has answered, as the agent reads them, file by file: the end of their path, and their body."""
    found: List[Tuple[str, str]] = []
    for path in sorted(folder.glob("kept-*")):
        calls: Dict[int, Tuple[str, str]] = {}
        done = set()
        for line in path.read_text().split("\n"):
            if line.startswith("-"):
                done.add(int(line[1:]))
            elif line.startswith("+"):
                number, path_of_call, body = line[1:].split(" ", 2)
                calls.setdefault(int(number), (path_of_call.rsplit("/", 1)[-1], body))
        found.extend(call for number, call in sorted(calls.items()) if number not in done)
    return found


class Journals(AwayCase):
    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.environment = mock.patch.dict(os.environ, {journal.FOLDER: folder.name, "CALLBACK_URL": self.url})
        self.environment.start()
        self.addCleanup(self.environment.stop)

    def behind(self, url: str) -> str:
        """This address is the agent's from now on."""
        os.environ["CALLBACK_URL"] = url
        return url

    def kept(self) -> List[str]:
        return [name for name, _ in read(self.folder)]

    def test_a_call_is_written_down_before_it_is_sent_and_gone_once_it_is_answered(self) -> None:
        platform = Platform()
        self.addCleanup(platform.close)
        seen: List[List[str]] = []
        platform.on_call = lambda _path, _body: seen.append(self.kept())
        sdk = TrainerSDK(self.behind(platform.url), 7)
        sdk.report_progress(1, 2, {"loss": 0.5})
        sdk.log("a line")
        sdk.report_validation(1, "classification", {"accuracy": 0.5})
        self.assertEqual(self.kept(), [])
        sdk.report_completed({"loss": 0.5})
        self.assertEqual(seen, [["progress"], ["logs"], ["results"], ["completion"]])
        self.assertEqual([path.stat().st_size for path in self.folder.iterdir()], [0])

    def test_what_waits_stands_there_in_order_without_what_was_answered(self) -> None:
        sdk = TrainerSDK(self.url, 7, retry_delays=(0.01,))
        for epoch in (1, 2, 3):
            sdk.report_progress(epoch, 3, {"loss": 0.5})
            sdk.log(f"line {epoch}")
        self.assertEqual(self.kept(), ["progress", "logs"] * 3)
        platform = self.back()
        seen: List[int] = []
        platform.on_call = lambda _path, _body: seen.append(len(self.kept()))
        until(lambda: len(platform.calls) == 6)
        until(lambda: not self.kept())
        self.assertEqual(seen, [6, 5, 4, 3, 2, 1])

    def test_what_is_refused_or_left_out_does_not_stand_there(self) -> None:
        platform = Platform()
        self.addCleanup(platform.close)
        platform.answers = [422]
        sdk = TrainerSDK(self.behind(platform.url), 7)
        with self.assertRaises(CallbackError):
            sdk.report_progress(1, 2, {"loss": 0.5})
        platform.answers = [422]
        with self.assertRaises(CallbackError):
            sdk.report_completed()
        self.assertEqual(self.kept(), [])
        with mock.patch("trainyard_sdk.waiting.MOST_BYTES", 4_000):
            away = TrainerSDK(self.behind(self.url), 7, retry_delays=(0.01,))
            for number in range(20):
                away.log(f"{number} " + "x" * 100)
            kept = [body for _, body in read(self.folder)]
            self.assertEqual(len(kept), len(away._outbox))
            self.assertLess(len(kept), 20)

    def test_a_trainer_that_is_killed_has_said_what_it_said(self) -> None:
        script = (
            "import os, signal, sys; from trainyard_sdk import TrainerSDK\n"
            "sdk = TrainerSDK(sys.argv[1], 7, retry_delays=(0.01,))\n"
            "sdk.report_started(2); sdk.log('a line'); sdk.report_progress(1, 2, {'loss': 0.5})\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        call = [sys.executable, "-c", script, self.url]
        env = {**os.environ, "PYTHONPATH": str(SDK)}
        done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=25, check=False)
        self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
        self.assertEqual(self.kept(), ["progress", "logs", "progress"])

    def test_an_interpreter_that_ends_leaves_a_file_only_where_something_is_left_to_say(self) -> None:
        script = (
            "import sys; from trainyard_sdk import TrainerSDK\n"
            "sdk = TrainerSDK(sys.argv[1], 7, patience=0, retry_delays=())\n"
            "sdk.report_progress(1, 2, {'loss': 0.5})\n"
        )
        platform = Platform()
        self.addCleanup(platform.close)
        for url, left in ((platform.url, []), (self.url, ["progress"])):
            call = [sys.executable, "-c", script, url]
            env = {**os.environ, "PYTHONPATH": str(SDK), "CALLBACK_URL": url}
            done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=25, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.kept(), left)
            self.assertEqual(len(list(self.folder.iterdir())), len(left))
        self.assertIn("1 callbacks are left for the agent to find", done.stderr)

    def test_an_end_that_nobody_answers_is_left_to_the_agent_behind_what_was_kept(self) -> None:
        sdk = TrainerSDK(self.url, 7, patience=0, retry_delays=(0.01,))
        sdk.report_progress(1, 1, {"loss": 0.5})
        self.assertIsNone(sdk.report_completed({"loss": 0.5}))
        self.assertTrue(sdk.ended)
        self.assertEqual(self.kept(), ["progress", "completion"])

    def test_where_nothing_can_be_written_down_all_goes_as_without(self) -> None:
        os.environ[journal.FOLDER] = str(self.folder / "no such folder")
        sdk = TrainerSDK(self.url, 7, patience=0, retry_delays=(0.01,))
        sdk.report_progress(1, 1, {"loss": 0.5})
        with self.assertRaises(CallbackError):
            sdk.report_completed({"loss": 0.5})
        self.assertFalse(sdk.ended)
        platform = self.back()
        until(lambda: len(platform.calls) == 1)

    def test_what_is_said_after_the_file_has_gone_makes_a_new_one(self) -> None:
        sdk = TrainerSDK(self.url, 7, patience=0, retry_delays=(0.01,))
        platform = self.back()
        sdk.log("a line")
        journal.close_all()
        self.assertEqual(list(self.folder.iterdir()), [])
        platform.close()
        self.assertIsNone(sdk.report_completed())
        self.assertEqual(self.kept(), ["completion"])
        journal.close_all()
        self.assertEqual(self.kept(), ["completion"], "somebody must read it")

    def test_clients_that_come_and_go_share_one_file(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        self.back()
        for number in range(50):
            TrainerSDK(self.url, 7).log(f"line {number}")
        self.assertEqual(len(list(self.folder.iterdir())), 1)
        self.assertLess(len(os.listdir("/proc/self/fd")), before + 10)
        self.assertEqual(self.kept(), [])

    def test_threads_that_begin_at_once_have_one_file(self) -> None:
        for _ in range(200):
            one = journal.Journal(str(self.folder))
            gate = threading.Barrier(3)

            def call(one: journal.Journal = one, gate: threading.Barrier = gate) -> None:
                gate.wait()
                one.done(one.add("training/jobs/7/callback/logs", b"{}"))

            threads = [threading.Thread(target=call) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(len(list(self.folder.iterdir())), 1)
            self.assertEqual(self.kept(), [])
            one.close()
            self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_signal_handler_that_calls_while_the_file_is_made_shares_it(self) -> None:
        one = journal.Journal(str(self.folder))
        really = os.open

        def interrupted(*arguments: Any) -> int:
            file = really(*arguments)
            with mock.patch("os.open", really):
                one.add("training/jobs/7/callback/logs", b"{}")
            return file

        with mock.patch("os.open", interrupted):
            one.add("training/jobs/7/callback/progress", b"{}")
        self.assertEqual(len(list(self.folder.iterdir())), 1)
        self.assertEqual(self.kept(), ["progress", "logs"])

    def test_what_comes_while_the_file_is_emptied_stands_there_or_is_marked(self) -> None:
        really = os.ftruncate
        for also_done in (False, True):
            one = journal.Journal(str(self.folder))
            first = one.add("training/jobs/7/callback/progress", b"{}")

            def between(file: int, size: int, one: journal.Journal = one, also_done: bool = also_done) -> None:
                number = one.add("training/jobs/7/callback/logs", b"{}")
                really(file, size)
                if also_done:
                    with mock.patch("os.ftruncate", really):
                        one.done(number)

            with mock.patch("os.ftruncate", between):
                one.done(first)
            self.assertEqual(self.kept(), [] if also_done else ["logs"])
            for path in self.folder.iterdir():
                path.unlink()

    def test_a_client_of_somebody_else_writes_nothing(self) -> None:
        platform = Platform()
        self.addCleanup(platform.close)
        sdk = TrainerSDK(platform.url, 99)
        sdk.log("to another platform")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_client_that_keeps_nothing_writes_nothing(self) -> None:
        sdk = TrainerSDK(self.url, 7, keep_undelivered=False, retry_delays=())
        with self.assertRaises(CallbackError):
            sdk.report_progress(1, 1, {"loss": 0.5})
        with contextlib.redirect_stdout(io.StringIO()):
            TrainerSDK("", 7).report_progress(1, 1, {"loss": 0.5})
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_child_has_a_file_of_its_own(self) -> None:
        sdk = TrainerSDK(self.url, 7, patience=0, retry_delays=(0.01,))
        sdk.log("of the parent")
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                sdk.log("of the child")
            os._exit(0)
        os.waitpid(child, 0)
        files = list(self.folder.iterdir())
        self.assertEqual(len(files), 2)
        self.assertEqual(sum("of the child" in path.read_text() for path in files), 1)
        self.assertEqual(sum("of the parent" in path.read_text() for path in files), 1)

    def test_a_call_that_another_has_sent_before_it_was_written_down_stays_in_no_file(self) -> None:
        class Slow(journal.Journal):
            """Gives no number before somebody else has sent the call."""

            def add(self, path: str, data: bytes) -> int:
                number = super().add(path, data)
                sent = waiting.first()
                assert sent is not None
                waiting.remove(sent)
                return number

        waiting = Waiting(Slow(str(self.folder)))
        self.assertTrue(waiting.add(Call("/logs", {"message": "sent at once"})))
        self.assertEqual(self.kept(), [])

    def test_many_threads_lose_nothing_while_the_file_is_emptied_again_and_again(self) -> None:
        platform = Platform()
        self.addCleanup(platform.close)
        sdk = TrainerSDK(self.behind(platform.url), 7, retry_delays=(0.01,))

        def say(name: int) -> None:
            for number in range(50):
                sdk.log(f"{name}-{number}")

        threads = [threading.Thread(target=say, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sdk.flush()
        until(lambda: len(platform.calls) == 200)
        until(lambda: not self.kept())


if __name__ == "__main__":
    unittest.main()
