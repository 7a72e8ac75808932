"""Owns the translation of a job's settings into arguments of Ultralytics' `train`. Pure: needs no Ultralytics.

Two rules: every setting reaches training or is named in a warning, and what the user set is never replaced by a
default of ours. Settings that Ultralytics has no argument for, but that the trainer can carry out by itself, come back
as `Hooks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from trainyard_sdk.errors import ConfigError

TASKS = {"detection": "detect", "classification": "classify", "segmentation": "segment", "pose": "pose"}

# Arguments of `train` that pass straight through, whatever group they stand in.
TRAIN_ARGUMENTS = frozenset(
    """epochs time patience batch imgsz save save_period cache device workers exist_ok pretrained cls_remap optimizer
    verbose seed deterministic single_cls rect cos_lr close_mosaic amp fraction profile freeze multi_scale compile
    channels_last overlap_mask mask_ratio dropout val split save_json conf iou max_det plots agnostic_nms classes
    lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr box cls cls_pw dfl pose kobj rle angle
    nbs hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud fliplr bgr mosaic mixup cutmix copy_paste
    copy_paste_mode auto_augment erasing""".split()
)

# The platform decides these; a setting of the same name would break the report of the run.
RESERVED = frozenset("data model task mode project name save_dir resume cfg source save exist_ok".split())

OPTIMIZERS = {
    name.lower(): name for name in ("SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp", "auto")
}
ADAM_FAMILY = frozenset(("Adam", "Adamax", "AdamW", "NAdam", "RAdam"))
SGD_FROM = 0.005
"""Learning rate from which SGD is taken when none is named: its usual rates are about ten times those of AdamW."""

COSINE = frozenset("cosine cos cosineannealing cosineannealinglr cosine_annealing".split())
LINEAR = frozenset("linear linearlr poly polynomial".split())
CONSTANT = frozenset("constant none off".split())

# What other frameworks call an argument of Ultralytics, for each group of settings.
ALIASES: Dict[str, Dict[str, str]] = {
    "optimizer": {"lr": "lr0", "learning_rate": "lr0"},
    "scheduler": {"final_lr_factor": "lrf", "final_lr_fraction": "lrf"},
    "augmentation": {
        "horizontal_flip": "fliplr",
        "hflip": "fliplr",
        "vertical_flip": "flipud",
        "vflip": "flipud",
        "rotation": "degrees",
        "rotate": "degrees",
        "hue": "hsv_h",
        "saturation": "hsv_s",
        "brightness": "hsv_v",
        "random_erasing": "erasing",
        "copypaste": "copy_paste",
    },
    "preprocessing": {"image_size": "imgsz", "img_size": "imgsz", "resize": "imgsz"},
    "validation": {
        "enabled": "val",
        "iou_threshold": "iou",
        "conf_threshold": "conf",
        "confidence_threshold": "conf",
        "max_detections": "max_det",
        "early_stopping_patience": "patience",
    },
}

# What `true` stands for where Ultralytics wants a strength; `false` is always 0.
SWITCHED_ON = {
    "mosaic": 1.0,
    "fliplr": 0.5,
    "flipud": 0.5,
    "mixup": 0.1,
    "cutmix": 0.1,
    "copy_paste": 0.1,
    "erasing": 0.4,
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "degrees": 10.0,
    "translate": 0.1,
    "scale": 0.5,
    "shear": 2.0,
    "perspective": 0.0005,
    "bgr": 0.1,
}
AUGMENTATIONS_OFF: Dict[str, Any] = {**dict.fromkeys(SWITCHED_ON, 0.0), "auto_augment": None}


@dataclass
class Hooks:
    """What the trainer does itself during training.

    Attributes:
        clip_norm: greatest norm of the gradients; Ultralytics' own fixed 10.0 applies when None.
        keep_checkpoints: how many of the periodic checkpoints stay; all when None.
        log_interval: batches between two log lines; none when None.
    """

    clip_norm: Optional[float] = None
    keep_checkpoints: Optional[int] = None
    log_interval: Optional[int] = None


@dataclass
class Plan:
    """The result: arguments for `train`, hooks, and warnings that name each setting that could not be honoured."""

    arguments: Dict[str, Any] = field(default_factory=dict)
    hooks: Hooks = field(default_factory=Hooks)
    warnings: List[str] = field(default_factory=list)


def plan(
    epochs: int,
    batch: int,
    advanced: Mapping[str, Any],
    imgsz: Optional[int] = None,
    device: str = "",
    learning_rate: Optional[float] = None,
    on_cpu: bool = False,
) -> Plan:
    """Translate a job's settings.

    Args:
        epochs, batch, imgsz, learning_rate: the job's base settings.
        advanced: the advanced settings as a tree, see `TrainerConfig.advanced`.
        device: as given in DEVICE.
        on_cpu: training will run on the CPU, where mixed precision is not available.

    Raises:
        ConfigError: a setting has a value that means nothing; the text names it.
    """
    made = Plan({"epochs": epochs, "batch": batch})
    if imgsz is not None:
        made.arguments["imgsz"] = imgsz
    if learning_rate is not None:
        made.arguments["lr0"] = learning_rate
    if device_argument(device) is not None:
        made.arguments["device"] = device_argument(device)
    for key, value in advanced.items():
        handler = _HANDLERS.get(key)
        if handler is not None:
            handler(made, key, value)
        elif isinstance(value, dict) and key not in TRAIN_ARGUMENTS:
            _warn(made, key, "is not a group of settings that is known here")
        else:
            _argument(made, key, key, value)
    _settle_optimizer(made)
    _settle_schedule(made)
    _settle_defaults(made, on_cpu)
    return made


def device_argument(device: str) -> Optional[str]:
    """Ultralytics' form of a device name: `cuda:1` is `1`, `cuda` is `0`; None lets it choose."""
    name = device.strip().lower()
    if name in ("", "auto", "none"):
        return None
    if name in ("cuda", "gpu"):
        return "0"
    return name[5:] if name.startswith("cuda:") else name


