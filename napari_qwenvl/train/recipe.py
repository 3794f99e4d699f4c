"""From the Train panel's fields to a recipe that `qwenvl finetune` takes. No Qt and no torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_qwenvl.ask.plan import recommended_of, runs_folder
from napari_qwenvl.train.gather import Gathered, gather
from napari_qwenvl.train.sources import RunSource, Source
from wsi.cleanup import clean_up

if TYPE_CHECKING:
    from finetune.config import FinetuneConfig
    from finetune.dataset.cutting import TileSpec
    from finetune.presets import Preset

TRAININGS = "trainings"
DATASET, RUN, RECIPE = "dataset", "run", "recipe.yaml"
_TILE = 448


@dataclass(frozen=True)
class Fields:
    """What the panel asks for besides the labels.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    learning_rate : float or None
        None takes that of the preset.
    replay : float or None
        Share of the taught tokens that goes to older skills; None takes that of the preset.
    limit : float
        Most points an older skill may lose.
    measured : int
        Most held-out tiles that are asked.
    """

    name: str
    base: str
    preset: Preset
    steps: int = 300
    learning_rate: float | None = None
    replay: float | None = None
    limit: float = 2.0
    measured: int = 40
    device: str = "auto"
    left_out: tuple[str, ...] = ()


def tile_of(sources: Sequence[Source], base: str) -> tuple[TileSpec, dict[str, Any]]:
    """Tiles as the first reviewed run was asked, else as the model recommends; and its limits of an answer.

    Raises
    ------
    StoreError
        The run cannot be read.
    """
    from finetune.dataset.cutting import TileSpec
    from workflows.store.run_store import RunStore

    for source in sources:
        if isinstance(source, RunSource):
            with RunStore.open(source.folder) as store:
                request = store.manifest.request
            limits = {"max_objects": request.max_objects, "max_new_tokens": request.generation.max_new_tokens}
            return TileSpec(size=request.tile_size, mpp=request.mpp), limits
    known = recommended_of(base) or {}
    limits = {key: known[key] for key in ("max_objects", "max_new_tokens") if key in known}
    return TileSpec(size=int(known.get("tile_size", _TILE)), mpp=known.get("mpp")), limits


def recipe(
    fields: Fields, gathered: Gathered, tile: TileSpec, limits: Mapping[str, object], folder: Path
) -> FinetuneConfig:
    """The settings of a training in `folder`.

    Raises
    ------
    RecipeError, pydantic.ValidationError
        The fields do not fit together.
    """
    from finetune.config import FinetuneConfig
    from finetune.presets import BaseFacts

    assert gathered.dataset is not None
    facts = BaseFacts.of(fields.base, tile.size)
    settings = fields.preset.fields()
    train = settings["train"] | {"steps": fields.steps, "save_every": max(1, min(50, fields.steps // 6))}
    if fields.learning_rate is not None:
        train["learning_rate"] = fields.learning_rate
    augment: dict[str, object] = {"colour": 1.0}
    if facts is not None and facts.whole_numbers:
        train |= {"soft_coordinates": 3.0}
    if facts is not None and facts.small:
        # On a processor the tower takes most of the time; tiles that come again are looked at once.
        augment["pool"] = min(2400, 4 * fields.steps)
    held_out = bool(gathered.tiles[1])
    held = max(4, min(24, fields.measured))
    source = (
        {"name": "synthetic tissue", "kind": "factory", "held_out": held, "tile": {"size": tile.size}}
        if fields.base == "embedded"
        else {"name": "other questions", "kind": "tiles", "examples": 48, "held_out": min(12, held)}
    )
    names = tuple(name for name in gathered.dataset.names if name not in fields.left_out)
    return FinetuneConfig.model_validate(
        {
            "dataset": folder / DATASET,
            "out": folder / RUN,
            "name": fields.name,
            "base": fields.base,
            "labels": names,
            "task": "point" if gathered.points else "detect",
            "tile": tile.model_dump(),
            "device": fields.device,
            "augment": augment,
            **limits,
            **settings,
            "train": train,
            "replay": {
                "share": fields.preset.replay if fields.replay is None else fields.replay,
                "distil": fields.preset.distil,
                "limit": fields.limit,
                "sources": [source],
            },
            "evaluate": {"tiles": fields.measured, "every": max(1, fields.steps // 5) if held_out else None},
        }
    )


def trainings_folder(slide: Path) -> Path:
    """Where trainings with labels of a slide go: beside its runs."""
    return runs_folder(slide) / TRAININGS


def free_name(place: Path, wanted: str = "adapter") -> str:
    """`wanted`, or it with the first number that is free."""
    base = re.sub(r"-\d+$", "", wanted) or "adapter"
    number = 1
    while (place / f"{base}-{number}").exists():
        number += 1
    return f"{base}-{number}"


def clean_name(words: str) -> str:
    """A name that is a folder's on every system; '' where nothing is left of it."""
    return re.sub(r"[^\w.-]+", "-", words.strip()).strip("-.")


def write_training(
    fields: Fields,
    sources: Sequence[Source],
    tile: TileSpec,
    limits: Mapping[str, object],
    folder: Path,
    **choices: Any,
) -> Path:
    """Write labels, dataset and recipe of a new training; the recipe's file.

    Parameters
    ----------
    choices
        Those of `train_sources.gather`.

    Raises
    ------
    FinetuneError, ValueError, OSError
        ValueError where the labels are not fit to train with; the message says why.
    """
    import shutil

    folder.mkdir(parents=True)
    try:
        gathered = gather(sources, tile, left_out=fields.left_out, folder=folder, **choices)
        if gathered.problems or gathered.dataset is None:
            raise ValueError(" ".join(gathered.problems))
        gathered.dataset.save(folder / DATASET)
        config = recipe(fields, gathered, tile, limits, folder)
        path = folder / RECIPE
        config.save(path)
    except BaseException as error:
        clean_up(error, lambda: shutil.rmtree(folder))  # made here, and of no use to anybody
        raise
    return path


__all__ = ["Fields", "clean_name", "free_name", "recipe", "tile_of", "trainings_folder", "write_training"]
