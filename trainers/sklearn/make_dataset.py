"""Makes small datasets of real handwritten digits (those that ship with scikit-learn), for trials and tests.

`imagefolder` writes train/<class>/*.png and val/<class>/*.png. `detection` writes a YOLO set: images/{train,val},
labels/{train,val} and data.yaml, with digits of several sizes pasted on a canvas without overlap and exact boxes.
The same arguments always give the same files; a digit used for training is never used for validation.

    python make_dataset.py --out DIR --kind detection --train 640 --val 60 --seed 0 --imgsz 64
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, List, Optional, Tuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from digits import CLASSES, SIDE, load_digits
from PIL import Image

PAPER = 235
INK = 20
TRAIN_SHARE = 0.8
MAX_DIGITS = 5
MIN_SCALE, MAX_SCALE = 2.5, 6.0
MIN_CANVAS = 64

Box = Tuple[int, int, int, int]


def main(argv: Optional[List[str]] = None) -> int:
    """Write one dataset and print what was made; returns the exit code."""
    arguments = _arguments(argv)
    images, labels = load_digits()
    order = np.random.RandomState(arguments.seed).permutation(len(images))
    cut = int(len(order) * TRAIN_SHARE)
    pools = {"train": order[:cut], "val": order[cut:]}
    out = Path(arguments.out)
    for split, count in (("train", arguments.train), ("val", arguments.val)):
        rng = np.random.RandomState((arguments.seed * 2 + (split == "val")) % 2**32)
        if arguments.kind == "imagefolder":
            _write_folder(out / split, images, labels, pools[split], count, arguments.imgsz or 32)
        else:
            _write_scenes(out, split, images, labels, pools[split], count, arguments.imgsz or 160, rng)
    if arguments.kind == "detection":
        names = "".join(f"  {index}: '{name}'\n" for index, name in enumerate(CLASSES))
        (out / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    print(f"{arguments.kind}: {arguments.train} training and {arguments.val} validation images in {out}")
    return 0


def _write_folder(top: Path, images: Any, labels: Any, pool: Any, count: int, side: int) -> None:
    """One digit an image, taking the classes in turn so that all are equally many."""
    by_class = [[int(i) for i in pool if labels[i] == digit] for digit in range(len(CLASSES))]
    for name in CLASSES:
        (top / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        digit = number % len(CLASSES)
        members = by_class[digit]
        index = members[(number // len(CLASSES)) % len(members)]
        _render(images[index], side).save(top / CLASSES[digit] / f"{number:05d}.png")


def _write_scenes(
    out: Path, split: str, images: Any, labels: Any, pool: Any, count: int, side: int, rng: np.random.RandomState
) -> None:
    """Canvases with one to five digits, and a label file with `class cx cy w h` (shares of the side) for each."""
    for folder in ("images", "labels"):
        (out / folder / split).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        canvas = Image.new("L", (side, side), PAPER)
        tiles: List[Box] = []
        lines: List[str] = []
        for _ in range(int(rng.randint(1, MAX_DIGITS + 1))):
            index = int(pool[rng.randint(len(pool))])
            size = int(SIDE * rng.uniform(MIN_SCALE, min(MAX_SCALE, side / SIDE / 2)))
            place = _free_place(tiles, size, side, rng)
            if place is None:
                continue
            tile = _render(images[index], size)
            canvas.paste(tile, place)
            tiles.append((place[0], place[1], place[0] + size, place[1] + size))
            lines.append(_label(int(labels[index]), tile, place, side))
        canvas.convert("RGB").save(out / "images" / split / f"{number:05d}.png")
        (out / "labels" / split / f"{number:05d}.txt").write_text("".join(lines))


def _free_place(tiles: List[Box], size: int, side: int, rng: np.random.RandomState) -> Optional[Tuple[int, int]]:
    """Upper left corner of a tile that touches none of `tiles`; None when forty throws find no room."""
    for _ in range(40):
        x, y = (int(value) for value in rng.randint(0, side - size + 1, 2))
        if all(x + size < a or c < x or y + size < b or d < y for a, b, c, d in tiles):
            return x, y
    return None


def _render(digit: Any, side: int) -> Image.Image:
    """Dark ink on light paper, enlarged smoothly to `side` pixels."""
    grey = (PAPER - digit * (PAPER - INK)).round().astype(np.uint8)
    return Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)


def _label(digit: int, tile: Image.Image, place: Tuple[int, int], side: int) -> str:
    """The box around the visible ink, not around the tile: the tile's margin is paper."""
    rows, columns = np.nonzero(np.asarray(tile) < (PAPER + INK) // 2)
    left, right = place[0] + columns.min(), place[0] + columns.max() + 1
    top, bottom = place[1] + rows.min(), place[1] + rows.max() + 1
    values = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return f"{digit} " + " ".join(f"{value / side:.6f}" for value in values) + "\n"


def _arguments(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a small dataset of handwritten digits.")
    parser.add_argument("--out", required=True, help="folder to write into; it is made when missing")
    parser.add_argument("--kind", required=True, choices=("imagefolder", "detection"))
    parser.add_argument("--train", type=int, default=200, help="training images (default 200)")
    parser.add_argument("--val", type=int, default=50, help="validation images (default 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--imgsz", type=int, default=0, help="side in pixels (default: imagefolder 32, detection 160)")
    arguments = parser.parse_args(argv)
    for name in ("train", "val"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if arguments.seed < 0:
        parser.error("--seed must not be negative")
    smallest = MIN_CANVAS if arguments.kind == "detection" else SIDE
    if arguments.imgsz and arguments.imgsz < smallest:
        parser.error(f"--imgsz must be at least {smallest} for {arguments.kind}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
