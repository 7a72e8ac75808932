"""Trainer: Ultralytics YOLO for detection, classification, segmentation and pose.

Started as `python train.py --log-level INFO`, in any working folder; everything it writes goes there and into
CHECKPOINT_DIR. RESUME_FROM names a checkpoint to go on from or whose weights to begin with. Else first weights are
looked for in the working folder and in WEIGHTS_DIR, then downloaded if that begins within seconds; without them
training starts from random weights. Exit codes: 0 completed, 1 failure, 2 a callback was not accepted.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

try:
    from trainyard_sdk import ConfigError, FrameworkError, ResourceError, TrainerConfig, TrainerSDK
except ImportError:
    sys.exit("trainyard_sdk is not importable; add the folder sdk/python to PYTHONPATH")

import offline
import settings
import weights

LOGGER = logging.getLogger("trainer")
FINAL_CALL_PATIENCE = 600.0


def main(argv: Optional[List[str]] = None) -> int:
    """Run one job and return the exit code."""
    level = _set_up_logging(argv)
    try:
        sdk = TrainerSDK(keep_undelivered=True, patience=FINAL_CALL_PATIENCE)
    except ConfigError as error:
        LOGGER.error("%s", error)
        return 1
    with sdk:
        config = TrainerConfig.from_env(default_batch_size=16, default_task="detection")
        settings.model_file(config.model_name or "yolo11n", config.task_type)  # a wrong name ends before the slow part
        sdk.report_started(total_epochs=config.epochs)
        _train(sdk, config, Path.cwd(), level)
    return 0


def _train(sdk: TrainerSDK, config: TrainerConfig, work: Path, level: int) -> None:
    """Prepare, train and report the end."""
    threads = 0 if os.environ.get("OMP_NUM_THREADS") else _cores()
    offline.prepare(work)
    data = _dataset(sdk, config, work)
    on_cpu = _check_device(config)
    plan = settings.plan(
        config.epochs, config.batch_size, config.advanced, config.imgsz, config.device, config.learning_rate, on_cpu
    )
    for warning in plan.warnings:
        sdk.log(warning, level="WARNING")
    _check_arguments(plan.arguments)
    logging.getLogger("ultralytics").setLevel(level)
    offline.write_settings(work)
    offline.seal()

    import reporting
    import resume

    run = work / "runs" / "train"
    arguments = {**plan.arguments, "data": data, "project": str(run.parent), "name": run.name, "exist_ok": True}
    begun = resume.read(arguments, work, sdk.log)
    model = _model(sdk, config, plan.arguments, work, begun.weights if begun else None)
    folder = os.environ.get("CHECKPOINT_DIR", "").strip()
    state_file = work / "progress.json"
    state_file.unlink(missing_ok=True)
    reporter = reporting.Reporter(
        sdk, config.task_type, plan.hooks, state_file, Path(folder).absolute() if folder else None, threads
    )
    reporter.attach(model)
    if begun and begun.done:
        reporter.go_on(begun.done, begun.best_epoch, begun.best_fitness)
        arguments["resume"] = True
    shutil.rmtree(run, ignore_errors=True)  # what an earlier try in this folder left would pass for this run's
    if begun and begun.best:
        # This run may never be better than the one before it.
        (run / "weights").mkdir(parents=True)
        shutil.copyfile(begun.best, run / "weights" / "best.pt")
    if begun and begun.complete:
        _measure(model, arguments, reporter, begun, run)
    else:
        model.train(**arguments)
    _report_end(sdk, reporter, run)


def _measure(model: Any, arguments: Dict[str, Any], reporter: Any, begun: Any, run: Path) -> None:
    """What is left of a run whose attempt was lost after its last epoch: its figures, and its checkpoints as
    Ultralytics leaves them."""
    from ultralytics.utils.torch_utils import strip_optimizer

    names = ("data", "imgsz", "batch", "device", "project")
    given = {name: arguments[name] for name in names if arguments.get(name) is not None}
    reporter.measured(model.val(**given, name="measured", exist_ok=True, plots=False).results_dict)
    weights_folder = run / "weights"
    weights_folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(begun.weights, weights_folder / "last.pt")
    for path in (weights_folder / "last.pt", weights_folder / "best.pt"):
        if path.is_file():
            strip_optimizer(path)


def _report_end(sdk: TrainerSDK, reporter: Any, run: Path) -> None:
    """Publish the final checkpoints, which Ultralytics strips of optimizer state at the end, and say it is done."""
    best, last = run / "weights" / "best.pt", run / "weights" / "last.pt"
    reporter.publish(best)
    reporter.publish(last)
    state = reporter.state()
    sdk.report_completed(
        final_metrics=state["metrics"],
        best_metrics=state["best_metrics"],
        best_epoch=state["best_epoch"],
        best_checkpoint_path=reporter.published(best),
        last_checkpoint_path=reporter.published(last),
        total_epochs_completed=state["epoch"],
    )


def _dataset(sdk: TrainerSDK, config: TrainerConfig, work: Path) -> str:
    try:
        import dataset
        from trainyard_sdk import splits
    except ImportError as error:
        raise FrameworkError(f"{error}; install this trainer's environment with `uv sync`") from error
    split = splits.read(config.config.get("split_config") or {})

    def tell(words: str) -> None:
        sdk.log(words, level="WARNING")

    return dataset.resolve(config.require_dataset(), config.task_type, split, work / "dataset", tell)


def _check_device(config: TrainerConfig) -> bool:
    """True when training will run on the CPU. Raises ResourceError when the job asks for a GPU that is not there."""
    import torch

    device = settings.device_argument(config.device)
    if device == "cpu":
        return True
    if device is not None and device.replace(",", "").isdigit():
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        highest = max(int(number) for number in device.split(",") if number)
        if highest >= count:
            raise ResourceError(
                f"DEVICE is {config.device!r}, but {count} CUDA devices are visible; use cpu or ask for GPUs"
            )
        return False
    return device is None and not torch.cuda.is_available()


def _check_arguments(arguments: Dict[str, Any]) -> None:
    """Refuse wrong types and ranges before anything is built, in Ultralytics' own words."""
    from ultralytics.cfg import check_cfg

    try:
        check_cfg(dict(arguments))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"CONFIG: {error}") from error


