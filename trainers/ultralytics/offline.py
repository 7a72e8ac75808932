"""Owns that Ultralytics keeps to itself: no telemetry, no downloads, no installs, no writing outside the work folder.

`prepare` must run before Ultralytics is imported, `seal` after it, and once more in each process of a run on several
GPUs. Weights that may be fetched are fetched by `weights`, with a time limit that Ultralytics does not have.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger("trainer")

# Integrations that Ultralytics would start by itself as soon as their packages are installed.
_INTEGRATIONS = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")


def prepare(work: Path) -> None:
    """Set the environment that Ultralytics, matplotlib and OpenMP read when they are imported."""
    os.environ.update(
        YOLO_OFFLINE="true",
        YOLO_AUTOINSTALL="false",
        YOLO_CONFIG_DIR=str(work / ".config"),
        MPLCONFIGDIR=str(work / ".config" / "matplotlib"),
        WANDB_MODE="disabled",
    )
    os.environ.pop("ULTRALYTICS_API_KEY", None)
    # Threads that wait by spinning take the cores from the other jobs of the node, and then from each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    (work / ".config" / "matplotlib").mkdir(parents=True, exist_ok=True)


def write_settings(work: Path) -> None:
    """Store Ultralytics' own settings file: nothing synchronised, no integration, all folders inside `work`."""
    from ultralytics import settings

    known = {name: False for name in (*_INTEGRATIONS, "sync", "vscode_msg", "openvino_msg") if name in settings}
    folders = {f"{name}_dir": str(work / name) for name in ("datasets", "weights", "runs")}
    settings.update({**known, **folders})


def seal() -> None:
    """Close the ways out that no setting closes. Running it again changes nothing."""
    import requests
    import ultralytics.data.dataset as dataset
    import ultralytics.data.utils as data_utils
    import ultralytics.engine.trainer as engine

    requests.sessions.Session.request = _refuse
    # A font for plots would be downloaded even when nothing is plotted.
    data_utils.check_font = _nothing
    # The label cache is written beside the labels, in a folder that other jobs share.
    dataset.save_dataset_cache_file = _keep_in_memory
    if not getattr(engine.check_amp, "guarded", False):
        engine.check_amp = _guarded(engine.check_amp)


def _refuse(_session: Any, method: str, url: str, *_args: Any, **_kwargs: Any) -> Any:
    import requests

    raise requests.exceptions.ConnectionError(f"downloads are off inside a training job ({method} {url})")


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


def _keep_in_memory(_prefix: str, _path: Any, cache: Any, version: str) -> None:
    """Stands in for writing a label cache, which also marks the cache with its version."""
    cache["version"] = version


def _guarded(check: Any) -> Any:
    """The mixed precision check wants weights of another model; without them it must pass, not end the job."""

    def check_amp(model: Any) -> bool:
        try:
            return bool(check(model))
        except Exception as error:
            LOGGER.warning("mixed precision is used unchecked: %s", error)
            return True

    check_amp.guarded = True  # type: ignore[attr-defined]
    return check_amp
