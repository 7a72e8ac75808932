"""Checks who sends when several want to: a signal handler within a call, another thread, a thread that died, and an
interpreter that ends."""

from __future__ import annotations

import contextlib
import io
import itertools
import signal
import threading
import unittest
from typing import Any, Callable, Dict, List, Optional, Tuple
from unittest import mock

from support import AwayCase, Platform, forget_all, until

from trainyard_sdk import CallbackError, TrainerSDK, outbox, trainer, transport, waiting


def said(platform: Platform) -> List[Tuple[str, Any]]:
    """Each call's name, and its epoch or its words."""
    return [
        (path.rsplit("/", 1)[-1], body.get("message", body.get("current_epoch", body.get("status"))))
        for path, body in platform.calls
    ]


class InterruptedByUser(Exception):
    """What a handler raises."""


class Handlers(AwayCase):
    """Code that a signal runs while its own thread is within the SDK."""

    def setUp(self) -> None:
        super().setUp()
        self.sdk = TrainerSDK(self.url, 7, patience=0, retry_delays=())
        self.sdk._outbox._every = 3600
        self.begun, self.ran = threading.Event(), threading.Event()

    def on_signal(self, do: Callable[[], Any]) -> None:
        def handle(*_: Any) -> None:
            if not self.begun.is_set():
                self.begun.set()
                do()
                self.ran.set()

        self.addCleanup(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, handle))

    def signal_within_the_first_call(self, platform: Platform) -> None:
        def interrupt(_path: str, _body: Dict[str, Any]) -> None:
            platform.on_call = lambda _path, _body: None
            for _ in range(200):
                # Again, for one that comes just before a wait for the answer does not end that.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                if self.begun.wait(0.05):
                    break
            self.ran.wait(10)

        platform.on_call = interrupt

    def test_what_a_handler_says_comes_once_and_behind_the_call_that_it_interrupts(self) -> None:
        def speak() -> None:
            self.assertIsNone(self.sdk.report_progress(9, 9, {"loss": 0.1}))
            self.assertTrue(self.sdk.log("interrupted"))
            self.sdk.flush()
            self.assertEqual(len(platform.calls), 1, "nothing overtakes the call that is interrupted")

        self.on_signal(speak)
        for epoch in (1, 2):
            self.sdk.report_progress(epoch, 9, {"loss": 0.5})
        platform = self.back()
        self.signal_within_the_first_call(platform)
        self.sdk.flush()
        self.assertTrue(self.ran.is_set())
        wanted = [("progress", 1), ("progress", 2), ("progress", 9), ("logs", "interrupted")]
        self.assertEqual(said(platform), wanted)
        self.assertEqual(len(self.sdk._outbox), 0)
        self.assertEqual(self.sdk.report_progress(10, 10), {"success": True, "message": "recorded"})

    def test_what_a_handler_says_within_a_call_that_is_answered_goes_out_by_itself(self) -> None:
        self.on_signal(lambda: self.assertIsNone(self.sdk.report_progress(2, 9, {"loss": 0.4})))
        platform = self.back()
        self.signal_within_the_first_call(platform)
        self.assertIsNotNone(self.sdk.report_progress(1, 9, {"loss": 0.5}), "its answer is returned")
        until(lambda: len(platform.calls) == 2)
        self.assertEqual(said(platform), [("progress", 1), ("progress", 2)])

    def test_an_end_that_a_handler_reports_is_told_at_once_and_nothing_is_sent_twice(self) -> None:
        self.on_signal(lambda: self.sdk.report_failed("[NetworkError] stopped"))
        for epoch in (1, 2):
            self.sdk.report_progress(epoch, 9, {"loss": 0.5})
        platform = self.back()
        self.signal_within_the_first_call(platform)
        self.sdk.flush()
        self.assertEqual(said(platform), [("progress", 1), ("progress", 2), ("completion", "failed")])

    def test_an_end_that_a_handler_reports_while_another_is_under_way_is_ignored(self) -> None:
        self.on_signal(lambda: self.assertIsNone(self.sdk.report_failed("[NetworkError] stopped")))
        platform = self.back()
        self.signal_within_the_first_call(platform)
        self.assertIsNotNone(self.sdk.report_completed({"loss": 0.5}), "its answer is returned")
        self.assertTrue(self.ran.is_set())
        until(lambda: len(platform.calls) == 2)
        ignored = "the end of the job was already reported; status failed is ignored"
        self.assertEqual(said(platform), [("completion", "completed"), ("logs", ignored)])

    def test_an_end_that_a_handlers_exception_cuts_off_may_be_told_again(self) -> None:
        def stop() -> None:
            self.ran.set()
            raise InterruptedByUser

        self.on_signal(stop)
        platform = self.back()
        self.signal_within_the_first_call(platform)
        with self.assertRaises(InterruptedByUser):
            self.sdk.report_completed({"loss": 0.5})
        self.assertFalse(self.sdk.ended)
        self.assertIsNotNone(self.sdk.report_failed("[NetworkError] stopped"))
        self.assertEqual(said(platform)[-1], ("completion", "failed"))

    def test_a_report_that_a_handlers_exception_cuts_off_is_kept(self) -> None:
        def stop() -> None:
            self.ran.set()
            raise InterruptedByUser

        self.on_signal(stop)
        self.sdk._outbox._delays = (0.0,)
        platform = self.back()
        platform.answers = [503, 503]
        self.signal_within_the_first_call(platform)
        with self.assertRaises(InterruptedByUser):
            self.sdk.report_progress(1, 9, {"loss": 0.5})
        platform.calls.clear()
        platform.answers.clear()
        self.sdk.report_completed({"loss": 0.5})
        self.assertEqual(said(platform), [("progress", 1), ("completion", "completed")])

    def test_a_handler_within_the_books_of_what_waits_neither_hangs_nor_is_lost(self) -> None:
        self.on_signal(lambda: self.sdk.log("interrupted"))
        self.sdk.report_progress(1, 9, {"loss": 0.5})
        weigh = waiting.Waiting._weigh

        def interrupted(books: waiting.Waiting, call: waiting.Call) -> None:
            if not self.ran.is_set():
                signal.raise_signal(signal.SIGUSR1)
            weigh(books, call)

        with mock.patch.object(waiting.Waiting, "_weigh", interrupted):
            self.sdk.report_progress(2, 9, {"loss": 0.5})
        self.assertTrue(self.ran.is_set())
        platform = self.back()
        self.sdk.flush()
        self.assertEqual(said(platform), [("progress", 1), ("progress", 2), ("logs", "interrupted")])

    def test_a_handler_within_the_books_waits_for_no_thread_that_may_be_waiting_for_them(self) -> None:
        def speak() -> None:
            self.sdk.report_progress(3, 9, {"loss": 0.5})
            self.sdk.log("interrupted")
            self.sdk.flush()
            self.sdk.report_failed("[NetworkError] stopped")

        self.on_signal(speak)
        self.sdk.report_progress(1, 9, {"loss": 0.5})
        platform, held = self.back(), threading.Event()
        came: List[bool] = []

        def hold() -> None:
            with self.sdk._outbox._turn:
                held.set()
                came.append(self.ran.wait(10))

        other = threading.Thread(target=hold)
        other.start()
        self.assertTrue(held.wait(10))
        weigh = waiting.Waiting._weigh

        def interrupted(books: waiting.Waiting, call: waiting.Call) -> None:
            if call.epoch == 2:
                signal.raise_signal(signal.SIGUSR1)
            weigh(books, call)

        with mock.patch.object(waiting.Waiting, "_weigh", interrupted):
            self.sdk.report_progress(2, 9, {"loss": 0.5})
        other.join(10)
        self.assertEqual(came, [True])
        self.sdk.flush()
        wanted = [("completion", "failed"), ("progress", 1), ("progress", 2), ("progress", 3), ("logs", "interrupted")]
        self.assertEqual(said(platform), wanted)

    def test_an_end_that_a_handler_reports_within_the_books_has_the_first_tries_alone(self) -> None:
        sdk = TrainerSDK(self.url, 7, patience=5, retry_delays=(0.0, 0.0, 0.01))
        sdk._outbox._every = 3600
        failed: List[CallbackError] = []

        def speak() -> None:
            try:
                sdk.report_failed("[NetworkError] stopped")
            except CallbackError as error:
                failed.append(error)

        self.on_signal(speak)
        weigh = waiting.Waiting._weigh

        def interrupted(books: waiting.Waiting, call: waiting.Call) -> None:
            signal.raise_signal(signal.SIGUSR1)
            weigh(books, call)

        with mock.patch.object(waiting.Waiting, "_weigh", interrupted):
            sdk.report_progress(1, 9, {"loss": 0.5})
        self.assertEqual([error.attempts for error in failed], [4])
        self.assertFalse(sdk.ended)


