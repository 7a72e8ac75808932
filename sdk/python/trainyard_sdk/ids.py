"""Owns how the ids of annotation documents are compared: as text, so that `1` and `"1"` are the same image or class.

The platform reads documents so at a submit, and what it takes has to mean the same in a trainer. Standard library only.
Callers: `datasets`, trainers.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional


def text(value: Any) -> Optional[str]:
    """An id as text; None for what is none, such as null."""
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None


def class_of(item: Mapping[str, Any]) -> Optional[str]:
    """The id of an object's class: `category_id`, else `class_id`; a null is as good as nothing."""
    found = text(item.get("category_id"))
    return text(item.get("class_id")) if found is None else found
