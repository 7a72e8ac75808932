"""Hooks of schemathesis for the calls of trainers: what is generated goes to the job whose attempt's secret is used.

Loaded by name from SCHEMATHESIS_HOOKS; JOB is the job. Numbers that are no integers are left as they are: the
refusal of those is what is tested.
"""

import os
from typing import Any, Dict

import schemathesis

JOB = int(os.environ["JOB"])


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: Dict[str, Any]) -> None:
    """Any other job is answered with 404 before its body is read, and a body of another job is refused."""
    if _is_whole(case.path_parameters.get("id")):
        case.path_parameters["id"] = JOB
    if isinstance(case.body, dict) and _is_whole(case.body.get("job_id")):
        case.body["job_id"] = JOB