class Threads(AwayCase):
    def test_a_line_waits_for_no_other_threads_report_and_that_has_its_answer(self) -> None:
        platform, sdk = self.back(), TrainerSDK(self.url, 7, retry_delays=())
        reached, go_on = threading.Event(), threading.Event()

        def hold(path: str, _body: Dict[str, Any]) -> None:
            if path.endswith("/progress"):
                reached.set()
                go_on.wait(10)

        platform.on_call = hold
        answers: List[Any] = []
        report = threading.Thread(target=lambda: answers.append(sdk.report_progress(1, 2, {"loss": 0.5})))
        report.start()
        self.assertTrue(reached.wait(10))
        self.assertTrue(sdk.log("meanwhile"))
        self.assertEqual(said(platform), [("progress", 1)], "the report is still waiting for its answer")
        go_on.set()
        report.join(10)
        self.assertEqual(answers, [{"success": True, "message": "recorded"}])
        until(lambda: len(platform.calls) == 2)
        self.assertEqual(said(platform), [("progress", 1), ("logs", "meanwhile")])
        self.assertNotIn("kept for later", self.words.getvalue())
        self.assertEqual(platform.kept, [None, None], "nothing found no answer")

    def test_of_two_threads_that_report_an_end_one_is_heard(self) -> None:
        platform, sdk = self.back(), TrainerSDK(self.url, 7, patience=0, retry_delays=())
        reached, go_on = threading.Event(), threading.Event()

        def hold(path: str, _body: Dict[str, Any]) -> None:
            if path.endswith("/completion"):
                reached.set()
                go_on.wait(10)

        platform.on_call = hold
        end = threading.Thread(target=lambda: sdk.report_completed({"loss": 0.5}), daemon=True)
        end.start()
        self.assertTrue(reached.wait(10))
        second = threading.Thread(target=lambda: sdk.report_failed("[NetworkError] stopped"), daemon=True)
        second.start()
        second.join(10)
        self.assertFalse(second.is_alive(), "it waits for nobody")
        go_on.set()
        end.join(10)
        until(lambda: len(platform.calls) == 2)
        self.assertEqual([name for name, _ in said(platform)], ["completion", "logs"])

    def test_a_sender_that_died_is_replaced(self) -> None:
        sdk = TrainerSDK(self.url, 7, retry_delays=(0.01,))
        died = threading.Event()
        answers = [CallbackError("away"), RuntimeError("broken")]
        hook = mock.patch.object(threading, "excepthook", lambda _args: died.set())
        with hook, mock.patch.object(trainer, "post", side_effect=answers):
            sdk.report_progress(1, 2, {"loss": 0.5})
            self.assertTrue(died.wait(10))
            sender = sdk._outbox._sender
            until(lambda: sender is None or not sender.is_alive())
        sdk.report_progress(2, 2, {"loss": 0.4})
        platform = self.back()
        until(lambda: len(platform.calls) == 2)
        self.assertEqual(said(platform), [("progress", 1), ("progress", 2)])


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Bounds(unittest.TestCase):
    """However an agent fails, it holds nobody up beyond one deadline for all calls. The clock is a false one."""

    def left_after(
        self, answers: Callable[[float], Tuple[float, bool]], flush: str, patience: float = 60.0
    ) -> Tuple[float, int]:
        """How long it took to give up a hundred calls, and how many were left then. `answers` says of a request, by its
        limit, how long it takes and whether it is taken."""
        clock, away = Clock(), [True]

        def post_once(*args: Any) -> Tuple[Optional[Dict[str, Any]], Optional[CallbackError]]:
            spent, taken = (0.0, False) if away[0] else answers(args[-1])
            clock.now += spent
            return (None, None) if taken else (None, CallbackError("away"))

        with mock.patch.object(transport, "time", clock), mock.patch.object(transport, "_post_once", post_once):
            sdk = TrainerSDK("http://nowhere", 7, retry_delays=(2.0, 4.0, 8.0))
            sdk._outbox._every = 3600
            with mock.patch("sys.stderr"):
                for epoch in range(1, 101):
                    sdk.report_progress(epoch, 200, {"loss": 0.5})
                away[0], begun = False, clock.now
                sdk._outbox._every = 2.0
                if flush == "exit":
                    sdk._outbox.flush_at_exit()
                else:
                    with self.assertRaises(CallbackError):
                        sdk.flush(patience)
            left = len(sdk._outbox)
            sdk._outbox.forget()
        return clock.now - begun, left

    def test_an_end_and_a_flush_have_one_deadline_for_all_calls(self) -> None:
        flaps = itertools.cycle([False, True])
        ways: Dict[str, Callable[[float], Tuple[float, bool]]] = {
            "hangs": lambda limit: (limit, False),
            "flaps": lambda limit: (min(limit, 1.0), next(flaps)),
            # A limit is on what is heard within it, so an answer in drops takes longer.
            "drips": lambda _limit: (20.0, True),
        }
        for way, answers in ways.items():
            for flush in ("exit", "flush"):
                with self.subTest(way, flush=flush):
                    took, left = self.left_after(answers, flush)
                    self.assertTrue(55.0 <= took <= 60.5, took)
                    self.assertGreater(left, 0)
                    if way != "hangs":
                        self.assertLess(left, 100, "what is answered is sent")

    def test_a_flush_of_less_than_the_grace_takes_no_longer_than_it_says(self) -> None:
        took, left = self.left_after(lambda limit: (limit, False), "flush", patience=1.5)
        self.assertTrue(1.4 <= took <= 1.6, took)
        self.assertEqual(left, 100)

    def test_an_interpreter_with_many_clients_has_one_deadline_for_all(self) -> None:
        clock, words = Clock(), io.StringIO()
        self.addCleanup(forget_all)
        hangs = [False]

        def post_once(*args: Any) -> Tuple[None, CallbackError]:
            clock.now += args[-1] if hangs[0] else 0.0
            return None, CallbackError("away")

        away = mock.patch.object(transport, "_post_once", post_once)
        with mock.patch.object(transport, "time", clock), away, contextlib.redirect_stderr(words):
            clients = [TrainerSDK("http://nowhere", 7, patience=25, retry_delays=(2.0,)) for _ in range(5)]
            for sdk in clients:
                sdk._outbox._every = 3600
                sdk.report_progress(1, 2, {"loss": 0.5})
                sdk._outbox._every = 2.0
            hangs[0], begun = True, clock.now
            with mock.patch.object(outbox, "time", clock):
                outbox.flush_all_at_exit()
        self.assertEqual(clock.now - begun, 60.0, "25, 25 and 10 seconds, and none for the others")
        self.assertEqual(words.getvalue().count("1 callbacks are lost"), 5, "it is said of each")
        self.assertEqual(words.getvalue().count("there was no time for more"), 2)

    def test_an_end_without_delays_has_its_patience_all_the_same(self) -> None:
        clock = Clock()
        away = mock.patch.object(transport, "_post_once", lambda *_: (None, CallbackError("away")))
        with mock.patch.object(transport, "time", clock), away:
            for patience, wanted in ((60.0, 62.0), (0.0, 0.0)):
                begun = clock.now
                with self.assertRaises(CallbackError):
                    TrainerSDK("http://nowhere", 7, patience=patience, retry_delays=()).report_completed({})
                self.assertEqual(clock.now - begun, wanted)

    def test_a_report_that_fails_once_is_tried_again_and_has_its_answer(self) -> None:
        platform = Platform()
        self.addCleanup(platform.close)
        platform.answers = [503]
        sdk = TrainerSDK(platform.url, 7, retry_delays=(0.01,))
        self.assertEqual(sdk.report_progress(1, 2, {"loss": 0.5}), {"success": True, "message": "recorded"})
        self.assertEqual(len(platform.calls), 2)


if __name__ == "__main__":
    unittest.main()
