"""Owns one run: the passes over the data, the optimizer's steps, and what a checkpoint holds. Callers: `train`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import figures
import model as networks
import torch
from pictures import Batches
from settings import Plan
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from trainyard_sdk.errors import CheckpointError, ConfigError, FrameworkError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Run:
    """A network in training.

    Args:
        model: the network, not moved yet.
        plan: what is done; settled.
        device: where it is done.
        log: takes a line.
    """

    def __init__(self, model: Any, plan: Plan, device: Any, log: Callable[..., object]) -> None:
        self.model = model.to(device)
        self._plan = plan
        self._device = device
        self._log = log
        self._optimizer = _optimizer(model, plan)
        self._scheduler = _scheduler(self._optimizer, plan)
        self._scaler = torch.amp.GradScaler(device.type, enabled=plan.mixed_precision == "fp16")
        self._steps = 0

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def train(self, data: Batches, epoch: int) -> float:
        """One pass over the training set; the mean loss. A step is made every `accumulation` batches.

        Raises:
            FrameworkError: the loss is no longer a number.
        """
        plan = self._plan
        self.model.train()
        if plan.freeze_backbone:
            networks.hold_statistics(self.model)
        criterion = _criterion(plan, data.mixing is not None)
        total, seen, count = torch.zeros((), device=self._device), 0, len(data.train)
        for number, (pictures, labels) in enumerate(data.train, start=1):
            pictures, labels = pictures.to(self._device), labels.to(self._device)
            if data.mixing is not None:
                pictures, labels = data.mixing(pictures, labels)
            begun = (number - 1) // plan.accumulation * plan.accumulation
            window = min(plan.accumulation, count - begun)
            with self._precision():
                loss = criterion(self.model(pictures), labels)
            self._scaler.scale(loss / window).backward()
            total += loss.detach() * len(pictures)
            seen += len(pictures)
            if number == begun + window:
                self._step()
            if plan.log_interval and number % plan.log_interval == 0:
                self._log(f"epoch {epoch} batch {number}/{count} loss {float(loss.detach()):.6f}")
        mean = float(total) / max(seen, 1)
        if mean != mean or mean in (float("inf"), float("-inf")):
            raise FrameworkError(f"the loss is {mean} in epoch {epoch}; lower the learning rate or clip gradients")
        return round(mean, 6)

    def validate(self, data: Batches, classes: int) -> Tuple[Dict[str, float], List[List[int]]]:
        """One pass over the validation set: figures and the confusion matrix, rows by true class."""
        self.model.eval()
        confusion = torch.zeros(classes, classes, dtype=torch.int64)
        loss, top5 = 0.0, 0
        with torch.no_grad():
            for pictures, labels in data.val:
                with self._precision():
                    scores = self.model(pictures.to(self._device))
                scores = scores.float().cpu()
                loss += float(torch.nn.functional.cross_entropy(scores, labels, reduction="sum"))
                best = scores.topk(min(5, classes), dim=1).indices
                top5 += int((best == labels[:, None]).any(dim=1).sum())
                pairs = labels * classes + best[:, 0]
                confusion += torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
        rows: List[List[int]] = confusion.tolist()
        return figures.of_validation(rows, top5, loss / max(int(confusion.sum()), 1)), rows

    def end_epoch(self, epoch: int, figure: Optional[float]) -> None:
        """Settle the learning rate of the next epoch; `figure` is the primary metric, None when it was not measured."""
        if self._scheduler is not None:
            self._scheduler.step(epoch, figure)

    def state(self) -> Dict[str, Any]:
        """All that a run needs to go on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict() if self._scheduler is not None else None,
            "scaler": self._scaler.state_dict(),
            "steps": self._steps,
        }

    def restore(self, state: Dict[str, Any]) -> None:
        """Go on from `state`. Raises CheckpointError when it is that of another network or optimizer."""
        try:
            self.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            if self._scheduler is not None and state.get("scheduler"):
                self._scheduler.load_state_dict(state["scheduler"])
            self._scaler.load_state_dict(state.get("scaler") or {})
            self._steps = int(state.get("steps", 0))
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"RESUME_FROM does not fit this job's model and optimizer: {error}") from error

    def _step(self) -> None:
        if self._plan.clip_grad is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._plan.clip_grad)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._steps += 1

    def _precision(self) -> Any:
        dtype = DTYPES.get(self._plan.mixed_precision)
        return torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)


