"""Checks what the trainer SDK leaves out when too much waits: a curve becomes coarser, and no training ends for it."""

from __future__ import annotations

import tracemalloc
import unittest
from typing import Any, Dict, List
from unittest import mock

from support import AwayCase

from trainyard_sdk import TrainerSDK, waiting


def epochs(bodies: List[Dict[str, Any]]) -> List[int]:
    return [body.get("epoch", body.get("current_epoch")) for body in bodies]


class Room(AwayCase):
    def setUp(self) -> None:
        super().setUp()
        self.sdk = TrainerSDK(self.url, 7, retry_delays=())
        self.sdk._outbox._every = 3600

    def room(self, size: int) -> None:
        """What may wait from now on, in bytes."""
        patch = mock.patch.object(waiting, "MOST_BYTES", size)
        patch.start()
        self.addCleanup(patch.stop)

    def test_what_is_kept_is_bounded_and_each_curve_becomes_coarser(self) -> None:
        self.room(60_000)
        self.sdk.report_started(400)
        for epoch in range(1, 401):
            named = f"/c/{epoch // 100}.pt" if epoch % 50 == 0 else None
            self.sdk.report_progress(epoch, 400, {"loss": 0.5}, checkpoint_path=named)
            self.sdk.report_validation(epoch, "classification", {"accuracy": 0.5})
        kept = [self.sdk.log("x" * 1_000) for _ in range(20)]
        self.assertTrue(kept[0])
        self.assertFalse(kept[-1], "the last ones went to standard error")
        self.assertIn("x" * 1_000, self.words.getvalue())
        platform = self.back()
        self.sdk.flush()
        curve, results = epochs(platform.bodies("progress")), epochs(platform.bodies("results"))
        self.assertEqual((curve[0], curve[-1], results[-1]), (0, 400, 400))
        for found in (curve, results):
            self.assertEqual(found, sorted(found))
            self.assertTrue(40 < len(found) < 200, found)
            self.assertLess(max(b - a for a, b in zip(found, found[1:])), 64)
        named = [body["checkpoint_path"] for body in platform.bodies("progress") if "checkpoint_path" in body]
        self.assertEqual(list(dict.fromkeys(named)), [f"/c/{number}.pt" for number in range(5)], "none is forgotten")
        self.assertEqual(len(platform.bodies("logs")), kept.count(True))

    def test_results_of_any_kind_make_room_and_none_raises(self) -> None:
        self.room(20_000)
        self.sdk.report_started(1000)
        for epoch in range(1, 301):
            self.sdk.report_validation(epoch, "classification", class_names=["x" * 100])
        platform = self.back()
        self.sdk.flush()
        found = epochs(platform.bodies("results"))
        self.assertEqual((found[-1], found), (300, sorted(found)))
        self.assertGreater(len(found), 20)
        self.assertLess(found[0], 100, "the curve becomes coarser, and does not lose its beginning")
        self.assertEqual(epochs(platform.bodies("progress")), [0])

    def test_where_all_that_waits_has_weight_the_oldest_results_go(self) -> None:
        self.room(20_000)
        self.sdk.report_started(2)
        self.sdk.report_progress(2, 2, {"loss": 0.5})
        for _ in range(200):
            self.sdk.report_validation(2, "classification", class_names=["x" * 100])
        for _ in range(200):
            self.sdk.report_progress(2, 2, {"loss": 0.25})
        platform = self.back()
        self.sdk.flush()
        self.assertEqual(platform.bodies("results"), [])
        self.assertEqual(platform.bodies("progress")[-1]["metrics"]["loss"], 0.25)
        self.assertIn("left out: too many wait", self.words.getvalue())

    def test_nothing_is_left_out_for_a_report_that_has_no_room_at_all(self) -> None:
        self.room(20_000)
        for epoch in range(1, 41):
            self.sdk.report_progress(epoch, 100, {"loss": 0.5})
        self.assertIsNone(self.sdk.report_validation(40, "classification", class_names=["x" * 20_000]))
        self.assertIn("1 report is left out", self.words.getvalue())
        platform = self.back()
        self.sdk.flush()
        self.assertEqual(epochs(platform.bodies("progress")), list(range(1, 41)))
        self.assertEqual(platform.bodies("results"), [])

    def test_what_waits_takes_little_more_than_its_text(self) -> None:
        self.sdk.report_started(100)
        matrix = [[row * column for row in range(20)] for column in range(20)]
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for epoch in range(1, 51):
            self.sdk.report_validation(epoch, "classification", {"accuracy": 0.5}, confusion_matrix=matrix)
        taken = tracemalloc.get_traced_memory()[0]
        platform = self.back()
        self.sdk.flush()
        self.assertLess(taken, 1.5 * sum(map(len, platform.raw)))


if __name__ == "__main__":
    unittest.main()
