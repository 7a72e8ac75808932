"""Owns what happens during training: reports after each epoch, checkpoints, and the hooks that Ultralytics lacks.

The callbacks run in the process that trains. On several GPUs that is not the process that started the job, so a
`Reporter` can be pickled, and it leaves what the first process needs at the end in a small state file.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, Dict, Optional

import metrics as figures
import offline
from settings import Hooks
from trainyard_sdk import CallbackError, CheckpointError, TrainerSDK

_EVENTS = (
    "on_pretrain_routine_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_model_save",
    "on_fit_epoch_end",
    "on_train_end",
)
FLUSH_PATIENCE = 600.0


class Reporter:
    """The callbacks of one run.

    Args:
        sdk: the job's client.
        task: short name of the task.
        hooks: settings that the trainer carries out by itself.
        state_file: where the last and the best figures are kept.
        checkpoint_dir: where best.pt and last.pt are copied; None leaves them in the run's folder.
        cpu_threads: threads for training on the CPU; 0 leaves the number to Ultralytics.
    """

    def __init__(
        self,
        sdk: TrainerSDK,
        task: str,
        hooks: Hooks,
        state_file: Path,
        checkpoint_dir: Optional[Path],
        cpu_threads: int = 0,
    ) -> None:
        self._sdk: Optional[TrainerSDK] = sdk
        self._task = task
        self._hooks = hooks
        self._state_file = state_file
        self._checkpoint_dir = checkpoint_dir
        self._cpu_threads = cpu_threads
        self._batch = 0
        self._trained = False
        self._saved = False
        self._epoch_started = time.monotonic()
        self._started = time.monotonic()
        self._state: Dict[str, Any] = {"epoch": 0, "metrics": None, "best_epoch": None, "best_metrics": None}

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_sdk": None}

    @property
    def sdk(self) -> TrainerSDK:
        """The client; another process makes its own from the same environment."""
        if self._sdk is None:
            self._sdk = TrainerSDK(keep_undelivered=True)
        return self._sdk

    def attach(self, model: Any) -> None:
        """Register all callbacks with an Ultralytics model."""
        for event in _EVENTS:
            model.add_callback(event, getattr(self, event))

    def state(self) -> Dict[str, Any]:
        """What the run came to: `epoch`, `metrics`, `best_epoch`, `best_metrics`."""
        try:
            state: Dict[str, Any] = json.loads(self._state_file.read_text())
        except (OSError, ValueError):
            state = self._state
        return state

    def go_on(self, done: int, best_epoch: Optional[int], best_fitness: Optional[float]) -> None:
        """Begin after the epochs of an earlier run, with its best one to be beaten."""
        best = None if best_fitness is None else {"fitness": best_fitness}
        self._state.update(epoch=done, best_epoch=best_epoch, best_metrics=best)

    def measured(self, validation: Dict[str, Any]) -> None:
        """Take the figures of a run that was complete when it began."""
        values = figures.epoch_metrics({}, validation, validation.get("fitness"), self._task)
        self._state.update(metrics=values)
        if self._state["best_epoch"] in (None, self._state["epoch"]):
            self._state.update(best_epoch=self._state["epoch"], best_metrics=values)

    def on_pretrain_routine_start(self, _trainer: Any) -> None:
        offline.seal()

    def on_train_start(self, trainer: Any) -> None:
        import torch

        self._started = time.monotonic()
        if trainer.device.type == "cpu" and self._cpu_threads:
            # Ultralytics leaves one core unused, which on a small machine is half of it.
            torch.set_num_threads(self._cpu_threads)
        if self._hooks.clip_norm is not None:
            trainer.optimizer_step = functools.partial(_clipped_step, trainer, self._hooks.clip_norm)

    def on_train_epoch_start(self, _trainer: Any) -> None:
        self._epoch_started = time.monotonic()
        self._batch = 0

    def on_train_batch_end(self, trainer: Any) -> None:
        interval = self._hooks.log_interval
        self._batch += 1
        if interval and self._batch % interval == 0:
            losses = figures.epoch_metrics(trainer.tloss, {}, None, self._task)
            total = len(trainer.train_loader)
            self.sdk.log(f"epoch {trainer.epoch + 1} batch {self._batch}/{total} loss {losses['loss']}")

    def on_train_epoch_end(self, _trainer: Any) -> None:
        self._trained = True

    def on_model_save(self, trainer: Any) -> None:
        """Keep the newest periodic checkpoints. Best and last are published once their epoch is reported: whoever goes on
        from a checkpoint has all epochs before it in the curve."""
        self._saved = True
        keep = self._hooks.keep_checkpoints
        if keep is not None:
            found = [
                (int(m[1]), p) for p in trainer.wdir.glob("epoch*.pt") if (m := re.match(r"epoch(\d+)\.pt$", p.name))
            ]
            for _, path in sorted(found)[:-keep]:
                path.unlink(missing_ok=True)

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """Report an epoch, then publish what Ultralytics has saved before it calls this. The pass over the best checkpoint
        at the very end is no epoch and is left out."""
        if not self._trained:
            return
        self._trained = False
        epoch = trainer.epoch + 1
        values = figures.epoch_metrics(trainer.tloss, trainer.metrics or {}, trainer.fitness, self._task)
        self._remember(epoch, values)
        try:
            self._report(trainer, epoch, values)
        except CallbackError:
            # It was refused and would be again: the epoch's training must not be lost with its report.
            self._publish_saved(trainer)
            raise
        self._publish_saved(trainer)

    def on_train_end(self, _trainer: Any) -> None:
        self.sdk.flush(FLUSH_PATIENCE)

    def _report(self, trainer: Any, epoch: int, values: Dict[str, Optional[float]]) -> None:
        elapsed = time.monotonic() - self._started
        self.sdk.report_progress(
            epoch,
            trainer.epochs,
            values,
            learning_rate=float(trainer.optimizer.param_groups[0]["lr"]),
            checkpoint_path=self.published(trainer.last),
            best_checkpoint_path=self.published(trainer.best),
            epoch_duration_seconds=round(time.monotonic() - self._epoch_started, 3),
            estimated_time_remaining=round(elapsed / max(epoch - trainer.start_epoch, 1) * (trainer.epochs - epoch), 1),
        )
        self._report_validation(epoch, values, trainer.metrics or {})

    def _publish_saved(self, trainer: Any) -> None:
        if self._saved:
            self._saved = False
            for path in (trainer.last, trainer.best):
                self.publish(path)

    def published(self, source: Path) -> Optional[str]:
        """Absolute path under which a checkpoint is reported; None when there is none yet."""
        if not source.is_file():
            return None
        return str((self._checkpoint_dir / source.name if self._checkpoint_dir else source).absolute())

    def publish(self, source: Path) -> None:
        """Copy a checkpoint to the checkpoint folder in one step, unless it is there already."""
        if self._checkpoint_dir is None or not source.is_file():
            return
        target = self._checkpoint_dir / source.name
        part = self._checkpoint_dir / f".{source.name}.part"
        try:
            self._checkpoint_dir.mkdir(parents=True, exist_ok=True)
            if target.is_file() and _stamp(target) == _stamp(source):
                return
            shutil.copy2(source, part)
            os.replace(part, target)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {target} could not be written: {error}; is CHECKPOINT_DIR writable?"
            ) from error

    def _remember(self, epoch: int, values: Dict[str, Optional[float]]) -> None:
        best = (self._state["best_metrics"] or {}).get("fitness")
        fitness = values.get("fitness")
        if best is None or (fitness is not None and fitness > best):
            self._state.update(best_epoch=epoch, best_metrics=values)
        self._state.update(epoch=epoch, metrics=values)
        part = self._state_file.with_suffix(".part")
        part.write_text(json.dumps(self._state))
        os.replace(part, self._state_file)

    def _report_validation(self, epoch: int, values: Dict[str, Optional[float]], raw: Dict[str, Any]) -> None:
        losses = figures.validation_losses(raw)
        known = [value for value in losses.values() if value is not None]
        name = figures.primary_metric(self._task)
        train_only = ("loss", *(key for key in values if key.endswith("_loss")))
        self.sdk.report_validation(
            epoch,
            self._task,
            metrics={**{k: v for k, v in values.items() if k not in train_only}, **losses},
            primary_metric_name=name,
            primary_metric_value=values.get(name),
            overall_loss=round(sum(known), 6) if known else None,
        )


def _stamp(path: Path) -> Any:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _clipped_step(trainer: Any, norm: float) -> None:
    """One step of the optimizer with gradients clipped to `norm` in place of the fixed norm of 10."""
    import torch

    trainer.scaler.unscale_(trainer.optimizer)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), max_norm=norm)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    trainer.optimizer.zero_grad()
    if trainer.ema:
        trainer.ema.update(trainer.model)
