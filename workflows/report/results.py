"""Results at slide scale, one model per kind of task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from workflows.store.provenance import Facts


class TileRect(Facts):
    """Where a tile lies, in level-0 px."""

    tile: int = Field(description="Index of the tile.")
    x0: int
    y0: int
    width0: int
    height0: int


class FailedTile(TileRect):
    """A tile without an answer. It is unknown, not negative."""

    reason: str


class TileText(TileRect):
    """The words about one tile."""

    status: str
    text: str | None


class TileValue(TileRect):
    """The JSON value extracted from one tile."""

    status: str
    value: JsonValue


class LabelObjects(Facts):
    """Objects of one label."""

    label: str
    count: int = Field(description="Objects after merging across tile seams.")
    per_mm2: float | None = Field(
        description="Objects per mm2 of tissue in completely answered tiles; null when the scale is unknown."
    )
    mean_score: float | None = Field(description="Mean confidence; null when the model gives none.")


class ObjectResults(Facts):
    """What detect and point found."""

    task: Literal["detect", "point"]
    found: int = Field(description="Objects in all tiles, before merging.")
    total: int = Field(description="Objects after merging across tile seams.")
    labels: tuple[LabelObjects, ...]


class CountResults(Facts):
    """Numbers that the model gave tile by tile."""

    task: Literal["count"]
    tiles: int = Field(description="Tiles with a number.")
    total: float | None = Field(
        description="Sum over tiles, each weighted with the share of its area that no other tile owns, so "
        "that overlaps are not counted twice."
    )
    per_mm2: float | None = Field(description="Total per mm2 of tissue in these tiles; null without a scale.")
    mean: float | None
    median: float | None
    smallest: float | None
    largest: float | None


class LabelTiles(Facts):
    """Tiles of one class."""

    label: str
    tiles: int = Field(description="Tiles for which the class was chosen.")
    share: float | None = Field(description="Share of the completely answered tiles.")
    tissue_px0: float = Field(description="Tissue these tiles own, in level-0 px.")
    tissue_mm2: float | None = Field(description="The same in mm2; null when the scale is unknown.")
    mean_probability: float | None = Field(description="Mean over all tiles; null when the model gives none.")


class ClassifyResults(Facts):
    """Classes of tiles."""

    task: Literal["classify"]
    tiles: int = Field(description="Tiles with a complete answer.")
    labels: tuple[LabelTiles, ...]


class ScoreResults(Facts):
    """Probability of yes, over the tiles."""

    task: Literal["score"]
    tiles: int = Field(description="Tiles with a probability.")
    mean: float | None
    quantiles: dict[str, float] = Field(description="Keys '0.05', '0.25', '0.5', '0.75', '0.95'; empty without tiles.")
    above_half_tiles: int = Field(description="Tiles with a probability of at least 0.5.")
    above_half_px0: float = Field(description="Tissue these tiles own, in level-0 px.")
    above_half_mm2: float | None = Field(description="The same in mm2; null when the scale is unknown.")


class TextResults(Facts):
    """Words, tile by tile. All of them are in the store."""

    task: Literal["describe", "ask"]
    total: int = Field(description="Tiles with a text.")
    tiles: tuple[TileText, ...] = Field(description="The first of them, in reading order.")


class ExtractResults(Facts):
    """JSON values, tile by tile. All of them are in the store."""

    task: Literal["extract"]
    total: int = Field(description="Tiles with a value.")
    tiles: tuple[TileValue, ...] = Field(description="The first of them, in reading order.")


Results = Annotated[
    ObjectResults | CountResults | ClassifyResults | ScoreResults | TextResults | ExtractResults,
    Field(discriminator="task"),
]
