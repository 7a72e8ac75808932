"""Hooks of schemathesis for submissions: what no schema can say is made to hold.

Loaded by name from SCHEMATHESIS_HOOKS. Shares of a split must make 1, and a custom split must name images or shares;
only values that the document allows are changed, so that the refusal of others is tested as before.
"""

from typing import Any, Dict

import schemathesis


def _are_shares(value: Any) -> bool:
    """What the document allows at `ratio`."""

    def is_share(item: Any) -> bool:
        return isinstance(item, (int, float)) and not isinstance(item, bool) and 0 <= item < 1

    return isinstance(value, list) and len(value) in (2, 3) and all(map(is_share, value))


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: Dict[str, Any]) -> None:
    """Shares that make 1, in place of any others."""
    config = case.body.get("config") if isinstance(case.body, dict) else None
    split = config.get("split_strategy") if isinstance(config, dict) else None
    if isinstance(split, dict):
        lacking = split.get("method") == "custom" and not split.get("custom_splits") and split.get("ratio") is None
        if lacking or _are_shares(split.get("ratio")):
            split["ratio"] = [0.75, 0.25]
