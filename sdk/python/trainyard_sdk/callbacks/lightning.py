"""Callback for PyTorch Lightning: ``Trainer(callbacks=[TrainyardCallback()])``. Works with `lightning` and with
`pytorch_lightning`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Optional

from ..trainer import TrainerSDK
from .reporter import Reporter, absolute, number_of

if TYPE_CHECKING:
    _Callback = object
else:

    def _base() -> type:
        for name in ("lightning.pytorch.callbacks", "pytorch_lightning.callbacks"):
            try:
                return importlib.import_module(name).Callback
            except ImportError:
                continue
        raise ImportError("trainyard_sdk.callbacks.lightning needs lightning or pytorch-lightning")

    _Callback = _base()


class TrainyardCallback(_Callback):
    """Reports each epoch with what was logged, checkpoints of `ModelCheckpoint`, and the end.

    Args:
        sdk: what sends; made from the environment when None.
        log_every_n_steps: also write the training loss into the job's log every so many steps; None does not.
    """

    def __init__(self, sdk: Optional[TrainerSDK] = None, log_every_n_steps: Optional[int] = None) -> None:
        super().__init__()
        self._reporter = Reporter(sdk)
        self._every = log_every_n_steps
        self._epochs = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Only the first process of several reports."""
        self._reporter.active = bool(trainer.is_global_zero)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Training starts."""
        self._reporter.started(_total(trainer))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A step is done."""
        step = int(trainer.global_step)
        if self._every and step and step % self._every == 0:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self._reporter.log(f"step {step} loss {number_of(loss)}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """An epoch is over, its validation included."""
        self._epochs = int(trainer.current_epoch) + 1
        values = {key: value for key, value in trainer.callback_metrics.items() if not str(key).endswith("_step")}
        if trainer.optimizers:
            values["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        self._note_checkpoints(trainer)
        self._reporter.epoch(self._epochs, _total(trainer), values, int(trainer.global_step))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training ended well; Lightning calls this after a failure too, and then its state says so."""
        self._note_checkpoints(trainer)
        if not getattr(trainer, "interrupted", False):
            self._reporter.completed(self._epochs)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Training failed."""
        self._reporter.failed(exception)

    def _note_checkpoints(self, trainer: Any) -> None:
        saver = getattr(trainer, "checkpoint_callback", None)
        best = absolute(getattr(saver, "best_model_path", None))
        last = absolute(getattr(saver, "last_model_path", None)) or best
        self._reporter.best_checkpoint = best or self._reporter.best_checkpoint
        self._reporter.last_checkpoint = last or self._reporter.last_checkpoint


def _total(trainer: Any) -> int:
    """Planned epochs; a run that is bounded by steps has as many as it has come to."""
    planned = trainer.max_epochs
    return int(planned) if planned is not None and planned > 0 else int(trainer.current_epoch) + 1
