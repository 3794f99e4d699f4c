"""The two jobs of a user: predict a section, and say how good a prediction is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.engines.base import Engine
from workflows.errors import RunNotFoundError, SpatialError
from workflows.review.compare import TruthAgreement, match_boxes, run_boxes
from workflows.run.items import Progress
from workflows.run.writing import named_full_disk
from workflows.science.spatial.baseline import Ridge, section_features, shuffled_within
from workflows.science.spatial.evaluate import (
    BOX_IOU,
    EXPECTATION,
    SectionScore,
    Shuffled,
    correlation,
    score_section,
    shuffled_control,
)
from workflows.science.spatial.predict import LOCATED, RESULT, locate_regions, predict_spots, slug
from workflows.science.spatial.questions import ExpressionScale
from workflows.science.spatial.regions import ExpressionLevel
from workflows.science.spatial.result import (
    MAPS,
    MEASURED,
    PREDICTED,
    REGIONS,
    TABLE,
    draw_maps,
    measured_targets,
    prediction_table,
    write_regions,
    write_table,
    write_text,
)
from workflows.science.spatial.samples import regions_of
from workflows.science.spatial.sections.genes import ExpressionTarget, expression, find_genes, parse_targets
from workflows.science.spatial.sections.listing import SectionEntry, opened
from workflows.store.provenance import model_facts, plain_json, slide_facts, software_versions, utc_now
from wsi.regions.frames import SlideFrames

if TYPE_CHECKING:
    from anndata import AnnData

EVALUATION = "evaluation.json"
_RIDGE_SHUFFLES = 50


@dataclass(frozen=True)
class PredictionSettings:
    """How a section is asked about, and what counts as a region; see `ExpressionScale` and `join_regions`."""

    mpp: float = 0.5
    tile_size: int = 256
    region_mpp: float | None = None
    region_level: str = "q0.75"
    least: int = 3
    rounds: int = 1
    locate: bool = False
    """Ask for boxes of regions too, tile by tile."""


@dataclass(frozen=True)
class PredictionResult:
    """Where a prediction lies, and what it says of itself."""

    folder: Path
    facts: dict[str, Any]
    cancelled: bool

    @property
    def complete(self) -> bool:
        """True where every spot has an answer to every question."""
        return bool(self.facts["complete"])


def predict_section(
    entry: SectionEntry,
    targets: Sequence[ExpressionTarget],
    engine: Engine,
    out: Path,
    settings: PredictionSettings | None = None,
    *,
    overwrite: bool = False,
    cancel: threading.Event | None = None,
    progress: Callable[[Progress], None] | None = None,
    command: str | None = None,
) -> PredictionResult:
    """Predict targets over a section, and write AnnData, regions, maps and a record into `out`.

    Counts, where the section has them, are kept beside the predictions and never looked at by the model.

    Raises
    ------
    SpatialError, SlideError, EngineError, RequestError, RunMismatchError, ForeignFolderError
    """
    settings = settings or PredictionSettings()
    level = ExpressionLevel(settings.region_level)
    with named_full_disk(out), opened(entry) as found:
        scale = ExpressionScale.of(
            found.section, mpp=settings.mpp, tile_size=settings.tile_size, region_mpp=settings.region_mpp
        )
        predicted = predict_spots(
            found, targets, engine, out, scale, overwrite=overwrite, cancel=cancel, progress=progress, command=command
        )
        located: list[str] = []
        if settings.locate and not predicted.cancelled:
            for target in targets:
                locate_regions(found, target, engine, out, scale, overwrite=overwrite, cancel=cancel, command=command)
                located.append(target.name)
        facts = plain_json(
            {
                "entry": entry.facts(),
                "section": found.section.facts(),
                "fit": found.fit.facts(),
                "slide": slide_facts(found.slide).model_dump(mode="json"),
                "model": model_facts(engine.info).model_dump(mode="json"),
                "targets": [str(target) for target in targets],
                "scale": {"mpp": scale.mpp, "tile_size": scale.tile_size, "region_mpp": scale.region_mpp},
                "regions": {"level": level.words, "least": settings.least, "rounds": settings.rounds},
                "located": located,
                "statuses": predicted.statuses,
                "complete": predicted.complete,
                "expectation": EXPECTATION,
                "versions": software_versions(),
                "created": utc_now(),
                "command": command,
            }
        )
        table, boxes = prediction_table(
            found.section,
            found.slide,
            predicted.names,
            predicted.values,
            facts,
            targets=measured_targets(found.section, targets),
            region_level=level,
            least=settings.least,
            rounds=settings.rounds,
        )
        write_table(table, out / TABLE)
        facts["boxes"] = {name: len(found_boxes) for name, found_boxes in boxes.items()}
        write_regions(boxes, predicted.values, table, out / REGIONS, SlideFrames.of(found.slide))
        if np.isfinite(predicted.values).any():
            draw_maps(table, boxes, out / MAPS)
        write_text(out / RESULT, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return PredictionResult(out, facts, predicted.cancelled)


@dataclass(frozen=True)
class SpatialEvaluation:
    """How good a prediction is, beside what it has to beat."""

    section: str
    scores: tuple[SectionScore, ...]
    """The model first; then the ridge regression, where training sections were given."""
    shuffled: Shuffled
    ridge_shuffled: Shuffled | None
    """The same regression learned from training spots that were dealt out anew."""
    located: dict[str, float]
    """F1 of boxes that the model drew itself, by name, where it was asked to."""

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return plain_json(
            {
                "section": self.section,
                "scores": [score.facts() for score in self.scores],
                "shuffled": vars(self.shuffled),
                "ridge_shuffled": None if self.ridge_shuffled is None else vars(self.ridge_shuffled),
                "located_box_f1": self.located,
                "box_iou": BOX_IOU,
                "expectation": EXPECTATION,
            }
        )


def evaluate_prediction(folder: Path, train: Sequence[SectionEntry] = (), *, seed: int = 0) -> SpatialEvaluation:
    """Compare a prediction with what was measured on its section.

    Parameters
    ----------
    folder : Path
        Of `predict_section`.
    train : sequence of SectionEntry
        Sections that a ridge regression on colour and texture learns from, as it is and with spots shuffled.

    Raises
    ------
    RunNotFoundError
        The folder holds no prediction.
    SpatialError
        Nothing was measured on the section, or a training section is the one predicted.
    """
    facts, table = read_prediction(folder)
    if MEASURED not in table.obsm:
        raise SpatialError(f"{folder}: none of the genes predicted was measured on this section; nothing to compare.")
    names = [str(name) for name in table.obsm[MEASURED].columns]
    predicted = table.obsm[PREDICTED][names].to_numpy(np.float64)
    measured = table.obsm[MEASURED][names].to_numpy(np.float64)
    options: dict[str, Any] = {
        "region_level": ExpressionLevel(facts["regions"]["level"]),
        "least": facts["regions"]["least"],
        "rounds": facts["regions"]["rounds"],
    }
    entry = SectionEntry.of_facts(facts["entry"])
    targets = [target for target in parse_targets(facts["targets"]) if target.name in names]
    places0, pitch0 = np.asarray(table.obsm["spatial"], np.float64), float(facts["section"]["pitch_px0"])

    def score(method: str, values: NDArray[np.float64]) -> SectionScore:
        return score_section(method, names, values, measured, places0, pitch0, **options)

    scores, ridge_shuffled = [score("model", predicted)], None
    if train:
        if entry.image.resolve() in {each.image.resolve() for each in train}:
            raise SpatialError(f"{entry.image.name} was predicted, and is among the training sections too.")
        told, ridge_shuffled = ridge_comparison(
            train, entry, targets, ExpressionScale(**facts["scale"]), measured, seed=seed
        )
        scores.append(score("ridge", told))
    located = {
        name: _located_f1(folder / LOCATED / slug(name), measured[:, names.index(name)], places0, pitch0, options)
        for name in facts["located"]
        if name in names
    }
    control = shuffled_control(predicted, measured, seed=seed)
    result = SpatialEvaluation(facts["section"]["name"], tuple(scores), control, ridge_shuffled, located)
    write_text(folder / EVALUATION, json.dumps(result.facts(), indent=1, ensure_ascii=False) + "\n")
    return result


def ridge_comparison(
    train: Sequence[SectionEntry],
    held_out: SectionEntry,
    targets: Sequence[ExpressionTarget],
    scale: ExpressionScale,
    measured: NDArray[np.float64],
    *,
    seed: int = 0,
) -> tuple[NDArray[np.float64], Shuffled]:
    """What a ridge regression on colour and texture predicts for a held-out section, and its control.

    The control learns `_RIDGE_SHUFFLES` times from the same training sections with the spots of each dealt out anew.

    Parameters
    ----------
    measured : float64 (spots, targets)
        On the held-out section.

    Returns
    -------
    float64 (spots, targets), Shuffled
    """
    features, values, groups = [], [], []
    for number, each in enumerate(train):
        with opened(each) as found:
            features.append(section_features(found, scale))
            values.append(expression(found.section, find_genes(found.section, targets)))
            groups.append(np.full(len(values[-1]), number))
    with opened(held_out) as found:
        asked = section_features(found, scale)
    seen, told, group = np.concatenate(features), np.concatenate(values), np.concatenate(groups)
    means = []
    for draw in range(_RIDGE_SHUFFLES):
        guess = Ridge.fit(seen, shuffled_within(told, group, seed + draw)).predict(asked)
        known = [correlation(guess[:, i], measured[:, i]) for i in range(len(targets))]
        means.append(float(np.nanmean(known)) if np.isfinite(np.array(known)).any() else 0.0)
    control = Shuffled(float(np.mean(means)), float(np.quantile(means, 0.95)), _RIDGE_SHUFFLES)
    return Ridge.fit(seen, told).predict(asked), control


def read_prediction(folder: Path) -> tuple[dict[str, Any], AnnData]:
    """Record and table of a prediction. Raises RunNotFoundError where the folder holds none."""
    import anndata

    if not (folder / RESULT).is_file() or not (folder / TABLE).is_file():
        raise RunNotFoundError(f"{folder} holds no prediction ({RESULT} is missing). Make one: qwenvl spatial predict.")
    facts = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return facts, anndata.read_h5ad(folder / TABLE)


def _located_f1(
    run: Path, measured: NDArray[np.float64], places0: NDArray[np.float64], pitch0: float, options: dict[str, Any]
) -> float:
    told, _ = run_boxes(run)
    true, _ = regions_of(
        measured, places0, pitch0, options["region_level"], least=options["least"], rounds=options["rounds"]
    )
    return TruthAgreement(len(match_boxes(told, true, BOX_IOU)), len(told), len(true)).f1
