"""Owns what Ultralytics is given as its dataset: a description with absolute paths, written into the work folder.

It reads any of: a data.yaml, a folder with one, images/ and labels/, annotations_<task>.json beside images/, or a
folder of classes. It never writes into the dataset, which other jobs may be using.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import annotations_json
import yaml
from trainyard_sdk import datasets, kinds
from trainyard_sdk.errors import DatasetError
from trainyard_sdk.splits import Split, spellings

LOGGER = logging.getLogger("trainer")
_NOT_READ = frozenset((".gif",))
"""Kinds that Ultralytics passes over without a word."""
_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LAYOUTS = (
    "a data.yaml; a folder with data.yaml; images/{train,val} and labels/{train,val}; "
    "or images/ with annotations_<task>.json"
)


def resolve(root: Path, task: str, split: Split, work: Path, tell: Callable[[str], None] = LOGGER.warning) -> str:
    """Return the absolute path that goes into `data=`: a yaml file, or for classification a folder.

    Args:
        root: the dataset's folder or its yaml file, existing.
        task: short name of the task.
        split: the job's split; see `splits` for what wins.
        work: folder for what is written.
        tell: hears, in a sentence each, what is left out of the dataset.

    Raises:
        DatasetError: the layout is none of the known ones, or something it names is missing.
    """
    work.mkdir(parents=True, exist_ok=True)
    if task == "classification":
        return _class_folders(root, split, work, tell)
    if root.is_file() and root.suffix.lower() in (".yaml", ".yml"):
        return _checked(_from_yaml(root, split, work, tell), task, tell)
    if not root.is_dir():
        raise DatasetError(f"LOCAL_DATASET_PATH points to {str(root)!r}, which is no dataset; expected {_LAYOUTS}")
    described = next((root / name for name in _YAML_NAMES if (root / name).is_file()), None)
    if described is not None:
        return _checked(_from_yaml(described, split, work, tell), task, tell)
    document = annotations_json.find(root, task)
    if document is not None:
        made = annotations_json.convert(root, document, task, split, work, _reads, tell)
        # Image ids are spent here: a file that happens to be called like an id must not be taken for that image.
        return _finish(made, Split(split.share, split.seed), work, tell)
    if (root / "images").is_dir() and (root / "labels").is_dir():
        return _checked(_from_folders(root, split, work, tell), task, tell)
    raise DatasetError(f"{root} (from LOCAL_DATASET_PATH) has none of the known layouts; expected {_LAYOUTS}")


def images_below(folder: Path) -> List[Path]:
    """Image files below a folder, sorted, so that a split does not depend on the file system's order."""
    return sorted(p for p in folder.rglob("*") if kinds.is_picture(p) and p.is_file())


def _reads(path: Path) -> bool:
    return path.suffix.lower() not in _NOT_READ and kinds.pillow_reads(path)


def _checked(description: str, task: str, tell: Callable[[str], None]) -> str:
    """The description again, when its labels have outlines where outlines are wanted."""
    if task != "segmentation":
        return description
    document = yaml.safe_load(Path(description).read_text(encoding="utf-8"))
    boxed, outlined = 0, 0
    for part in ("train", "val"):
        for image in _files(document[part]):
            columns = _columns(Path(image))
            boxed += any(count == 5 for count in columns)
            outlined += any(count > 6 for count in columns)
    if boxed and not outlined:
        raise DatasetError(
            f"the labels in {document['path']} hold boxes, but segmentation needs outlines (class x1 y1 x2 y2 x3 y3 …); "
            "add them, or choose TASK_TYPE detection"
        )
    if boxed:
        tell(
            f"the labels of {boxed} images hold boxes, of which Ultralytics makes nothing in a segmentation; it may "
            "leave out those images, or all outlines: give every object an outline"
        )
    return description


