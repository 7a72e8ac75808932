"""Owns what Ultralytics is given as its dataset: a description with absolute paths, written into the work folder.

It reads any of: a data.yaml, a folder with one, images/ and labels/, annotations_<task>.json beside images/, or a folder
of classes. It never writes into the dataset, which other jobs may be using.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import annotations_json
import yaml
from trainyard_sdk.errors import ConfigError, DatasetError

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dng", ".mpo"))
_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LAYOUTS = (
    "a data.yaml; a folder with data.yaml; images/{train,val} and labels/{train,val}; "
    "or images/ with annotations_<task>.json"
)


def resolve(root: Path, task: str, split: Mapping[str, Any], work: Path) -> str:
    """Return the absolute path that goes into `data=`: a yaml file, or for classification a folder.

    Args:
        root: the dataset's folder or its yaml file, existing.
        task: short name of the task.
        split: resolved split_config; used where the dataset does not say itself what is for validation.
        work: folder for what is written.

    Raises:
        DatasetError: the layout is none of the known ones, or something it names is missing.
    """
    work.mkdir(parents=True, exist_ok=True)
    if task == "classification":
        return _class_folders(root, split, work)
    if root.is_file() and root.suffix.lower() in (".yaml", ".yml"):
        return _from_yaml(root, split, work)
    if not root.is_dir():
        raise DatasetError(f"LOCAL_DATASET_PATH points to {str(root)!r}, which is no dataset; expected {_LAYOUTS}")
    described = next((root / name for name in _YAML_NAMES if (root / name).is_file()), None)
    if described is not None:
        return _from_yaml(described, split, work)
    document = annotations_json.find(root, task)
    if document is not None:
        return _finish(annotations_json.convert(root, document, task, split_of(split), work), split, work)
    if (root / "images").is_dir() and (root / "labels").is_dir():
        return _from_folders(root, split, work)
    raise DatasetError(f"{root} (from LOCAL_DATASET_PATH) has none of the known layouts; expected {_LAYOUTS}")


def split_of(split: Mapping[str, Any]) -> Tuple[float, int]:
    """Share of the training set and the seed; 0.8 and 42 where the split_config says nothing."""
    values: Any = split.get("ratio") or split.get("default_ratio") or [0.8, 0.2]
    if isinstance(values, dict):
        values = [values.get("train", 0.8)]
    try:
        share, seed = float(values[0]), int(split.get("seed", 42))
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ConfigError(f"CONFIG.split_config is {dict(split)!r}, but needs a ratio like [0.8, 0.2]") from error
    if not 0.0 < share < 1.0:
        raise ConfigError(f"CONFIG.split_config.ratio starts with {share}, but must be above 0 and below 1")
    return share, seed


def images_below(folder: Path) -> List[Path]:
    """Image files below a folder, sorted, so that a split does not depend on the file system's order."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def divide(items: Sequence[Any], share: float, seed: int) -> Tuple[List[Any], List[Any]]:
    """Split a list at random, the same way for the same seed; both parts get at least one item of two or more."""
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    cut = min(max(round(len(shuffled) * share), 1), max(len(shuffled) - 1, 1))
    return shuffled[:cut], shuffled[cut:]


def _from_yaml(file: Path, split: Mapping[str, Any], work: Path) -> str:
    """Read a data.yaml and make its paths absolute, starting from the folder it lies in."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} is not readable: {error}") from error
    if not isinstance(document, dict):
        raise DatasetError(f"{file} is not a mapping; it needs train, val and names")
    # Never fetched from within a job, and Ultralytics would run Python code found here.
    document.pop("download", None)
    if document.get("val") is None and document.get("validation") is not None:
        document["val"] = document.pop("validation")
    if not document.get("train"):
        raise DatasetError(f"{file} names no 'train' images; add a line such as `train: images/train`")
    if document.get("names") is None and document.get("nc") is None:
        raise DatasetError(f"{file} has neither 'names' nor 'nc'; add the class names")
    bases = _bases(file.parent.absolute(), document.get("path"))
    for part in ("train", "val", "test"):
        if document.get(part):
            document[part] = _located(document[part], bases, file, part)
    document["path"] = str(bases[0])
    return _finish(document, split, work)


def _bases(home: Path, named: Any) -> List[Path]:
    """Folders that entries may start from, best first: the yaml's own folder wins over a path of another machine."""
    bases = [home]
    if isinstance(named, str) and named:
        stated = Path(named).expanduser()
        if stated.is_absolute():
            bases.append(stated)
        else:
            bases.insert(0, home / stated)
    return [base.resolve() for base in bases]


