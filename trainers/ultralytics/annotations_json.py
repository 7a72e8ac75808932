"""Owns the reading of annotations_<task>.json, in both shapes that are in use, into YOLO label files.

Shape (a) has flat `annotations` that point to images and categories; shape (b) has the annotations inside each image,
and may name a split for each image. Images stay where they are: the work folder gets links and labels, because
Ultralytics finds labels by replacing `images` with `labels` in a path.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from trainyard_sdk import kinds
from trainyard_sdk.errors import DatasetError
from trainyard_sdk.splits import PARTS, Split

BACKGROUND = "__background__"
CROWD = "crowd regions (iscrowd), which mark a group and not one object"
NO_AREA = "objects whose bbox has no area"
NO_KEYPOINTS = "objects without keypoints"
NO_OUTLINE = "objects whose segmentation has no outline of at least 3 points"


def find(root: Path, task: str) -> Optional[Path]:
    """The annotation document for a task, or the older annotations.json; None when there is neither."""
    names = (f"annotations_{task}.json", "annotations.json")
    return next((root / name for name in names if (root / name).is_file()), None)


@dataclass
class Reading:
    """A document that is being read for a task, and how many of its objects were left out, by reason."""

    file: Path
    task: str
    keypoints: int
    skipped: Dict[str, int] = field(default_factory=dict)

    def left_out(self, reason: str) -> str:
        """Count an object; the line that stands for it is empty."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        return ""

    def told(self) -> List[str]:
        """One sentence for each reason."""
        return [f"{self.file.name}: left out {reason}: {count}" for reason, count in sorted(self.skipped.items())]


