"""Hooks of schemathesis for somebody who may look at one project and at nothing else.

Loaded by name from SCHEMATHESIS_HOOKS; PROJECT is the project and JOB its job. Most calls are about these, so that
what is refused is a right and not a made-up number; datasets are the one that the Labeler shows and one that it
does not.
"""

import os
from typing import Any, Dict

import schemathesis
import submissions  # noqa: F401  its hook holds here too

JOB = int(os.environ["JOB"])
PROJECT = int(os.environ["PROJECT"])
DATASETS = ("7", "8")


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: Dict[str, Any]) -> None:
    """Odd numbers become those of the project and of its job; even ones stay what they are, as a rule nobody's."""
    number = case.path_parameters.get("id")
    if isinstance(number, int) and 0 < number < 2**53 and number % 2:
        case.path_parameters["id"] = PROJECT if "/projects/" in case.path else JOB
    config = case.body.get("config") if isinstance(case.body, dict) else None
    if isinstance(config, dict) and isinstance(config.get("dataset_id"), str):
        config["dataset_id"] = DATASETS[len(config["dataset_id"]) % 2]
