"""A slide goes in, every tile is asked, one report comes out. Names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.export.geojson import export_geojson
    from workflows.export.tables import export_objects_csv, export_tiles_csv
    from workflows.heatmap import Heatmap, read_heatmap
    from workflows.merged import iter_merged
    from workflows.report import Report
    from workflows.slide_run import Progress, RunEstimate, RunResult, finish_run, plan_run, run_slide
    from workflows.store import RunStore

_HOMES = {
    "Heatmap": "workflows.heatmap",
    "Progress": "workflows.slide_run",
    "Report": "workflows.report",
    "RunEstimate": "workflows.slide_run",
    "RunResult": "workflows.slide_run",
    "RunStore": "workflows.store",
    "export_geojson": "workflows.export.geojson",
    "export_objects_csv": "workflows.export.tables",
    "export_tiles_csv": "workflows.export.tables",
    "finish_run": "workflows.slide_run",
    "iter_merged": "workflows.merged",
    "plan_run": "workflows.slide_run",
    "read_heatmap": "workflows.heatmap",
    "run_slide": "workflows.slide_run",
}

__all__ = [
    "Heatmap",
    "Progress",
    "Report",
    "RunEstimate",
    "RunResult",
    "RunStore",
    "export_geojson",
    "export_objects_csv",
    "export_tiles_csv",
    "finish_run",
    "iter_merged",
    "plan_run",
    "read_heatmap",
    "run_slide",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
