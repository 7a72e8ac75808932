"""Trainer: fine-tuning of a timm classifier on folders of classes or on annotations_classification.json.

Started as `python train.py --log-level INFO`, in any working folder; it writes its effective settings to
runs/train/args.yaml there, and checkpoints (best.pt, last.pt, epoch<N>.pt) to CHECKPOINT_DIR. First weights are looked
for in the working folder and in WEIGHTS_DIR; RESUME_FROM names a checkpoint to go on from. Exit codes: 0 completed,
1 failure, 2 a callback was not accepted.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

try:
    from trainyard_sdk import (
        CallbackError,
        CheckpointError,
        ConfigError,
        FrameworkError,
        ResourceError,
        TrainerConfig,
        TrainerSDK,
        datasets,
        kinds,
        splits,
    )
except ImportError:
    sys.exit("trainyard_sdk is not importable; add the folder sdk/python to PYTHONPATH")

import settings

LOGGER = logging.getLogger("trainer")
FINAL_CALL_PATIENCE = 600.0
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def main(argv: Optional[List[str]] = None) -> int:
    """Run one job and return the exit code."""
    _set_up_logging(argv)
    try:
        sdk = TrainerSDK(keep_undelivered=True, patience=FINAL_CALL_PATIENCE)
    except ConfigError as error:
        LOGGER.error("%s", error)
        return 1
    with sdk:
        config = TrainerConfig.from_env(default_task="classification")
        if config.task_type != "classification":
            raise ConfigError(f"TASK_TYPE is {config.task_type!r}, but this trainer only does classification")
        split = splits.read(config.config.get("split_config") or {})
        data = datasets.read_classification(config.require_dataset(), split, kinds.pillow_reads)
        sdk.report_started(total_epochs=config.epochs)
        if data.left_out:
            sdk.log(kinds.told(data.left_out), level="WARNING")
        for words in data.notes:
            sdk.log(words, level="WARNING")
        counts = data.counts()
        sdk.log(
            f"{counts.get('train', 0)} training and {counts.get('val', 0)} validation samples, "
            f"{len(data.classes)} classes"
        )
        try:
            Job(sdk, config, data, Path.cwd()).run()
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY):
                raise ResourceError(
                    f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more memory'}; "
                    "lower BATCH_SIZE or IMGSZ, or ask for more memory"
                ) from error
            raise
    return 0


class Job:
    """One job from its settings to its end."""

    def __init__(self, sdk: TrainerSDK, config: TrainerConfig, data: datasets.Classification, work: Path) -> None:
        self._sdk = sdk
        self._config = config
        self._data = data
        self._work = work
        self._folder = config.checkpoint_dir
        self._best: Dict[str, Any] = {"epoch": 0, "metrics": None}
        self._metrics: Dict[str, float] = {}
        self._has_best = False

    def run(self) -> None:
        """Prepare, train epoch by epoch, and report the end."""
        try:
            import engine
            import pictures
        except ImportError as error:
            raise FrameworkError(f"{error}; install this trainer's environment with `uv sync`") from error
        device = _device(self._config)
        plan = self._plan(device)
        model = self._model(plan)
        self._write_arguments(plan, device)
        batches = pictures.batches(self._data.part("train"), self._data.part("val"), plan, len(self._data.classes))
        run = engine.Run(model, plan, device, self._sdk.log)
        first = self._resume(run) + 1
        for epoch in range(first, plan.epochs + 1):
            self._epoch(run, batches, plan, epoch)
            if plan.early_stopping and epoch - self._best["epoch"] >= plan.early_stopping:
                self._sdk.log(f"no better {plan.primary_metric} for {plan.early_stopping} epochs: stopping early")
                break
        self._report_end()

    def _plan(self, device: Any) -> settings.Plan:
        """The job's settings, checked; each that cannot be honoured becomes a warning."""
        import torch

        config = self._config
        document = config.config
        metric = str(document.get("primary_metric") or "accuracy")
        name, mode = settings.primary(metric, str(document.get("primary_metric_mode") or "max"))
        base = {
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "imgsz": config.imgsz,
            "learning_rate": config.learning_rate,
            "num_classes": self._classes(document.get("num_classes")),
            "device": str(device),
            "primary_metric": name,
            "primary_metric_mode": mode,
            "workers": 0 if device.type == "cpu" else min(4, os.cpu_count() or 1),
        }
        made = settings.make(base, config.advanced, device.type == "cpu")
        for warning in made.warnings:
            self._sdk.log(warning, level="WARNING")
        torch.manual_seed(made.plan.seed)
        torch.use_deterministic_algorithms(made.plan.deterministic, warn_only=True)
        return made.plan

    def _classes(self, wanted: Any) -> int:
        found = len(self._data.classes)
        if wanted is not None and int(wanted) != found:
            names = ", ".join(self._data.classes[:10])
            raise ConfigError(f"CONFIG.num_classes is {wanted}, but the dataset has {found} classes ({names})")
        return found

    def _model(self, plan: settings.Plan) -> Any:
        import model as networks

        name = self._config.model_name or networks.DEFAULT
        made = networks.build(name, plan, len(self._data.classes))
        found = networks.find_weights(name, self._work) if plan.pretrained else None
        if found is not None:
            networks.load_weights(made, found, self._sdk.log)
        elif plan.pretrained:
            plan.pretrained = False
            words = f"training {name} from random weights: no {name}.safetensors or .pth in the working folder"
            self._sdk.log(f"{words} or in WEIGHTS_DIR", level="WARNING")
        return made

    def _write_arguments(self, plan: settings.Plan, device: Any) -> None:
        """Leave what training was given where a reader of the job's folder finds it."""
        import yaml

        counts = self._data.counts()
        made = {
            "model": self._config.model_name,
            "task": "classification",
            **plan.to_dict(),
            "classes": list(self._data.classes),
            "train_samples": counts.get("train", 0),
            "val_samples": counts.get("val", 0),
            "resume_from": os.environ.get("RESUME_FROM") or None,
        }
        folder = self._work / "runs" / "train"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "args.yaml").write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
        self._sdk.log(
            f"{made['train_samples']} training and {made['val_samples']} validation pictures, "
            f"{len(self._data.classes)} classes, {plan.imgsz} pixels, on {device}"
        )

    def _resume(self, run: Any) -> int:
        """Go on from RESUME_FROM, or begin with its weights; the number of the last epoch that is done."""
        import model as networks

        named = os.environ.get("RESUME_FROM", "").strip()
        if not named:
            return 0
        path = Path(named)
        if not path.is_file():
            raise CheckpointError(f"RESUME_FROM is {named!r}, which is not a file on this machine")
        if os.environ.get("RESUME", "true").strip().lower() == "false":
            networks.load_weights(run.model, path, self._sdk.log)
            return 0
        state = networks.read(path)
        if state.get("classes") != list(self._data.classes):
            raise CheckpointError(f"RESUME_FROM {named!r} is of a job with other classes than this dataset's")
        run.restore(state)
        self._best = state["best"]
        self._metrics = state["metrics"]
        self._sdk.log(f"going on after epoch {state['epoch']} of {path}")
        if self._best["epoch"]:
            self._keep_earlier_best(path, state)
        return int(state["epoch"])

    def _keep_earlier_best(self, path: Path, state: Dict[str, Any]) -> None:
        """Take over the best checkpoint so far: this run may never be better. It is told where it cannot be found."""
        import model as networks

        target = self._folder / "best.pt"
        for candidate in (path, path.with_name("best.pt"), target):
            try:
                held = state if candidate == path else networks.read(candidate) if candidate.is_file() else {}
            except CheckpointError:
                continue
            if held.get("epoch") == self._best["epoch"] and held.get("metrics") == self._best["metrics"]:
                _copy(candidate, target)
                self._has_best = True
                return
        self._sdk.log(
            f"the best checkpoint so far, of epoch {self._best['epoch']}, stays where the run before this one left it: "
            f"it is not beside {path}; none is reported until a better one is made",
            level="WARNING",
        )

    def _epoch(self, run: Any, batches: Any, plan: settings.Plan, epoch: int) -> None:
        """Train, validate, report and save."""
        import engine

        begun = time.monotonic()
        batches.begin(plan, epoch)
        rate = run.learning_rate
        metrics = {"loss": run.train(batches, epoch), "learning_rate": rate}
        validated = epoch % plan.validation_interval == 0 or epoch == plan.epochs
        better = False
        if validated:
            found, confusion = run.validate(batches, len(self._data.classes))
            metrics.update(found)
            better = self._is_better(plan, metrics)
        self._metrics = metrics
        if better:
            self._best = {"epoch": epoch, "metrics": metrics}
        run.end_epoch(epoch, metrics.get(plan.primary_metric))
        made = self._write(run, plan, epoch, better)
        LOGGER.info("epoch %d/%d %s", epoch, plan.epochs, metrics)
        try:
            self._sdk.report_progress(
                epoch,
                plan.epochs,
                metrics,
                checkpoint_path=str(self._folder / "last.pt"),
                best_checkpoint_path=self._best_path(),
                epoch_duration_seconds=round(time.monotonic() - begun, 4),
            )
            if validated:
                self._report_validation(plan, epoch, metrics, confusion)
        except CallbackError:
            # It was refused and would be again: the epoch's training must not be lost with its report.
            _publish(made)
            raise
        _publish(made)
        if plan.checkpoint_interval:
            engine.prune(self._folder, plan.keep_checkpoints)

    def _is_better(self, plan: settings.Plan, metrics: Dict[str, float]) -> bool:
        if self._best["metrics"] is None:
            return True
        new, old = metrics[plan.primary_metric], self._best["metrics"][plan.primary_metric]
        return new > old if plan.primary_metric_mode == "max" else new < old

    def _write(self, run: Any, plan: settings.Plan, epoch: int, better: bool) -> List[Path]:
        """Write the epoch's checkpoints beside their places, which are published once the epoch is reported."""
        import engine

        state = {
            **run.state(),
            "epoch": epoch,
            "best": self._best,
            "metrics": self._metrics,
            "classes": list(self._data.classes),
            "model_name": self._config.model_name,
            "plan": plan.to_dict(),
        }
        names = ["last.pt"]
        if better:
            names.append("best.pt")
            self._has_best = True
        if plan.checkpoint_interval and epoch % plan.checkpoint_interval == 0:
            names.append(f"epoch{epoch}.pt")
        made = [self._folder / name for name in names]
        for path in made:
            engine.write(path, state)
        return made

    def _best_path(self) -> Optional[str]:
        """The best checkpoint, when this run has written it or taken it over from the run before it."""
        return str(self._folder / "best.pt") if self._has_best else None

    def _report_validation(
        self, plan: settings.Plan, epoch: int, metrics: Dict[str, float], confusion: List[List[int]]
    ) -> None:
        import figures

        names = self._data.classes
        shown = {key: value for key, value in metrics.items() if key not in ("loss", "learning_rate")}
        self._sdk.report_validation(
            epoch,
            "classification",
            metrics=shown,
            primary_metric_name=plan.primary_metric,
            primary_metric_value=metrics[plan.primary_metric],
            overall_loss=metrics["val_loss"],
            per_class_metrics=dict(zip(names, figures.per_class(confusion))),
            confusion_matrix=confusion,
            class_names=list(names),
        )

    def _report_end(self) -> None:
        last = self._folder / "last.pt"
        resumed = os.environ.get("RESUME_FROM", "").strip()
        self._sdk.report_completed(
            final_metrics=self._metrics,
            best_metrics=self._best["metrics"],
            best_epoch=self._best["epoch"] or None,
            best_checkpoint_path=self._best_path(),
            last_checkpoint_path=str(last) if last.is_file() else resumed or None,
        )


