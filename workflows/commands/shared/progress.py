"""A bar on standard error for work that is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflows.run.items import Progress


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_bar(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Gives a function of the number done and the number in all; the bar goes when all is done."""
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn(what), rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeRemainingColumn())
    with rich.Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def asking_bar(what: str, unit: str) -> Iterator[Callable[[Progress], None]]:
    """Gives a function of how far a run is, for `run_items`; each stage of the run has a line of its own."""
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn(unit),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[found]}"),
    )
    with rich.Progress(*columns) as bar:
        lines: dict[str, rich.TaskID] = {}

        def show(state: Progress) -> None:
            name = f"{what} {state.stage}".rstrip()
            if state.stage not in lines:
                lines[state.stage] = bar.add_task(name, total=None, rate="", found="")
                if state.eta and state.done < state.total:
                    left = duration(state.eta)
                    bar.console.print(
                        f"{name}: about {left} to go, after {state.done:,} of {state.total:,} {unit}", soft_wrap=True
                    )
            found = [f"{state.objects} objects"] if state.objects else []
            found += [f"{state.splits} split"] if state.splits else []
            found += [f"{state.failed} failed"] if state.failed else []
            bar.update(
                lines[state.stage],
                total=state.total,
                completed=state.done,
                rate=f"{state.rate:.1f}/s",
                found=", ".join(found),
            )

        yield show
