"""A batch in the terminal: progress, the plan, the status table, and what failed and why."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from workflows._words import plural
from workflows.commands.shared.progress import duration

if TYPE_CHECKING:
    from workflows.cohort.run import CohortResult
    from workflows.cohort.status import SlideStatus
    from workflows.cohort.study.check import Checked
    from workflows.cohort.study.estimate import CohortEstimate
    from workflows.cohort.study.plan import CohortPlan
    from workflows.cohort.workers.ticket import SlideOutcome

_STYLE = {
    "complete": "green",
    "incomplete": "yellow",
    "failed tiles": "yellow",
    "failed": "red",
    "stopped": "yellow",
    "refused": "red",
    "other run": "red",
    "unreadable": "red",
    "open": "cyan",
    "not begun": "dim",
}
_LOG_EVERY = 60.0


class Terminal:
    """Watches a batch: bars in a terminal, a line a minute in a log file."""

    def __init__(self, plan: CohortPlan) -> None:
        self._plan = plan
        self._console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[words]}"),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._whole: TaskID | None = None
        self._lines: dict[str, TaskID] = {}
        self._open: dict[str, tuple[int, int]] = {}
        self._begun = self._said = time.monotonic()
        self._asked: dict[str, int] = {}
        self._workers = 0
        self._slides = self._ended = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def checked(self, checked: Sequence[Checked]) -> None:
        """List every finding before anything is asked."""
        findings = [each.finding for each in checked if each.finding]
        finished = sum(each.finished for each in checked)
        self._slides = len(checked) - len(findings) - finished
        words = [f"{plural(len(checked), 'slide')}: {self._slides} to do", f"{finished} finished before"]
        if findings:
            words.append(f"{len(findings)} that cannot be run:")
        for note in self._plan.notes:
            self._console.print(escape(note), soft_wrap=True, highlight=False)
        self._console.print(", ".join(words))
        for finding in findings:
            self._console.print(f"  [red]{escape(str(finding))}[/]", soft_wrap=True)
        if stale := [each.row.id for each in checked if each.stale]:
            self._console.print(f"  set aside and begun anew: {escape(', '.join(stale))}", soft_wrap=True)

    def connected(self, dashboard: str | None, workers: int) -> None:
        """Say where the dashboard is."""
        self._workers = workers
        self._begun = self._said = time.monotonic()
        self._console.print(
            f"{plural(workers, 'worker')}, dashboard {escape(dashboard or 'not available (pip install bokeh)')}",
            soft_wrap=True,
        )
        self._whole = self._bars.add_task("cohort", total=self._slides, unit="slides", words="")

    def progress(self, words: dict[str, Any]) -> None:
        """Move the bar of a slide."""
        key = f"{words['id']} {words['part'].partition('-')[2]}".strip()
        self._asked[key] = words["asked"]
        self._open[key] = words["done"], words["total"]
        told = f"{words['objects']} objects" if words["objects"] else ""
        told += f" {words['failed']} failed" if words["failed"] else ""
        if key not in self._lines:
            self._lines[key] = self._bars.add_task(escape(key), total=words["total"], unit="tiles", words="")
        self._bars.update(self._lines[key], total=words["total"], completed=words["done"], words=told)
        self._show_rate()

    def ended(self, outcome: SlideOutcome) -> None:
        """A line for every slide that is done with."""
        for key in [key for key in self._lines if key == outcome.id or key.startswith(f"{outcome.id} ")]:
            self._bars.remove_task(self._lines.pop(key))
            self._open.pop(key, None)
        self._ended += 1
        style = _STYLE[outcome.ended]
        facts = f"{outcome.done} of {outcome.tiles} tiles, {outcome.objects} objects" if outcome.tiles else ""
        words = "; ".join(each for each in (facts, outcome.reason) if each)
        self._console.print(
            f"[{style}]{outcome.ended}[/] {escape(outcome.id)}: {escape(words)}", soft_wrap=True, highlight=False
        )
        if self._whole is not None:
            self._bars.update(self._whole, completed=self._ended)

    def waiting(self, workers: int, under_way: int) -> None:
        """Say so where no worker is left."""
        if workers != self._workers:
            self._workers = workers
            if not workers:
                self._console.print("[yellow]no worker is there; waiting for one[/]")
        self._show_rate()

    def _show_rate(self) -> None:
        seconds = time.monotonic() - self._begun
        rate = sum(self._asked.values()) / seconds if seconds > 0 else 0.0
        words = f"{rate:.1f} tiles/s"
        if self._ended and self._slides > self._ended:
            # By slides that are done with, those under way by their share.
            share = sum(done / total for done, total in self._open.values() if total)
            left = (self._slides - self._ended - share) / (self._ended + share) * seconds
            words += f", about {duration(max(0.0, left))} to go"
        if self._whole is not None:
            self._bars.update(self._whole, words=words)
        if not self._console.is_terminal and time.monotonic() - self._said > _LOG_EVERY:
            self._said = time.monotonic()
            self._console.print(f"{self._ended} of {self._slides} slides, {words}")


def show_estimate(plan: CohortPlan, checked: Sequence[Checked], estimate: CohortEstimate, workers: int) -> None:
    """Print what a batch would take."""
    console = Console()
    for note in plan.notes:
        console.print(escape(note), soft_wrap=True, highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("row", "id", "group", "tiles", "state"):
        table.add_column(name, justify="right" if name in ("row", "tiles") else "left")
    for each in checked:
        row = each.row
        problem = each.problem or estimate.problems.get(row.id)
        tiles = estimate.tiles.get(row.id)
        done = 0 if each.state is None or each.stale else each.state.done
        state = (
            f"[red]{escape(problem)}[/]" if problem else "finished" if each.finished else f"{done} done" if done else ""
        )
        table.add_row(str(row.number), escape(row.id), escape(row.group), "" if tiles is None else f"{tiles:,}", state)
    console.print(table)
    request = plan.request
    scale = "level-0 px" if request.mpp is None else f"{request.mpp:g} um/px"
    console.print(
        escape(
            f"{request.task} {', '.join(request.labels) or request.prompt or ''} with {plan.model.model}, tiles of "
            f"{request.tile_size} px at {scale}, overlap {request.overlap} px"
        ),
        highlight=False,
    )
    console.print(
        f"{sum(estimate.tiles.values()):,} tiles on {plural(len(estimate.tiles), 'slide')}, "
        f"{estimate.open_tiles:,} open"
    )
    if estimate.hours is not None and estimate.seconds_per_tile is not None:
        console.print(
            f"about {duration(estimate.hours * 3600)} with {plural(workers, 'worker')} at "
            f"{estimate.seconds_per_tile:.3g} s per tile ({escape(estimate.measured_on)})"
        )
    if estimate.memory is not None:
        each_gib = estimate.memory / 2**30
        console.print(
            f"memory: about {each_gib:.1f} GiB for the model of each worker, {workers * each_gib:.1f} GiB in all"
        )


def show_status(plan: CohortPlan, slides: Sequence[SlideStatus]) -> None:
    """Print the status table."""
    console = Console()
    table = Table(box=None, pad_edge=False)
    for name in ("id", "stage", "tiles", "failed", "found", "reason"):
        table.add_column(name, justify="right" if name in ("tiles", "failed", "found") else "left")
    for each in slides:
        table.add_row(
            escape(each.row.id),
            f"[{_STYLE[each.stage]}]{each.stage}[/]",
            f"{each.done:,}/{each.tiles:,}" if each.tiles else "",
            str(each.failed_tiles or ""),
            f"{each.objects:,}" if each.tiles else "",
            escape(each.reason[:300]),
        )
    console.print(table)
    counts = Counter(each.stage for each in slides)
    console.print(", ".join(f"{number} {stage}" for stage, number in counts.items()))


def status_json(plan: CohortPlan, slides: Sequence[SlideStatus]) -> dict[str, object]:
    """The status table as a document."""
    return {
        "source": plan.source,
        "notes": list(plan.notes),
        "request_hash": plan.request.hash,
        "complete": all(each.stage == "complete" for each in slides),
        "slides": [
            {"id": each.row.id, "slide": each.row.slide}
            | {key: value for key, value in asdict(each).items() if key != "row"}
            for each in slides
        ],
    }


def show_end(result: CohortResult, out: Path, paths: Sequence[Path]) -> None:
    """Print how it ended: what failed and why, and where the tables lie."""
    console = Console()
    failed = [each for each in result.outcomes.values() if each.ended != "complete"]
    done = result.finished + sum(each.ended == "complete" for each in result.outcomes.values())
    console.print(f"{done} of {plural(len(result.plan.rows), 'slide')} complete")
    for each in failed:
        console.print(f"  {each.ended}: {escape(each.id)}: {escape(each.reason)}", soft_wrap=True, highlight=False)
    for finding in result.plan.findings:
        console.print(f"  refused: {escape(str(finding))}", soft_wrap=True, highlight=False)
    if result.stopped is not None and result.stopped != "cancelled":
        console.print(f"[red]stopped: {escape(result.stopped)}[/]", soft_wrap=True)
    for path in paths:
        console.print(escape(str(path)), soft_wrap=True, highlight=False)
    if result.kept:
        console.print(
            f"Nothing was asked. The tables of {escape(str(out))} stay those of the earlier call, which has more "
            "slides complete.",
            soft_wrap=True,
            highlight=False,
        )
    elif not result.complete:
        console.print(f"`qwenvl batch status {escape(str(out))}` shows it again.", soft_wrap=True)
