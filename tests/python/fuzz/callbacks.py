"""Hooks of schemathesis for the calls of trainers: what is generated goes to the job whose attempt's secret is used.

Loaded by name from SCHEMATHESIS_HOOKS; JOB is the job. Numbers that are no integers are left as they are: the
refusal of those is what is tested.
"""

import os
from typing import Any, Dict

import schemathesis

JOB = int(os.environ["JOB"])
METRICS = ("metrics", "final_metrics", "best_metrics")
NUMBERS = (
    "job_id",
    "current_epoch",
    "total_epochs",
    "step",
    "progress_percent",
    "epoch_duration_seconds",
    "estimated_time_remaining",
    "total_epochs_completed",
    "best_epoch",
    "exit_code",
    "epoch",
    "primary_metric_value",
    "overall_loss",
    "loss",
    "accuracy",
    "learning_rate",
)


def _is_whole(value: Any) -> bool:
    """As JSON has it, where 1.0 is whole."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_lax(value: Any) -> bool:
    """No number, and yet taken for one, as Python's validators do."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, bool)


@schemathesis.hook
def filter_body(_context: schemathesis.HookContext, body: Any) -> bool:
    """Bodies that the document forbids and the contract takes are not sent."""
    if not isinstance(body, dict):
        return True
    nested = [body[name] for name in METRICS if isinstance(body.get(name), dict)]
    return not any(_is_lax(fields.get(name)) for fields in [body, *nested] for name in NUMBERS)


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: Dict[str, Any]) -> None:
    """Any other job is answered with 404 before its body is read, and a body of another job is refused."""
    if _is_whole(case.path_parameters.get("id")):
        case.path_parameters["id"] = JOB
    if isinstance(case.body, dict) and _is_whole(case.body.get("job_id")):
        case.body["job_id"] = JOB
