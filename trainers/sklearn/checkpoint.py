"""Owns the file of a checkpoint: everything that the next epoch depends on, so that a run which goes on from it has
the very curve of one that was never interrupted.

An npz of arrays and one JSON text. Nothing in it is ever unpickled: reading a checkpoint runs no code.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Tuple

from trainyard_sdk import CheckpointError

# What scikit-learn's optimizers keep between steps: lists of arrays, then numbers.
_MOMENTS = {"adam": ("ms", "vs"), "sgd": ("velocities",)}
_NUMBERS = {"adam": ("t", "learning_rate"), "sgd": ("learning_rate",)}
# What the model keeps between epochs besides its weights.
_COUNTS = ("t_", "n_iter_", "loss_", "best_loss_", "_no_improvement_count", "loss_curve_")


def write(path: Path, model: Any, samples: Any, progress: Dict[str, Any]) -> None:
    """Write a checkpoint beside its place, whole and on the disk. `publish` gives it its name.

    Args:
        path: its place.
        model: a model that has been trained for at least an epoch.
        samples: what it was trained on.
        progress: `epoch`, `metrics` and `best` with the same of the best epoch.
    """
    import numpy

    optimizer, solver = model._optimizer, model.solver
    arrays = {f"weights_{i}": layer for i, layer in enumerate(model.coefs_)}
    arrays.update({f"biases_{i}": layer for i, layer in enumerate(model.intercepts_)})
    for name in _MOMENTS[solver]:
        arrays.update({f"{name}_{i}": moment for i, moment in enumerate(getattr(optimizer, name))})
    chance = model.random_state.get_state(legacy=False)
    arrays.update(mean=samples.mean, random_key=chance["state"]["key"])
    about = {
        **progress,
        "classes": list(samples.classes),
        "activation": model.activation,
        "solver": solver,
        "optimizer": {name: float(getattr(optimizer, name)) for name in _NUMBERS[solver]},
        "model": {name: _plain(getattr(model, name)) for name in _COUNTS},
        "random": {"pos": chance["state"]["pos"], "has_gauss": chance["has_gauss"], "gauss": chance["gauss"]},
    }
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as stream:
            numpy.savez(stream, about=numpy.array(json.dumps(about)), **arrays)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise _unwritten(path, error) from error


def publish(path: Path) -> None:
    """Give a checkpoint that was written its name, so that a reader or a crash never meets half a file.

    Only once its epoch is reported: whoever goes on from a checkpoint has all epochs before it in the curve.
    """
    try:
        os.replace(_part(path), path)
    except OSError as error:
        raise _unwritten(path, error) from error


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _unwritten(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"checkpoint {path} could not be written: {error}; is CHECKPOINT_DIR writable?")


def restore(path: Path, model: Any, samples: Any, whole: bool) -> Dict[str, Any]:
    """Bring an untrained model to where a checkpoint was taken; `whole` is more than its weights.

    Returns:
        What was saved as `progress`.

    Raises:
        CheckpointError: it is no checkpoint of this trainer, or one of another network or other classes.
    """
    import numpy

    arrays, about = _read(path)
    _check(path, model, samples, about, whole)
    seed = model.random_state.get_state(legacy=False)
    # One step of training makes all arrays in their shapes; what is in them is replaced.
    batch = model.batch_size
    classes = range(len(samples.classes))
    model.partial_fit(samples.train_x[:batch], samples.train_y[:batch], classes=classes)
    for layers, name in ((model.coefs_, "weights"), (model.intercepts_, "biases")):
        _fill(path, layers, [arrays.get(f"{name}_{i}") for i in range(len(layers))])
    if not whole:
        del model._optimizer
        model.random_state.set_state(seed)
        return about
    optimizer, solver = model._optimizer, model.solver
    for name in _MOMENTS[solver]:
        moments = getattr(optimizer, name)
        _fill(path, moments, [arrays.get(f"{name}_{i}") for i in range(len(moments))])
    for name, value in about["optimizer"].items():
        setattr(optimizer, name, int(value) if name == "t" else value)
    for name in _COUNTS:
        setattr(model, name, about["model"][name])
    chance = about["random"]
    key = numpy.asarray(arrays["random_key"], dtype=numpy.uint32)
    model.random_state.set_state(("MT19937", key, chance["pos"], chance["has_gauss"], chance["gauss"]))
    return about


def take_over_best(source: Path, about: Dict[str, Any], target: Path) -> bool:
    """Copy the best checkpoint of the run that `source` is of, if that is `source` itself or lies beside it or there.

    Args:
        source: the checkpoint that a run goes on from.
        about: what `restore` has returned for it.
        target: where this run's best checkpoint lies.
    """
    best = about["best"]
    for candidate in (source, source.with_name(target.name), target):
        try:
            held = about if candidate == source else _read(candidate)[1] if candidate.is_file() else {}
        except CheckpointError:
            continue
        if held.get("epoch") != best["epoch"] or held.get("metrics") != best["metrics"]:
            continue
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (target.is_file() and target.samefile(candidate)):
                shutil.copyfile(candidate, part)
                os.replace(part, target)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {target} could not be written: {error}; is CHECKPOINT_DIR writable?"
            ) from error
        return True
    return False


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [float(each) for each in value]
    return int(value) if isinstance(value, int) else float(value)


def _read(path: Path) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    import zipfile

    import numpy

    try:
        with numpy.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        about: Dict[str, Any] = json.loads(str(arrays.pop("about")))
    except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"RESUME_FROM {str(path)!r} is no checkpoint of this trainer: {error}") from error
    return arrays, about


def _check(path: Path, model: Any, samples: Any, about: Dict[str, Any], whole: bool) -> None:
    wanted = {"classes": list(samples.classes), "activation": model.activation}
    if whole:
        wanted["solver"] = model.solver
    for name, value in wanted.items():
        if about.get(name) != value:
            raise CheckpointError(
                f"RESUME_FROM {str(path)!r} has {name} {about.get(name)!r}, but this job has {value!r}"
            )
    lacking = [name for name in ("optimizer", "model", "random", "best", "metrics") if name not in about]
    if whole and lacking:
        raise CheckpointError(
            f"RESUME_FROM {str(path)!r} lacks {', '.join(lacking)}; begin with its weights alone (resume=false)"
        )


def _fill(path: Path, into: List[Any], found: List[Any]) -> None:
    """Replace arrays in place: the optimizer holds on to them."""
    for target, value in zip(into, found):
        if value is None or value.shape != target.shape:
            shape = "none" if value is None else value.shape
            raise CheckpointError(
                f"RESUME_FROM {str(path)!r} is of another network: an array of {shape} in place of {target.shape}; "
                "give hidden_layer_sizes and the image size that it was trained with"
            )
        target[...] = value
