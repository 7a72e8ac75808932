"""Checks what the trainer SDK keeps while nobody answers: it goes out by itself, in order, once, and within bounds."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import unittest
from typing import Any, Dict, List, Optional

from support import SDK, AwayCase, Platform, until

from trainyard_sdk import CallbackError, TrainerSDK, transport


class Away(AwayCase):
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
        self.assertEqual((len(platform.calls), platform.kept[-1]), (6, None), "from then on nothing waits")

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
            env = {**os.environ, "PYTHONPATH": str(SDK)}
            done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=25, check=False)
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
        ended: List[int] = []

        def has_ended() -> bool:
            ended.extend(pid for pid in os.waitpid(child, os.WNOHANG)[:1] if pid)
            return bool(ended)

        self.addCleanup(lambda: ended or os.kill(child, signal.SIGKILL))
        until(has_ended)
        self.assertEqual([path.rsplit("/", 1)[-1] for path, _ in platform.calls], ["logs"])
        sdk.flush()
        self.assertEqual(len(platform.bodies("progress")), 1)

    def test_a_client_says_nothing_of_what_others_keep(self) -> None:
        keeps, other = TrainerSDK(self.url, 7, retry_delays=()), TrainerSDK(self.url, 7, retry_delays=())
        keeps._outbox._every = 3600
        for epoch in (1, 2):
            keeps.report_progress(epoch, 3, {"loss": 0.5})
        platform = self.back()
        other.log("another worker's")
        other.report_validation(1, "classification", {"accuracy": 0.5})
        self.assertEqual(platform.kept, [None, None])
        platform.answers = [200, 422]
        keeps.flush()
        self.assertEqual(platform.kept[2:], ["1", "0", "0"], "also the line of one that is refused is the last")
        self.assertIn("epoch 2 is dropped", platform.bodies("logs")[-1]["message"])

    def test_each_try_says_how_many_are_kept_by_then(self) -> None:
        sdk = TrainerSDK(self.url, 7, retry_delays=(0.0,))
        sdk._outbox._every = 3600
        sdk.report_progress(1, 3, {"loss": 0.5})
        platform = self.back()
        platform.answers = [503]

        def speak(_path: str, _body: Dict[str, Any]) -> None:
            platform.on_call = lambda _path, _body: None
            sdk.log("meanwhile")

        platform.on_call = speak
        sdk.flush()
        self.assertEqual(platform.kept, ["0", "1", "0"])

    def test_what_can_never_be_sent_is_refused_and_not_kept(self) -> None:
        for url in ("nowhere/api/v1", "ftp://nowhere", "http://now here"):
            with self.subTest(url):
                sdk = TrainerSDK(url, 7)
                with self.assertRaisesRegex(CallbackError, "CALLBACK_URL must begin with"):
                    sdk.report_progress(1, 3, {"loss": 0.5})
                self.assertFalse(sdk.log("lost words"))
                self.assertEqual(len(sdk._outbox), 0)
        sdk = TrainerSDK("http://no..where", 7, retry_delays=())
        sdk._outbox._every = 3600
        self.assertIsNone(sdk.report_progress(1, 3, {"loss": 0.5}))

    def test_an_error_whose_words_are_cut_off_is_an_error_like_others(self) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)

        def answer() -> None:
            with server.accept()[0] as peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf")

        threading.Thread(target=answer, daemon=True).start()
        with self.assertRaisesRegex(CallbackError, "answered 503: Busy"):
            transport.post_json(f"http://127.0.0.1:{server.getsockname()[1]}/x", {}, delays=())


if __name__ == "__main__":
    unittest.main()