def _columns(image: Path) -> List[int]:
    """How many values each line of an image's label has, where Ultralytics looks for it."""
    head, folder, rest = str(image).rpartition("/images/")
    label = Path(f"{head}/labels/{rest}" if folder else str(image)).with_suffix(".txt")
    if not label.is_file():
        return []
    return [len(line.split()) for line in label.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _from_yaml(file: Path, split: Split, work: Path, tell: Callable[[str], None]) -> str:
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
    return _finish(document, split, work, tell)


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


def _from_folders(root: Path, split: Split, work: Path, tell: Callable[[str], None]) -> str:
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
    return _finish(document, split, work, tell)


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


def _finish(document: Dict[str, Any], split: Split, work: Path, tell: Callable[[str], None]) -> str:
    """Split where the dataset does not, check that there are images, and write the description."""
    parts = {part: _files(document[part]) for part in ("train", "val", "test") if document.get(part)}
    unread = {Path(file) for files in parts.values() for file in files if not _reads(Path(file))}
    if unread:
        tell(kinds.told(sorted(unread)))
        parts = {part: [file for file in files if Path(file) not in unread] for part, files in parts.items()}
    if not parts["train"]:
        raise DatasetError(f"the training set {document['train']} holds no images")
    if "val" not in parts or split.explicit or unread:
        parts = _applied(parts, split)
        for part, files in parts.items():
            listing = work / f"{part}.txt"
            listing.write_text("".join(f"{file}\n" for file in files))
            document[part] = str(listing.absolute())
    for part in ("train", "val"):
        if not parts.get(part):
            raise DatasetError(
                f"no images are left for {part!r} in the dataset {document['path']}; at least 1 is needed"
            )
    target = work / "data.yaml"
    target.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return str(target.absolute())


def _applied(parts: Dict[str, List[str]], split: Split) -> Dict[str, List[str]]:
    """Parts as the split says; other images stay where they are, or are divided when there is no validation set."""
    rest: List[str] = []
    made: Dict[str, List[str]] = {"train": [], "val": []}
    for part, files in parts.items():
        for file in files:
            if split.is_excluded(*spellings(file)):
                continue
            named = split.part_of(*spellings(file))
            if named is None and "val" not in parts and part == "train":
                rest.append(file)
            else:
                made.setdefault(named or part, []).append(file)
    if rest and made["val"]:
        made["train"] += rest  # the validation images are named one by one, so the others are for training
    elif rest:
        for part, files in zip(("train", "val"), split.divide(rest)):
            made[part] += files
    return {part: sorted(files) for part, files in made.items()}


def _files(entry: Any) -> List[str]:
    """Image files of a folder, a listing, or several of them."""
    if isinstance(entry, list):
        return [file for item in entry for file in _files(item)]
    path = Path(entry)
    if path.is_dir():
        return [str(file) for file in images_below(path)]
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    return [str(path.parent / line[2:]) if line.startswith("./") else line for line in lines]


def _class_folders(root: Path, split: Split, work: Path, tell: Callable[[str], None]) -> str:
    """A folder with train/ and val/; else, or when the split names images, a tree of links, split class by class."""
    if not root.is_dir():
        raise DatasetError(f"LOCAL_DATASET_PATH points to {str(root)!r}, which is no folder; classification needs one")
    if not (root / "train").is_dir() and annotations_json.find(root, "classification") is not None:
        return _described_classes(root, split, work, tell)
    val = next((root / name for name in ("val", "validation", "valid", "test") if (root / name).is_dir()), None)
    complete = (root / "train").is_dir() and val is not None
    top = root / "train" if (root / "train").is_dir() else root
    names = _class_names(top)
    folders = {"train": top, **({"val": val} if complete and val is not None else {})}
    unread = {file for folder in folders.values() for file in images_below(folder) if not _reads(file)}
    if unread:
        tell(kinds.told(sorted(unread)))
    if complete and not split.explicit:
        return str(root.resolve())  # Ultralytics passes over what it cannot read
    for name in names:
        parts = {
            part: [str(file) for file in images_below(folder / name) if file not in unread]
            for part, folder in folders.items()
        }
        for part, files in _applied(parts, split).items():
            if not files:
                raise DatasetError(f"class {name!r} in {top} has no images for {part!r}; each class needs some of both")
            _link([Path(file) for file in files], root, work / "classes" / part / name)
    return str((work / "classes").absolute())


def _described_classes(root: Path, split: Split, work: Path, tell: Callable[[str], None]) -> str:
    """A tree of links for a document that says the class of each image."""
    found = datasets.read_classification(root, split, _reads)
    if found.left_out:
        tell(kinds.told(found.left_out))
    for words in found.notes:
        tell(words)
    names = [name.replace("/", "_") for name in found.classes]
    for part in ("train", "val"):
        for name in names:  # in each part, so that its number is the same
            (work / "classes" / part / name).mkdir(parents=True, exist_ok=True)
    for sample in found.samples:
        _link([sample.path], root, work / "classes" / sample.part / names[sample.label])
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
