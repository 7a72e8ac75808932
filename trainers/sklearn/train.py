"""Trainer: a multi-layer perceptron of scikit-learn on handwritten digits or on any folder of images per class.

Started as `python train.py --log-level INFO`. Settings beyond the common ones, all in CONFIG:
`seed`, `hidden_layer_sizes`, `activation`, `optimizer` (`adam`, `sgd`, or an object with `type`, `momentum`,
`weight_decay`), `alpha`, `image_size`, and `epoch_delay_seconds`, a pause after each epoch that makes a
demonstration watchable (0 unless set). RESUME_FROM names a checkpoint to go on from, or to begin with its weights when
RESUME is false. Exit codes: 0 completed, 1 failure, 2 a callback was not accepted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

# The matrices are small: a second BLAS thread costs more than it gives, and one keeps runs alike to the last bit.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

try:
    from trainyard_sdk import CallbackError, CheckpointError, ConfigError, TrainerConfig, TrainerSDK
except ImportError:
    sys.exit("trainyard_sdk is not importable; add the folder sdk/python to PYTHONPATH")

import checkpoint

LOGGER = logging.getLogger("trainer")
MAX_SIDE = 64
DEFAULT_SIDE = 16
FINAL_CALL_PATIENCE = 600.0
KNOWN_SETTINGS = frozenset("seed hidden_layer_sizes activation optimizer alpha image_size epoch_delay_seconds".split())


def main(argv: Optional[List[str]] = None) -> int:
    """Run one job and return the exit code."""
    _set_up_logging(argv)
    try:
        sdk = TrainerSDK(keep_undelivered=True, patience=FINAL_CALL_PATIENCE)
    except ConfigError as error:
        LOGGER.error("%s", error)
        return 1
    with sdk:
        config = TrainerConfig.from_env(default_epochs=5, default_task="classification")
        if config.task_type != "classification":
            raise ConfigError(f"TASK_TYPE is {config.task_type!r}, but this trainer only does classification")
        sdk.report_started(total_epochs=config.epochs)
        _train(sdk, config)
    return 0


def _train(sdk: TrainerSDK, config: TrainerConfig) -> None:
    """Load the data, train epoch by epoch, and report the end."""
    for key in sorted(set(config.advanced) - KNOWN_SETTINGS):
        sdk.log(f"setting {key!r} has no meaning for this trainer and is not used", level="WARNING")
    samples = _samples(sdk, config)
    model = _model(sdk, config, len(samples.train_x))
    _write_arguments(config, model, Path.cwd())
    delay = config.option("epoch_delay_seconds", float, 0.0)
    sdk.log(
        f"{len(samples.train_x)} training and {len(samples.val_x)} validation samples, {len(samples.classes)} classes, "
        f"{samples.train_x.shape[1]} inputs"
    )
    paths = {name: config.checkpoint_dir / f"{name}.npz" for name in ("best", "last")}
    done, best, best_epoch, metrics, best_path = _begin(sdk, model, samples, paths["best"])
    for epoch in range(done + 1, config.epochs + 1):
        started = time.monotonic()
        model.partial_fit(samples.train_x, samples.train_y, classes=range(len(samples.classes)))
        metrics = _evaluate(model, samples)
        better = best is None or metrics["accuracy"] > best["accuracy"]
        if better:
            best, best_epoch, best_path = metrics, epoch, str(paths["best"])
        progress = {"epoch": epoch, "metrics": metrics, "best": {"epoch": best_epoch, "metrics": best}}
        made = [paths[name] for name in (("last", "best") if better else ("last",))]
        for path in made:
            checkpoint.write(path, model, samples, progress)
        LOGGER.info("epoch %d/%d %s", epoch, config.epochs, json.dumps(metrics))
        try:
            sdk.report_progress(
                epoch,
                config.epochs,
                metrics,
                checkpoint_path=str(paths["last"]),
                best_checkpoint_path=best_path,
                epoch_duration_seconds=round(time.monotonic() - started, 4),
            )
            _validation(sdk, epoch, metrics)
        except CallbackError:
            # It was refused and would be again: the epoch's training must not be lost with its report.
            _publish(made)
            raise
        _publish(made)
        if delay > 0 and epoch < config.epochs:
            time.sleep(delay)
    sdk.report_completed(
        final_metrics=metrics,
        best_metrics=best,
        best_epoch=best_epoch,
        best_checkpoint_path=best_path,
        last_checkpoint_path=str(paths["last"]) if paths["last"].is_file() else os.environ.get("RESUME_FROM"),
        total_epochs_completed=max(done, config.epochs),
    )


def _begin(
    sdk: TrainerSDK, model: Any, samples: Any, best_path: Path
) -> Tuple[int, Optional[Dict[str, float]], int, Dict[str, float], Optional[str]]:
    """Go on from RESUME_FROM, if it is set.

    Returns:
        The epochs that are done, the best metrics, their epoch, the last ones, and the best checkpoint if it is here.
    """
    named = os.environ.get("RESUME_FROM", "").strip()
    if not named:
        return 0, None, 0, {}, None
    path = Path(named)
    if not path.is_file():
        raise CheckpointError(f"RESUME_FROM is {named!r}, which is not a file on this machine")
    whole = os.environ.get("RESUME", "true").strip().lower() != "false"
    about = checkpoint.restore(path, model, samples, whole)
    if not whole:
        sdk.log(f"first weights: {path}")
        return 0, None, 0, {}, None
    sdk.log(f"going on after epoch {about['epoch']} of {path}")
    best = about["best"]
    # This run may never be better than the one before it.
    found = checkpoint.take_over_best(path, about, best_path)
    if not found:
        sdk.log(
            f"the best checkpoint so far, of epoch {best['epoch']}, stays where the run before this one left it: "
            f"it is not beside {path}; none is reported until a better one is made",
            level="WARNING",
        )
    return about["epoch"], best["metrics"], best["epoch"], about["metrics"], str(best_path) if found else None


def _samples(sdk: TrainerSDK, config: TrainerConfig) -> Any:
    """The job's dataset; the bundled digits when LOCAL_DATASET_PATH is not set."""
    import data
    from trainyard_sdk import datasets, kinds, splits

    split = config.config.get("split_config") or {}
    if config.local_dataset_path is None:
        for key in ("splits", "custom_splits", "exclude_images"):
            if split.get(key):
                sdk.log(f"setting 'split_config.{key}' has no meaning for digits and is not used", level="WARNING")
        sdk.log("LOCAL_DATASET_PATH is not set: using the handwritten digits that come with scikit-learn")
        return data.bundled(split)
    side = config.option("image_size", int, 0) or config.imgsz or DEFAULT_SIDE
    if side > MAX_SIDE:
        sdk.log(f"image size {side} is reduced to {MAX_SIDE} pixels: a perceptron has no use for more", level="WARNING")
        side = MAX_SIDE
    found = datasets.read_classification(config.require_dataset(), splits.read(split), kinds.pillow_reads)
    if found.left_out:
        sdk.log(kinds.told(found.left_out), level="WARNING")
    for words in found.notes:
        sdk.log(words, level="WARNING")
    return data.pictures(found, side)