def convert(
    root: Path,
    file: Path,
    task: str,
    split: Split,
    work: Path,
    readable: Callable[[Path], bool],
    tell: Callable[[str], None],
) -> Dict[str, Any]:
    """Write links and labels below `work/converted` and return what a data.yaml holds.

    Args:
        root: the dataset's folder.
        file: the annotation document.
        task: detection, segmentation or pose.
        split: the job's split; see `splits` for what wins.
        work: folder for what is written.
        readable: says of a picture whether it can be trained on.
        tell: hears, in a sentence each, what is left out.

    Raises:
        DatasetError: the document is unreadable, an image it names is missing, or no object is left.
    """
    document = _read(file)
    classes = _classes(document, file)
    index = {identity: number for number, identity in enumerate(classes)}
    flat: Dict[Any, List[Mapping[str, Any]]] = {}
    for item in document.get("annotations") or []:
        flat.setdefault(item.get("image_id"), []).append(item)
    images = [image for image in document.get("images") or [] if isinstance(image, dict)]
    images = [image for image in images if not split.is_excluded(image.get("id"), image.get("file_name"))]
    if len(images) < 2:
        raise DatasetError(f"{file} lists {len(images)} images; at least 2 are needed")
    sources = {id(image): _source(root, str(image.get("file_name", "")), file) for image in images}
    unread = {source for source in sources.values() if not readable(source)}
    if unread:
        tell(kinds.told(sorted(unread)))
        images = [image for image in images if sources[id(image)] not in unread]
    parts = _parts(images, split)
    top = work / "converted"
    taken: Dict[Tuple[str, str], Path] = {}
    objects = {id(image): image.get("annotations") or flat.get(image.get("id"), []) for image in images}
    keypoints = max((len(item.get("keypoints") or []) // 3 for items in objects.values() for item in items), default=0)
    reading = Reading(file, task, keypoints)
    lines: List[str] = []
    for image in images:
        own = [line for line in (_line(item, image, index, reading) for item in objects[id(image)]) if line]
        lines += own
        _place(sources[id(image)], str(image.get("file_name", "")), parts[id(image)], own, top, taken)
    for words in reading.told():
        tell(words)
    if not lines and reading.skipped:
        raise DatasetError(f"{file} leaves no object for task {task}: {'; '.join(reading.told())}")
    made: Dict[str, Any] = {"path": str(top.absolute()), "names": dict(enumerate(classes.values()))}
    made.update({part: str((top / "images" / part).absolute()) for part in sorted(set(parts.values()))})
    if task == "pose":
        made["kpt_shape"] = [keypoints, 3]
    return made


def _read(file: Path) -> Dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} is not readable: {error}") from error
    if not isinstance(document, dict):
        raise DatasetError(f"{file} is not a JSON object with images and annotations")
    return document


def _classes(document: Mapping[str, Any], file: Path) -> Dict[Any, str]:
    """Class names by the id they have in the document, in its order; the background is no class."""
    listed = document.get("categories") or document.get("classes") or []
    classes = {item["id"]: str(item["name"]) for item in listed if item.get("name") != BACKGROUND}
    if not classes:
        raise DatasetError(f"{file} names no classes under 'categories' or 'classes'")
    return classes


def _parts(images: Sequence[Mapping[str, Any]], split: Split) -> Dict[int, str]:
    """The part of each image, by the image's identity in memory."""
    parts: Dict[int, str] = {}
    for image in images:
        own = PARTS.get(str(image.get("split", "")).lower())
        named = split.part_of(image.get("id"), image.get("file_name")) or own
        if named is not None:
            parts[id(image)] = named
    rest = [image for image in images if id(image) not in parts]
    if "val" in parts.values():
        return {**parts, **{id(image): "train" for image in rest}}
    # No validation set yet, so one is drawn. The order of a document changes from export to export, file names do not.
    pool = rest or [image for image in images if parts[id(image)] == "train"]
    train, val = split.divide(sorted(pool, key=lambda image: str(image.get("file_name"))))
    parts.update({id(image): "train" for image in train})
    parts.update({id(image): "val" for image in val})
    return parts


def _line(item: Mapping[str, Any], image: Mapping[str, Any], index: Mapping[Any, int], reading: "Reading") -> str:
    """One line of a label file; empty for the background, and for what is told as left out.

    Every line of a pose has the same number of keypoints: those that an object lacks are marked as not labelled.
    """
    number = index.get(item.get("category_id", item.get("class_id")))
    if number is None:
        return ""
    if item.get("iscrowd"):
        return reading.left_out(CROWD)
    try:
        width, height = float(image["width"]), float(image["height"])
        if reading.task == "segmentation":
            shares = _outline(item.get("segmentation"), (width, height))
            return _join(number, shares) if len(shares) >= 6 else reading.left_out(NO_OUTLINE)
        x, y, w, h = (float(value) for value in item["bbox"])
        if w <= 0 or h <= 0:
            return reading.left_out(NO_AREA)
        shares = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        if reading.task == "pose":
            if not item.get("keypoints"):
                return reading.left_out(NO_KEYPOINTS)
            scale = (width, height, 1.0)
            given = [float(value) / scale[i % 3] for i, value in enumerate(item["keypoints"])]
            shares += given + [0.0] * (3 * reading.keypoints - len(given))
        return _join(number, shares)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DatasetError(
            f"{reading.file}: annotation {item.get('id')} of image {image.get('file_name')!r} is not usable: {error!r}"
        ) from error


def _outline(segmentation: Any, size: Tuple[float, float]) -> List[float]:
    """The outline of an object as shares of the image's sides, from polygons or from run lengths; empty without one."""
    import outlines

    polygons = segmentation or []
    if isinstance(segmentation, dict):
        polygons, size = outlines.of_runs(segmentation)
    elif polygons and not isinstance(polygons[0], list):
        polygons = [polygons]
    points = outlines.joined(polygons)
    return [value / size[i % 2] for i, value in enumerate(points)]


def _join(number: int, shares: Sequence[float]) -> str:
    # Boxes may reach a pixel over the edge; a share above 1 would make Ultralytics drop the whole image.
    last = [min(max(value, 0.0), 1.0) if value <= 1.05 else value for value in shares]
    return f"{number} " + " ".join(f"{value:.6f}" for value in last)


def _source(root: Path, name: str, file: Path) -> Path:
    candidates = [root / "images" / name, root / name]
    source = next((path for path in candidates if name and path.is_file()), None)
    if source is None or ".." in Path(name).parts:
        raise DatasetError(f"{file} names the image {name!r}, which is not in {root / 'images'}")
    return source


def _place(
    source: Path, name: str, part: str, lines: Sequence[str], top: Path, taken: Dict[Tuple[str, str], Path]
) -> None:
    """Link one image and write its labels; an image without objects gets an empty file."""
    flat = "_".join(Path(name).parts[1:] if name.startswith("images/") else Path(name).parts)
    # Of two images that differ only in their folder or ending, each needs a label of its own.
    while taken.setdefault((part, Path(flat).stem), source) != source:
        flat = f"_{flat}"
    picture = top / "images" / part / flat
    label = (top / "labels" / part / picture.name).with_suffix(".txt")
    for folder in (picture.parent, label.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if not picture.is_symlink():
        os.symlink(source.resolve(), picture)
    label.write_text("".join(f"{line}\n" for line in lines))
