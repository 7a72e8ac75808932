"""Runs the timm trainer as the agent does and reads back what training was given.

Needs the environment of trainers/timm; each run takes some seconds. There is no network and there are no weights here,
so training starts from random ones unless a test lays some down.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

from support import TRAINERS, Platform, assert_reported_first, checkpoints_when_reported, refuse_first, run_trainer

HAS_TIMM = importlib.util.find_spec("timm") is not None
FIGURES = "loss learning_rate accuracy accuracy_top5 precision recall f1 val_loss".split()
PLAIN: Dict[str, Any] = {"augmentation": {"enabled": False}, "optimizer": {"type": "adamw"}, "seed": 1}


@unittest.skipUnless(HAS_TIMM, "timm is not importable; run with the environment of trainers/timm")
class TimmTrainer(unittest.TestCase):
    def setUp(self) -> None:
        self.platform = Platform()
        self.addCleanup(self.platform.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve()
        self.data = self.root / "data"
        self.work = self.root / "work"
        self.work.mkdir()

    def paint(self, path: Path, number: int, rng: random.Random) -> None:
        """A stripe, upright for even numbers and level for odd ones, somewhere on noise."""
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (32, 32))
        picture.putdata([(rng.randint(0, 60),) * 3 for _ in range(32 * 32)])
        at = rng.randint(4, 22)
        box = (at, 0, at + 6, 32) if number % 2 == 0 else (0, at, 32, at + 6)
        picture.paste((220, 220, 220), box)
        picture.save(path)

    def folders(self, train: int = 32, val: int = 12) -> None:
        rng = random.Random(0)
        for part, count in (("train", train), ("val", val)):
            for number in range(count):
                name = ("upright", "level")[number % 2]
                self.paint(self.data / part / name / f"{number}.png", number, rng)

    def document(self, nested: bool) -> None:
        rng = random.Random(0)
        images, flat = [], []
        for number in range(24):
            self.paint(self.data / "images" / f"{number}.png", number, rng)
            image: Dict[str, Any] = {"id": number, "file_name": f"{number}.png", "width": 32, "height": 32}
            image["split"] = "val" if number >= 16 else "train"
            item = {"id": number, "image_id": number, "class_id" if nested else "category_id": 5 + number % 2}
            if nested:
                image["annotations"] = [item]
            flat.append(item)
            images.append(image)
        classes = [{"id": 5, "name": "upright"}, {"id": 6, "name": "level"}]
        made = {"images": images, **({"classes": classes} if nested else {"categories": classes, "annotations": flat})}
        (self.data / "annotations_classification.json").write_text(json.dumps(made))

    def run_job(self, config: Any = None, code: int = 0, process: bool = False, **env: str) -> Dict[str, Any]:
        """Run a job and return the body of its completion call.

        In this process unless told otherwise: importing torch takes longer than such a small job.
        """
        self.platform.calls.clear()
        advanced = {**PLAIN, **(config or {})}
        full = {
            "JOB_ID": "5",
            "CALLBACK_URL": self.platform.url,
            "EPOCHS": "2",
            "BATCH_SIZE": "8",
            "IMGSZ": "32",
            "LEARNING_RATE": "0.003",
            "DEVICE": "cpu",
            "MODEL_NAME": "test_resnet",
            "TASK_TYPE": "image_classification",
            "LOCAL_DATASET_PATH": str(self.data),
            "CHECKPOINT_DIR": str(self.root / "ck"),
            "OMP_NUM_THREADS": "1",
            "CONFIG": json.dumps({"advanced_config": advanced, **advanced}),
            **env,
        }
        if process:
            done = run_trainer("timm", self.work, full)
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        else:
            self.assertEqual(self.here(full), code)
        ends = self.platform.bodies("completion")
        self.assertEqual(len(ends), 1)
        return ends[0]

    def here(self, env: Dict[str, str]) -> int:
        """The exit code that a process would have."""
        if str(TRAINERS / "timm") not in sys.path:
            sys.path.insert(0, str(TRAINERS / "timm"))
        import torch
        import train

        torch.set_num_threads(1)
        before = os.getcwd()
        os.chdir(self.work)
        try:
            with mock.patch.dict(os.environ, {"PATH": os.environ.get("PATH", ""), **env}, clear=True):
                return int(train.main([]))
        except Exception:
            return 1
        finally:
            os.chdir(before)

    def arguments(self) -> Dict[str, Any]:
        import yaml

        made: Dict[str, Any] = yaml.safe_load((self.work / "runs" / "train" / "args.yaml").read_text())
        return made

    def messages(self, level: str) -> List[str]:
        return [body["message"] for body in self.platform.bodies("logs") if body["level"] == level]

    def curve(self) -> List[Any]:
        bodies = [body for body in self.platform.bodies("progress") if body["current_epoch"]]
        return [(body["current_epoch"], body["metrics"]["loss"], body["metrics"]["accuracy"]) for body in bodies]

    def test_every_setting_reaches_training(self) -> None:
        self.folders()
        before = sorted(self.data.rglob("*"))
        advanced = {
            "optimizer": {"type": "sgd", "momentum": 0.8, "weight_decay": 0.001},
            "scheduler": {"type": "cosine", "warmup_epochs": 1, "min_lr": 0.001},
            "augmentation": {"hflip": 0.25, "color_jitter": 0.2, "mosaic": 1, "cutmix": 0.5},
            "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
            "gradient_clip_value": 3.0,
            "gradient_accumulation_steps": 2,
            "checkpoint_interval": 1,
            "keep_n_checkpoints": 2,
            "log_interval": 2,
            "mixed_precision": True,
            "label_smoothing": 0.1,
        }
        config = {"num_classes": 2, "primary_metric": "val_loss", "primary_metric_mode": "min", **advanced, "seed": 3}
        document = json.dumps({**config, "advanced_config": advanced})
        end = self.run_job(process=True, EPOCHS="3", LEARNING_RATE="0.02", CONFIG=document)
        wanted = {
            "model": "test_resnet", "epochs": 3, "batch_size": 8, "imgsz": 32, "learning_rate": 0.02, "device": "cpu",
            "optimizer": "sgd", "momentum": 0.8, "weight_decay": 0.001, "scheduler": "cosine", "warmup_epochs": 1,
            "min_lr": 0.001, "hflip": 0.25, "color_jitter": 0.2, "cutmix": 0.5, "mean": [0.5, 0.5, 0.5],
            "clip_grad": 3.0, "accumulation": 2, "checkpoint_interval": 1, "keep_checkpoints": 2, "log_interval": 2,
            "mixed_precision": "off", "label_smoothing": 0.1, "primary_metric": "val_loss",
            "primary_metric_mode": "min", "num_classes": 2, "seed": 3, "pretrained": False,
            "classes": ["level", "upright"], "train_samples": 32, "val_samples": 12,
        }  # fmt: skip
        given = self.arguments()
        self.assertEqual({key: given[key] for key in wanted}, wanted)
        named = "\n".join(self.messages("WARNING"))
        for word in ("augmentation.mosaic", "mixed_precision", "random weights"):
            self.assertIn(word, named)
        self.assertEqual(len(self.messages("WARNING")), 3)
        rates = [body["metrics"]["learning_rate"] for body in self.platform.bodies("progress")[1:]]
        self.assertLess(rates[0], 1e-5, "the first epoch warms up")
        self.assertGreater(rates[1], rates[2])
        self.assertEqual(sorted(path.name for path in (self.root / "ck").iterdir()), [
            "best.pt", "epoch2.pt", "epoch3.pt", "last.pt",
        ])  # fmt: skip
        self.assertTrue(any("batch 2/4" in words for words in self.messages("INFO")))
        self.assertEqual(end["last_checkpoint_path"], str(self.root / "ck" / "last.pt"))
        self.assertEqual(sorted(self.data.rglob("*")), before, "the dataset is not written to")

    def test_it_learns_and_reports_what_the_platform_shows(self) -> None:
        self.folders(train=64)
        seen = checkpoints_when_reported(self.platform, self.root / "ck" / "last.pt")
        end = self.run_job(EPOCHS="6")
        assert_reported_first(self, seen, 6)
        progress = self.platform.bodies("progress")
        self.assertEqual([body["current_epoch"] for body in progress], [0, 1, 2, 3, 4, 5, 6])
        self.assertEqual(sorted(progress[1]["metrics"]["extra_metrics"]), sorted(FIGURES))
        self.assertGreater(end["best_metrics"]["accuracy"], 0.8)
        self.assertEqual(end["best_checkpoint_path"], str(self.root / "ck" / "best.pt"))
        self.assertEqual((end["exit_code"], end["total_epochs_completed"]), (0, 6))
        results = self.platform.bodies("/validation/jobs/5/results")
        self.assertEqual(len(results), 6)
        last = results[-1]
        self.assertEqual(last["class_names"], ["level", "upright"])
        self.assertEqual(sum(map(sum, last["confusion_matrix"])), 12)
        right = sum(last["confusion_matrix"][n][n] for n in (0, 1)) / 12
        self.assertAlmostEqual(last["metrics"]["accuracy"], right, places=5)
        self.assertEqual(last["primary_metric_name"], "accuracy")

    def test_an_epoch_whose_report_is_refused_leaves_its_checkpoint(self) -> None:
        self.folders()
        refuse_first(self.platform, "/results")
        with self.assertRaises(SystemExit) as ended:
            self.run_job(CHECKPOINT_DIR=str(self.root / "ck"))
        self.assertEqual(ended.exception.code, 2)
        self.assertEqual(sorted(path.name for path in (self.root / "ck").iterdir()), ["best.pt", "last.pt"])

    def test_both_shapes_of_documents_with_the_recorded_parts(self) -> None:
        curves = []
        for nested in (False, True):
            self.document(nested)
            self.run_job(EPOCHS="1")
            given = self.arguments()
            self.assertEqual((given["train_samples"], given["val_samples"]), (16, 8))
            self.assertEqual(given["classes"], ["upright", "level"])
            curves.append(self.curve())
        self.assertEqual(curves[0], curves[1])

    def test_the_split_of_the_job(self) -> None:
        self.document(True)
        split = {"method": "custom", "custom_splits": {"0": "val"}, "exclude_images": ["23", "1.png"]}
        self.run_job({"split_config": split}, EPOCHS="1", CONFIG=json.dumps({**PLAIN, "split_config": split}))
        given = self.arguments()
        self.assertEqual((given["train_samples"], given["val_samples"]), (14, 8))

    def test_the_curve_depends_on_seed_and_settings_alone(self) -> None:
        self.folders()
        curves = []
        for config in ({}, {}, {"seed": 2}, {"optimizer": {"type": "sgd"}}, {"gradient_accumulation_steps": 4}):
            self.run_job({"augmentation": {"hflip": 0.5}, **config})
            curves.append(self.curve())
        self.assertEqual(curves[0], curves[1])
        for other in curves[2:]:
            self.assertNotEqual(curves[0], other)

    def test_a_run_that_goes_on_from_a_checkpoint_gives_the_same_curve(self) -> None:
        self.folders()
        config = {"checkpoint_interval": 1, "scheduler": {"type": "cosine"}, "augmentation": {"hflip": 0.5}}
        self.run_job(config, EPOCHS="4")
        whole = self.curve()
        shutil.copy(self.root / "ck" / "epoch2.pt", self.root / "from.pt")
        shutil.rmtree(self.root / "ck")
        end = self.run_job(config, EPOCHS="4", RESUME_FROM=str(self.root / "from.pt"))
        self.assertEqual(self.curve(), whole[2:])
        self.assertEqual(end["total_epochs_completed"], 4)
        self.assertTrue(any("going on after epoch 2" in words for words in self.messages("INFO")))
        # With the weights alone it begins anew, and not where an untrained network does.
        self.run_job(config, EPOCHS="1", RESUME_FROM=str(self.root / "from.pt"), RESUME="false")
        anew = self.curve()
        self.assertEqual(len(anew), 1)
        self.assertNotEqual(anew[0], whole[0])
        self.assertTrue(any(words.startswith("first weights: ") for words in self.messages("INFO")))

    def test_first_weights_are_taken_from_the_weights_folder(self) -> None:
        self.folders()
        self.run_job(EPOCHS="1")
        weights = self.root / "weights"
        weights.mkdir()
        shutil.copy(self.root / "ck" / "last.pt", weights / "test_resnet.pt")
        self.run_job({"freeze_backbone": True}, EPOCHS="1", WEIGHTS_DIR=str(weights))
        self.assertIs(self.arguments()["pretrained"], True)
        self.assertTrue(any(words.startswith("first weights: ") for words in self.messages("INFO")))

    def test_a_run_that_is_never_better_reports_the_best_checkpoint_of_the_run_before_it(self) -> None:
        self.folders(train=8, val=4)
        config = {"primary_metric": "loss", "primary_metric_mode": "max"}  # the best epoch is the first
        config["scheduler"] = "constant"
        before = self.run_job(config, EPOCHS="3")
        self.assertEqual((before["best_epoch"], before["total_epochs_completed"]), (1, 3))
        first = (self.root / "ck" / "best.pt").read_bytes()
        (self.root / "alone").mkdir()
        shutil.copy(self.root / "ck" / "last.pt", self.root / "alone" / "last.pt")
        for name, found in (("ck/last.pt", True), ("ck/best.pt", True), ("alone/last.pt", False)):
            folder = self.root / f"after-{name.replace('/', '-')}"
            # Going on from best.pt, the second epoch is made again.
            epochs = "2" if name.endswith("best.pt") else "4"
            more = {"CHECKPOINT_DIR": str(folder), "RESUME_FROM": str(self.root / name)}
            end = self.run_job(config, EPOCHS=epochs, **more)
            self.assertEqual((end["best_epoch"], end["best_metrics"]), (1, before["best_metrics"]))
            self.assertEqual(end.get("best_checkpoint_path"), str(folder / "best.pt") if found else None)
            told = any(
                words.startswith("the best checkpoint so far, of epoch 1, ") for words in self.messages("WARNING")
            )
            self.assertEqual(told, not found)
            if found:
                self.assertEqual((folder / "best.pt").read_bytes(), first)

    def test_weights_of_a_model_for_other_classes_are_begun_with_but_for_its_head(self) -> None:
        import timm
        import torch

        self.folders(train=8, val=4)
        weights = self.root / "weights"
        weights.mkdir()
        torch.manual_seed(7)
        given = timm.create_model("test_resnet", pretrained=False, num_classes=5).state_dict()
        torch.save(given, weights / "test_resnet.pth")
        # Steps too small to be seen: what is saved is what training began with.
        tiny = {"WEIGHTS_DIR": str(weights), "EPOCHS": "1", "LEARNING_RATE": "0.000000000001"}
        self.run_job(**tiny)
        self.assertTrue(any(words.endswith("test_resnet.pth; random: fc") for words in self.messages("INFO")))
        self.assertEqual(self.messages("WARNING"), [])
        saved = torch.load(self.root / "ck" / "last.pt", weights_only=True)["model"]
        self.assertEqual((saved["fc.weight"].shape[0], given["fc.weight"].shape[0]), (2, 5))
        backbone = [name for name, value in given.items() if value.ndim == 4]
        self.assertGreater(len(backbone), 3)
        for name in backbone:
            torch.testing.assert_close(saved[name], given[name], msg=name)
        untrained = timm.create_model("test_resnet", pretrained=False, num_classes=2).state_dict()
        self.assertFalse(torch.allclose(untrained[backbone[0]], given[backbone[0]]), "chance gives no such tensor")

    def test_a_frozen_backbone_keeps_its_weights_and_its_statistics(self) -> None:
        import timm
        import torch

        self.folders(train=16, val=4)
        weights = self.root / "weights"
        weights.mkdir()
        torch.manual_seed(7)
        given = timm.create_model("test_resnet", pretrained=False, num_classes=2).state_dict()
        torch.save(given, weights / "test_resnet.pth")
        self.run_job({"freeze_backbone": True}, EPOCHS="2", WEIGHTS_DIR=str(weights))
        saved = torch.load(self.root / "ck" / "last.pt", weights_only=True)["model"]
        changed = {name for name, value in saved.items() if not torch.equal(value, given[name])}
        self.assertIn("bn1.running_mean", saved)
        self.assertEqual(changed, {"fc.weight", "fc.bias"})

    def test_a_plateau_is_judged_by_the_primary_metric_alone(self) -> None:
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        self.folders(train=8, val=4)
        config = {"scheduler": {"type": "plateau"}, "validation": {"interval": 2}}
        usual, seen = ReduceLROnPlateau.step, []

        def step(scheduler: Any, figure: Any, *more: Any) -> None:
            seen.append(figure)
            usual(scheduler, figure, *more)

        with mock.patch.object(ReduceLROnPlateau, "step", step):
            self.run_job(config, EPOCHS="5")
        measured = [body["primary_metric_value"] for body in self.platform.bodies("/validation/jobs/5/results")]
        self.assertEqual(len(measured), 3)
        self.assertEqual(seen, measured)

    def test_early_stopping(self) -> None:
        self.folders(train=8, val=4)
        config = {"validation": {"early_stopping": {"patience": 1}}, "scheduler": "constant"}
        end = self.run_job(config, EPOCHS="30", LEARNING_RATE="0.000000001")
        self.assertLess(end["total_epochs_completed"], 30)

    def test_errors_are_named(self) -> None:
        self.folders(train=8, val=4)
        (self.root / "bad.pt").write_bytes(b"rubbish")
        cases: List[Any] = [
            ({"LOCAL_DATASET_PATH": "/nowhere/at/all"}, {}, "[DatasetError] LOCAL_DATASET_PATH"),
            ({"MODEL_NAME": "resnet9000"}, {}, "[ConfigError] MODEL_NAME"),
            ({"TASK_TYPE": "detection"}, {}, "[ConfigError] TASK_TYPE"),
            ({}, {"optimizer": {"type": "magic"}}, "[ConfigError] CONFIG.optimizer"),
            ({}, {"num_classes": 3}, "[ConfigError] CONFIG.num_classes is 3, but the dataset has 2"),
            ({}, {"primary_metric": "mAP50"}, "[ConfigError] CONFIG.primary_metric"),
            ({"DEVICE": "cuda:77"}, {}, "[ResourceError] DEVICE"),
            ({"RESUME_FROM": "/no/such.pt"}, {}, "[CheckpointError] RESUME_FROM"),
            ({"RESUME_FROM": str(self.root / "bad.pt")}, {}, "[CheckpointError] checkpoint"),
        ]
        for env, config, words in cases:
            document = json.dumps({**PLAIN, **config})
            end = self.run_job(code=1, **{"CONFIG": document, **env})
            self.assertTrue(end["error_message"].startswith(words), end["error_message"])

    def test_a_picture_that_cannot_be_read_is_named(self) -> None:
        self.folders(train=8, val=4)
        (self.data / "train" / "level" / "1.png").write_bytes(b"no picture")
        end = self.run_job(code=1)
        self.assertTrue(end["error_message"].startswith("[DatasetError] picture"), end["error_message"])
        self.assertIn("level/1.png", end["error_message"])

    def test_a_lack_of_memory_is_a_resource_error(self) -> None:
        """In the words of the real allocator, which is asked for more than there is."""
        self.folders(train=4, val=2)
        self.run_job(EPOCHS="1")
        import pictures
        import torch

        with mock.patch.object(pictures.Pictures, "__getitem__", lambda _self, _index: torch.empty(1 << 52)):
            end = self.run_job(code=1)
        self.assertTrue(end["error_message"].startswith("[ResourceError] out of memory"), end["error_message"])
        self.assertIn("BATCH_SIZE", end["error_message"])


if __name__ == "__main__":
    unittest.main()
