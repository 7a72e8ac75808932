"""Checks how a job's settings become Ultralytics arguments, and how figures are named. Needs no Ultralytics."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

from support import TRAINERS

sys.path.append(str(TRAINERS / "ultralytics"))

import metrics as figures  # noqa: E402
import settings  # noqa: E402
import weights  # noqa: E402
from trainyard_sdk import ConfigError  # noqa: E402


def plan(advanced: Dict[str, Any], **base: Any) -> settings.Plan:
    return settings.plan(3, base.pop("batch", 8), advanced, **base)


class Optimizers(unittest.TestCase):
    def test_a_learning_rate_never_meets_auto(self) -> None:
        self.assertEqual(plan({}, learning_rate=0.01).arguments["optimizer"], "SGD")
        made = plan({}, learning_rate=0.001).arguments
        self.assertEqual((made["optimizer"], made["lr0"], made["warmup_bias_lr"]), ("AdamW", 0.001, 0.0))
        self.assertNotIn("optimizer", plan({}).arguments)

    def test_explicit_auto_is_kept_with_a_warning(self) -> None:
        made = plan({"optimizer": "auto"}, learning_rate=0.01)
        self.assertEqual(made.arguments["optimizer"], "auto")
        self.assertIn("learning_rate", made.warnings[0])

    def test_tree(self) -> None:
        tree = {"type": "adam", "betas": [0.8, 0.999], "weight_decay": 0.01, "lr": 0.002, "nesterov": True}
        made = plan({"optimizer": tree}, learning_rate=0.1)
        wanted = {"optimizer": "Adam", "momentum": 0.8, "weight_decay": 0.01, "lr0": 0.002}
        self.assertEqual({k: made.arguments[k] for k in wanted}, wanted)
        self.assertEqual(made.warnings, [])

    def test_what_cannot_be_honoured_is_named(self) -> None:
        made = plan({"optimizer": {"type": "lamb", "amsgrad": True, "betas": [0.9, 0.99]}})
        text = "\n".join(made.warnings)
        for name in ("optimizer.type", "optimizer.amsgrad", "optimizer.betas"):
            self.assertIn(name, text)


class Groups(unittest.TestCase):
    def test_scheduler(self) -> None:
        made = plan({"scheduler": {"type": "CosineAnnealingLR", "T_max": 3, "eta_min": 0.0001}}, learning_rate=0.01)
        self.assertTrue(made.arguments["cos_lr"])
        self.assertAlmostEqual(made.arguments["lrf"], 0.01)
        self.assertEqual(made.warnings, [])
        self.assertEqual(plan({"scheduler": "constant"}).arguments["lrf"], 1.0)
        self.assertIn("scheduler.step_size", "\n".join(plan({"scheduler": {"type": "step", "step_size": 3}}).warnings))

    def test_augmentation(self) -> None:
        made = plan({"augmentation": {"hsv_h": 0.1, "horizontal_flip": True, "mosaic": False, "contrast": 0.2}})
        wanted = {"hsv_h": 0.1, "fliplr": 0.5, "mosaic": 0.0}
        self.assertEqual({k: made.arguments[k] for k in wanted}, wanted)
        self.assertEqual(len(made.warnings), 1)
        self.assertIn("augmentation.contrast", made.warnings[0])

    def test_augmentation_off(self) -> None:
        made = plan({"augmentation": {"enabled": False}}).arguments
        self.assertEqual((made["mosaic"], made["fliplr"], made["auto_augment"]), (0.0, 0.0, None))

    def test_validation_and_preprocessing(self) -> None:
        validation = {"iou_threshold": 0.6, "interval": 1, "early_stopping": {"patience": 5}}
        made = plan({"validation": validation, "preprocessing": {"image_size": 320, "normalize": True, "mean": [0]}})
        wanted = {"iou": 0.6, "patience": 5, "imgsz": 320}
        self.assertEqual({k: made.arguments[k] for k in wanted}, wanted)
        self.assertEqual(len(made.warnings), 1)
        self.assertIn("preprocessing.mean", made.warnings[0])

    def test_single_values(self) -> None:
        advanced = {
            "gradient_accumulation_steps": 4,
            "checkpoint_interval": 2,
            "keep_n_checkpoints": 3,
            "gradient_clip_value": 1.5,
            "log_interval": 10,
            "mixed_precision": "bf16",
        }
        made = plan(advanced, batch=6)
        self.assertEqual((made.arguments["nbs"], made.arguments["save_period"], made.arguments["amp"]), (24, 2, "bf16"))
        self.assertEqual(made.hooks, settings.Hooks(clip_norm=1.5, keep_checkpoints=3, log_interval=10))
        self.assertEqual(made.warnings, [])

    def test_flattened_keys_and_strangers(self) -> None:
        made = plan({"mosaic": 0.3, "close_mosaic": 0, "foo": 1, "bar": {"x": 1}, "data": "elsewhere", "resume": True})
        self.assertEqual((made.arguments["mosaic"], made.arguments["close_mosaic"]), (0.3, 0))
        self.assertEqual([warning.split("'")[1] for warning in made.warnings], ["foo", "bar", "data", "resume"])
        self.assertFalse({"data", "resume", "foo", "bar"} & set(made.arguments))

    def test_values_without_meaning(self) -> None:
        cases: List[Dict[str, Any]] = [
            {"mixed_precision": "fp4"},
            {"gradient_clip_value": -1},
            {"keep_n_checkpoints": "few"},
            {"checkpoint_interval": True},
            {"optimizer": {"betas": 0.9}},
            {"augmentation": {"enabled": "maybe"}},
        ]
        for advanced in cases:
            with self.assertRaisesRegex(ConfigError, next(iter(advanced))):
                plan(advanced)


class Places(unittest.TestCase):
    def test_cpu(self) -> None:
        made = plan({"mixed_precision": True}, on_cpu=True, device="cpu")
        self.assertEqual(
            (made.arguments["amp"], made.arguments["workers"], made.arguments["device"]), (False, 0, "cpu")
        )
        self.assertIn("mixed_precision", made.warnings[0])
        self.assertEqual(plan({"workers": 2}, on_cpu=True).arguments["workers"], 2)

    def test_device_names(self) -> None:
        names = {"": None, "auto": None, "cuda": "0", "cuda:1": "1", "0,1": "0,1", "CPU": "cpu"}
        self.assertEqual({name: settings.device_argument(name) for name in names}, names)

    def test_model_files(self) -> None:
        self.assertEqual(settings.model_file("yolo11n", "detection"), ("yolo11n.pt", "yolo11n.yaml"))
        self.assertEqual(settings.model_file("yolo11s.pt", "segmentation"), ("yolo11s-seg.pt", "yolo11s-seg.yaml"))
        self.assertEqual(settings.model_file("yolov8n-cls", "classification"), ("yolov8n-cls.pt", "yolov8n-cls.yaml"))
        for name, task in (("yolo11n-seg", "detection"), ("../x", "detection"), (" ", "pose")):
            with self.assertRaisesRegex(ConfigError, "MODEL_NAME"):
                settings.model_file(name, task)


class Figures(unittest.TestCase):
    def test_detection_has_exactly_these(self) -> None:
        losses = {"box_loss": 1.0, "cls_loss": 2.0, "dfl_loss": 0.5}
        names = {"precision": 0.1, "recall": 0.2, "mAP50": 0.3, "mAP50-95": 0.4}
        found = {f"metrics/{name}(B)": value for name, value in names.items()}
        self.assertEqual(
            figures.epoch_metrics(losses, {**found, "val/box_loss": 9.0}, 0.35, "detection"),
            {"loss": 3.5, **losses, **names, "fitness": 0.35},
        )
        self.assertEqual(figures.validation_losses({"val/box_loss": 9.0}), {"box_loss": 9.0})

    def test_other_tasks(self) -> None:
        top = {"metrics/accuracy_top1": 0.5, "metrics/accuracy_top5": 0.9}
        wanted = {"loss": 2.0, "accuracy_top1": 0.5, "accuracy_top5": 0.9, "accuracy": 0.5, "fitness": 0.7}
        self.assertEqual(figures.epoch_metrics({"loss": 2.0}, top, 0.7, "classification"), wanted)
        both = {"metrics/mAP50(B)": 0.5, "metrics/mAP50(M)": 0.4}
        made = figures.epoch_metrics({"seg_loss": 1.0}, both, None, "segmentation")
        self.assertEqual((made["mAP50"], made["mask_mAP50"], made["seg_loss"]), (0.5, 0.4, 1.0))


class Weights(unittest.TestCase):
    def test_folders_in_order(self) -> None:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            with mock.patch.dict(os.environ, {"WEIGHTS_DIR": two}):
                folders = weights.search_folders(Path(one))
            (Path(two) / "m.pt").write_bytes(b"x")
            self.assertEqual(weights.find("m.pt", folders), Path(two) / "m.pt")
            (Path(one) / "m.pt").write_bytes(b"x")
            self.assertEqual(weights.find("m.pt", folders), Path(one) / "m.pt")
            self.assertIsNone(weights.find("n.pt", folders))

    def test_download_gives_up_and_leaves_nothing(self) -> None:
        said: List[str] = []
        with tempfile.TemporaryDirectory() as folder:
            found = weights.download("m.pt", Path(folder), said.append, release="http://127.0.0.1:9")
            self.assertIsNone(found)
            self.assertEqual(os.listdir(folder), [])
        self.assertIn("m.pt could not be downloaded", said[0])

    def test_download_of_a_silent_server_is_bounded(self) -> None:
        said: List[str] = []
        stuck = mock.Mock(side_effect=lambda *_a, **_k: __import__("time").sleep(5) or io.BytesIO())
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(weights.urllib.request, "urlopen", stuck):
            found = weights.download("m.pt", Path(folder), said.append, connect_seconds=0.1)
        self.assertIsNone(found)
        self.assertIn("no answer in time", said[0])


if __name__ == "__main__":
    unittest.main()
