"""The commands that work on slides. `qwenvl.cli` loads `app` through an entry point.

Modules here import only the standard library and typer at the top, so that `qwenvl --help` is quick.
"""

import typer

from workflows.commands import ask, check, demo, look, results, thresholds
from workflows.commands.cohort import batch
from workflows.commands.science import cells, instruments, judge, papers, spatial, timelapse

app = typer.Typer()
for module in (
    look,
    ask,
    batch,
    results,
    thresholds,
    demo,
    check,
    cells,
    instruments,
    judge,
    papers,
    spatial,
    timelapse,
):
    module.register(app)

__all__ = ["app"]
