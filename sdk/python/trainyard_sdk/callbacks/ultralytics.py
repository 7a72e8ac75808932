"""Callbacks for Ultralytics: `attach(model)` before `model.train(...)`. Needs Ultralytics only when it runs."""

from __future__ import annotations

from typing import Any, Dict, Optional

from ..trainer import TrainerSDK
from .reporter import Reporter, absolute, number_of


def attach(model: Any, sdk: Optional[TrainerSDK] = None) -> "Callbacks":
    """Register with a model of Ultralytics and return what was registered.

    An exception inside `model.train` is not seen by Ultralytics' callbacks: put the call into
    ``with TrainerSDK() as sdk:`` and pass that `sdk`, then a failure is reported as well.
    """
    made = Callbacks(sdk)
    for event in ("on_train_start", "on_train_epoch_end", "on_fit_epoch_end", "on_train_end"):
        model.add_callback(event, getattr(made, event))
    return made


class Callbacks:
    """What Ultralytics calls."""

    def __init__(self, sdk: Optional[TrainerSDK] = None) -> None:
        self.reporter = Reporter(sdk)
        self._trained = False
        self._epoch = 0

    def on_train_start(self, trainer: Any) -> None:
        """Training starts."""
        self.reporter.started(int(trainer.epochs))

    def on_train_epoch_end(self, _trainer: Any) -> None:
        """The training pass of an epoch is over; its validation follows."""
        self._trained = True

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """An epoch is over. The pass over the best checkpoint at the very end is no epoch and is left out."""
        if not self._trained:
            return
        self._trained = False
        self._epoch = int(trainer.epoch) + 1
        self._note_checkpoints(trainer)
        self.reporter.epoch(self._epoch, int(trainer.epochs), _figures(trainer))

    def on_train_end(self, trainer: Any) -> None:
        """Training ended well."""
        self._note_checkpoints(trainer)
        self.reporter.completed(self._epoch)

    def _note_checkpoints(self, trainer: Any) -> None:
        for name in ("best", "last"):
            path = getattr(trainer, name, None)
            if path is not None and path.exists():
                setattr(self.reporter, f"{name}_checkpoint", absolute(path))


def _figures(trainer: Any) -> Dict[str, Any]:
    """Losses by their short names, `loss` as their sum, and the validation's figures without `metrics/` and `(B)`."""
    losses = trainer.tloss
    if not isinstance(losses, dict):
        losses = trainer.label_loss_items(losses, prefix="train")
    made = {str(key).rsplit("/", 1)[-1]: number_of(value) for key, value in losses.items()}
    known = [value for value in made.values() if value is not None]
    made["loss"] = sum(known) if known else None
    for key, value in (trainer.metrics or {}).items():
        name = str(key)
        if name.startswith("metrics/"):
            part = name[len("metrics/") :]
            prefix = {"(M)": "mask_", "(P)": "pose_"}.get(part[-3:], "")
            made[prefix + part.split("(")[0]] = number_of(value)
    if "accuracy_top1" in made:
        made["accuracy"] = made["accuracy_top1"]
    made["fitness"] = number_of(trainer.fitness)
    made["learning_rate"] = number_of(trainer.optimizer.param_groups[0]["lr"])
    return made