def _publish(made: List[Path]) -> None:
    import engine

    for path in made:
        engine.publish(path)


def _copy(source: Path, target: Path) -> None:
    """Copy a checkpoint in one step, unless it is there already."""
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.is_file() and target.samefile(source)):
            shutil.copyfile(source, part)
            os.replace(part, target)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {target} could not be written: {error}; is CHECKPOINT_DIR writable?"
        ) from error


def _device(config: TrainerConfig) -> Any:
    """The device of a job. Raises ResourceError when it asks for a GPU that is not there."""
    import torch

    name = config.device.strip().lower()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name in ("", "auto", "none"):
        return torch.device("cuda:0" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    numbers = (name[5:] if name.startswith("cuda:") else "0" if name in ("cuda", "gpu") else name).split(",")
    if not all(number.strip().isdigit() for number in numbers):
        raise ConfigError(f"DEVICE is {config.device!r}, but must be cpu, cuda, cuda:<number> or a number")
    if max(int(number) for number in numbers) >= count:
        raise ResourceError(
            f"DEVICE is {config.device!r}, but {count} CUDA devices are visible; use cpu or ask for GPUs"
        )
    if len(numbers) > 1:
        LOGGER.warning("DEVICE is %r; this trainer uses the first of them", config.device)
    return torch.device(f"cuda:{int(numbers[0])}")


def _set_up_logging(argv: Optional[List[str]]) -> None:
    parser = argparse.ArgumentParser(description="Fine-tune a classifier of timm.")
    parser.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR")
    arguments, unknown = parser.parse_known_args(argv)
    level = logging.getLevelName(arguments.log_level.upper())
    known = isinstance(level, int)
    logging.basicConfig(level=level if known else logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    if not known:
        LOGGER.warning("--log-level is %r, which is not a level; using INFO", arguments.log_level)
    if unknown:
        LOGGER.warning("arguments not known here: %s", " ".join(unknown))


if __name__ == "__main__":
    sys.exit(main())
