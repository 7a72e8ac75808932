"""Callback for the Trainer of Hugging Face transformers: ``Trainer(..., callbacks=[TrainyardCallback()])``."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional

from ..trainer import TrainerSDK
from .reporter import Reporter, absolute, number_of

if TYPE_CHECKING:
    _Callback = object
else:
    try:
        from transformers import TrainerCallback as _Callback
    except ImportError as error:
        raise ImportError("trainyard_sdk.callbacks.huggingface needs transformers") from error


class TrainyardCallback(_Callback):
    """Reports each epoch with the newest of what was logged and evaluated, checkpoints, and the end.

    The Trainer tells its callbacks nothing of an exception: put ``trainer.train()`` into
    ``with TrainerSDK() as sdk:`` and pass that `sdk`, then a failure is reported as well.

    Args:
        sdk: what sends; made from the environment when None.
    """

    def __init__(self, sdk: Optional[TrainerSDK] = None) -> None:
        self._reporter = Reporter(sdk)
        self._values: Dict[str, Any] = {}
        self._epoch = 0
        self._pending = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training starts."""
        self._reporter.active = bool(state.is_world_process_zero)
        self._reporter.started(_total(args, state))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Optional[Mapping[str, Any]] = None, **kwargs: Any
    ) -> None:
        """Figures of the last steps; those of the whole run at its end are no epoch's."""
        if logs and "train_runtime" not in logs:
            self._values.update({key: value for key, value in logs.items() if key != "epoch"})
            if "loss" in logs:
                rate = logs.get("learning_rate")
                self._reporter.log(f"step {state.global_step} loss {number_of(logs['loss'])} learning_rate {rate}")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The steps of an epoch are done; evaluation and saving follow, so the report waits for them."""
        self._flush(args, state)
        self._epoch = max(int(round(state.epoch or 0)), self._epoch + 1)
        self._pending = True

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Optional[Mapping[str, Any]] = None, **kwargs: Any
    ) -> None:
        """Figures of an evaluation."""
        self._values.update({key: value for key, value in (metrics or {}).items() if key != "epoch"})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint is there."""
        self._reporter.last_checkpoint = absolute(os.path.join(args.output_dir, f"checkpoint-{state.global_step}"))
        self._note_best(state)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The next epoch begins, so the one before is complete."""
        self._flush(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training ended well."""
        self._note_best(state)
        self._flush(args, state)
        self._reporter.completed(self._epoch)

    def _note_best(self, state: Any) -> None:
        self._reporter.best_checkpoint = absolute(state.best_model_checkpoint) or self._reporter.best_checkpoint

    def _flush(self, args: Any, state: Any) -> None:
        if self._pending:
            self._pending = False
            self._reporter.epoch(self._epoch, _total(args, state), self._values, int(state.global_step))


def _total(args: Any, state: Any) -> int:
    planned = state.num_train_epochs or args.num_train_epochs
    return max(int(math.ceil(float(planned))), 1)
