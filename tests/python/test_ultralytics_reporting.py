"""Checks in which order the Ultralytics trainer reports and publishes. Needs no Ultralytics."""

from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from typing import List

from support import TRAINERS, Platform, refuse_first

sys.path.append(str(TRAINERS / "ultralytics"))

import reporting  # noqa: E402
import settings  # noqa: E402
from trainyard_sdk import CallbackError, TrainerSDK  # noqa: E402


class Order(unittest.TestCase):
    def setUp(self) -> None:
        self.platform = Platform()
        self.addCleanup(self.platform.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def end_an_epoch(self, name: str) -> List[str]:
        """Have the first epoch reported, and return what is in the checkpoint folder then."""
        sdk = TrainerSDK(self.platform.url, 5)
        checkpoints = self.root / name / "ck"
        saved = [self.root / name / file for file in ("last.pt", "best.pt")]
        checkpoints.mkdir(parents=True)
        for path in saved:
            path.write_text("weights")
        reporter = reporting.Reporter(
            sdk, "detection", settings.Hooks(), self.root / name / "progress.json", checkpoints
        )
        trainer = SimpleNamespace(
            epoch=0,
            epochs=2,
            start_epoch=0,
            tloss={"box": 0.5},
            metrics={},
            fitness=0.5,
            optimizer=SimpleNamespace(param_groups=[{"lr": 0.01}]),
            last=saved[0],
            best=saved[1],
            wdir=self.root / name,
        )
        reporter.on_train_epoch_start(trainer)
        reporter.on_train_epoch_end(trainer)
        reporter.on_model_save(trainer)
        try:
            reporter.on_fit_epoch_end(trainer)
        finally:
            self.found = sorted(path.name for path in checkpoints.iterdir())
        return self.found

    def test_an_epoch_whose_report_is_refused_leaves_its_checkpoint(self) -> None:
        self.assertEqual(self.end_an_epoch("taken"), ["best.pt", "last.pt"])
        for ending in ("/progress", "/results"):
            refuse_first(self.platform, ending)
            with self.assertRaises(CallbackError):
                self.end_an_epoch(ending.strip("/"))
            self.assertEqual(self.found, ["best.pt", "last.pt"])


if __name__ == "__main__":
    unittest.main()
