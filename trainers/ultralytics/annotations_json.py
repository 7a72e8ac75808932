"""Owns the reading of annotations_<task>.json, in both shapes that are in use, into YOLO label files.

Shape (a) has flat `annotations` that point to images and categories; shape (b) has the annotations inside each image,
and may name a split for each image. Images stay where they are: the work folder gets links and labels, because
Ultralytics finds labels by replacing `images` with `labels` in a path.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from trainyard_sdk.splits import PARTS, Split
from trainyard_sdk.errors import DatasetError

BACKGROUND = "__background__"


def find(root: Path, task: str) -> Optional[Path]:
    """The annotation document for a task, or the older annotations.json; None when there is neither."""
    names = (f"annotations_{task}.json", "annotations.json")
    return next((root / name for name in names if (root / name).is_file()), None)


def convert(root: Path, file: Path, task: str, split: Split, work: Path) -> Dict[str, Any]:
    """Write links and labels below `work/converted` and return what a data.yaml holds.

    Args:
        root: the dataset's folder.
        file: the annotation document.
        task: detection, segmentation or pose.
        split: the job's split; see `splits` for what wins.
        work: folder for what is written.

    Raises:
        DatasetError: the document is unreadable, or an image it names is missing.
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
    parts = _parts(images, split)
    top = work / "converted"
    taken: Dict[Tuple[str, str], Path] = {}
    objects = {id(image): image.get("annotations") or flat.get(image.get("id"), []) for image in images}
    keypoints = max((len(item.get("keypoints") or []) // 3 for items in objects.values() for item in items), default=0)
    for image in images:
        lines = [_line(item, image, index, task, file, keypoints) for item in objects[id(image)]]
        _place(root, str(image.get("file_name", "")), parts[id(image)], [x for x in lines if x], top, file, taken)
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


def _line(
    item: Mapping[str, Any], image: Mapping[str, Any], index: Mapping[Any, int], task: str, file: Path, keypoints: int
) -> Optional[str]:
    """One line of a label file; None for the background, crowds and what has no shape for this task.

    Every line of a pose has the same number of keypoints: those that an object lacks are marked as not labelled.
    """
    number = index.get(item.get("category_id", item.get("class_id")))
    if number is None or item.get("iscrowd"):
        return None
    try:
        width, height = float(image["width"]), float(image["height"])
        if task == "segmentation":
            polygons = item.get("segmentation")
            if not isinstance(polygons, list) or not polygons:
                return None
            points = _joined(polygons) if isinstance(polygons[0], list) else polygons
            shares = [float(p) / (height if i % 2 else width) for i, p in enumerate(points)]
            return _join(number, shares) if len(shares) >= 6 else None
        x, y, w, h = (float(value) for value in item["bbox"])
        if w <= 0 or h <= 0:
            return None
        shares = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        if task == "pose":
            if not item.get("keypoints"):
                return None
            scale = (width, height, 1.0)
            given = [float(value) / scale[i % 3] for i, value in enumerate(item["keypoints"])]
            shares += given + [0.0] * (3 * keypoints - len(given))
        return _join(number, shares)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        name = image.get("file_name")
        raise DatasetError(f"{file}: annotation {item.get('id')} of image {name!r} is not usable: {error!r}") from error


def _joined(polygons: Sequence[Sequence[float]]) -> List[float]:
    """One outline around all polygons of an object, flat as they are: a label file has room for one.

    Each further polygon is entered and left by the same bridge, between the two points that are nearest to each
    other, so that the area stays that of all of them.
    """
    rings = [list(zip(map(float, ring[0::2]), map(float, ring[1::2]))) for ring in polygons if len(ring) >= 6]
    if not rings:
        return []
    outline = rings[0]
    for ring in rings[1:]:
        _, near, far = min(
            ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2, i, j)
            for i, a in enumerate(outline)
            for j, b in enumerate(ring)
        )
        outline = outline[: near + 1] + ring[far:] + ring[: far + 1] + outline[near:]
    return [value for point in outline for value in point]


def _join(number: int, shares: Sequence[float]) -> str:
    # Boxes may reach a pixel over the edge; a share above 1 would make Ultralytics drop the whole image.
    last = [min(max(value, 0.0), 1.0) if value <= 1.05 else value for value in shares]
    return f"{number} " + " ".join(f"{value:.6f}" for value in last)


def _place(
    root: Path, name: str, part: str, lines: Sequence[str], top: Path, file: Path, taken: Dict[Tuple[str, str], Path]
) -> None:
    """Link one image and write its labels; an image without objects gets an empty file."""
    candidates = [root / "images" / name, root / name]
    source = next((path for path in candidates if name and path.is_file()), None)
    if source is None or ".." in Path(name).parts:
        raise DatasetError(f"{file} names the image {name!r}, which is not in {root / 'images'}")
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
