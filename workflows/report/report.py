"""The report: one JSON document per slide, made from the store alone, with a published schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError

from qwenvl.request import Request
from workflows.errors import RunNotFoundError, StoreVersionError
from workflows.report.results import (
    ClassifyResults,
    CountResults,
    ExtractResults,
    FailedTile,
    LabelObjects,
    LabelTiles,
    ObjectResults,
    Results,
    ScoreResults,
    TextResults,
    TileRect,
    TileText,
    TileValue,
)
from workflows.review.facts import ReviewFacts
from workflows.run.quality import QualityFacts
from workflows.store.folder import REPORT, replace_whole
from workflows.store.provenance import Facts, GateFacts, GridFacts, MaskFacts, ModelFacts, PlanFacts, SlideFacts

SCHEMA_ID = "napari-qwenvl-report-1"


class StatusCounts(Facts):
    """Tiles by how their last answer ended.

    `pending` tiles have not been asked yet; `skipped` ones are not going to be, because of the coarse tiles.
    """

    ok: int
    repaired: int
    empty: int
    truncated: int
    refused: int
    failed: int
    pending: int
    skipped: int = 0
    excluded: int = Field(0, description="Not asked, because quality control found their pixels unfit.")


class ScaleFacts(Facts):
    """Tiles of about one scale."""

    mpp: float | None = Field(description="Mean scale in um/px; null when the slide's is unknown.")
    tiles: int = Field(description="Tiles that were answered completely (ok, repaired, empty).")
    tissue_px0: float = Field(description="Tissue these tiles own, in level-0 px.")
    tissue_mm2: float | None = Field(description="The same in mm2; null when the scale is unknown.")


class SplitFacts(Facts):
    """Tiles whose answer was replaced by those of smaller tiles."""

    tiles: int = Field(description="Tiles that were split; they are not among the tiles counted elsewhere.")
    children: int = Field(description="Tiles that took their place, those that were split again included.")
    depth: int = Field(description="How often one place was split at most.")
    reasons: dict[str, int] = Field(
        description="Tiles by reason: 'truncated', 'loop', 'crowded', or 'memory' (too large for it)."
    )


class TileFacts(Facts):
    """How far the tiles were answered."""

    total: int
    counts: StatusCounts
    tissue_answered: float = Field(
        description="Share of the tissue in tiles that were answered completely (ok, repaired, empty)."
    )
    failed: tuple[FailedTile, ...] = Field(description="The first failed tiles, in reading order.")
    scales: tuple[ScaleFacts, ...] = Field((), description="What was examined at which scale, finest first.")
    split: SplitFacts | None = Field(None, description="Tiles that were split; null where none was.")


class CascadeFacts(GateFacts):
    """Where was looked, because coarse tiles asked for it. What was left out is unknown, not negative."""

    question: str | None = Field(description="The yes/no question about the coarse tiles; null with labels.")
    labels: tuple[str, ...] = Field(description="Classes the coarse tiles were sorted into.")
    wanted: tuple[str, ...] = Field(description="Classes that are looked at.")
    decided: bool = Field(description="False while coarse tiles are open: nothing was asked then.")
    tissue_skipped: float = Field(description="Share of the tissue that was left out.")
    folder: str = Field(description="Run of the coarse tiles (report, heatmap), inside the run folder.")


class CascadeEffort(Facts):
    """What the coarse tiles took, and what the tiles that they left out would have taken."""

    asked: int = Field(description="Times a coarse tile was asked.")
    seconds: float = Field(description="Seconds the model took for the coarse tiles.")
    prompt_tokens: int
    new_tokens: int
    saved_tiles: int = Field(description="Tiles left out.")
    saved_seconds: float = Field(description="Their seconds at the mean of the tiles that were asked.")
    saved_prompt_tokens: int
    saved_new_tokens: int


class Provenance(Facts):
    """What has to be the same for the same result, and how to get it again."""

    run_id: str = Field(description="UUID made of request, slide, scale, rendering, model and grid.")
    request_hash: str
    slide_fingerprint: str
    model_fingerprint: str
    grid_hash: str
    versions: dict[str, str] = Field(description="Python and libraries.")
    repeat: str = Field(description="The command that runs this again.")


class RunFacts(Facts):
    """All that may differ between two runs of the same thing: times, places and repetitions."""

    created: str = Field(description="UTC time the run was started, ISO 8601.")
    reported: str = Field(description="UTC time this report was written, ISO 8601.")
    command: str | None = Field(description="The command line that started the run.")
    asked: int = Field(description="Times a tile was asked, repetitions of failed tiles included.")
    model_seconds: float = Field(description="Seconds the model took, summed over answers.")
    prompt_tokens: int
    new_tokens: int
    cascade: CascadeEffort | None = Field(None, description="Work of the coarse tiles; null without them.")


class Report(Facts):
    """Everything a reader needs of one slide's run."""

    model_config = ConfigDict(
        json_schema_extra={"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID}
    )

    schema_version: Literal["1.0", "1.1"]
    complete: bool = Field(
        description="True where every tile that was to be asked was asked and none failed. Tiles that a cascade left "
        "out were not to be asked. False where the slide was rewritten meanwhile and no check could have seen it."
    )
    slide: SlideFacts
    request: Request = Field(description="The whole request: the run can be repeated from it.")
    model: ModelFacts
    grid: GridFacts
    mask: MaskFacts
    plan: PlanFacts | None = Field(None, description="Tiles of several scales in a token budget; null without.")
    cascade: CascadeFacts | None = Field(None, description="Where was looked; null where everywhere.")
    tiles: TileFacts
    results: Results
    quality: QualityFacts | None = Field(
        None, description="What quality control found before the model was asked; null where it was off."
    )
    review: ReviewFacts | None = Field(
        None,
        description="What people decided by then; null where nobody did. `results` are the model's own all the same.",
    )
    warnings: tuple[str, ...] = Field(description="What a reader must know before using the numbers.")
    provenance: Provenance
    run: RunFacts

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a report from its file or from the folder of its run.

        Raises
        ------
        RunNotFoundError
            There is no report.
        StoreVersionError
            The file is no report that this version understands.
        """
        path = Path(path)
        file = path / REPORT if path.is_dir() else path
        if not file.is_file():
            raise RunNotFoundError(
                f"{file} does not exist. Name a run folder or its report.json; an interrupted run gets "
                "its report when the command is repeated."
            )
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the document"
            raise StoreVersionError(
                f"{file} is not a report of schema version 1: {where}: {first['msg']}. "
                "Make it again with: qwenvl report RUN --refresh"
            ) from error

    def to_json(self) -> str:
        """The document as it is written: strict JSON, two spaces of indent."""
        return self.model_dump_json(indent=2)

    def write(self, folder: Path) -> Path:
        """Write `report.json` into a run folder: under a temporary name first, then renamed."""
        path = folder / REPORT
        replace_whole(path, self._write_to)
        return path

    def _write_to(self, path: Path) -> None:
        path.write_text(self.to_json() + "\n", encoding="utf-8")

    def result(self) -> dict[str, Any]:
        """The document without `run` and `review`: equal for equal runs, however often interrupted."""
        return self.model_dump(mode="json", exclude={"run", "review"})

    def run_options(self) -> dict[str, Any]:
        """How slide and mask were opened, by the names of the command line's flags."""
        options: dict[str, Any] = dict(self.slide.options)
        if "series" in options:
            options["series"] = int(options["series"])
        mpp = self.slide.mpp if self.slide.mpp_source == "user" else None
        if self.quality is not None:
            options["qc"], limits = self.quality.settings.words
            options["qc_limit"] = list(limits)
        if self.mask.frame is not None:
            options["frame"] = self.mask.frame
        return {"slide_mpp": mpp, "mask": self.mask.source, **options}


def report_schema() -> str:
    """The published JSON Schema of reports, as the text of `docs/schema/report-1.json`."""
    return json.dumps(Report.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


__all__ = [
    "CascadeEffort",
    "CascadeFacts",
    "ClassifyResults",
    "CountResults",
    "ExtractResults",
    "FailedTile",
    "LabelObjects",
    "LabelTiles",
    "ObjectResults",
    "Provenance",
    "Report",
    "RunFacts",
    "ScaleFacts",
    "ScoreResults",
    "SplitFacts",
    "StatusCounts",
    "TextResults",
    "TileFacts",
    "TileRect",
    "TileText",
    "TileValue",
    "report_schema",
]
