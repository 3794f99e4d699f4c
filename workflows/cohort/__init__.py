"""Cohorts: many slides, one question, any number of workers. Names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.cohort.config import Study, study_schema
    from workflows.cohort.engines import look_at
    from workflows.cohort.estimate import CohortEstimate, estimate_cohort
    from workflows.cohort.plan import Plan
    from workflows.cohort.run import CohortResult, run_cohort
    from workflows.cohort.status import SlideStatus, cohort_status
    from workflows.cohort.summary import write_summary
    from workflows.cohort.table import Cohort, Row, read_cohort

_HOMES = {
    "Cohort": "table",
    "CohortEstimate": "estimate",
    "CohortResult": "run",
    "Plan": "plan",
    "Row": "table",
    "SlideStatus": "status",
    "Study": "config",
    "cohort_status": "status",
    "estimate_cohort": "estimate",
    "look_at": "engines",
    "read_cohort": "table",
    "run_cohort": "run",
    "study_schema": "config",
    "write_summary": "summary",
}

__all__ = [
    "Cohort", "CohortEstimate", "CohortResult", "Plan", "Row", "SlideStatus", "Study", "cohort_status",
    "estimate_cohort", "look_at", "read_cohort", "run_cohort", "study_schema", "write_summary",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"workflows.cohort.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
