"""Owns what RESUME_FROM names: a run to go on with, or weights to begin with.

A checkpoint of a run that was interrupted holds its epoch and its optimizer; Ultralytics strips both from those of a
complete run, which therefore are weights and no more. Its own `resume` goes on where the old run stood, in that run's
folder and with its arguments, so a copy is made that names the folder, dataset and arguments of this job.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from trainyard_sdk import CheckpointError

# What torch raises for a file that is none of its own, or one of classes that are not here.
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    KeyError,
    AttributeError,
    ImportError,
    pickle.PickleError,
)


@dataclass
class Beginning:
    """Where a run begins.

    Attributes:
        weights: the file for the model.
        done: epochs that are behind it; 0 when only the weights count.
        best_epoch: the best of them, if there are any.
        best_fitness: its fitness.
        best: the checkpoint of that epoch, if it is at hand.
        complete: all epochs that the job asks for are behind it.
    """

    weights: Path
    done: int = 0
    best_epoch: Optional[int] = None
    best_fitness: Optional[float] = None
    best: Optional[Path] = None
    complete: bool = False


def read(arguments: Dict[str, Any], work: Path, log: Callable[[str], Any]) -> Optional[Beginning]:
    """What RESUME_FROM and RESUME ask for; None without them.

    Args:
        arguments: all of this run's arguments for training, `data`, `project` and `name` among them.
        work: where a changed copy of the checkpoint may be written.
        log: hears in words what was found.
    """
    named = os.environ.get("RESUME_FROM", "").strip()
    if not named:
        return None
    path = Path(named)
    if not path.is_file():
        raise CheckpointError(f"RESUME_FROM is {named!r}, which is not a file on this machine")
    state = _load(path)
    done = int(state.get("epoch", -1)) + 1
    whole = os.environ.get("RESUME", "true").strip().lower() != "false"
    if not whole:
        log(f"first weights: {path}")
        return Beginning(path)
    if done < 1 or state.get("optimizer") is None:
        log(f"first weights: {path}, whose run is complete: there is no epoch to go on after")
        return Beginning(path)
    complete = done >= int(arguments["epochs"])
    if complete:
        log(f"{path} has done {done} epochs and the job asks for {arguments['epochs']}: there is nothing left to train")
    else:
        log(f"going on after epoch {done} of {path}")
    best = _best(path, state, done)
    best_epoch = (state.get("stopper") or {}).get("best_epoch")
    if best is None and best_epoch:
        log(
            f"the best checkpoint so far, of epoch {best_epoch}, stays where the run before this one left it: "
            f"it is not beside {path}; none is reported until a better one is made"
        )
    fitness = state.get("best_fitness")
    best_fitness = None if fitness is None else float(fitness)
    if complete:
        return Beginning(path, done, best_epoch, best_fitness, best, complete=True)
    run = Path(arguments["project"]) / arguments["name"]
    state["train_args"] = {**(state.get("train_args") or {}), **arguments, "save_dir": str(run)}
    copy = work / "resume.pt"
    _save(state, copy)
    return Beginning(copy, done, best_epoch, best_fitness, best)


def _best(path: Path, state: Dict[str, Any], done: int) -> Optional[Path]:
    """The checkpoint of the best epoch so far: this one or best.pt beside it, if that is the very one."""
    wanted = (state.get("stopper") or {}).get("best_epoch")
    if not wanted:
        return None
    if wanted == done:
        return path
    beside = path.with_name("best.pt")
    try:
        held = _load(beside) if beside.is_file() else {}
    except CheckpointError:
        return None
    same = held.get("best_fitness") is not None and held["best_fitness"] == state.get("best_fitness")
    return beside if same and int(held.get("epoch", -1)) + 1 == wanted else None


def _load(path: Path) -> Dict[str, Any]:
    import torch

    try:
        # The model is stored as an object, so there is no reading it without running what it says.
        state = torch.load(path, map_location="cpu", weights_only=False)
    except _UNREADABLE as error:
        raise CheckpointError(f"RESUME_FROM {str(path)!r} is no checkpoint of Ultralytics: {error}") from error
    if not isinstance(state, dict) or (state.get("ema") is None and state.get("model") is None):
        raise CheckpointError(f"RESUME_FROM {str(path)!r} is no checkpoint of Ultralytics: it holds no model")
    return state


def _save(state: Dict[str, Any], path: Path) -> None:
    import torch

    try:
        torch.save(state, path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {path} could not be written: {error}; is there room on the disk?") from error
