"""Owns which files are pictures by the end of their name, which of them can be opened, and how the others are told.

The coordinator counts the same kinds (`core/src/dataset/paths.rs`), so that a split names no picture that a
trainer does not know of. Standard library only; Pillow is used where it is there. It never writes. Callers:
`datasets`, trainers.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Sequence

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".dng", ".mpo", ".avif"))
COMMON = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"))
"""Kinds that every reader of pictures opens: a file of theirs that cannot be opened is damaged, and an error."""


def is_picture(path: Path) -> bool:
    """Whether the name says so; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def pillow_reads(path: Path) -> bool:
    """Whether Pillow opens a picture. Only the uncommon kinds are tried: not every build of Pillow has them."""
    if path.suffix.lower() in COMMON:
        return True
    try:
        pillow: Any = importlib.import_module("PIL.Image")
        with pillow.open(path) as image:
            image.load()
    except (ImportError, OSError, SyntaxError, ValueError):
        return False
    return True


def told(left_out: Sequence[Path], shown: int = 3) -> str:
    """A sentence for the job's log about pictures that cannot be read."""
    endings = ", ".join(sorted({path.suffix.lower() for path in left_out}))
    names = ", ".join(path.name for path in left_out[:shown])
    more = f" and {len(left_out) - shown} more" if len(left_out) > shown else ""
    return (
        f"{len(left_out)} left out of the dataset, because this trainer cannot read pictures of their kind "
        f"({endings}): {names}{more}; convert them to PNG or JPEG"
    )
