"""Owns what is submitted: a typed description of a job, and its JSON. Pure. Callers: `calls`, users.

A field that is None is left out, so that the coordinator's own default counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Union


@dataclass(frozen=True)
class SplitStrategy:
    """How a dataset is divided: `method` is use_dataset, auto or custom; `ratio` like [0.8, 0.2]."""

    method: str
    ratio: Optional[List[float]] = None
    seed: Optional[int] = None
    custom_splits: Optional[Dict[str, str]] = None
    exclude_images: Optional[List[str]] = None


@dataclass(frozen=True)
class Resources:
    """What one task holds; sizes as bytes or with a unit, such as `8GiB`."""

    cpus: Optional[int] = None
    memory: Union[int, str, None] = None
    gpus: Optional[int] = None
    gpu_model: Optional[str] = None
    gpu_memory: Union[int, str, None] = None
    gpu_memory_max: Union[int, str, None] = None


@dataclass(frozen=True)
class Placement:
    """Which nodes will do: labels are `key=value`, `arrange` is pack or spread, `fabric` the key of a label."""

    labels: Optional[List[str]] = None
    anti_labels: Optional[List[str]] = None
    arrange: Optional[str] = None
    fabric: Optional[str] = None
    exclusive: Optional[bool] = None
    gpus_total: Optional[int] = None


@dataclass(frozen=True)
class Retry:
    """When it is tried again by itself: `on_lost` is retry or wait, `out_of_memory` fail or halve_batch."""

    limit: Optional[int] = None
    backoff_seconds: Optional[float] = None
    on_lost: Optional[str] = None
    out_of_memory: Optional[str] = None


@dataclass(frozen=True)
class JobConfig:
    """What to train with what. Ranges: epochs 1..1000, batch_size 1..512, learning_rate above 0 and below 1.

    Framework `command` runs the program in `command` and needs neither model nor dataset.
    """

    model_name: Optional[str] = None
    task_type: Optional[str] = None
    framework: Optional[str] = None
    num_classes: Optional[int] = None
    dataset_id: Optional[str] = None
    dataset_path: Optional[str] = None
    dataset_format: Optional[str] = None
    split_strategy: Union[SplitStrategy, Mapping[str, Any], None] = None
    epochs: Optional[int] = None
    batch_size: Optional[int] = None
    learning_rate: Optional[float] = None
    advanced_config: Optional[Mapping[str, Any]] = None
    primary_metric: Optional[str] = None
    primary_metric_mode: Optional[str] = None
    custom_prompts: Optional[Any] = None
    prompt_mode: Optional[str] = None
    custom_docker_image: Optional[str] = None
    image_size: Optional[int] = None
    device: Optional[str] = None
    command: Optional[List[str]] = None
    environment: Optional[Mapping[str, str]] = None
    resources: Union[Resources, Mapping[str, Any], None] = None
    priority: Optional[int] = None
    time_limit_seconds: Optional[float] = None
    grace_period_seconds: Optional[float] = None
    retry: Union[Retry, Mapping[str, Any], None] = None
    nodes: Optional[int] = None
    launcher: Optional[str] = None
    procs_per_node: Optional[int] = None
    placement: Union[Placement, Mapping[str, Any], None] = None
    preemptible: Optional[bool] = None
    not_before: Optional[str] = None
    after: Optional[List[int]] = None
    after_any: Optional[List[int]] = None
    array: Optional[str] = None


@dataclass(frozen=True)
class JobSpec:
    """A job: its config, and what it is filed under."""

    config: JobConfig
    experiment_name: Optional[str] = None
    project_id: Optional[int] = None
    session_id: Optional[int] = None
    tags: Optional[List[str]] = None
    notes: Optional[str] = None

    def to_json(self) -> Dict[str, Any]:
        """The body of a submission."""
        body: Dict[str, Any] = _plain(self)
        return body


_CONFIG = frozenset(item.name for item in fields(JobConfig))
_SPEC = frozenset(item.name for item in fields(JobSpec)) - {"config"}


def spec_of(spec: Union[JobSpec, JobConfig, None], settings: Mapping[str, Any]) -> JobSpec:
    """A specification of an object, of keyword arguments, or of both: then the arguments win.

    Raises:
        TypeError: a keyword is neither a field of JobSpec nor of JobConfig.
    """
    unknown = sorted(set(settings) - _CONFIG - _SPEC)
    if unknown:
        raise TypeError(f"submit() got unknown settings: {', '.join(unknown)}; framework's own go into advanced_config")
    made = JobSpec(spec if isinstance(spec, JobConfig) else JobConfig()) if not isinstance(spec, JobSpec) else spec
    config = {key: value for key, value in settings.items() if key in _CONFIG}
    filed = {key: value for key, value in settings.items() if key in _SPEC}
    return replace(made, config=replace(made.config, **config), **filed)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        items = ((item.name, getattr(value, item.name)) for item in fields(value))
        return {name: _plain(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
