"""Owns the translation of a job's settings into what training does. Pure: needs neither torch nor timm.

Two rules: every setting reaches training or is named in a warning, and a value that means nothing is an error that
names the setting. What was decided is written to args.yaml. Callers: `train`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from trainyard_sdk.errors import ConfigError

OPTIMIZERS = frozenset("sgd adam adamw nadam radam rmsprop adagrad adadelta lamb lars lion adamp adafactor".split())
SCHEDULERS: Dict[str, str] = {
    **dict.fromkeys("cosine cos cosineannealing cosineannealinglr cosine_annealing".split(), "cosine"),
    **dict.fromkeys("step steplr".split(), "step"),
    **dict.fromkeys("multistep multisteplr multi_step".split(), "multistep"),
    **dict.fromkeys("plateau reducelronplateau reduce_on_plateau".split(), "plateau"),
    **dict.fromkeys("poly polynomial polynomiallr".split(), "poly"),
    **dict.fromkeys("exponential exponentiallr exp".split(), "exponential"),
    **dict.fromkeys("linear linearlr".split(), "linear"),
    **dict.fromkeys("constant none off".split(), "constant"),
}
INTERPOLATIONS = frozenset("bilinear bicubic nearest random".split())
PRECISIONS = {"fp16": "fp16", "float16": "fp16", "bf16": "bf16", "bfloat16": "bf16", "fp32": "off", "float32": "off"}
METRICS: Dict[str, Tuple[str, str]] = {
    "accuracy": ("accuracy", "max"),
    "accuracy_top1": ("accuracy", "max"),
    "top1": ("accuracy", "max"),
    "accuracy_top5": ("accuracy_top5", "max"),
    "top5": ("accuracy_top5", "max"),
    "loss": ("loss", "min"),
    "val_loss": ("val_loss", "min"),
    "precision": ("precision", "max"),
    "recall": ("recall", "max"),
    "f1": ("f1", "max"),
    "f1_score": ("f1", "max"),
}
"""Names of figures, what they are called here, and which way is better."""


@dataclass
class Plan:
    """What training does. Learning rates a step of the optimizer, sizes in pixels, chances from 0 to 1."""

    epochs: int = 50
    batch_size: int = 32
    imgsz: Optional[int] = None
    learning_rate: float = 0.001
    num_classes: Optional[int] = None
    device: str = ""
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    momentum: float = 0.9
    betas: Optional[List[float]] = None
    eps: Optional[float] = None
    scheduler: str = "cosine"
    min_lr: float = 0.0
    warmup_epochs: int = 0
    warmup_lr: float = 1e-6
    decay_epochs: Optional[float] = None
    decay_rate: float = 0.1
    milestones: Optional[List[int]] = None
    patience_epochs: int = 5
    clip_grad: Optional[float] = None
    accumulation: int = 1
    mixed_precision: str = "off"
    checkpoint_interval: Optional[int] = None
    keep_checkpoints: Optional[int] = None
    log_interval: Optional[int] = None
    primary_metric: str = "accuracy"
    primary_metric_mode: str = "max"
    validation_interval: int = 1
    early_stopping: Optional[int] = None
    seed: int = 42
    deterministic: bool = True
    pretrained: bool = True
    freeze_backbone: bool = False
    drop_rate: float = 0.0
    drop_path_rate: Optional[float] = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    augmentation: bool = True
    hflip: float = 0.5
    vflip: float = 0.0
    rotation: float = 0.0
    color_jitter: float = 0.0
    auto_augment: Optional[str] = None
    random_erasing: float = 0.0
    scale: List[float] = field(default_factory=lambda: [0.35, 1.0])
    ratio: List[float] = field(default_factory=lambda: [0.75, 1.3333333333333333])
    crop_pct: Optional[float] = None
    interpolation: str = "bilinear"
    mean: Optional[List[float]] = None
    std: Optional[List[float]] = None
    workers: int = 0

    def to_dict(self) -> Dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


@dataclass
class Made:
    """A plan, and warnings that name each setting that could not be honoured."""

    plan: Plan
    warnings: List[str] = field(default_factory=list)


def make(base: Mapping[str, Any], advanced: Mapping[str, Any], on_cpu: bool) -> Made:
    """Translate a job's settings.

    Args:
        base: fields of `Plan` that the job's base settings name; None means "not named".
        advanced: the advanced settings as a tree, see `TrainerConfig.advanced`.
        on_cpu: training will run on the CPU, where half precision is not used.

    Raises:
        ConfigError: a setting has a value that means nothing; the text names it.
    """
    made = Made(Plan(**{key: value for key, value in base.items() if value is not None}))
    for key, value in advanced.items():
        handler = _HANDLERS.get(key)
        if handler is not None:
            handler(made, key, value)
        else:
            _set(made, key, key, value)
    _settle(made, on_cpu)
    return made


def primary(name: str, mode: str) -> Tuple[str, str]:
    """The figure that names the best epoch, and `max` or `min`. Raises ConfigError for an unknown one."""
    known = METRICS.get(name.strip().lower())
    if known is None:
        raise ConfigError(f"CONFIG.primary_metric is {name!r}, but must be one of {', '.join(sorted(METRICS))}")
    if mode not in ("max", "min"):
        raise ConfigError(f"CONFIG.primary_metric_mode is {mode!r}, but must be max or min")
    return known[0], mode


def _settle(made: Made, on_cpu: bool) -> None:
    plan = made.plan
    if on_cpu and plan.mixed_precision != "off":
        _warn(made, "mixed_precision", "needs an accelerator, and this job runs on the CPU")
        plan.mixed_precision = "off"
    if plan.min_lr > plan.learning_rate:
        raise ConfigError(f"CONFIG.scheduler.min_lr is {plan.min_lr}, above the learning rate {plan.learning_rate}")
    if plan.warmup_epochs >= plan.epochs > 1:
        raise ConfigError(f"CONFIG.scheduler.warmup_epochs is {plan.warmup_epochs}, but there are {plan.epochs} epochs")
    if plan.keep_checkpoints is not None and plan.checkpoint_interval is None:
        plan.checkpoint_interval = 1
    if not plan.augmentation:
        plan.hflip = plan.vflip = plan.rotation = plan.color_jitter = plan.random_erasing = 0.0
        plan.mixup = plan.cutmix = 0.0
        plan.auto_augment = None
        plan.scale, plan.ratio = [1.0, 1.0], [1.0, 1.0]
    if (plan.mixup or plan.cutmix) and plan.batch_size % 2:
        raise ConfigError(f"BATCH_SIZE is {plan.batch_size}, but mixup and cutmix need an even one")


def _warn(made: Made, key: str, why: str) -> None:
    made.warnings.append(f"setting {key!r} is not honoured: it {why}")


# --- kinds of values


def _bad(path: str, value: Any, accepts: str) -> ConfigError:
    return ConfigError(f"CONFIG.{path} is {value!r}, but must be {accepts}")


def _number(low: float, high: float, accepts: str) -> Callable[[str, Any], float]:
    def read(path: str, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise _bad(path, value, accepts) from None
        if isinstance(value, bool) or not low <= number <= high:
            raise _bad(path, value, accepts)
        return number

    return read


def _whole(low: int) -> Callable[[str, Any], int]:
    def read(path: str, value: Any) -> int:
        number = _number(low, 2**31, f"a whole number from {low} on")(path, value)
        if number != int(number):
            raise _bad(path, value, f"a whole number from {low} on")
        return int(number)

    return read


def _flag(path: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad(path, value, "true or false")
    return value


def _chance(on: float) -> Callable[[str, Any], float]:
    """A share from 0 to 1; `true` stands for `on`."""

    def read(path: str, value: Any) -> float:
        if isinstance(value, bool):
            return on if value else 0.0
        return _number(0.0, 1.0, "from 0 to 1, true or false")(path, value)

    return read


def _numbers(count: Optional[int]) -> Callable[[str, Any], List[float]]:
    def read(path: str, value: Any) -> List[float]:
        accepts = f"{count} numbers" if count else "a list of numbers"
        if not isinstance(value, (list, tuple)) or (count is not None and len(value) != count) or not value:
            raise _bad(path, value, accepts)
        return [_number(-1e9, 1e9, accepts)(path, item) for item in value]

    return read


def _range(path: str, value: Any) -> List[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value, 1.0]
    low, high = _numbers(2)(path, value)
    if not 0 < low <= high:
        raise _bad(path, value, "two numbers above 0 in order")
    return [low, high]


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _bad(path, value, "a text")
    return value


_positive = _number(1e-12, 1e9, "a number above 0")
_any_size = _number(0.0, 1e9, "a number from 0 on")

KINDS: Dict[str, Callable[[str, Any], Any]] = {
    "weight_decay": _any_size,
    "momentum": _number(0.0, 0.999999, "from 0 to below 1"),
    "betas": _numbers(2),
    "eps": _positive,
    "min_lr": _any_size,
    "warmup_epochs": _whole(0),
    "warmup_lr": _any_size,
    "decay_epochs": _positive,
    "decay_rate": _positive,
    "patience_epochs": _whole(1),
    "seed": _whole(0),
    "deterministic": _flag,
    "pretrained": _flag,
    "freeze_backbone": _flag,
    "drop_rate": _number(0.0, 0.99, "from 0 to 0.99"),
    "drop_path_rate": _number(0.0, 0.99, "from 0 to 0.99"),
    "label_smoothing": _number(0.0, 0.99, "from 0 to 0.99"),
    "mixup": _any_size,
    "cutmix": _any_size,
    "hflip": _chance(0.5),
    "vflip": _chance(0.5),
    "rotation": _number(0.0, 180.0, "from 0 to 180 degrees"),
    "color_jitter": _chance(0.4),
    "random_erasing": _chance(0.25),
    "scale": _range,
    "ratio": _range,
    "crop_pct": _number(0.05, 1.0, "from 0.05 to 1"),
    "mean": _numbers(3),
    "std": _numbers(3),
    "workers": _whole(0),
    "imgsz": _whole(8),
    "validation_interval": _whole(1),
}

# What other frameworks and the platform's own forms call a setting.
ALIASES: Dict[str, str] = {
    "final_lr": "min_lr",
    "eta_min": "min_lr",
    "warmup_learning_rate": "warmup_lr",
    "warmup_start_lr": "warmup_lr",
    "step_size": "decay_epochs",
    "gamma": "decay_rate",
    "factor": "decay_rate",
    "horizontal_flip": "hflip",
    "random_flip": "hflip",
    "random_horizontal_flip": "hflip",
    "fliplr": "hflip",
    "vertical_flip": "vflip",
    "random_vertical_flip": "vflip",
    "flipud": "vflip",
    "random_rotation": "rotation",
    "degrees": "rotation",
    "rotate": "rotation",
    "erasing": "random_erasing",
    "reprob": "random_erasing",
    "mixup_alpha": "mixup",
    "cutmix_alpha": "cutmix",
    "autoaugment": "auto_augment",
    "aa": "auto_augment",
    "dropout": "drop_rate",
    "image_size": "imgsz",
    "img_size": "imgsz",
    "input_size": "imgsz",
    "interval": "validation_interval",
    "val_interval": "validation_interval",
    "frequency": "validation_interval",
    "num_workers": "workers",
    "smoothing": "label_smoothing",
    "freeze": "freeze_backbone",
    "clip_grad": "gradient_clip_value",
}


def _set(made: Made, path: str, name: str, value: Any) -> None:
    """Set one field of the plan, or warn when there is none of this name."""
    name = ALIASES.get(name, name)
    if name in _HANDLERS and name != path:
        _HANDLERS[name](made, path, value)
    elif name in KINDS:
        setattr(made.plan, name, KINDS[name](path, value))
    elif name in {item.name for item in fields(Plan)}:
        _warn(made, path, "is set by the job itself")
    elif isinstance(value, dict):
        _warn(made, path, "is not a group of settings that is known here")
    else:
        _warn(made, path, "has no meaning for this trainer")


def _group(made: Made, group: str, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if value is not None:
            _set(made, f"{group}.{key}", key, value)


def _typed(group: str, value: Any) -> Tuple[Optional[str], Dict[str, Any]]:
    """A group that may be given as the name of its type alone."""
    values = dict(value) if isinstance(value, dict) else {"type": value}
    name = values.pop("type", values.pop("name", None))
    return (None if name is None else _text(f"{group}.type", name).lower()), values


def _optimizer(made: Made, key: str, value: Any) -> None:
    name, values = _typed(key, value)
    if name is not None and name not in OPTIMIZERS:
        raise _bad(f"{key}.type", name, f"one of {', '.join(sorted(OPTIMIZERS))}")
    made.plan.optimizer = name or made.plan.optimizer
    for alias in ("lr", "learning_rate", "lr0"):
        if alias in values:
            made.plan.learning_rate = _positive(f"{key}.{alias}", values.pop(alias))
    if values.get("nesterov") is True and made.plan.optimizer == "sgd":
        values.pop("nesterov")  # always on for timm's sgd
    _group(made, key, values)


def _scheduler(made: Made, key: str, value: Any) -> None:
    name, values = _typed(key, value)
    if name is not None:
        if name not in SCHEDULERS:
            raise _bad(f"{key}.type", name, f"one of {', '.join(sorted(set(SCHEDULERS.values())))}")
        made.plan.scheduler = SCHEDULERS[name]
    if "milestones" in values:
        made.plan.milestones = [_whole(1)(f"{key}.milestones", item) for item in values.pop("milestones") or []] or None
    if "patience" in values:
        made.plan.patience_epochs = _whole(1)(f"{key}.patience", values.pop("patience"))
    if values.get("T_max") == made.plan.epochs:
        values.pop("T_max")
    _group(made, key, values)


def _augmentation(made: Made, key: str, value: Any) -> None:
    values = dict(value) if isinstance(value, dict) else {"enabled": value}
    made.plan.augmentation = _flag(f"{key}.enabled", values.pop("enabled", True))
    jitter = values.get("color_jitter")
    if isinstance(jitter, dict):
        values["color_jitter"] = max([float(item) for item in jitter.values() if isinstance(item, (int, float))] or [0])
    _group(made, key, values)


def _auto_augment(made: Made, key: str, value: Any) -> None:
    policy = {True: "rand-m9-mstd0.5-inc1", False: None}.get(value, value) if isinstance(value, bool) else value
    if isinstance(policy, str):
        policy = {"randaugment": "rand-m9-mstd0.5-inc1", "augmix": "augmix-m3-w3", "autoaugment": "original"}.get(
            policy.lower(), policy
        )
        if policy.split("-")[0] not in ("rand", "augmix", "3a", "original", "originalr", "v0", "v0r"):
            raise _bad(key, value, "a policy of timm, such as rand-m9-mstd0.5-inc1")
    elif policy is not None:
        raise _bad(key, value, "a policy of timm, such as rand-m9-mstd0.5-inc1")
    made.plan.auto_augment = policy


def _preprocessing(made: Made, key: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise _bad(key, value, "an object")
    values = dict(value)
    if values.get("normalize") is True:
        values.pop("normalize")  # pixels are always scaled and shifted
    if "resize" in values and not isinstance(values["resize"], bool):
        values.setdefault("image_size", values.pop("resize"))
    size = values.get("image_size")
    if isinstance(size, (list, tuple)) and len(set(size)) == 1:
        values["image_size"] = size[0]
    _group(made, key, values)


def _validation(made: Made, key: str, value: Any) -> None:
    values = dict(value) if isinstance(value, dict) else {"enabled": value}
    if not _flag(f"{key}.enabled", values.pop("enabled", True)):
        _warn(made, f"{key}.enabled", "is always on: the best epoch is found by it")
    stopping = values.pop("early_stopping", None)
    patience = values.pop("early_stopping_patience", values.pop("patience", None))
    if isinstance(stopping, dict) and stopping.get("enabled", True):
        patience = stopping.get("patience", patience)
    elif stopping is False or isinstance(stopping, dict):
        patience = None
    if patience is not None:
        made.plan.early_stopping = _whole(1)(f"{key}.early_stopping.patience", patience)
    _group(made, key, values)


def _precision(made: Made, key: str, value: Any) -> None:
    if isinstance(value, dict):
        value = value.get("dtype", True) if value.get("enabled", True) else False
    if isinstance(value, bool):
        made.plan.mixed_precision = "fp16" if value else "off"
        return
    choice = PRECISIONS.get(str(value).lower())
    if choice is None:
        raise _bad(key, value, "true, false, fp16, bf16 or fp32")
    made.plan.mixed_precision = choice


def _interpolation(made: Made, key: str, value: Any) -> None:
    if value not in INTERPOLATIONS:
        raise _bad(key, value, f"one of {', '.join(sorted(INTERPOLATIONS))}")
    made.plan.interpolation = value


def _as(name: str, kind: Callable[[str, Any], Any]) -> Callable[[Made, str, Any], None]:
    def handler(made: Made, key: str, value: Any) -> None:
        setattr(made.plan, name, kind(key, value))

    return handler


_HANDLERS: Dict[str, Callable[[Made, str, Any], None]] = {
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "augmentation": _augmentation,
    "preprocessing": _preprocessing,
    "validation": _validation,
    "mixed_precision": _precision,
    "auto_augment": _auto_augment,
    "interpolation": _interpolation,
    "gradient_clip_value": _as("clip_grad", _positive),
    "gradient_accumulation_steps": _as("accumulation", _whole(1)),
    "checkpoint_interval": _as("checkpoint_interval", _whole(1)),
    "keep_n_checkpoints": _as("keep_checkpoints", _whole(1)),
    "log_interval": _as("log_interval", _whole(1)),
}
