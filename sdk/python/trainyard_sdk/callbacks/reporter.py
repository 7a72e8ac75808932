"""Owns what the callbacks of all frameworks share: numbers out of whatever a framework calls a metric, and one end.

A run is reported by its first process alone; what cannot be delivered never ends a training. Callers: the callbacks.
"""

from __future__ import annotations

import math
import os
import sys
from typing import Any, Callable, Dict, Mapping, Optional, Union

from ..errors import CallbackError
from ..trainer import TrainerSDK

PATIENCE = 600.0
"""Seconds for which the report of the end goes on trying."""


class Reporter:
    """Reports one run.

    Args:
        sdk: what sends; made from the environment at the first report when None, so that the object can be pickled.
        active: whether this process reports; by default the one whose RANK and LOCAL_RANK are 0 or not set.
    """

    def __init__(self, sdk: Optional[TrainerSDK] = None, active: Optional[bool] = None) -> None:
        self._sdk = sdk
        self.active = _is_first() if active is None else active
        self.metrics: Dict[str, float] = {}
        self.best_checkpoint: Optional[str] = None
        self.last_checkpoint: Optional[str] = None
        self._started = False

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_sdk": None}

    @property
    def sdk(self) -> TrainerSDK:
        """What sends."""
        if self._sdk is None:
            self._sdk = TrainerSDK(keep_undelivered=True, patience=PATIENCE)
        return self._sdk

    def started(self, total_epochs: int) -> None:
        """Say once that training starts."""
        if self.active and not self._started:
            self._started = True
            self._safely(lambda: self.sdk.report_started(max(total_epochs, 1)))

    def epoch(self, number: int, total: int, values: Mapping[str, Any], step: Optional[int] = None) -> None:
        """Report a finished epoch; checkpoints are those that were noted last."""
        if not self.active:
            return
        found = numbers(values)
        self.metrics.update(found)
        extra: Dict[str, Any] = {} if step is None else {"step": step}
        self._safely(
            lambda: self.sdk.report_progress(
                number,
                max(total, number, 1),
                found,
                checkpoint_path=self.last_checkpoint,
                best_checkpoint_path=self.best_checkpoint,
                **extra,
            )
        )

    def log(self, message: str, level: str = "INFO") -> None:
        """Add a line to the job's log."""
        if self.active:
            self.sdk.log(message, level)

    def completed(self, epochs: int) -> None:
        """Report that training ended well."""
        if self.active and not self.sdk.ended:
            self._safely(
                lambda: self.sdk.report_completed(
                    final_metrics=self.metrics,
                    best_checkpoint_path=self.best_checkpoint or self.last_checkpoint,
                    last_checkpoint_path=self.last_checkpoint,
                    total_epochs_completed=epochs,
                )
            )

    def failed(self, error: BaseException) -> None:
        """Report that training failed."""
        if self.active and not self.sdk.ended and isinstance(error, Exception):
            self._safely(lambda: self.sdk.report_failed(error))

    def _safely(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except CallbackError as error:
            print(f"trainyard: not reported: {error}", file=sys.stderr, flush=True)


def numbers(values: Mapping[str, Any]) -> Dict[str, float]:
    """What is a finite number, under names without the parts that frameworks add (`eval_`, `_epoch`).

    A training loss is `loss`, a validation loss `val_loss`. Where two metrics would have one name, that of the
    validation has it, and the other keeps its own.
    """
    found: Dict[str, float] = {}
    for key, value in values.items():
        number = number_of(value)
        if number is not None:
            found[_plain(str(key))] = number
    made: Dict[str, float] = {}
    for name in sorted(found, key=lambda name: (not name.startswith("val_"), name in _CHARTS)):
        choices = (_CHARTS.get(name, name), name, f"train_{name}")
        made[next((choice for choice in choices if choice not in made), name)] = found[name]
    return made


_CHARTS = {"train_loss": "loss", "val_accuracy": "accuracy", "val_acc": "accuracy", "acc": "accuracy"}
"""The names under which the platform's charts know a metric."""


def _plain(key: str) -> str:
    """A metric's own name, without what frameworks add."""
    name = key.replace("/", "_")
    name = name[: -len("_epoch")] if name.endswith("_epoch") else name
    return "val_" + name[len("eval_") :] if name.startswith("eval_") else name


def number_of(value: Any) -> Optional[float]:
    """A finite number, also of a tensor with one element; None for everything else."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return None
    item: Union[Any, Callable[[], Any]] = getattr(value, "item", None)
    try:
        number = float(item() if callable(item) else value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def absolute(path: Any) -> Optional[str]:
    """A path that the platform can show; None for none."""
    return os.path.abspath(str(path)) if path else None


def _is_first() -> bool:
    return all(os.environ.get(name, "0") in ("", "0", "-1") for name in ("RANK", "LOCAL_RANK"))
