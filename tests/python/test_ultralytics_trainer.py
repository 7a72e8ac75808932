"""Runs the Ultralytics trainer as the agent does and reads back what training was given.

Needs the environment of trainers/ultralytics; each run takes some ten seconds on two cores. There is no network and
there are no weights here, which is a case of its own: training starts from the architecture.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List

from support import TRAINERS, Platform, assert_reported_first, checkpoints_when_reported, run_trainer

HAS_ULTRALYTICS = importlib.util.find_spec("ultralytics") is not None
DETECTION_KEYS = "loss box_loss cls_loss dfl_loss mAP50 mAP50-95 precision recall fitness".split()


@unittest.skipUnless(HAS_ULTRALYTICS, "ultralytics is not importable; run with the environment of trainers/ultralytics")
class UltralyticsTrainer(unittest.TestCase):
    def setUp(self) -> None:
        self.platform = Platform()
        self.addCleanup(self.platform.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve()
        self.work = self.root / "work"
        self.work.mkdir()
        self.data = self.root / "data"

    def scenes(self, count: int) -> None:
        """Coloured squares with boxes, outlines and two keypoints each, in the flat shape of annotations.json."""
        from PIL import Image

        rng = random.Random(0)
        (self.data / "images").mkdir(parents=True)
        images, annotations = [], []
        for n in range(count):
            x, y, side = rng.randint(0, 50), rng.randint(0, 50), rng.randint(24, 40)
            picture = Image.new("RGB", (96, 96), "white")
            picture.paste((200, 30, 30) if n % 2 else (30, 30, 200), (x, y, x + side, y + side))
            picture.save(self.data / "images" / f"{n}.png")
            images.append({"id": n, "file_name": f"{n}.png", "width": 96, "height": 96})
            annotations.append(
                {
                    "id": n,
                    "image_id": n,
                    "category_id": 1 + n % 2,
                    "bbox": [x, y, side, side],
                    "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
                    "keypoints": [x, y, 2, x + side, y + side, 2],
                }
            )
        categories = [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}]
        document = {"categories": categories, "images": images, "annotations": annotations}
        (self.data / "annotations.json").write_text(json.dumps(document))

    def run_job(self, task: str, config: Any = None, code: int = 0, **env: str) -> Dict[str, Any]:
        """Run a job and return the body of its completion call."""
        base = {
            "JOB_ID": "5",
            "CALLBACK_URL": self.platform.url,
            "EPOCHS": "2",
            "BATCH_SIZE": "4",
            "IMGSZ": "96",
            "DEVICE": "cpu",
            "MODEL_NAME": "yolo11n",
            "TASK_TYPE": task,
            "LOCAL_DATASET_PATH": str(self.data),
            "CONFIG": json.dumps(config or {}),
            **env,
        }
        done = run_trainer("ultralytics", self.work, base)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        ends = self.platform.bodies("completion")
        self.assertEqual(len(ends), 1)
        return ends[0]

    def arguments(self) -> Dict[str, Any]:
        import yaml

        made: Dict[str, Any] = yaml.safe_load((self.work / "runs" / "train" / "args.yaml").read_text())
        return made

    def warnings(self) -> List[str]:
        return [body["message"] for body in self.platform.bodies("logs") if body["level"] == "WARNING"]

    def test_every_setting_reaches_training(self) -> None:
        self.scenes(10)
        before = sorted(self.data.rglob("*"))
        advanced = {
            "optimizer": {"type": "SGD", "momentum": 0.8, "weight_decay": 0.001},
            "scheduler": {"type": "cosine", "lrf": 0.2, "warmup_epochs": 1},
            "augmentation": {"hsv_h": 0.02, "fliplr": 0.1, "mosaic": 0.4, "sharpen": 1},
            "validation": {"iou": 0.65},
            "gradient_accumulation_steps": 2,
            "gradient_clip_value": 5.0,
            "checkpoint_interval": 1,
            "keep_n_checkpoints": 1,
            "log_interval": 1,
            "mixed_precision": True,
        }
        config = {"advanced_config": advanced, **advanced, "seed": 3, "dropout": 0.1}
        seen = checkpoints_when_reported(self.platform, self.root / "ck" / "last.pt")
        end = self.run_job("object_detection", config, LEARNING_RATE="0.02", CHECKPOINT_DIR=str(self.root / "ck"))
        assert_reported_first(self, seen, 2)
        wanted = {
            "task": "detect", "epochs": 2, "batch": 4, "imgsz": 96, "device": "cpu", "lr0": 0.02, "optimizer": "SGD",
            "momentum": 0.8, "weight_decay": 0.001, "cos_lr": True, "lrf": 0.2, "warmup_epochs": 1, "hsv_h": 0.02,
            "fliplr": 0.1, "mosaic": 0.4, "iou": 0.65, "nbs": 8, "save_period": 1, "amp": False, "seed": 3,
            "dropout": 0.1,
        }  # fmt: skip
        given = self.arguments()
        self.assertEqual({key: given[key] for key in wanted}, wanted)
        named = "\n".join(self.warnings())
        for word in ("augmentation.sharpen", "mixed_precision", "random weights"):
            self.assertIn(word, named)
        self.assertEqual(len(self.warnings()), 3)

        progress = self.platform.bodies("progress")
        self.assertEqual([body["current_epoch"] for body in progress], [0, 1, 2])
        self.assertEqual(sorted(progress[1]["metrics"]["extra_metrics"]), sorted(DETECTION_KEYS))
        self.assertIsNone(progress[1]["metrics"]["accuracy"])
        self.assertGreater(progress[1]["metrics"]["learning_rate"], 0)
        self.assertEqual(len(self.platform.bodies("/validation/jobs/5/results")), 2)
        self.assertEqual(end["total_epochs_completed"], 2)
        for name in ("best", "last"):
            self.assertEqual(end[f"{name}_checkpoint_path"], str(self.root / "ck" / f"{name}.pt"))
            self.assertGreater(os.path.getsize(end[f"{name}_checkpoint_path"]), 10000)
        kept = [path.name for path in (self.work / "runs" / "train" / "weights").glob("epoch*.pt")]
        self.assertEqual(kept, ["epoch1.pt"])
        self.assertTrue(any("batch 1/" in body["message"] for body in self.platform.bodies("logs")))
        self.assertEqual(sorted(self.data.rglob("*")), before, "the dataset is not written to")

    def test_every_argument_reaches_training_by_its_own_name(self) -> None:
        import sys

        sys.path.append(str(TRAINERS / "ultralytics"))
        import settings

        self.scenes(8)
        wanted = {
            "patience": 9, "save_period": 1, "cache": "ram", "workers": 1, "pretrained": False, "cls_remap": False,
            "optimizer": "NAdam", "verbose": False, "seed": 5, "deterministic": False, "single_cls": True, "rect": True,
            "cos_lr": True, "close_mosaic": 1, "amp": False, "fraction": 0.9, "freeze": 1, "multi_scale": 0.1,
            "overlap_mask": False, "mask_ratio": 2, "dropout": 0.1, "val": False, "split": "train", "save_json": True,
            "conf": 0.002, "iou": 0.6, "max_det": 50, "plots": True, "agnostic_nms": True, "classes": [0], "lr0": 0.004,
            "lrf": 0.3, "momentum": 0.85, "weight_decay": 0.002, "warmup_epochs": 0.5, "warmup_momentum": 0.7,
            "warmup_bias_lr": 0.05, "box": 8.0, "cls": 0.6, "cls_pw": 0.2, "dfl": 1.4, "pose": 11.0, "kobj": 1.1,
            "rle": 1.2, "angle": 1.3, "nbs": 16, "hsv_h": 0.02, "hsv_s": 0.6, "hsv_v": 0.3, "degrees": 5.0,
            "translate": 0.05, "scale": 0.3, "shear": 1.0, "perspective": 0.0002, "flipud": 0.2, "fliplr": 0.1,
            "bgr": 0.1, "mosaic": 0.4, "mixup": 0.2, "cutmix": 0.1, "copy_paste": 0.3, "copy_paste_mode": "mixup",
            "auto_augment": "augmix", "erasing": 0.3,
        }  # fmt: skip
        # Base settings have tests of their own; these would change how long or with what training runs.
        others = {"epochs", "batch", "imgsz", "device", "save", "exist_ok", "time", "profile", "compile"}
        others.add("channels_last")
        self.assertEqual(settings.TRAIN_ARGUMENTS - set(wanted) - others, set())
        self.run_job("detection", {"advanced_config": wanted, **wanted}, EPOCHS="1")
        given = self.arguments()
        self.assertEqual({key: given[key] for key in wanted}, wanted)

    def test_an_interrupted_run_goes_on_elsewhere_and_a_complete_one_gives_its_weights(self) -> None:
        import shutil

        import torch

        self.scenes(8)
        config = {"checkpoint_interval": 1, "seed": 1, "pretrained": False}
        self.run_job("detection", config, EPOCHS="4", LEARNING_RATE="0.004")
        made = self.work / "runs" / "train" / "weights"
        # What is written after an epoch is what a run leaves that ends there; last.pt is that of a complete one.
        interrupted, complete = self.root / "last.pt", self.root / "complete.pt"
        state = torch.load(made / "epoch1.pt", weights_only=False)
        # Far from what any fresh model has there, and much farther than an epoch moves it.
        state["ema"].model[0].bn.bias.data.fill_(3.0)
        torch.save(state, interrupted)
        shutil.copy(made / "last.pt", complete)
        shutil.rmtree(self.work)  # the other node's folder is gone

        def begin(epochs: str, path: Path, code: int = 0, **env: str) -> Any:
            self.work = self.root / f"work-{len(list(self.root.iterdir()))}"
            self.work.mkdir()
            self.platform.calls.clear()
            given = {"EPOCHS": epochs, "LEARNING_RATE": "0.004", "RESUME_FROM": str(path), **env}
            end = self.run_job("detection", config, code, **given)
            told = [body["message"] for body in self.platform.bodies("logs")]
            return [body["current_epoch"] for body in self.platform.bodies("progress")], end, "\n".join(told)

        # More epochs than the first run was asked for.
        epochs, end, told = begin("5", interrupted, RESUME="true", CHECKPOINT_DIR=str(self.root / "ck"))
        self.assertEqual(epochs, [0, 3, 4, 5])
        self.assertIn("going on after epoch 2", told)
        self.assertEqual((end["total_epochs_completed"], self.arguments()["epochs"]), (5, 5))
        self.assertTrue(self.arguments()["save_dir"].startswith(str(self.work)), "it works in its own folder")
        self.assertEqual(end["last_checkpoint_path"], str(self.root / "ck" / "last.pt"))
        self.assertIsNotNone(end["best_epoch"])
        first = torch.load(self.work / "runs" / "train" / "weights" / "epoch2.pt", weights_only=False)
        moved = (first["ema"].model[0].bn.bias.float() - 3.0).abs().max().item()
        self.assertLess(moved, 0.3, "it went on with the weights")

        # Its node was lost after the last epoch and before the end.
        epochs, end, told = begin("2", interrupted, RESUME="true", CHECKPOINT_DIR=str(self.root / "done"))
        self.assertEqual(epochs, [0])
        self.assertIn("there is nothing left to train", told)
        self.assertEqual((end["status"], end["total_epochs_completed"]), ("completed", 2))
        self.assertIsNotNone(end["best_epoch"])
        self.assertIn("mAP50", end["final_metrics"]["extra_metrics"])
        self.assertEqual(end["last_checkpoint_path"], str(self.root / "done" / "last.pt"))
        self.assertLess((self.root / "done" / "last.pt").stat().st_size, interrupted.stat().st_size)

        epochs, _, told = begin("1", interrupted, RESUME="false")
        self.assertEqual(epochs, [0, 1])
        self.assertIn(f"first weights: {interrupted}", told)
        epochs, _, told = begin("1", complete)
        self.assertEqual(epochs, [0, 1])
        self.assertIn("whose run is complete", told)
        self.assertNotIn("random weights", told)

        (self.root / "text.pt").write_text("no checkpoint")
        for path, asked, words in (
            (self.root / "none.pt", "2", "is not a file on this machine"),
            (self.root / "text.pt", "2", "is no checkpoint of Ultralytics"),
        ):
            _, end, _ = begin(asked, path, 1)
            self.assertIn("[CheckpointError] RESUME_FROM", end["error_message"])
            self.assertIn(words, end["error_message"])

    def test_a_run_that_is_never_better_reports_the_best_checkpoint_of_the_run_before_it(self) -> None:
        import torch

        self.scenes(8)
        config = {"checkpoint_interval": 1, "seed": 1, "pretrained": False}
        self.run_job("detection", config, EPOCHS="3")
        state = torch.load(self.work / "runs" / "train" / "weights" / "epoch1.pt", weights_only=False)

        def lay(path: Path, mark: str, done: int, best_epoch: int) -> Path:
            path.parent.mkdir(exist_ok=True)
            stopper = {"best_fitness": 0.99, "best_epoch": best_epoch}
            made = {**state, "epoch": done - 1, "best_fitness": 0.99, "stopper": stopper, "mark": mark}
            torch.save(made, path)
            return path

        itself = lay(self.root / "itself" / "last.pt", "itself", 2, 2)
        beside = lay(self.root / "beside" / "last.pt", "not this", 2, 1)
        lay(self.root / "beside" / "best.pt", "beside", 1, 1)
        other = lay(self.root / "other" / "last.pt", "not this", 2, 1)
        lay(self.root / "other" / "best.pt", "of another epoch", 2, 2)
        for source, mark in ((itself, "itself"), (beside, "beside"), (other, None)):
            folder = self.root / f"after-{source.parent.name}"
            self.platform.calls.clear()
            end = self.run_job("detection", config, EPOCHS="3", RESUME_FROM=str(source), CHECKPOINT_DIR=str(folder))
            best = folder / "best.pt"
            self.assertEqual(end.get("best_checkpoint_path"), str(best) if mark else None)
            self.assertEqual((end["best_epoch"], end["total_epochs_completed"]), (2 if mark == "itself" else 1, 3))
            self.assertEqual(torch.load(best, weights_only=False)["mark"] if mark else best.exists(), mark or False)
            told = [body["message"] for body in self.platform.bodies("logs")]
            self.assertEqual(
                any("best checkpoint so far, of epoch 1, stays" in words for words in told), mark is None, told
            )

    def test_learning_rate_is_honoured_without_an_optimizer(self) -> None:
        self.scenes(6)
        end = self.run_job("segmentation", LEARNING_RATE="0.004", EPOCHS="1")
        given = self.arguments()
        self.assertEqual((given["task"], given["optimizer"], given["lr0"]), ("segment", "AdamW", 0.004))
        found = end["final_metrics"]["extra_metrics"]
        self.assertLessEqual({*DETECTION_KEYS, "seg_loss", "mask_mAP50", "mask_mAP50-95"}, set(found))
        self.assertTrue(end["best_checkpoint_path"].startswith(str(self.work)))

    def test_pose(self) -> None:
        self.scenes(6)
        end = self.run_job("pose_estimation", EPOCHS="1")
        found = end["final_metrics"]["extra_metrics"]
        self.assertLessEqual({*DETECTION_KEYS, "pose_loss", "kobj_loss", "pose_mAP50"}, set(found))

    def test_classification(self) -> None:
        from PIL import Image

        for colour in ("red", "blue"):
            (self.data / colour).mkdir(parents=True)
            for n in range(6):
                Image.new("RGB", (32, 32), colour).save(self.data / colour / f"{n}.png")
        end = self.run_job("classification", IMGSZ="32")
        found = end["final_metrics"]["extra_metrics"]
        self.assertEqual(sorted(found), sorted("loss accuracy accuracy_top1 accuracy_top5 fitness".split()))
        self.assertEqual(end["final_metrics"]["accuracy"], found["accuracy_top1"])

    def test_errors_are_named(self) -> None:
        cases = [
            ({"LOCAL_DATASET_PATH": "/nowhere/at/all"}, {}, "[DatasetError] LOCAL_DATASET_PATH"),
            ({"LOCAL_DATASET_PATH": ""}, {}, "[DatasetError] LOCAL_DATASET_PATH"),
            ({"MODEL_NAME": "yolo99n"}, {}, "[ConfigError] MODEL_NAME"),
            ({}, {"mosaic": 7}, "[ConfigError] CONFIG"),
            ({"DEVICE": "cuda:77"}, {}, "[ResourceError] DEVICE"),
        ]
        self.scenes(4)
        for env, config, words in cases:
            self.platform.calls.clear()
            end = self.run_job("detection", config, code=1, **env)
            self.assertTrue(end["error_message"].startswith(words), end["error_message"])

    def test_all_known_arguments_exist(self) -> None:
        import sys

        sys.path.append(str(TRAINERS / "ultralytics"))
        import settings
        import yaml

        spec = importlib.util.find_spec("ultralytics")
        assert spec is not None and spec.origin is not None
        defaults = yaml.safe_load((Path(spec.origin).parent / "cfg" / "default.yaml").read_text())
        self.assertEqual(settings.TRAIN_ARGUMENTS - set(defaults), set())


if __name__ == "__main__":
    unittest.main()