def _model(sdk: TrainerSDK, config: TrainerConfig, samples: int) -> Any:
    """The untrained network."""
    import numpy
    from sklearn.neural_network import MLPClassifier

    settings = _optimizer(sdk, config)
    rate = config.learning_rate if config.learning_rate is not None else 0.001
    batch = min(config.batch_size, samples)
    if batch < config.batch_size:
        sdk.log(
            f"batch size {config.batch_size} is reduced to the {samples} training samples there are", level="WARNING"
        )
    activation = config.option("activation", str, "relu")
    if activation not in ("identity", "logistic", "tanh", "relu"):
        raise ConfigError(f"CONFIG.activation is {activation!r}, but must be identity, logistic, tanh or relu")
    seed = config.option("seed", int, 42)
    return MLPClassifier(
        hidden_layer_sizes=_layers(config),
        activation=activation,
        learning_rate_init=rate,
        batch_size=batch,
        # A generator, not a number: with a number every epoch would visit the samples in the same order.
        random_state=numpy.random.RandomState(seed),
        **settings,
    )


def _write_arguments(config: TrainerConfig, model: Any, work: Path) -> None:
    """The settings that training is really done with, read back from the network, as `args.json`."""
    given = {name: value for name, value in model.get_params().items() if isinstance(value, (str, int, float, tuple))}
    seed = config.option("seed", int, 42)
    # scikit-learn's own `learning_rate` is a schedule.
    document = {**given, "epochs": config.epochs, "learning_rate": model.learning_rate_init, "seed": seed}
    (work / "args.json").write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")


