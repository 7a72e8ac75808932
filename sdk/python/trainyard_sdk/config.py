"""Owns how a trainer reads its job: the environment variables and the CONFIG document, checked, with defaults.

It never touches the network or the dataset's files. Callers: trainers.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, TypeVar

from .errors import ConfigError, DatasetError

T = TypeVar("T")

TASKS: Dict[str, str] = {
    "classification": "classification",
    "image_classification": "classification",
    "classify": "classification",
    "detection": "detection",
    "object_detection": "detection",
    "detect": "detection",
    "segmentation": "segmentation",
    "instance_segmentation": "segmentation",
    "segment": "segmentation",
    "pose": "pose",
    "pose_estimation": "pose",
}
"""Every accepted name of a task and the short name it stands for."""

# What CONFIG holds beside the advanced settings.
_BASE_KEYS = frozenset(
    "epochs batch batch_size imgsz device learning_rate primary_metric primary_metric_mode split_config "
    "advanced_config model_name task_type framework dataset_format num_classes".split()
)


def normalize_task(name: str) -> str:
    """Return the short name of a task (`detection`, `classification`, `segmentation`, `pose`).

    Raises:
        ConfigError: the name is not one of the long or short names.
    """
    task = TASKS.get(name.strip().lower())
    if task is None:
        raise ConfigError(f"TASK_TYPE is {name!r}, which is not a known task; use one of {', '.join(sorted(TASKS))}")
    return task


@dataclass(frozen=True)
class TrainerConfig:
    """The settings of one job, read from the environment.

    Attributes:
        job_id: the job's number; None when the trainer is run by hand.
        epochs: passes over the training set, at least 1.
        batch_size: samples a step, at least 1.
        learning_rate: initial learning rate, above 0 and below 1; None when the job names none.
        imgsz: side of a square input in pixels; None when the job names none.
        device: as given (`cpu`, `cuda:0`, `0,1`, …); empty means the trainer chooses.
        task_type: short name of the task; empty when not given.
        config: the whole CONFIG document.
        local_dataset_path: where the dataset's files are; None when not given.
        checkpoint_dir: absolute folder for checkpoints, not made yet.
    """

    job_id: Optional[int]
    callback_url: str
    model_name: str
    task_type: str
    framework: str
    dataset_id: str
    dataset_s3_uri: str
    snapshot_id: str
    dataset_version_hash: str
    epochs: int
    batch_size: int
    learning_rate: Optional[float]
    imgsz: Optional[int]
    device: str
    local_dataset_path: Optional[Path]
    checkpoint_dir: Path
    config: Dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_env(
        cls,
        environ: Optional[Mapping[str, str]] = None,
        default_epochs: int = 50,
        default_batch_size: int = 32,
        default_task: str = "",
    ) -> "TrainerConfig":
        """Read and check the settings; a variable wins over the key of the same meaning in CONFIG.

        Args:
            environ: what to read, `os.environ` when None.
            default_epochs, default_batch_size, default_task: used where neither a variable nor CONFIG says anything.

        Raises:
            ConfigError: a value is unreadable or out of range; the text names the variable and what it accepts.
        """
        env = os.environ if environ is None else environ
        document = _document(env)
        task = _text(env, "TASK_TYPE", default_task)
        dataset = _text(env, "LOCAL_DATASET_PATH")
        read = _Reader(env, document)
        return cls(
            job_id=read("JOB_ID", (), int, "a whole number", None),
            callback_url=_text(env, "CALLBACK_URL"),
            model_name=_text(env, "MODEL_NAME"),
            task_type=normalize_task(task) if task else "",
            framework=_text(env, "FRAMEWORK"),
            dataset_id=_text(env, "DATASET_ID"),
            dataset_s3_uri=_text(env, "DATASET_S3_URI"),
            snapshot_id=_text(env, "SNAPSHOT_ID"),
            dataset_version_hash=_text(env, "DATASET_VERSION_HASH"),
            epochs=read("EPOCHS", ("epochs",), _positive, "a whole number from 1 on", default_epochs),
            batch_size=read(
                "BATCH_SIZE", ("batch", "batch_size"), _positive, "a whole number from 1 on", default_batch_size
            ),
            learning_rate=read("LEARNING_RATE", ("learning_rate",), _rate, "a number above 0 and below 1", None),
            imgsz=read("IMGSZ", ("imgsz",), _positive, "a number of pixels from 1 on", None),
            device=read("DEVICE", ("device",), str, "a device name", ""),
            local_dataset_path=Path(dataset) if dataset else None,
            checkpoint_dir=Path(_text(env, "CHECKPOINT_DIR", "checkpoints")).absolute(),
            config=document,
        )

    @property
    def advanced(self) -> Dict[str, Any]:
        """The advanced settings as one tree: `advanced_config` laid over the keys flattened to CONFIG's top level.

        Dotted keys (`optimizer.momentum`) are unfolded. Keys with a null value are left out: they mean "not set".
        """
        tree: Dict[str, Any] = {}
        for key, value in self.config.items():
            if key not in _BASE_KEYS:
                _put(tree, key, value)
        for key, value in (self.config.get("advanced_config") or {}).items():
            _put(tree, key, value)
        return tree

    def option(self, key: str, kind: Callable[[Any], T], default: T) -> T:
        """Return the advanced setting `key` converted with `kind`, or `default` when it is not set.

        Raises:
            ConfigError: the value does not convert.
        """
        value = self.advanced.get(key)
        if value is None:
            return default
        try:
            return kind(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"CONFIG.{key} is {value!r}, which is not usable: {error}") from error

    def require_dataset(self) -> Path:
        """Return the absolute dataset path.

        Raises:
            DatasetError: LOCAL_DATASET_PATH is not set or does not exist.
        """
        if self.local_dataset_path is None:
            raise DatasetError("LOCAL_DATASET_PATH is not set; set it to the folder that holds the dataset")
        if not self.local_dataset_path.exists():
            raise DatasetError(
                f"LOCAL_DATASET_PATH points to {str(self.local_dataset_path)!r}, which does not exist on this machine; "
                "check that the dataset was fetched, or correct the path"
            )
        return self.local_dataset_path.absolute()


class _Reader:
    """Looks a setting up in the environment, then in CONFIG, and converts it."""

    def __init__(self, env: Mapping[str, str], document: Mapping[str, Any]) -> None:
        self._env = env
        self._document = document

    def __call__(self, name: str, keys: Any, kind: Callable[[Any], Any], accepts: str, default: Any) -> Any:
        source, value = name, self._env.get(name, "").strip() or None
        for key in keys:
            if value is None and self._document.get(key) is not None:
                source, value = f"CONFIG.{key}", self._document[key]
        if value is None:
            return default
        try:
            return kind(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{source} is {value!r}, but must be {accepts}") from error


def _document(env: Mapping[str, str]) -> Dict[str, Any]:
    """CONFIG as a dict; empty when the variable is missing or blank."""
    text = env.get("CONFIG", "").strip()
    if not text:
        return {}
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"CONFIG is not valid JSON ({error}); it must be a JSON object") from error
    if not isinstance(document, dict):
        raise ConfigError(f"CONFIG is a JSON {type(document).__name__}, but must be an object")
    advanced = document.get("advanced_config")
    if advanced is not None and not isinstance(advanced, dict):
        raise ConfigError(f"CONFIG.advanced_config is {advanced!r}, but must be an object or null")
    return document


def _text(env: Mapping[str, str], name: str, default: str = "") -> str:
    return env.get(name, "").strip() or default


def _positive(value: Any) -> int:
    """A whole number from 1 on; accepts `8`, `"8"` and `8.0`, but neither `true` nor `8.5`."""
    if isinstance(value, bool):
        raise ValueError("not a number")
    number = float(value)
    if not math.isfinite(number) or number != int(number) or number < 1:
        raise ValueError("out of range")
    return int(number)


def _rate(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("not a number")
    number = float(value)
    if not 0.0 < number < 1.0:
        raise ValueError("out of range")
    return number


def _put(tree: Dict[str, Any], key: str, value: Any) -> None:
    """Lay one setting into the tree; objects are merged key by key, so that a later one changes only what it names."""
    if value is None:
        return
    head, _, rest = key.partition(".")
    if rest:
        value, key = {rest: value}, head
    if isinstance(value, dict):
        branch = tree.get(key)
        merged: Dict[str, Any] = dict(branch) if isinstance(branch, dict) else {}
        for name, item in value.items():
            _put(merged, str(name), item)
        tree[key] = merged
    else:
        tree[key] = value
