"""Owns how samples become batches: opening, transforms of timm, order, and mixing. Callers: `train`.

With the same seed and epoch the batches are the same, also in a run that goes on from a checkpoint.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from settings import Plan
from timm.data import Mixup, create_transform
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from trainyard_sdk.datasets import Sample
from trainyard_sdk.errors import DatasetError

EPOCHS_APART = 100_003
"""A prime, so that the seeds of epochs and of jobs do not meet."""


class Pictures(Dataset):  # type: ignore[type-arg]
    """Samples of one part as pairs of a tensor `(3, side, side)` and a label."""

    def __init__(self, samples: Sequence[Sample], transform: Any) -> None:
        self._samples = samples
        self._transform = transform

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Tuple[Any, int]:
        sample = self._samples[index]
        try:
            with Image.open(sample.path) as image:
                picture = image.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise DatasetError(f"picture {sample.path} is not readable: {error}") from error
        return self._transform(picture), sample.label


@dataclass
class Batches:
    """Loaders of both parts, and what mixes a training batch (None when nothing does)."""

    train: Any
    val: Any
    mixing: Optional[Any]
    order: Any

    def begin(self, plan: Plan, epoch: int) -> None:
        """Make everything random of this epoch depend on the seed and the epoch alone."""
        seed = (plan.seed + epoch * EPOCHS_APART) % 2**32
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        self.order.manual_seed(seed)


def batches(train: Sequence[Sample], val: Sequence[Sample], plan: Plan, classes: int) -> Batches:
    """Loaders for a plan whose `imgsz`, `mean`, `std` and `crop_pct` are settled.

    Raises:
        DatasetError: fewer than two training samples.
    """
    if len(train) < 2:
        raise DatasetError(f"there is {len(train)} training picture, but training needs at least 2")
    order = torch.Generator()
    order.manual_seed(plan.seed)
    rest = len(train) % plan.batch_size
    mixing = _mixing(plan, classes)
    # A single picture has no statistics for batch normalisation; mixing pairs pictures up.
    drop = len(train) > plan.batch_size and (rest == 1 or (mixing is not None and rest % 2 == 1))
    common = {"num_workers": plan.workers, "pin_memory": plan.device != "cpu"}
    training = DataLoader(
        Pictures(train, training_transform(plan)),
        batch_size=min(plan.batch_size, len(train) - (len(train) % 2 if mixing else 0)),
        shuffle=True,
        generator=order,
        drop_last=drop or (mixing is not None and len(train) % 2 == 1),
        persistent_workers=False,
        **common,
    )
    validation = DataLoader(Pictures(val, validation_transform(plan)), batch_size=plan.batch_size, **common)
    return Batches(training, validation, mixing, order)


def training_transform(plan: Plan) -> Any:
    """Augmentations as the plan says; none of them with `augmentation` false."""
    if not plan.augmentation:
        return validation_transform(plan)
    made = create_transform(
        plan.imgsz,
        is_training=True,
        scale=tuple(plan.scale),
        ratio=tuple(plan.ratio),
        hflip=plan.hflip,
        vflip=plan.vflip,
        color_jitter=plan.color_jitter or None,
        auto_augment=plan.auto_augment,
        interpolation=plan.interpolation,
        mean=tuple(plan.mean or ()),
        std=tuple(plan.std or ()),
        re_prob=plan.random_erasing,
    )
    if plan.rotation:
        made.transforms.insert(0, transforms.RandomRotation(plan.rotation))
    return made


def validation_transform(plan: Plan) -> Any:
    """Resizing and cropping alone."""
    interpolation = "bilinear" if plan.interpolation == "random" else plan.interpolation
    return create_transform(
        plan.imgsz,
        is_training=False,
        interpolation=interpolation,
        mean=tuple(plan.mean or ()),
        std=tuple(plan.std or ()),
        crop_pct=plan.crop_pct,
    )


def _mixing(plan: Plan, classes: int) -> Optional[Any]:
    if not plan.mixup and not plan.cutmix:
        return None
    return Mixup(
        mixup_alpha=plan.mixup, cutmix_alpha=plan.cutmix, label_smoothing=plan.label_smoothing, num_classes=classes
    )