def _optimizer(sdk: TrainerSDK, config: TrainerConfig) -> Dict[str, Any]:
    """Solver, momentum and L2 penalty, from `optimizer` as a name or as an object."""
    value = config.advanced.get("optimizer") or "adam"
    fields = dict(value) if isinstance(value, dict) else {"type": value}
    solver = str(fields.pop("type", fields.pop("name", "adam"))).lower()
    solver = "adam" if solver == "adamw" else solver
    if solver not in ("adam", "sgd"):
        raise ConfigError(
            f"CONFIG.optimizer is {solver!r}, but must be adam or sgd: others cannot train epoch by epoch"
        )
    settings: Dict[str, Any] = {"solver": solver, "alpha": config.option("alpha", float, 0.0001)}
    try:
        if "weight_decay" in fields:
            settings["alpha"] = float(fields.pop("weight_decay"))
        if "momentum" in fields:
            settings["momentum"] = float(fields.pop("momentum"))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"CONFIG.optimizer is {value!r}: {error}") from error
    for key in sorted(fields):
        sdk.log(f"setting 'optimizer.{key}' has no meaning for this trainer and is not used", level="WARNING")
    return settings


def _layers(config: TrainerConfig) -> Tuple[int, ...]:
    """Widths of the hidden layers: a number or a list of numbers, each at least 1."""
    value = config.advanced.get("hidden_layer_sizes", [64])
    try:
        layers = tuple(int(width) for width in (value if isinstance(value, (list, tuple)) else [value]))
    except (TypeError, ValueError):
        layers = ()
    if not layers or min(layers) < 1:
        raise ConfigError(f"CONFIG.hidden_layer_sizes is {value!r}, but must be a list of numbers like [64, 32]")
    return layers


def _evaluate(model: Any, samples: Any) -> Dict[str, float]:
    """Training loss of this epoch, validation loss (mean cross entropy, nats) and accuracy (0 to 1), learning rate."""
    import numpy

    chances = model.predict_proba(samples.val_x)
    right = chances[numpy.arange(len(samples.val_y)), samples.val_y]
    return {
        "loss": round(float(model.loss_), 6),
        "accuracy": round(float((chances.argmax(axis=1) == samples.val_y).mean()), 6),
        "val_loss": round(float(-numpy.log(numpy.clip(right, 1e-12, 1.0)).mean()), 6),
        "learning_rate": float(model.learning_rate_init),
    }


def _publish(made: List[Path]) -> None:
    for path in made:
        checkpoint.publish(path)


def _validation(sdk: TrainerSDK, epoch: int, metrics: Dict[str, float]) -> None:
    sdk.report_validation(
        epoch,
        "classification",
        metrics={"accuracy": metrics["accuracy"], "loss": metrics["val_loss"]},
        primary_metric_name="accuracy",
        primary_metric_value=metrics["accuracy"],
        overall_loss=metrics["val_loss"],
    )


def _set_up_logging(argv: Optional[List[str]]) -> None:
    parser = argparse.ArgumentParser(description="Train a multi-layer perceptron of scikit-learn.")
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
