"""Hooks of schemathesis for submissions: what no schema can say is made to hold.

Loaded by name from SCHEMATHESIS_HOOKS. Shares of a split must make 1, and a custom split must name images or shares;
only values that the document allows are changed, so that the refusal of others is tested as before.
"""

from typing import Any

import schemathesis


def _are_shares(value: Any) -> bool:
    """What the document allows at `ratio`."""

    def is_share(item: Any) -> bool:
        return isinstance(item, (int, float)) and not isinstance(item, bool) and 0 <= item < 1

    return isinstance(value, list) and len(value) in (2, 3) and all(map(is_share, value))


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Shares that make 1, in place of any others."""
    config = body.get("config") if isinstance(body, dict) else None
    split = config.get("split_strategy") if isinstance(config, dict) else None
    if isinstance(split, dict):
        lacking = split.get("method") == "custom" and not split.get("custom_splits") and split.get("ratio") is None
        if lacking or _are_shares(split.get("ratio")):
            split["ratio"] = [0.75, 0.25]
    return body
