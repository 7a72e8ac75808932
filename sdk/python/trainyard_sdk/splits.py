"""Owns which image is for training and which for validation, as the job's resolved split_config says.

`splits` (or `custom_splits`) names parts by image id, path or file name and wins over everything; `exclude_images`
drops images; then comes what the dataset itself says; what is left is divided by `ratio` and `seed`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from .errors import ConfigError

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Split:
    """A checked split_config: share of the training set, seed, parts by image key, keys of excluded images."""

    share: float = 0.8
    seed: int = 42
    named: Mapping[str, str] = field(default_factory=dict)
    excluded: FrozenSet[str] = frozenset()

    @property
    def explicit(self) -> bool:
        """True when single images are named, so that even a dataset with parts of its own has to be gone through."""
        return bool(self.named or self.excluded)

    def is_excluded(self, *keys: Any) -> bool:
        """True when any name of an image is excluded."""
        return any(str(key) in self.excluded for key in keys)

    def part_of(self, *keys: Any) -> Optional[str]:
        """The part that is named for an image, or None."""
        return next((self.named[str(key)] for key in keys if str(key) in self.named), None)

    def divide(self, items: Sequence[Any]) -> Tuple[List[Any], List[Any]]:
        """Divide at random, the same way for the same seed; of two items or more, both parts get at least one."""
        shuffled = list(items)
        random.Random(self.seed).shuffle(shuffled)
        cut = min(max(round(len(shuffled) * self.share), 1), max(len(shuffled) - 1, 1))
        return shuffled[:cut], shuffled[cut:]


def read(config: Mapping[str, Any]) -> Split:
    """Check a split_config; an empty one stands for 80 to 20 with seed 42.

    Raises:
        ConfigError: the ratio, the seed or a named part means nothing.
    """
    ratio: Any = config.get("ratio") or config.get("default_ratio") or [0.8, 0.2]
    try:
        share = float(ratio["train"] if isinstance(ratio, dict) else ratio[0])
        seed = int(config.get("seed", 42) if config.get("seed") is not None else 42)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ConfigError("CONFIG.split_config needs a ratio like [0.8, 0.2] and a whole number as seed") from error
    if not 0.0 < share < 1.0:
        raise ConfigError(f"CONFIG.split_config.ratio starts with {share}, but must be above 0 and below 1")
    given = config.get("splits") or config.get("custom_splits") or {}
    if not isinstance(given, dict):
        raise ConfigError("CONFIG.split_config.splits must be an object of image and part")
    named: Dict[str, str] = {}
    for key, part in given.items():
        if isinstance(part, list):
            # The other way round: a part and the images in it.
            named.update({str(image): _part(key) for image in part})
        else:
            named[str(key)] = _part(part)
    return Split(share, seed, named, frozenset(str(key) for key in config.get("exclude_images") or []))


def _part(name: Any) -> str:
    part = PARTS.get(str(name).lower())
    if part is None:
        raise ConfigError(f"CONFIG.split_config.splits says {name!r}, but a part is train, val or test")
    return part


def spellings(path: str) -> List[str]:
    """How an image of a path may be named: the path, the file name, and that without its ending."""
    pure = PurePath(path)
    return [path, pure.name, pure.stem]
