"""The report of a judging: what was judged, by whom, how, and what came out, as one JSON document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from workflows.science.judge.answers import JudgedItem
from workflows.science.judge.pairwise import PairResults
from workflows.science.judge.rubric import RubricResults
from workflows.science.judge.text import TextScores
from workflows.store.folder import replace_whole
from workflows.store.provenance import Facts, ModelFacts, software_versions, utc_now

REPORT = "judge.json"


class AnswerSource(Facts):
    """Answers that were judged."""

    name: str
    fingerprint: str = Field(description="Hash of the items: id, question, answer, reference and what people said.")
    items: int


class JudgeReport(Facts):
    """Everything a reader needs of one judging."""

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["text", "pair", "rubric"]
    sources: tuple[AnswerSource, ...]
    unmatched: int = Field(0, description="Items of one file that have no partner in the other; left out.")
    model: ModelFacts | None = Field(None, description="The judge; null where texts were compared.")
    instruction: str | None = Field(None, description="What the judge was told, or its rubric as JSON.")
    text: TextScores | None = None
    pair: PairResults | None = None
    rubric: RubricResults | None = None
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=software_versions)
    created: str = Field(default_factory=utc_now)

    def write(self, path: Path) -> None:
        """Write the document: under a temporary name first, then renamed."""
        _write(path, self.model_dump_json(indent=2) + "\n")


def source_of(path: Path, items: Sequence[JudgedItem]) -> AnswerSource:
    """What a report says of a file of answers."""
    digest = hashlib.sha256()
    for item in items:
        row = [item.id, item.question, item.answer, item.reference, item.human]
        digest.update(json.dumps(row, ensure_ascii=False, default=str).encode())
    return AnswerSource(name=path.name, fingerprint=f"sha256:{digest.hexdigest()[:32]}", items=len(items))


def write_judging(folder: Path, report: JudgeReport, rows: Sequence[Mapping[str, object]]) -> None:
    """Write `judge.json` and `items.jsonl` (a row per item) into the folder of a judging."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    _write(folder / "items.jsonl", lines)
    report.write(folder / REPORT)


def _write(path: Path, text: str) -> None:
    def fill(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    replace_whole(path, fill)


def pair_warnings(results: PairResults) -> tuple[str, ...]:
    """What a reader must know before using the verdicts."""
    found = []
    if results.position.biased:
        first = results.position.first.value or 0.0
        found.append(
            f"The judge prefers a place: {first:.0%} of its choices fell on the answer shown first. Verdicts count "
            "only where both orders agree, so that what is left is fair, and fewer."
        )
    lost = results.malformed + results.refused + results.unreached + results.too_long
    if lost:
        found.append(f"{lost} of {results.pairs} pairs have no verdict.")
    if results.human is None:
        found.append("No person scored any of these pairs: how far this judge can be trusted is not known.")
    return tuple(found)


def rubric_warnings(results: RubricResults) -> tuple[str, ...]:
    """What a reader must know before using the scores."""
    found = []
    if results.scored < results.items:
        found.append(f"{results.items - results.scored} of {results.items} items have no scores.")
    if all(criterion.human is None for criterion in results.criteria):
        found.append("No person scored any of these items: how far this judge can be trusted is not known.")
    return tuple(found)