def _model(
    sdk: TrainerSDK, config: TrainerConfig, arguments: Dict[str, Any], work: Path, checkpoint: Optional[Path]
) -> Any:
    """The model of a checkpoint, or one with the best first weights at hand."""
    from ultralytics import YOLO

    name = config.model_name or "yolo11n"
    file, architecture = settings.model_file(name, config.task_type)
    task = settings.TASKS[config.task_type]
    if checkpoint is not None:
        model = YOLO(str(checkpoint), task=task)
        if model.task != task:
            raise ConfigError(f"TASK_TYPE is {config.task_type!r}, but RESUME_FROM is a model for {model.task}")
        return model
    source, why = _first_weights(sdk, arguments, file, work)
    if source is not None:
        sdk.log(f"first weights: {source}")
        return YOLO(str(source), task=task)
    try:
        model = YOLO(architecture, task=task)
    except FileNotFoundError as error:
        raise ConfigError(f"MODEL_NAME is {name!r}, and Ultralytics has no {architecture}; use e.g. yolo11n") from error
    sdk.log(f"training {architecture} from random weights: {why}", level="WARNING")
    return model


def _first_weights(sdk: TrainerSDK, arguments: Dict[str, Any], file: str, work: Path) -> Tuple[Optional[Path], str]:
    """The weights file, or None and the reason why there is none."""
    if arguments.get("pretrained") is False:
        return None, "the job sets pretrained to false"
    folders = weights.search_folders(work)
    found = weights.find(file, folders) or weights.download(file, work, sdk.log)
    where = " and ".join(str(folder) for folder in folders)
    return found, f"no {file} in {where} (name a folder with WEIGHTS_DIR), and none could be downloaded"


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _set_up_logging(argv: Optional[List[str]]) -> int:
    parser = argparse.ArgumentParser(description="Train an Ultralytics YOLO model.")
    parser.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR")
    arguments, unknown = parser.parse_known_args(argv)
    level = logging.getLevelName(arguments.log_level.upper())
    known = isinstance(level, int)
    logging.basicConfig(level=level if known else logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    if not known:
        LOGGER.warning("--log-level is %r, which is not a level; using INFO", arguments.log_level)
    if unknown:
        LOGGER.warning("arguments not known here: %s", " ".join(unknown))
    return level if known else logging.INFO


if __name__ == "__main__":
    sys.exit(main())
