"""A report in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from workflows.report import Report


def show_report(report: Report, folder: Path) -> None:
    """Print what a report says, and where it lies."""
    console = Console()
    counts = report.tiles.counts.model_dump()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("slide", escape(report.slide.path))
    table.add_row(
        "task",
        escape(f"{report.request.task} {', '.join(report.request.labels) or report.request.prompt or ''}"),
    )
    table.add_row("model", escape(report.model.model))
    table.add_row(
        "tiles", ", ".join(f"{number} {status}" for status, number in counts.items() if number) or "none"
    )
    table.add_row("tissue answered", f"{report.tiles.tissue_answered:.1%}")
    for name, text in _result_rows(report.results.model_dump(mode="json")):
        table.add_row(escape(name), escape(text))
    table.add_row("report", escape(str(folder / "report.json")))
    console.print(table)
    for warning in report.warnings:
        console.print(f"[yellow]note:[/] {escape(warning)}")


def _result_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in results.items():
        if isinstance(value, list):
            if value and isinstance(value[0], dict) and "label" in value[0]:
                rows += [(str(item["label"]), _facts(item)) for item in value]
        elif isinstance(value, float):
            rows.append((name.replace("_", " "), f"{value:.4g}"))
        elif value is not None and not isinstance(value, dict):
            rows.append((name.replace("_", " "), str(value)))
    return rows


def _facts(item: dict[str, Any]) -> str:
    facts = {key: value for key, value in item.items() if key != "label" and isinstance(value, int | float)}
    return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in facts.items())