def _located(entry: Any, bases: Sequence[Path], file: Path, part: str) -> Any:
    """Absolute form of a path or of a list of them."""
    if isinstance(entry, list):
        return [_located(item, bases, file, part) for item in entry]
    text = str(entry)
    candidates = [base / text for base in bases]
    if text.startswith("../"):
        # Some exports write paths from a folder that was later merged with its parent.
        candidates += [base / text[3:] for base in bases]
    for candidate in candidates:
        if candidate.exists():
            return str(candidate.resolve())
    raise DatasetError(f"{file} says {part}: {text}, which does not exist; looked for {candidates[0]}")


def _from_folders(root: Path, split: Mapping[str, Any], work: Path) -> str:
    """images/ and labels/ without a description: names come from classes.txt, or are made from the labels."""
    images = root / "images"
    document: Dict[str, Any] = {"path": str(root.resolve()), "names": _names(root)}
    if (images / "train").is_dir():
        document["train"] = str((images / "train").resolve())
        val = next((images / name for name in ("val", "valid", "validation", "test") if (images / name).is_dir()), None)
        if val is not None:
            document["val"] = str(val.resolve())
    else:
        document["train"] = str(images.resolve())
    return _finish(document, split, work)


def _names(root: Path) -> Dict[int, str]:
    listed = root / "classes.txt"
    if listed.is_file():
        return dict(enumerate(line.strip() for line in listed.read_text().splitlines() if line.strip()))
    highest = -1
    for file in (root / "labels").rglob("*.txt"):
        for line in file.read_text().splitlines():
            try:
                highest = max(highest, int(float(line.split()[0])))
            except (IndexError, ValueError):
                continue
    if highest < 0:
        raise DatasetError(f"{root / 'labels'} (from LOCAL_DATASET_PATH) holds no labelled object")
    return {number: f"class_{number}" for number in range(highest + 1)}


def _finish(document: Dict[str, Any], split: Mapping[str, Any], work: Path) -> str:
    """Split where the dataset does not, check that there are images, and write the description."""
    train = _files(document["train"])
    if not train:
        raise DatasetError(f"the training set {document['train']} holds no images")
    if not document.get("val"):
        if len(train) < 2:
            raise DatasetError("the dataset has one image and no validation set; at least 2 images are needed")
        for part, files in zip(("train", "val"), divide(train, *split_of(split))):
            listing = work / f"{part}.txt"
            listing.write_text("".join(f"{file}\n" for file in files))
            document[part] = str(listing.absolute())
    elif not _files(document["val"]):
        raise DatasetError(f"the validation set {document['val']} holds no images")
    target = work / "data.yaml"
    target.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return str(target.absolute())


def _files(entry: Any) -> List[str]:
    """Image files of a folder, a listing, or several of them."""
    if isinstance(entry, list):
        return [file for item in entry for file in _files(item)]
    path = Path(entry)
    if path.is_dir():
        return [str(file) for file in images_below(path)]
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    return [str(path.parent / line[2:]) if line.startswith("./") else line for line in lines]


def _class_folders(root: Path, split: Mapping[str, Any], work: Path) -> str:
    """A folder with train/ and val/; without them, a tree of links to the images, split class by class."""
    if not root.is_dir():
        raise DatasetError(f"LOCAL_DATASET_PATH points to {str(root)!r}, which is no folder; classification needs one")
    if (root / "train").is_dir() and any((root / name).is_dir() for name in ("val", "validation", "valid", "test")):
        _class_names(root / "train")
        return str(root.resolve())
    top = root / "train" if (root / "train").is_dir() else root
    share, seed = split_of(split)
    for name in _class_names(top):
        files = images_below(top / name)
        if len(files) < 2:
            raise DatasetError(f"class {name!r} in {top} has {len(files)} images; a split needs at least 2 of each class")
        for part, members in zip(("train", "val"), divide(files, share, seed)):
            _link(members, top / name, work / "classes" / part / name)
    return str((work / "classes").absolute())


def _class_names(top: Path) -> List[str]:
    names = sorted(entry.name for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise DatasetError(
            f"{top} (from LOCAL_DATASET_PATH) holds {len(names)} class folders, but at least 2 are needed; "
            "expected train/<class>/* and val/<class>/*, or <class>/*"
        )
    return names


def _link(files: Sequence[Path], top: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = folder / "_".join(file.relative_to(top).parts)
        if not target.is_symlink():
            os.symlink(file.resolve(), target)
