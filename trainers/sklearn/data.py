"""Owns where the samples come from: the bundled digits, which it splits in two, or a dataset of pictures.

Callers: `train`. It never downloads anything and never writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
from digits import CLASSES, load_digits
from trainyard_sdk.datasets import Classification, Sample
from trainyard_sdk.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class Samples:
    """Two sets of flat samples.

    `train_x`, `val_x` are `(n, features)` float32, pixels from 0 to 1 less `mean`, the training set's mean image
    `(features,)`, which a user of the checkpoint has to subtract as well; `*_y` are class indices `(n,)`.
    """

    train_x: Any
    train_y: Any
    val_x: Any
    val_y: Any
    classes: Tuple[str, ...]
    mean: Any


def bundled(split: Mapping[str, Any]) -> Samples:
    """The digits of scikit-learn, split by ratio and seed."""
    images, labels = load_digits()
    train, val = _split_indices(labels, split)
    flat = images.reshape(len(images), -1)
    return _centred(flat[train], labels[train], flat[val], labels[val], CLASSES)


def pictures(data: Classification, side: int) -> Samples:
    """A dataset of pictures; every one becomes grey and `side` x `side` pixels.

    Raises:
        DatasetError: a picture that is not readable.
    """
    train_x, train_y = _read(data.part("train"), side)
    val_x, val_y = _read(data.part("val"), side)
    return _centred(train_x, train_y, val_x, val_y, data.classes)


def _centred(train_x: Any, train_y: Any, val_x: Any, val_y: Any, classes: Tuple[str, ...]) -> Samples:
    """Subtract the mean image: on a light background most inputs would otherwise be one constant."""
    mean = train_x.mean(axis=0)
    return Samples(train_x - mean, train_y, val_x - mean, val_y, classes, mean)


def _read(samples: Sequence[Sample], side: int) -> Tuple[Any, Any]:
    from PIL import Image, UnidentifiedImageError  # not needed for the bundled digits

    rows: List[Any] = []
    for sample in samples:
        try:
            with Image.open(sample.path) as image:
                grey = image.convert("L").resize((side, side), Image.Resampling.BOX)
        except (OSError, UnidentifiedImageError) as error:
            raise DatasetError(f"image {sample.path} is not readable: {error}") from error
        rows.append(np.asarray(grey, dtype=np.float32).reshape(-1) / 255.0)
    return np.stack(rows), np.asarray([sample.label for sample in samples], dtype=np.int64)


def _split_indices(labels: Any, split: Mapping[str, Any]) -> Tuple[Any, Any]:
    """Indices of training and validation samples; each class is split by itself, so that rare ones are in both."""
    share, seed = _ratio(split)
    rng = np.random.RandomState(seed)
    train: List[Any] = []
    val: List[Any] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise DatasetError(f"class {int(label)} has {len(members)} image; a split needs at least 2 of each class")
        cut = min(max(round(len(members) * share), 1), len(members) - 1)
        train.append(members[:cut])
        val.append(members[cut:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def _ratio(split: Mapping[str, Any]) -> Tuple[float, int]:
    """Share of the training set and the seed, from a resolved split_config; 0.8 and 42 where it says nothing."""
    values: Any = split.get("ratio") or split.get("default_ratio") or [0.8, 0.2]
    if isinstance(values, Dict):
        values = [values.get("train", 0.8), values.get("val", 0.2)]
    try:
        share, seed = float(values[0]), int(split.get("seed", 42))
    except (TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"CONFIG.split_config is {dict(split)!r}, but needs a ratio like [0.8, 0.2]") from error
    if not 0.0 < share < 1.0:
        raise ConfigError(f"CONFIG.split_config.ratio starts with {share}, but must be above 0 and below 1")
    return share, seed
