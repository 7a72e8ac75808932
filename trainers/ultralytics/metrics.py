"""Owns the names under which an epoch's figures are reported. Pure: needs no Ultralytics.

Ultralytics names them `metrics/mAP50(B)`, `val/box_loss` and so on; the platform's charts know short names.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Optional

_NAME = re.compile(r"^metrics/(?P<name>[^(]+)(\((?P<of>[BMP])\))?$")
_PREFIX = {"B": "", None: "", "M": "mask_", "P": "pose_"}


def epoch_metrics(
    losses: Mapping[str, Any], validation: Mapping[str, Any], fitness: Optional[Any], task: str
) -> Dict[str, Optional[float]]:
    """Return the figures of one epoch.

    Detection has exactly `loss, box_loss, cls_loss, dfl_loss, mAP50, mAP50-95, precision, recall, fitness`.
    Segmentation and pose add their losses and the same four figures as `mask_*` and `pose_*`. Classification has
    `loss, accuracy_top1, accuracy_top5, accuracy, fitness`.

    Args:
        losses: mean training losses of the epoch by name; `loss` is their sum.
        validation: the figures of the validation pass as Ultralytics names them.
        fitness: the figure by which the best epoch is chosen.
        task: short name of the task.
    """
    parts = {key.rsplit("/", 1)[-1]: _number(value) for key, value in losses.items()}
    known = [value for value in parts.values() if value is not None]
    figures: Dict[str, Optional[float]] = {"loss": round(sum(known), 6) if known else None}
    if task != "classification":
        figures.update(parts)
    for key, value in validation.items():
        match = _NAME.match(key)
        if match:
            figures[_PREFIX[match["of"]] + match["name"]] = _number(value)
    if task == "classification":
        figures["accuracy"] = figures.get("accuracy_top1")
    figures["fitness"] = _number(fitness)
    return figures


def validation_losses(validation: Mapping[str, Any]) -> Dict[str, Optional[float]]:
    """The losses of the validation pass: `val/box_loss` becomes `box_loss`."""
    return {key[4:]: _number(value) for key, value in validation.items() if key.startswith("val/")}


def primary_metric(task: str) -> str:
    """The figure that the platform compares jobs of a task by."""
    return "accuracy" if task == "classification" else "mAP50"


def _number(value: Any) -> Optional[float]:
    """A plain float rounded to six places; None for what is no number. Tensors and arrays of one element count."""
    try:
        return round(float(value), 6)
    except (TypeError, ValueError):
        return None
