"""Owns the network: its construction by timm, its first weights, and how its input looks. Callers: `train`.

Weights are looked for in the working folder and in WEIGHTS_DIR and never downloaded; without them training starts from
random ones.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import timm
import torch
from settings import Plan
from trainyard_sdk.errors import CheckpointError, ConfigError

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")
DEFAULT = "resnet18"


def build(name: str, plan: Plan, classes: int) -> Any:
    """The network with `classes` outputs and random weights; settles the plan's input settings.

    Raises:
        ConfigError: timm has no such model, or the model cannot take these settings.
    """
    name = name.strip() or DEFAULT
    if "/" in name or not timm.is_model(name.split(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]) or "resnet18"
        raise ConfigError(f"MODEL_NAME is {name!r}, and timm has no such model; there are e.g. {near}")
    wanted: Dict[str, Any] = {"num_classes": classes, "drop_rate": plan.drop_rate}
    if plan.drop_path_rate is not None:
        wanted["drop_path_rate"] = plan.drop_path_rate
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if plan.imgsz is not None and known is not None and known.fixed_input_size:
        wanted["img_size"] = plan.imgsz
    try:
        model = timm.create_model(name, pretrained=False, **wanted)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"MODEL_NAME {name!r} cannot be built with {wanted}: {error}") from error
    _settle_input(plan, model)
    if plan.freeze_backbone:
        _freeze(model)
    return model


def _settle_input(plan: Plan, model: Any) -> None:
    """What the job leaves open is what the model was made for."""
    data = timm.data.resolve_model_data_config(model)
    plan.imgsz = plan.imgsz or int(data["input_size"][-1])
    plan.mean = plan.mean or [float(value) for value in data["mean"]]
    plan.std = plan.std or [float(value) for value in data["std"]]
    plan.crop_pct = plan.crop_pct or float(data["crop_pct"])


def _freeze(model: Any) -> None:
    for parameter in model.parameters():
        parameter.requires_grad = False
    for head in _heads(model):
        for parameter in head.parameters():
            parameter.requires_grad = True


def hold_statistics(model: Any) -> None:
    """Keep the running means of a frozen backbone, which training mode would go on to change without any gradient."""
    trained = {module for head in _heads(model) for module in head.modules()}
    for module in model.modules():
        # Batch and instance norms; torch has no public name for what they have in common.
        if isinstance(module, torch.nn.modules.batchnorm._NormBase) and module not in trained:
            module.eval()


def _heads(model: Any) -> List[Any]:
    """The classifier; some networks have two."""
    head = model.get_classifier()
    return list(head) if isinstance(head, (list, tuple)) else [head]


def find_weights(name: str, work: Path) -> Optional[Path]:
    """A file with weights for a model in the working folder or in WEIGHTS_DIR."""
    named = os.environ.get("WEIGHTS_DIR", "").strip()
    folders: List[Path] = [work, *([Path(named)] if named else [])]
    names = [name, name.split(".")[0]]
    candidates = (folder / f"{stem}{ending}" for folder in folders for stem in names for ending in ENDINGS)
    return next((path.absolute() for path in candidates if path.is_file()), None)


def load_weights(model: Any, path: Path, log: Callable[..., object]) -> None:
    """Load what fits; a head for other classes stays random and is named.

    Raises:
        CheckpointError: the file cannot be read, or nothing in it fits.
    """
    given = read(path)
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(given.get(key), dict):
            given = given[key]
            break
    own = model.state_dict()
    given = {key.removeprefix("module."): value for key, value in given.items()}
    fitting = {key: value for key, value in given.items() if key in own and value.shape == own[key].shape}
    if not fitting:
        raise CheckpointError(f"nothing in {path} fits this model; is it for MODEL_NAME?")
    model.load_state_dict(fitting, strict=False)
    left = sorted({key.split(".")[0] for key in own if key not in fitting})
    log(f"first weights: {path}" + (f"; random: {', '.join(left)}" if left else ""))


def read(path: Path) -> Dict[str, Any]:
    """A file of tensors; no code in it is run. Raises CheckpointError."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(str(path)))
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets
        raise CheckpointError(f"checkpoint {path} could not be read: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"checkpoint {path} is a {type(document).__name__}, but must hold tensors by name")
    return document