def _warn(made: Plan, key: str, why: str) -> None:
    made.warnings.append(f"setting {key!r} is not honoured: it {why}")


def _argument(made: Plan, path: str, name: str, value: Any) -> None:
    """Set one argument, or warn when there is none of this name."""
    if name in RESERVED:
        _warn(made, path, "is set by the platform")
    elif name not in TRAIN_ARGUMENTS:
        _warn(made, path, "has no counterpart in Ultralytics")
    else:
        if isinstance(value, bool) and name in SWITCHED_ON:
            value = SWITCHED_ON[name] if value else 0.0
        made.arguments[name] = value


def _group(made: Plan, group: str, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        _argument(made, f"{group}.{key}", ALIASES.get(group, {}).get(key, key), value)


def _optimizer(made: Plan, key: str, value: Any) -> None:
    values = dict(value) if isinstance(value, dict) else {"type": value}
    name = values.pop("type", values.pop("name", None))
    if name is not None:
        known = OPTIMIZERS.get(str(name).lower())
        if known is None:
            _warn(made, f"{key}.type", f"is {name!r}; Ultralytics has {', '.join(sorted(OPTIMIZERS.values()))}")
        else:
            made.arguments["optimizer"] = known
    betas = values.pop("betas", None)
    if isinstance(betas, (list, tuple)) and len(betas) == 2:
        made.arguments["momentum"] = betas[0]
        if betas[1] != 0.999:
            _warn(made, "optimizer.betas", f"asks for a second beta of {betas[1]}, which is fixed to 0.999")
    elif betas is not None:
        raise ConfigError(f"CONFIG.optimizer.betas is {betas!r}, but must be two numbers")
    if values.get("nesterov") is True:
        values.pop("nesterov")  # always on for SGD
    _group(made, "optimizer", values)


def _scheduler(made: Plan, key: str, value: Any) -> None:
    values = dict(value) if isinstance(value, dict) else {"type": value}
    name = values.pop("type", values.pop("name", None))
    kind = str(name).lower()
    if name is None:
        pass
    elif kind in COSINE:
        made.arguments["cos_lr"] = True
    elif kind in LINEAR:
        made.arguments["cos_lr"] = False
    elif kind in CONSTANT:
        made.arguments.update(cos_lr=False, lrf=1.0)
    else:
        _warn(made, f"{key}.type", f"is {name!r}; Ultralytics has cosine, linear and constant")
    lowest = values.pop("min_lr", values.pop("eta_min", None))
    if lowest is not None:
        made.arguments["_min_lr"] = lowest  # becomes a fraction once the learning rate is known
    if values.get("T_max") == made.arguments["epochs"]:
        values.pop("T_max")
    _group(made, "scheduler", values)


def _augmentation(made: Plan, key: str, value: Any) -> None:
    values = dict(value) if isinstance(value, dict) else {"enabled": value}
    enabled = values.pop("enabled", True)
    if not isinstance(enabled, bool):
        raise ConfigError(f"CONFIG.{key}.enabled is {enabled!r}, but must be true or false")
    if not enabled:
        made.arguments.update(AUGMENTATIONS_OFF)
    _group(made, key, values)


def _validation(made: Plan, key: str, value: Any) -> None:
    values = dict(value) if isinstance(value, dict) else {"enabled": value}
    for name in ("interval", "val_interval", "frequency"):
        if values.get(name) == 1:
            values.pop(name)  # once an epoch is what Ultralytics does
    stopping = values.pop("early_stopping", None)
    if isinstance(stopping, dict):
        if stopping.get("enabled", True) is False:
            made.arguments["patience"] = 0
        elif "patience" in stopping:
            made.arguments["patience"] = stopping["patience"]
    elif stopping is not None:
        _warn(made, f"{key}.early_stopping", "must be an object with patience")
    _group(made, key, values)


def _preprocessing(made: Plan, key: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"CONFIG.{key} is {value!r}, but must be an object")
    values = dict(value)
    if values.get("normalize") is True:
        values.pop("normalize")  # pixels are always scaled to 0..1
    _group(made, key, values)


def _precision(made: Plan, key: str, value: Any) -> None:
    if isinstance(value, dict):
        value = value.get("dtype", True) if value.get("enabled", True) else False
    names = {"fp16": True, "float16": True, "bf16": "bf16", "bfloat16": "bf16", "fp32": False, "float32": False}
    choice = value if isinstance(value, bool) else names.get(str(value).lower())
    if choice is None:
        raise ConfigError(f"CONFIG.{key} is {value!r}, but must be true, false, fp16, bf16 or fp32")
    made.arguments["amp"] = choice


def _number(kind: Callable[[Any], Any], key: str, value: Any) -> Any:
    """A number above 0."""
    try:
        number = kind(value)
    except (TypeError, ValueError):
        number = 0
    if isinstance(value, bool) or not number > 0:
        raise ConfigError(f"CONFIG.{key} is {value!r}, but must be a number above 0")
    return number


def _accumulation(made: Plan, key: str, value: Any) -> None:
    made.arguments.setdefault("nbs", int(made.arguments["batch"]) * _number(int, key, value))


def _clip(made: Plan, key: str, value: Any) -> None:
    made.hooks.clip_norm = _number(float, key, value)


def _interval(made: Plan, key: str, value: Any) -> None:
    made.arguments["save_period"] = _number(int, key, value)


def _keep(made: Plan, key: str, value: Any) -> None:
    made.hooks.keep_checkpoints = _number(int, key, value)


def _log_interval(made: Plan, key: str, value: Any) -> None:
    made.hooks.log_interval = _number(int, key, value)


_HANDLERS: Dict[str, Callable[[Plan, str, Any], None]] = {
    "optimizer": _optimizer,
    "optimizer_type": _optimizer,
    "scheduler": _scheduler,
    "scheduler_type": _scheduler,
    "lr_scheduler": _scheduler,
    "augmentation": _augmentation,
    "preprocessing": _preprocessing,
    "validation": _validation,
    "mixed_precision": _precision,
    "gradient_clip_value": _clip,
    "gradient_accumulation_steps": _accumulation,
    "checkpoint_interval": _interval,
    "keep_n_checkpoints": _keep,
    "log_interval": _log_interval,
}


def _settle_optimizer(made: Plan) -> None:
    """`auto` ignores the learning rate, so a job that names a rate gets an optimizer that takes it."""
    given = made.arguments
    rate = given.get("lr0")
    if given.get("optimizer") == "auto" and rate is not None:
        _warn(made, "learning_rate", "has no effect with optimizer 'auto', which chooses its own; name an optimizer")
    if "optimizer" not in given and rate is not None:
        given["optimizer"] = "SGD" if float(rate) >= SGD_FROM else "AdamW"
    if given.get("optimizer") in ADAM_FAMILY:
        # The usual warm-up starts biases at 0.1, which is fit for SGD and a hundred times too much here.
        given.setdefault("warmup_bias_lr", 0.0)


def _settle_schedule(made: Plan) -> None:
    lowest = made.arguments.pop("_min_lr", None)
    if lowest is None:
        return
    rate = made.arguments.get("lr0")
    if rate is None:
        _warn(made, "scheduler.min_lr", "needs a learning rate to be a fraction of")
    elif "lrf" not in made.arguments:
        made.arguments["lrf"] = float(lowest) / float(rate)


def _settle_defaults(made: Plan, on_cpu: bool) -> None:
    """What suits a scheduled job, only where the user said nothing."""
    made.arguments.setdefault("plots", False)
    if on_cpu:
        if made.arguments.get("amp"):
            _warn(made, "mixed_precision", "needs an accelerator, and this job runs on the CPU")
        made.arguments["amp"] = False
        made.arguments.setdefault("workers", 0)


def model_file(model_name: str, task: str) -> Tuple[str, str]:
    """Return the names of the weights file and of the architecture file, e.g. `yolo11n-seg.pt`, `yolo11n-seg.yaml`.

    Args:
        model_name: e.g. `yolo11n`, with or without the suffix of its task and `.pt`.
        task: short name of the task.

    Raises:
        ConfigError: the name is empty or belongs to another task.
    """
    stem = model_name.strip()
    for ending in (".pt", ".yaml", ".yml"):
        stem = stem[: -len(ending)] if stem.endswith(ending) else stem
    if not stem or "/" in stem or "\\" in stem:
        raise ConfigError(f"MODEL_NAME is {model_name!r}, but must be the name of a model, e.g. yolo11n")
    suffixes = {"detection": "", "classification": "-cls", "segmentation": "-seg", "pose": "-pose"}
    named = next((suffix for suffix in ("-cls", "-seg", "-pose", "-obb") if stem.endswith(suffix)), "")
    if named and named != suffixes[task]:
        raise ConfigError(
            f"MODEL_NAME is {model_name!r}, which is no model for TASK_TYPE {task!r}; use {stem[: -len(named)]}"
        )
    if not named:
        stem += suffixes[task]
    return f"{stem}.pt", f"{stem}.yaml"
