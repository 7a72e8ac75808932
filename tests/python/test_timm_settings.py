"""Checks how settings of a job become a plan of the timm trainer. Needs neither torch nor timm."""

from __future__ import annotations

import importlib.util
import sys
import unittest
from typing import Any

from support import TRAINERS

from trainyard_sdk import ConfigError

# Each trainer has a module of this name, so it is loaded by its path.
_SPEC = importlib.util.spec_from_file_location("timm_settings", TRAINERS / "timm" / "settings.py")
assert _SPEC is not None and _SPEC.loader is not None
settings: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["timm_settings"] = settings
_SPEC.loader.exec_module(settings)


def make(advanced: Any, on_cpu: bool = False, **base: Any) -> Any:
    return settings.make(base, advanced, on_cpu)


class Plans(unittest.TestCase):
    def test_every_group_of_the_contract_is_honoured(self) -> None:
        made = make(
            {
                "optimizer": {"type": "SGD", "momentum": 0.8, "weight_decay": 0.01, "nesterov": True},
                "scheduler": {"type": "StepLR", "step_size": 3, "gamma": 0.5, "warmup_epochs": 1},
                "augmentation": {
                    "horizontal_flip": 0.3, "random_rotation": 10, "color_jitter": {"brightness": 0.2, "hue": 0.1},
                    "mixup": 0.2, "random_erasing": True, "auto_augment": "randaugment",
                },
                "preprocessing": {"image_size": [96, 96], "normalize": True, "mean": [0.5, 0.5, 0.5]},
                "validation": {"interval": 2, "early_stopping": {"enabled": True, "patience": 3}},
                "mixed_precision": True,
                "gradient_clip_value": 1,
                "gradient_accumulation_steps": 4,
                "checkpoint_interval": 5,
                "keep_n_checkpoints": 2,
                "log_interval": 10,
                "seed": 7,
                "label_smoothing": 0.1,
            },
            epochs=9, batch_size=16, learning_rate=0.02,
        )  # fmt: skip
        self.assertEqual(made.warnings, [])
        wanted = {
            "epochs": 9, "batch_size": 16, "learning_rate": 0.02, "optimizer": "sgd", "momentum": 0.8,
            "weight_decay": 0.01, "scheduler": "step", "decay_epochs": 3.0, "decay_rate": 0.5, "warmup_epochs": 1,
            "hflip": 0.3, "rotation": 10.0, "color_jitter": 0.2, "mixup": 0.2, "random_erasing": 0.25,
            "auto_augment": "rand-m9-mstd0.5-inc1", "imgsz": 96, "mean": [0.5, 0.5, 0.5], "validation_interval": 2,
            "early_stopping": 3, "mixed_precision": "fp16", "clip_grad": 1.0, "accumulation": 4,
            "checkpoint_interval": 5, "keep_checkpoints": 2, "log_interval": 10, "seed": 7, "label_smoothing": 0.1,
        }  # fmt: skip
        given = made.plan.to_dict()
        self.assertEqual({key: given[key] for key in wanted}, wanted)

    def test_what_has_no_meaning_is_named(self) -> None:
        made = make({"mosaic": 1.0, "optimizer": {"type": "adamw", "fused": True}, "augmentation": {"sharpen": 1}})
        named = "\n".join(made.warnings)
        for word in ("'mosaic'", "'optimizer.fused'", "'augmentation.sharpen'"):
            self.assertIn(word, named)
        self.assertEqual(len(made.warnings), 3)

    def test_augmentation_can_be_off(self) -> None:
        plan = make({"augmentation": False, "mixup": 0.5}).plan
        self.assertEqual((plan.hflip, plan.mixup, plan.scale, plan.auto_augment), (0.0, 0.0, [1.0, 1.0], None))

    def test_half_precision_on_a_cpu_is_named(self) -> None:
        made = make({"mixed_precision": "bf16"}, on_cpu=True)
        self.assertEqual(made.plan.mixed_precision, "off")
        self.assertIn("mixed_precision", made.warnings[0])

    def test_senseless_values_are_refused_by_name(self) -> None:
        cases = [
            ({"optimizer": "sgdd"}, "CONFIG.optimizer.type"),
            ({"optimizer": {"type": "sgd", "momentum": 1.5}}, "CONFIG.optimizer.momentum"),
            ({"scheduler": {"type": "cosine", "warmup_epochs": -1}}, "CONFIG.scheduler.warmup_epochs"),
            ({"scheduler": {"type": "zigzag"}}, "CONFIG.scheduler.type"),
            ({"scheduler": {"type": "cosine", "min_lr": 0.5}}, "CONFIG.scheduler.min_lr"),
            ({"augmentation": {"hflip": 2}}, "CONFIG.augmentation.hflip"),
            ({"augmentation": {"enabled": "yes"}}, "CONFIG.augmentation.enabled"),
            ({"gradient_accumulation_steps": 0}, "CONFIG.gradient_accumulation_steps"),
            ({"gradient_clip_value": "much"}, "CONFIG.gradient_clip_value"),
            ({"mixed_precision": "fp8"}, "CONFIG.mixed_precision"),
            ({"seed": 1.5}, "CONFIG.seed"),
            ({"preprocessing": 3}, "CONFIG.preprocessing"),
            ({"interpolation": "magic"}, "CONFIG.interpolation"),
        ]
        for advanced, words in cases:
            with self.assertRaises(ConfigError) as caught:
                make(advanced)
            self.assertTrue(str(caught.exception).startswith(words), (advanced, str(caught.exception)))

    def test_the_primary_metric(self) -> None:
        self.assertEqual(settings.primary("top5", "max"), ("accuracy_top5", "max"))
        for name, mode in (("mAP50", "max"), ("accuracy", "most")):
            with self.assertRaises(ConfigError):
                settings.primary(name, mode)


if __name__ == "__main__":
    unittest.main()
