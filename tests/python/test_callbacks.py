"""Runs the Trainers of Lightning and of transformers on tiny models with our callbacks, against a recording endpoint.

Needs the environment in tests/python/callbacks; what is not importable is skipped with a word that says so.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

from support import Platform

from trainyard_sdk import TrainerSDK
from trainyard_sdk.callbacks.reporter import numbers

HAS_LIGHTNING = importlib.util.find_spec("lightning") is not None
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
HAS_ULTRALYTICS = importlib.util.find_spec("ultralytics") is not None


class CallbackCase(unittest.TestCase):
    def setUp(self) -> None:
        self.platform = Platform()
        self.addCleanup(self.platform.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = Path(folder.name).resolve()
        job = {"CALLBACK_URL": self.platform.url, "JOB_ID": "5", "CUDA_VISIBLE_DEVICES": ""}
        patch = mock.patch.dict(os.environ, job)
        patch.start()
        self.addCleanup(patch.stop)

    def epochs(self) -> List[Dict[str, Any]]:
        """Bodies of the reports of epochs, after a check that a start comes first."""
        bodies = self.platform.bodies("progress")
        self.assertEqual((bodies[0]["current_epoch"], bodies[0]["metrics"]), (0, None))
        self.assertTrue(all(body["current_epoch"] for body in bodies[1:]))
        return bodies[1:]

    def end(self) -> Dict[str, Any]:
        ends = self.platform.bodies("completion")
        self.assertEqual(len(ends), 1)
        return ends[0]


class Names(unittest.TestCase):
    def test_two_metrics_never_become_one(self) -> None:
        cases: List[Any] = [
            ({"val_acc": 0.7, "acc": 0.9}, {"accuracy": 0.7, "acc": 0.9}),
            ({"acc": 0.9, "val_acc": 0.7}, {"accuracy": 0.7, "acc": 0.9}),
            ({"accuracy": 0.9, "eval_accuracy": 0.7}, {"accuracy": 0.7, "train_accuracy": 0.9}),
            ({"train_loss": 0.2, "loss": 0.3, "val/loss": 0.4}, {"train_loss": 0.2, "loss": 0.3, "val_loss": 0.4}),
            ({"acc": 0.9}, {"accuracy": 0.9}),
            ({"train_loss": 0.2, "train_loss_epoch": 0.3}, {"loss": 0.3}),
        ]
        for given, expected in cases:
            self.assertEqual(numbers(given), expected)


@unittest.skipUnless(HAS_LIGHTNING, "lightning is not importable; run with the environment of tests/python/callbacks")
class Lightning(CallbackCase):
    def fit(self, fail_in: int = 99, **settings: Any) -> None:
        import lightning
        import torch
        from lightning.pytorch.callbacks import ModelCheckpoint
        from trainyard_sdk.callbacks.lightning import TrainyardCallback

        class Line(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(1, 1)

            def training_step(self, batch: Any, number: int) -> Any:
                if self.current_epoch >= fail_in:
                    raise ValueError("the data ran out")
                loss = ((self.layer(batch[0]) - batch[1]) ** 2).mean()
                self.log("train_loss", loss, on_epoch=True, on_step=True)
                return loss

            def validation_step(self, batch: Any, number: int) -> None:
                self.log("val_loss", ((self.layer(batch[0]) - batch[1]) ** 2).mean())

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.05)

        lightning.seed_everything(1, verbose=False)
        x = torch.linspace(0, 1, 16)[:, None]
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, 3 * x), batch_size=4)
        saver = ModelCheckpoint(self.work / "ck", monitor="val_loss", save_last=True)
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[TrainyardCallback(log_every_n_steps=4), saver],
            default_root_dir=self.work,
            **settings,
        )
        trainer.fit(Line(), data, data)

    def test_epochs_checkpoints_and_the_end(self) -> None:
        self.fit()
        bodies = self.epochs()
        self.assertEqual([body["current_epoch"] for body in bodies], [1, 2, 3])
        self.assertEqual({body["total_epochs"] for body in bodies}, {3})
        losses = [body["metrics"]["loss"] for body in bodies]
        self.assertGreater(losses[0], losses[2])
        self.assertEqual(set(bodies[0]["metrics"]["extra_metrics"]), {"loss", "val_loss", "learning_rate"})
        self.assertEqual(bodies[0]["metrics"]["learning_rate"], 0.05)
        end = self.end()
        self.assertEqual((end["exit_code"], end["total_epochs_completed"]), (0, 3))
        for name in ("best", "last"):
            self.assertTrue(Path(end[f"{name}_checkpoint_path"]).is_file(), end)
        self.assertEqual(end["final_metrics"]["loss"], losses[2])
        self.assertEqual([body["step"] for body in bodies], [4, 8, 12])
        lines = [body["message"] for body in self.platform.bodies("logs")]
        self.assertEqual([line.split(" loss ")[0] for line in lines], ["step 4", "step 8", "step 12"])

    def test_a_failure(self) -> None:
        with self.assertRaises(ValueError):
            self.fit(fail_in=1)
        end = self.end()
        self.assertEqual((end["status"], end["exit_code"]), ("failed", 1))
        self.assertIn("the data ran out", end["error_message"])
        self.assertEqual(end["total_epochs_completed"], 1)

    def test_a_platform_that_refuses_ends_no_training(self) -> None:
        self.platform.answers = [404] * 50
        self.fit()
        self.assertEqual(len(self.platform.bodies("completion")), 1)


@unittest.skipUnless(
    HAS_TRANSFORMERS, "transformers is not importable; run with the environment of tests/python/callbacks"
)
class HuggingFace(CallbackCase):
    def fit(self, fail_after: int = 99, sdk: Any = None, **settings: Any) -> None:
        import torch
        from transformers import Trainer, TrainingArguments
        from trainyard_sdk.callbacks.huggingface import TrainyardCallback

        class Line(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(1, 1)
                self.steps = 0

            def forward(self, x: Any, labels: Any = None) -> Any:
                self.steps += self.training
                if self.steps > fail_after:
                    raise ValueError("the data ran out")
                made = self.layer(x)
                return {"loss": ((made - labels) ** 2).mean(), "logits": made}

        torch.manual_seed(1)
        data = [{"x": torch.tensor([n / 16]), "labels": torch.tensor([3 * n / 16])} for n in range(16)]
        arguments: Dict[str, Any] = {
            "output_dir": str(self.work / "out"),
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.05,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "logging_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 1,
            **settings,
        }
        trainer = Trainer(
            model=Line(),
            args=TrainingArguments(**arguments),
            train_dataset=data,  # type: ignore[arg-type]
            eval_dataset=data,  # type: ignore[arg-type]
            compute_metrics=lambda _found: {"accuracy": 0.5},
            callbacks=[TrainyardCallback(sdk)],
        )
        trainer.train()

    def test_epochs_checkpoints_and_the_end(self) -> None:
        self.fit()
        bodies = self.epochs()
        self.assertEqual([body["current_epoch"] for body in bodies], [1, 2, 3])
        self.assertEqual([body["step"] for body in bodies], [4, 8, 12])
        losses = [body["metrics"]["loss"] for body in bodies]
        self.assertGreater(losses[0], losses[2])
        figures = bodies[0]["metrics"]["extra_metrics"]
        self.assertLessEqual({"loss", "val_loss", "accuracy", "learning_rate"}, set(figures))
        self.assertEqual(bodies[0]["metrics"]["accuracy"], 0.5)
        for number, body in enumerate(bodies, start=1):
            self.assertEqual(body["checkpoint_path"], str(self.work / "out" / f"checkpoint-{4 * number}"))
        end = self.end()
        self.assertEqual((end["exit_code"], end["total_epochs_completed"]), (0, 3))
        self.assertTrue(Path(end["best_checkpoint_path"]).is_dir())
        self.assertTrue(Path(end["last_checkpoint_path"]).is_dir())

    def test_without_evaluation_and_saving(self) -> None:
        self.fit(eval_strategy="no", save_strategy="no", load_best_model_at_end=False, num_train_epochs=2)
        self.assertEqual([body["current_epoch"] for body in self.epochs()], [1, 2])
        self.assertNotIn("best_checkpoint_path", self.end())


    def test_a_failure_is_reported_by_the_sdk_that_the_callback_was_given(self) -> None:
        with self.assertRaises(ValueError), TrainerSDK() as sdk:
            self.fit(fail_after=6, sdk=sdk)
        self.assertEqual([body["current_epoch"] for body in self.epochs()], [1])
        end = self.end()
        self.assertEqual((end["status"], end["exit_code"], end["total_epochs_completed"]), ("failed", 1, 1))
        self.assertIn("the data ran out", end["error_message"])


@unittest.skipUnless(HAS_ULTRALYTICS, "ultralytics is not importable; run with the environment of trainers/ultralytics")
class Ultralytics(CallbackCase):
    def fit(self, fail_in: int = 99, sdk: Any = None) -> None:
        from PIL import Image
        from trainyard_sdk.callbacks.ultralytics import attach

        for part in ("train", "val"):
            for colour in ("red", "blue"):
                folder = self.work / "data" / part / colour
                folder.mkdir(parents=True)
                for number in range(4):
                    Image.new("RGB", (32, 32), colour).save(folder / f"{number}.png")
        from ultralytics import YOLO

        def fail(trainer: Any) -> None:
            if trainer.epoch >= fail_in:
                raise ValueError("the data ran out")

        model = YOLO("yolo11n-cls.yaml")
        attach(model, sdk)
        model.add_callback("on_train_batch_start", fail)
        model.train(
            data=str(self.work / "data"), epochs=2, imgsz=32, batch=4, device="cpu", workers=0, plots=False,
            project=str(self.work / "runs"), name="train",
        )  # fmt: skip

    def test_a_failure_is_reported_by_the_sdk_that_the_callback_was_given(self) -> None:
        with self.assertRaises(ValueError), TrainerSDK() as sdk:
            self.fit(fail_in=1, sdk=sdk)
        self.assertEqual([body["current_epoch"] for body in self.epochs()], [1])
        end = self.end()
        self.assertEqual((end["status"], end["exit_code"], end["total_epochs_completed"]), ("failed", 1, 1))
        self.assertIn("the data ran out", end["error_message"])

    def test_epochs_checkpoints_and_the_end(self) -> None:
        self.fit()
        bodies = self.epochs()
        self.assertEqual([body["current_epoch"] for body in bodies], [1, 2])
        self.assertLessEqual(
            {"loss", "accuracy", "accuracy_top1", "fitness", "learning_rate"},
            set(bodies[0]["metrics"]["extra_metrics"]),
        )
        end = self.end()
        self.assertEqual((end["exit_code"], end["total_epochs_completed"]), (0, 2))
        for name in ("best", "last"):
            self.assertTrue(Path(end[f"{name}_checkpoint_path"]).is_file(), end)


if __name__ == "__main__":
    unittest.main()
