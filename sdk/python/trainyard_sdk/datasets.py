"""Owns the reading of classification datasets: which picture belongs to which class and to which part.

Reads folders of classes (with or without train/ and val/) and `annotations_classification.json` in both shapes that are
in use: flat `annotations` that point to images, and annotations inside each image, which may name its part. Standard
library only; pictures are not opened. It never writes. Callers: trainers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from . import ids
from .errors import DatasetError
from .kinds import is_picture
from .splits import PARTS, Split, spellings

BACKGROUND = "__background__"
DOCUMENTS = ("annotations_classification.json", "annotations.json")


@dataclass(frozen=True)
class Sample:
    """A picture: where it is, the index of its class, and its part (`train`, `val` or `test`)."""

    path: Path
    label: int
    part: str


@dataclass(frozen=True)
class Classification:
    """A dataset: class names, whose order gives the labels, and all samples, sorted by path within a part.

    `left_out` are pictures that the trainer cannot read; `notes` tell of the others that are not among the samples, a
    sentence for each reason.
    """

    classes: Tuple[str, ...]
    samples: Tuple[Sample, ...]
    left_out: Tuple[Path, ...] = ()
    notes: Tuple[str, ...] = ()

    def part(self, name: str) -> Tuple[Sample, ...]:
        """The samples of one part."""
        return tuple(sample for sample in self.samples if sample.part == name)

    def counts(self) -> Dict[str, int]:
        """How many samples each part has."""
        found: Dict[str, int] = {}
        for sample in self.samples:
            found[sample.part] = found.get(sample.part, 0) + 1
        return found


def read_classification(
    root: Path, split: Split, readable: Callable[[Path], bool] = lambda path: True
) -> Classification:
    """Read the dataset in `root`; see `splits` for what wins where parts are named several times.

    Args:
        root: the dataset's folder.
        split: the job's split.
        readable: says of a picture whether the trainer can open it, such as `kinds.pillow_reads`.

    Raises:
        DatasetError: no layout that is known, fewer than two classes, a picture that is named but not there, or
            nothing left for training or validation.
    """
    if not root.is_dir():
        raise DatasetError(f"LOCAL_DATASET_PATH points to {str(root)!r}, which is no folder; classification needs one")
    document = next((root / name for name in DOCUMENTS if (root / name).is_file()), None)
    made = _from_folders(root, split, readable) if document is None else _from_document(root, document, split, readable)
    if len(made.classes) < 2:
        raise DatasetError(
            f"{root} (from LOCAL_DATASET_PATH) has {len(made.classes)} classes, but classification needs at least 2; "
            f"expected <class>/*.png, train/<class>/*.png and val/<class>/*.png, or {DOCUMENTS[0]}"
        )
    for part in ("train", "val"):
        if not made.part(part):
            raise DatasetError(f"no pictures are left for {part!r} in {root}; at least 1 is needed")
    return made


def _from_folders(root: Path, split: Split, readable: Callable[[Path], bool]) -> Classification:
    """Folders of classes. A class that only the validation set has is an error, not a new class."""
    tops = _part_folders(root)
    classes = _class_names(tops.get("train", root))
    found: List[Tuple[Path, int, Optional[str]]] = []
    for part, top in tops.items() or {"": root}.items():
        unknown = sorted(set(_class_names(top)) - set(classes))
        if unknown:
            raise DatasetError(f"{top} has class folders that the training set lacks: {', '.join(unknown)}")
        for label, name in enumerate(classes):
            for path in _images_below(top / name):
                keys = [str(path.relative_to(root)), *spellings(str(path.relative_to(top)))]
                if not split.is_excluded(*keys):
                    found.append((path, label, split.part_of(*keys) or part or None))
    # Without a validation folder one is drawn from what stands under train/, unless pictures are named one by one.
    settled = "val" in tops or any(part == "val" for _, _, part in found)
    if not settled:
        found = [(path, label, None if part == "train" else part) for path, label, part in found]
    return _made(classes, found, split, readable)


def _from_document(root: Path, file: Path, split: Split, readable: Callable[[Path], bool]) -> Classification:
    document = _load(file)
    listed = document.get("categories") or document.get("classes") or []
    try:
        known = {ids.text(item["id"]): str(item["name"]) for item in listed}
    except (AttributeError, KeyError, TypeError) as error:
        raise DatasetError(f"{file}: each class needs an id and a name ({error!r})") from error
    names = {identity: name for identity, name in known.items() if identity is not None and name != BACKGROUND}
    labels = {identity: number for number, identity in enumerate(names)}
    flat: Dict[Optional[str], List[Any]] = {}
    for item in _objects(document, "annotations"):
        flat.setdefault(ids.text(item.get("image_id")), []).append(item)
    classless: Dict[str, int] = {}
    found: List[Tuple[Path, int, Optional[str]]] = []
    for image in _objects(document, "images"):
        keys = (image.get("id"), image.get("file_name"))
        if split.is_excluded(*keys):
            continue
        items = _objects(image, "annotations") or flat.get(ids.text(image.get("id")), [])
        label = _label(items, labels)
        if label is None:
            strange = [item for item in items if known.get(ids.class_of(item)) != BACKGROUND]
            reason = "pictures without an annotation" if not items else "pictures of no known class" if strange else ""
            classless[reason] = classless.get(reason, 0) + 1
            continue
        own = PARTS.get(str(image.get("split", "")).lower())
        found.append((_picture(root, image.get("file_name"), file), label, split.part_of(*keys) or own))
    if "val" not in {part for _, _, part in found} and all(part is not None for _, _, part in found):
        found = [(path, label, None if part == "train" else part) for path, label, part in found]
    notes = [f"{file.name}: left out {reason}: {count}" for reason, count in sorted(classless.items()) if reason]
    return _made(list(names.values()), found, split, readable, notes)


def _made(
    classes: Sequence[str],
    found: Sequence[Tuple[Path, int, Optional[str]]],
    split: Split,
    readable: Callable[[Path], bool],
    notes: Sequence[str] = (),
) -> Classification:
    left_out = {path for path, _, _ in found if not readable(path)}
    kept = [sample for sample in found if sample[0] not in left_out]
    return Classification(tuple(classes), _divided(kept, split), tuple(sorted(left_out)), tuple(notes))


def _objects(document: Mapping[str, Any], key: str) -> List[Mapping[str, Any]]:
    """The objects of a list; what is no object is passed over."""
    listed = document.get(key)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _label(items: Sequence[Any], labels: Mapping[str, int]) -> Optional[int]:
    """The class of a picture: that of its first annotation that names one; None for the background."""
    for item in items:
        label = labels.get(ids.class_of(item) or "")
        if label is not None:
            return label
    return None


def _divided(found: Sequence[Tuple[Path, int, Optional[str]]], split: Split) -> Tuple[Sample, ...]:
    """Give a part to what has none: training where a validation set is named, else a draw, class by class."""
    named = any(part == "val" for _, _, part in found)
    samples = [Sample(path, label, part) for path, label, part in found if part is not None]
    rest: Dict[int, List[Path]] = {}
    for path, label, part in found:
        if part is None:
            rest.setdefault(label, []).append(path)
    for label in sorted(rest):
        paths = sorted(rest[label])
        if named:
            samples += [Sample(path, label, "train") for path in paths]
            continue
        train, val = split.divide(paths)
        samples += [Sample(path, label, "train") for path in train]
        samples += [Sample(path, label, "val") for path in val]
    return tuple(sorted(samples, key=lambda sample: (sample.part, str(sample.path))))


def _part_folders(root: Path) -> Dict[str, Path]:
    """Folders of parts by the part's name; empty where there is no train/."""
    if not (root / "train").is_dir():
        return {}
    found = {"train": root / "train"}
    for name in ("val", "valid", "validation", "test"):
        if (root / name).is_dir():
            # A dataset that has no validation set is validated on its test set.
            part = "val" if name != "test" or "val" not in found else "test"
            found.setdefault(part, root / name)
    return found


def _class_names(top: Path) -> List[str]:
    """Names of class folders, sorted, so that labels do not depend on the file system's order."""
    return sorted(entry.name for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images_below(folder: Path) -> List[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if is_picture(path) and path.is_file())


def _picture(root: Path, name: Any, file: Path) -> Path:
    text = str(name or "")
    candidates = [root / "images" / text, root / text]
    found = next((path for path in candidates if text and path.is_file()), None)
    if found is None or ".." in Path(text).parts or Path(text).is_absolute():
        raise DatasetError(f"{file} names the picture {text!r}, which is not in {root / 'images'}")
    return found


def _load(file: Path) -> Dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} is not readable: {error}") from error
    if not isinstance(document, dict):
        raise DatasetError(f"{file} is not a JSON object with images and annotations")
    return document
