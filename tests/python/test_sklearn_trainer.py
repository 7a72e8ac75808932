"""Runs the scikit-learn trainer as the agent does, against a recording endpoint. Needs that trainer's environment."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List

from support import Platform, assert_reported_first, checkpoints_when_reported, refuse_first, run_trainer

HAS_SKLEARN = importlib.util.find_spec("sklearn") is not None


@unittest.skipUnless(HAS_SKLEARN, "scikit-learn is not importable; run with the environment of trainers/sklearn")
class SklearnTrainer(unittest.TestCase):
    def setUp(self) -> None:
        self.platform = Platform()
        self.addCleanup(self.platform.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = Path(folder.name).resolve()

    def run_job(self, config: Any = None, code: int = 0, **env: str) -> List[Dict[str, Any]]:
        """Run a job, check its exit code, and return the bodies of its progress calls."""
        self.platform.calls.clear()
        base = {"JOB_ID": "5", "CALLBACK_URL": self.platform.url, "EPOCHS": "3", "TASK_TYPE": "image_classification"}
        done = run_trainer("sklearn", self.work, {**base, "CONFIG": json.dumps(config or {}), **env})
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return self.platform.bodies("progress")

    def completion(self) -> Dict[str, Any]:
        bodies = self.platform.bodies("completion")
        self.assertEqual(len(bodies), 1)
        return bodies[0]

    def make(self, *arguments: str) -> Path:
        out = self.work / "made"
        done = run_trainer("sklearn", self.work, {}, "make_dataset.py", ["--out", str(out), *arguments])
        self.assertEqual(done.returncode, 0, done.stderr)
        return out

    def test_bundled_digits_with_each_epoch_reported_before_its_checkpoint_is_published(self) -> None:
        seen = checkpoints_when_reported(self.platform, self.work / "ck" / "last.npz")
        progress = self.run_job(CHECKPOINT_DIR=str(self.work / "ck"))
        self.assertEqual([body["current_epoch"] for body in progress], [0, 1, 2, 3])
        losses = [body["metrics"]["loss"] for body in progress[1:]]
        self.assertLess(losses[2], losses[0])
        self.assertEqual(progress[3]["metrics"]["learning_rate"], 0.001)
        end = self.completion()
        self.assertEqual((end["exit_code"], end["total_epochs_completed"]), (0, 3))
        self.assertEqual(end["final_metrics"]["accuracy"], progress[3]["metrics"]["accuracy"])
        for name in ("best", "last"):
            self.assertEqual(end[f"{name}_checkpoint_path"], str(self.work / "ck" / f"{name}.npz"))
            self.assertTrue(Path(end[f"{name}_checkpoint_path"]).is_file())
        self.assertEqual(len(self.platform.bodies("/validation/jobs/5/results")), 3)
        assert_reported_first(self, seen, 3)

    def test_the_curve_depends_on_seed_and_settings_alone(self) -> None:
        def curve(config: Any, **env: str) -> List[Any]:
            return [body["metrics"] for body in self.run_job(config, **env)[1:]]

        first = curve({"seed": 1})
        self.assertEqual(curve({"seed": 1}), first)
        self.assertNotEqual(curve({"seed": 2}), first)
        self.assertNotEqual(curve({"seed": 1}, LEARNING_RATE="0.01"), first)
        self.assertNotEqual(curve({"seed": 1}, BATCH_SIZE="16"), first)
        self.assertNotEqual(curve({"seed": 1, "advanced_config": {"optimizer": {"type": "sgd"}}}), first)

    def test_a_run_that_goes_on_has_the_curve_of_one_without_a_break(self) -> None:
        def curve(**env: str) -> List[Any]:
            return [(body["current_epoch"], body["metrics"]) for body in self.run_job(config, **env)[1:]]

        for number, solver in enumerate(("adam", {"type": "sgd", "momentum": 0.8})):
            config = {"seed": 3, "optimizer": solver, "hidden_layer_sizes": [24, 12]}
            folders = [str(self.work / f"{name}-{number}") for name in ("whole", "first", "second")]
            whole = curve(EPOCHS="5", CHECKPOINT_DIR=folders[0])
            end = self.completion()
            first = curve(EPOCHS="2", CHECKPOINT_DIR=folders[1])
            resumed = {"RESUME_FROM": f"{folders[1]}/last.npz", "CHECKPOINT_DIR": folders[2], "EPOCHS": "5"}
            second = curve(RESUME="true", **resumed)
            self.assertEqual(first + second, whole)
            self.assertEqual([epoch for epoch, _ in second], [3, 4, 5])
            again = self.completion()
            for key in ("final_metrics", "best_metrics", "best_epoch", "total_epochs_completed"):
                self.assertEqual(again[key], end[key], key)
            last = [Path(folder, "last.npz").read_bytes() for folder in (folders[0], folders[2])]
            self.assertEqual(last[0], last[1], "the checkpoints are the same to the last bit")
            # With the weights alone it begins anew, and not where an untrained network does.
            anew = curve(RESUME="false", **resumed)
            self.assertEqual([epoch for epoch, _ in anew], [1, 2, 3, 4, 5])
            self.assertLess(anew[0][1]["loss"], whole[0][1]["loss"])

    def test_a_run_that_has_nothing_left_to_do_says_what_it_came_to(self) -> None:
        self.run_job(EPOCHS="2", CHECKPOINT_DIR=str(self.work / "a"))
        before = self.completion()
        named = str(self.work / "a" / "last.npz")
        progress = self.run_job(EPOCHS="2", CHECKPOINT_DIR=str(self.work / "b"), RESUME_FROM=named)
        self.assertEqual(len(progress), 1)
        end = self.completion()
        self.assertEqual(end["final_metrics"], before["final_metrics"])
        self.assertEqual((end["last_checkpoint_path"], end["exit_code"]), (named, 0))

    def test_a_run_that_is_never_better_reports_the_best_checkpoint_of_the_run_before_it(self) -> None:
        config = {"seed": 3, "hidden_layer_sizes": [8]}
        rate = {"LEARNING_RATE": "0.3"}  # so wide a step that the curve goes up and down
        self.run_job(config, EPOCHS="6", CHECKPOINT_DIR=str(self.work / "a"), **rate)
        before = self.completion()
        self.assertLess(before["best_epoch"], 6)
        first = Path(before["best_checkpoint_path"]).read_bytes()
        last = self.work / "a" / "last.npz"
        alone = self.work / "alone" / "last.npz"
        alone.parent.mkdir()
        alone.write_bytes(last.read_bytes())
        # Each has nothing left to do, and so nothing that is better.
        for source, found in ((last, True), (Path(before["best_checkpoint_path"]), True), (alone, False)):
            best = self.work / f"after-{source.parent.name}-{source.stem}" / "best.npz"
            epochs = "6" if source.stem == "last" else str(before["best_epoch"])
            more = {"CHECKPOINT_DIR": str(best.parent), "RESUME_FROM": str(source), "EPOCHS": epochs}
            self.run_job(config, **more, **rate)
            end = self.completion()
            self.assertEqual((end["best_epoch"], end["best_metrics"]), (before["best_epoch"], before["best_metrics"]))
            self.assertEqual(end.get("best_checkpoint_path"), str(best) if found else None)
            told = [body["message"] for body in self.platform.bodies("logs")]
            missing = f"the best checkpoint so far, of epoch {before['best_epoch']}, stays"
            self.assertEqual(any(words.startswith(missing) for words in told), not found, told)
            if found:
                self.assertEqual(best.read_bytes(), first)

    def test_a_checkpoint_that_does_not_fit_is_refused_in_words(self) -> None:
        self.run_job(EPOCHS="1", CHECKPOINT_DIR=str(self.work / "a"))
        named = str(self.work / "a" / "last.npz")
        (self.work / "text.npz").write_text("no checkpoint")
        cases = [
            ({}, str(self.work / "none.npz"), "is not a file on this machine"),
            ({}, str(self.work / "text.npz"), "is no checkpoint of this trainer"),
            ({"hidden_layer_sizes": [32]}, named, "is of another network"),
            ({"optimizer": "sgd"}, named, "has solver 'adam', but this job has 'sgd'"),
            ({"activation": "tanh"}, named, "has activation 'relu', but this job has 'tanh'"),
        ]
        for config, path, words in cases:
            self.run_job(config, code=1, RESUME_FROM=path)
            message = self.completion()["error_message"]
            self.assertIn("[CheckpointError] RESUME_FROM", message)
            self.assertIn(words, message)

    def test_imagefolder_and_unknown_settings(self) -> None:
        data = self.make("--kind", "imagefolder", "--train", "60", "--val", "20")
        self.assertEqual(len(list((data / "train").glob("*/*.png"))), 60)
        progress = self.run_job({"mosaic": 0.5}, LOCAL_DATASET_PATH=str(data), EPOCHS="2", BATCH_SIZE="8")
        self.assertEqual(len(progress), 3)
        warnings = [body["message"] for body in self.platform.bodies("logs") if body["level"] == "WARNING"]
        self.assertEqual(len(warnings), 1)
        self.assertIn("mosaic", warnings[0])

    def test_wrong_dataset_path(self) -> None:
        self.run_job(code=1, LOCAL_DATASET_PATH="/nowhere/at/all")
        end = self.completion()
        self.assertEqual((end["status"], end["exit_code"]), ("failed", 1))
        self.assertTrue(end["error_message"].startswith("[DatasetError] LOCAL_DATASET_PATH"), end["error_message"])
        self.assertIn("Traceback", end["traceback"])

    def test_empty_dataset_and_bad_setting(self) -> None:
        self.run_job(code=1, LOCAL_DATASET_PATH=str(self.work))
        self.assertIn("[DatasetError]", self.completion()["error_message"])
        self.run_job({"hidden_layer_sizes": "wide"}, code=1)
        self.assertIn("[ConfigError] CONFIG.hidden_layer_sizes", self.completion()["error_message"])

    def test_refused_callback_is_exit_code_2(self) -> None:
        self.platform.answers = [404]
        self.run_job(code=2)

    def test_an_epoch_whose_report_is_refused_leaves_its_checkpoint(self) -> None:
        refuse_first(self.platform, "/progress")
        folder = self.work / "ck"
        self.run_job(code=2, CHECKPOINT_DIR=str(folder))
        self.assertEqual(sorted(path.name for path in folder.iterdir()), ["best.npz", "last.npz"])

    def test_detection_set_has_exact_boxes_and_is_repeatable(self) -> None:
        out = self.make("--kind", "detection", "--train", "6", "--val", "2", "--imgsz", "96", "--seed", "4")
        from PIL import Image

        for label in (out / "labels" / "train").glob("*.txt"):
            image = Image.open(out / "images" / "train" / f"{label.stem}.png").convert("L")
            self.assertEqual(image.size, (96, 96))
            boxes = []
            for line in label.read_text().splitlines():
                x, y, w, h = (float(value) * 96 for value in line.split()[1:])
                box = tuple(round(value) for value in (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
                ink = image.crop(box).point(lambda p: 255 if p < 127 else 0)
                self.assertEqual(ink.getbbox(), (0, 0, box[2] - box[0], box[3] - box[1]))
                boxes.append(box)
            for i, a in enumerate(boxes):
                for b in boxes[:i]:
                    self.assertTrue(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1])
        before = {p.relative_to(out): p.read_bytes() for p in out.rglob("*.*") if p.is_file()}
        self.make("--kind", "detection", "--train", "6", "--val", "2", "--imgsz", "96", "--seed", "4")
        self.assertEqual({p.relative_to(out): p.read_bytes() for p in out.rglob("*.*") if p.is_file()}, before)


if __name__ == "__main__":
    unittest.main()