def _criterion(plan: Plan, mixed: bool) -> Any:
    if mixed:
        return SoftTargetCrossEntropy()
    if plan.label_smoothing:
        return LabelSmoothingCrossEntropy(plan.label_smoothing)
    return torch.nn.CrossEntropyLoss()


def _optimizer(model: Any, plan: Plan) -> Any:
    more: Dict[str, Any] = {"betas": tuple(plan.betas)} if plan.betas else {}
    if plan.eps is not None:
        more["eps"] = plan.eps
    try:
        return create_optimizer_v2(
            model,
            opt=plan.optimizer,
            lr=plan.learning_rate,
            weight_decay=plan.weight_decay,
            momentum=plan.momentum,
            **more,
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"CONFIG.optimizer {plan.optimizer!r} does not take these settings: {error}") from error


def _scheduler(optimizer: Any, plan: Plan) -> Optional[Any]:
    """A schedule by epochs; None for a constant rate."""
    if plan.scheduler == "constant" and not plan.warmup_epochs:
        return None
    common: Dict[str, Any] = {
        "num_epochs": plan.epochs,
        "min_lr": plan.min_lr,
        "warmup_lr": min(plan.warmup_lr, plan.learning_rate),
        "warmup_epochs": plan.warmup_epochs,
    }
    kinds: Dict[str, Dict[str, Any]] = {
        "cosine": {"sched": "cosine"},
        "linear": {"sched": "poly", "decay_rate": 1.0},
        "poly": {"sched": "poly", "decay_rate": plan.decay_rate},
        "step": {"sched": "step", "decay_epochs": plan.decay_epochs or 30, "decay_rate": plan.decay_rate},
        "exponential": {"sched": "step", "decay_epochs": 1, "decay_rate": plan.decay_rate},
        "multistep": {
            "sched": "multistep",
            "decay_milestones": plan.milestones or [plan.epochs // 2],
            "decay_rate": plan.decay_rate,
        },
        "plateau": {
            "sched": "plateau",
            "decay_rate": plan.decay_rate,
            "patience_epochs": plan.patience_epochs,
            "plateau_mode": plan.primary_metric_mode,
        },
        # Never a step down: what is left is the warm-up.
        "constant": {"sched": "step", "decay_epochs": plan.epochs + 1, "decay_rate": 1.0},
    }
    scheduler, _ = create_scheduler_v2(optimizer, **{**common, **kinds[plan.scheduler]})
    return scheduler


def write(path: Path, state: Dict[str, Any]) -> None:
    """Write a checkpoint beside its place, whole and on the disk; `publish` gives it its name. Raises CheckpointError."""
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:
        raise _unwritten(path, error) from error


def publish(path: Path) -> None:
    """Give a checkpoint that was written its name, so that a reader or a crash never meets half a file.

    Only once its epoch is reported: whoever goes on from a checkpoint has all epochs before it in the curve. Raises
    CheckpointError.
    """
    try:
        os.replace(_part(path), path)
    except OSError as error:
        raise _unwritten(path, error) from error


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _unwritten(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"checkpoint {path} could not be written: {error}; is CHECKPOINT_DIR writable?")


def prune(folder: Path, keep: Optional[int]) -> None:
    """Leave the newest `keep` periodic checkpoints."""
    if keep is None:
        return
    found = [(int(m[1]), path) for path in folder.glob("epoch*.pt") if (m := re.match(r"epoch(\d+)\.pt$", path.name))]
    for _, path in sorted(found)[:-keep]:
        path.unlink(missing_ok=True)
