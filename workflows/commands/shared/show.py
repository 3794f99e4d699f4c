"""A report in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from workflows.report.report import Report

_MOST_TEXTS = 8
"""Tiles whose words are printed; the report holds more, the store all."""


def show_report(report: Report, folder: Path) -> None:
    """Print what a report says, and where it lies."""
    console = Console()
    counts = report.tiles.counts.model_dump()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("slide", escape(report.slide.path))
    table.add_row(
        "task", escape(f"{report.request.task} {', '.join(report.request.labels) or report.request.prompt or ''}")
    )
    table.add_row("model", escape(report.model.model))
    table.add_row("tiles", ", ".join(f"{number} {status}" for status, number in counts.items() if number) or "none")
    table.add_row("tissue answered", f"{report.tiles.tissue_answered:.1%}")
    for name, text in _place_rows(report):
        table.add_row(name, escape(text))
    for name, text in _result_rows(report.results.model_dump(mode="json")):
        table.add_row(escape(name), escape(text))
    table.add_row("report", escape(str(folder / "report.json")))
    console.print(table)
    for warning in report.warnings:
        console.print(f"[yellow]note:[/] {escape(warning)}")


def _place_rows(report: Report) -> Iterator[tuple[str, str]]:
    """Where was looked and how closely, where that is not the same everywhere."""
    scales = report.tiles.scales
    if len(scales) > 1 and all(scale.tissue_mm2 is not None for scale in scales):
        yield (
            "scales",
            ", ".join(
                f"{scale.tissue_mm2:.3g} mm2 at {scale.mpp:.3g} um/px ({scale.tiles:,} tiles)" for scale in scales
            ),
        )
    if (split := report.tiles.split) is not None:
        why = ", ".join(f"{number} {reason}" for reason, number in split.reasons.items())
        yield "split", f"{split.tiles:,} tiles in {split.children:,} ({why})"
    if (plan := report.plan) is not None:
        yield (
            "plan",
            (
                f"{plan.tokens:,} prompt tokens of a budget of {plan.token_budget:,}; the request's scale "
                f"everywhere: {plan.uniform_tokens:,}"
            ),
        )
    if (cascade := report.cascade) is not None:
        yield (
            "coarse tiles",
            (
                f"{cascade.passed:,} of {cascade.scored:,} reach {cascade.threshold:g} at {cascade.mpp:g} um/px; "
                f"{cascade.skipped:,} of {cascade.tiles:,} tiles left out ({cascade.tissue_skipped:.1%} of the tissue)"
            ),
        )
    if (effort := report.run.cascade) is not None:
        yield (
            "work saved",
            (
                f"about {effort.saved_seconds:.3g} s and {effort.saved_prompt_tokens + effort.saved_new_tokens:,} "
                f"tokens, for {effort.seconds:.3g} s and {effort.prompt_tokens + effort.new_tokens:,} tokens of "
                "coarse tiles"
            ),
        )


def _result_rows(results: Mapping[str, object]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in results.items():
        if name == "task":
            continue
        if isinstance(value, list):
            for item in value if all(isinstance(item, dict) for item in value) else []:
                if "label" in item:
                    rows.append((str(item["label"]), _facts(item)))
                elif len(rows) < _MOST_TEXTS and (said := item.get("text") or item.get("value")) is not None:
                    rows.append((f"at {item['x0']}, {item['y0']}", str(said)[:200]))
        elif isinstance(value, float):
            rows.append((name.replace("_", " "), f"{value:.4g}"))
        elif value is not None and not isinstance(value, dict):
            rows.append((name.replace("_", " "), str(value)))
    return rows


def _facts(item: Mapping[str, object]) -> str:
    facts = {key: value for key, value in item.items() if key != "label" and isinstance(value, int | float)}
    return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in facts.items())
