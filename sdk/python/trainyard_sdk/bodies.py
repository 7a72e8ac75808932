"""Owns what the bodies of callbacks are made of: metrics, fields that have a value, and times. Callers: `trainer`."""

from __future__ import annotations

import datetime
from typing import Any, Dict, Mapping, Optional

Metrics = Mapping[str, Any]


def metrics_body(metrics: Optional[Metrics], learning_rate: Optional[float] = None) -> Optional[Dict[str, Any]]:
    """The three named metrics and everything once more as `extra_metrics`; None stays None."""
    if metrics is None:
        return None
    rate = metrics.get("learning_rate", metrics.get("lr")) if learning_rate is None else learning_rate
    return {
        "loss": metrics.get("loss"),
        "accuracy": metrics.get("accuracy"),
        "learning_rate": rate,
        "extra_metrics": dict(metrics),
    }


def given(fields: Mapping[str, Any]) -> Dict[str, Any]:
    """Only the fields that have a value."""
    return {key: value for key, value in fields.items() if value is not None}


def now() -> str:
    """Naive UTC with microseconds, the platform's way to write a time."""
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None).isoformat(timespec="microseconds")
