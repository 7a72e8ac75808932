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
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from trainyard_sdk import ids, kinds
from trainyard_sdk.errors import DatasetError
from trainyard_sdk.splits import PARTS, Split

BACKGROUND = "__background__"
CROWD = "crowd regions (iscrowd), which mark a group and not one object"
NO_AREA = "objects whose bbox has no area"
NO_KEYPOINTS = "objects without keypoints"
NO_OUTLINE = "objects whose segmentation has no outline of at least 3 points"
NO_CLASS = "objects of no known class"
NO_IMAGE = "objects whose image_id is no image of the document"
OUTSIDE = "objects that lie outside their image"
OVER = 0.05
"""What may lie over an image's edge without being told, as a share of the side: boxes are often off by a pixel."""


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
    background: FrozenSet[str] = frozenset()
    skipped: Dict[str, int] = field(default_factory=dict)
    cut: int = 0

    def inside(self, shares: Sequence[float]) -> List[float]:
        """Shares of an image's sides, cut at its edges: of one above 1 Ultralytics would drop the whole image."""
        if any(value < -OVER or value > 1.0 + OVER for value in shares):
            self.cut += 1
        return [min(max(value, 0.0), 1.0) for value in shares]

    def left_out(self, reason: str) -> str:
        """Count an object; the line that stands for it is empty."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        return ""

    def told(self) -> List[str]:
        """One sentence for each reason."""
        told = [f"{self.file.name}: left out {reason}: {count}" for reason, count in sorted(self.skipped.items())]
        if self.cut:
            told.append(f"{self.file.name}: cut objects that reach beyond their image's edge: {self.cut}")
        return told


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
    classes, background = _classes(document, file)
    index = {identity: number for number, identity in enumerate(classes)}
    flat: Dict[Optional[str], List[Mapping[str, Any]]] = {}
    for item in document.get("annotations") or []:
        flat.setdefault(ids.text(item.get("image_id")), []).append(item)
    images = [image for image in document.get("images") or [] if isinstance(image, dict)]
    astray = set(flat) - {ids.text(image.get("id")) for image in images}
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
    objects = {id(image): image.get("annotations") or flat.get(ids.text(image.get("id")), []) for image in images}
    keypoints = max((len(item.get("keypoints") or []) // 3 for items in objects.values() for item in items), default=0)
    reading = Reading(file, task, keypoints, background)
    for _ in (item for identity in astray for item in flat[identity]):
        reading.left_out(NO_IMAGE)
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


def _classes(document: Mapping[str, Any], file: Path) -> Tuple[Dict[str, str], FrozenSet[str]]:
    """Class names by the id they have in the document, in its order, and the ids of the background, which is none."""
    listed = document.get("categories") or document.get("classes") or []
    try:
        named = [(ids.text(item["id"]), str(item["name"])) for item in listed]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{file}: each class needs an id and a name ({error!r})") from error
    classes = {identity: name for identity, name in named if identity is not None and name != BACKGROUND}
    if not classes:
        raise DatasetError(f"{file} names no classes under 'categories' or 'classes'")
    return classes, frozenset(identity for identity, name in named if identity is not None and name == BACKGROUND)


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


def _line(item: Mapping[str, Any], image: Mapping[str, Any], index: Mapping[str, int], reading: "Reading") -> str:
    """One line of a label file; empty for the background, and for what is told as left out.

    Every line of a pose has the same number of keypoints: those that an object lacks are marked as not labelled.
    """
    identity = ids.class_of(item)
    number = None if identity is None else index.get(identity)
    if number is None:
        return "" if identity in reading.background else reading.left_out(NO_CLASS)
    if item.get("iscrowd"):
        return reading.left_out(CROWD)
    try:
        width, height = float(image["width"]), float(image["height"])
        if reading.task == "segmentation":
            outline = _outline(item.get("segmentation"), (width, height))
            if len(outline) < 6:
                return reading.left_out(NO_OUTLINE)
            if _is_outside(outline):
                return reading.left_out(OUTSIDE)
            return _join(number, reading.inside(outline))
        x, y, w, h = (float(value) for value in item["bbox"])
        if w <= 0 or h <= 0:
            return reading.left_out(NO_AREA)
        corners = [x / width, y / height, (x + w) / width, (y + h) / height]
        if _is_outside(corners):
            return reading.left_out(OUTSIDE)
        given = [float(value) for value in item.get("keypoints") or []] if reading.task == "pose" else []
        if reading.task == "pose" and not given:
            return reading.left_out(NO_KEYPOINTS)
        points = [value / (width, height)[i % 3] for i, value in enumerate(given) if i % 3 < 2]
        left, top, right, bottom, *points = reading.inside([*corners, *points])
        shares = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        if reading.task == "pose":
            for i in range(len(given) // 3):
                shares += [*points[2 * i : 2 * i + 2], given[3 * i + 2]]
            shares += [0.0] * (4 + 3 * reading.keypoints - len(shares))
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


def _is_outside(shares: Sequence[float]) -> bool:
    """Whether all points, as shares of the image's sides, lie beyond one of its edges."""
    return any(max(side) <= 0.0 or min(side) >= 1.0 for side in (shares[0::2], shares[1::2]))


def _join(number: int, shares: Sequence[float]) -> str:
    return f"{number} " + " ".join(f"{value:.6f}" for value in shares)


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
