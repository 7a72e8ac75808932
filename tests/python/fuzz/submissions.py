"""Hooks of schemathesis for submissions: what no schema can say is made to hold.

Loaded by name from SCHEMATHESIS_HOOKS. Shares of a split must make 1, and a custom split must name images or shares; what a
job asks of nodes must go together, and the jobs that it waits for must be there. Only values that the document allows are
changed, so that the refusal of others is tested as before.
"""

import re
from typing import Any, Dict

import schemathesis


def _are_shares(value: Any) -> bool:
    """What the document allows at `ratio`."""

    def is_share(item: Any) -> bool:
        return isinstance(item, (int, float)) and not isinstance(item, bool) and 0 <= item < 1

    return isinstance(value, list) and len(value) in (2, 3) and all(map(is_share, value))


LABEL = re.compile(r"[A-Za-z0-9._/-]{1,63}=[A-Za-z0-9._/-]{1,63}")
SIZE = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})? ?([KMGT]i?B)?")
INDICES = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?){0,20}(%[0-9]{1,4})?")
MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:.]+([Zz]|[+-][0-9:]+)")


def _is_whole(value: Any, least: int, most: int) -> bool:
    # To a schema 7.0 is whole too.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and least <= value <= most


def _is_size(value: Any) -> bool:
    return _is_whole(value, 0, 8 * 10**18) or (isinstance(value, str) and SIZE.fullmatch(value) is not None)


def _are(value: Any, most: int, sound: Any) -> bool:
    return isinstance(value, list) and len(value) <= most and all(map(sound, value))


def _put_in_order(config: Dict[str, Any]) -> None:
    """What is right in itself and makes no job with the rest of it."""
    for name in ("after", "after_any"):
        if _are(config.get(name), 100, lambda job: _is_whole(job, 1, 2**53 - 1)):
            config[name] = []
    if isinstance(config.get("array"), str) and INDICES.fullmatch(config["array"]):
        config["array"] = "0-2%2"
    if isinstance(config.get("not_before"), str) and MOMENT.fullmatch(config["not_before"]):
        config["not_before"] = "2027-01-31T18:00:00Z"
    if config.get("framework", "timm") != "command" and _is_whole(config.get("nodes"), 1, 1024):
        config["nodes"] = 1
    if config.get("launcher") in (None, "plain", "torchrun"):
        if config.get("framework", "timm") != "command":
            config["launcher"] = "plain"
        if config.get("launcher") != "torchrun" and _is_whole(config.get("procs_per_node"), 1, 1024):
            config["procs_per_node"] = None
    resources = config.get("resources")
    if isinstance(resources, dict):
        for name in ("gpu_memory_max", "gpu_memory_max_bytes"):
            if _is_size(resources.get(name)):
                resources[name] = 8 * 10**18
        if _is_whole(resources.get("gpus", 0), 0, 0):
            # Who wants no GPUs must not say which.
            if isinstance(resources.get("gpu_model"), str):
                del resources["gpu_model"]
            for name in ("gpu_memory", "gpu_memory_bytes", "gpu_memory_max", "gpu_memory_max_bytes"):
                if _is_size(resources.get(name)):
                    del resources[name]
    placement = config.get("placement")
    if isinstance(placement, dict):
        for name, label in (("labels", "zone=a"), ("anti_labels", "zone=b")):
            if _are(placement.get(name), 50, lambda text: isinstance(text, str) and LABEL.fullmatch(text) is not None):
                placement[name] = [label]
        if _is_whole(placement.get("gpus_total"), 1, 65536):
            placement["gpus_total"] = None


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: Dict[str, Any]) -> None:
    """Shares that make 1, in place of any others."""
    config = case.body.get("config") if isinstance(case.body, dict) else None
    if isinstance(config, dict):
        _put_in_order(config)
    split = config.get("split_strategy") if isinstance(config, dict) else None
    if isinstance(split, dict):
        lacking = split.get("method") == "custom" and not split.get("custom_splits") and split.get("ratio") is None
        if lacking or _are_shares(split.get("ratio")):
            split["ratio"] = [0.75, 0.25]
