"""Labels of several sources as one dataset: divided by patient, counted, and judged before training. No Qt here."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_qwenvl.train.sources import Source

if TYPE_CHECKING:
    from finetune.dataset.cutting import TileSpec
    from finetune.dataset.samples import Dataset, SlideEntry

TRAIN, HELD_OUT = "train", "validation"
_HELD_OUT_SHARE = 0.2
_FEW_TILES, _FEW_LABELS = 4, 10


@dataclass(frozen=True)
class SlideRow:
    """One slide of a gathering."""

    id: str
    name: str
    sources: tuple[str, ...]
    patient: str
    part: str
    labels: int
    tiles: int


@dataclass(frozen=True)
class Gathered:
    """Labels of all sources, ready for training or with the reason why not.

    Attributes
    ----------
    dataset : Dataset or None
        With splits.
    rows : tuple of SlideRow
    counts : mapping of class to (training, held out)
    tiles : (training, held out)
    problems : tuple of str
        Each of them keeps training from starting.
    warnings : tuple of str
    """

    dataset: Dataset | None = None
    rows: tuple[SlideRow, ...] = ()
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tiles: tuple[int, int] = (0, 0)
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def points(self) -> bool:
        """Whether places are taught in place of boxes."""
        return self.dataset is not None and any(label.is_point for label in self.dataset.labels)


def gather(
    sources: Sequence[Source],
    spec: TileSpec,
    *,
    searched: bool = False,
    patients: Mapping[str, str] | None = None,
    parts: Mapping[str, str] | None = None,
    left_out: Sequence[str] = (),
    folder: Path | None = None,
) -> Gathered:
    """Read all sources, split them, and count what can be learned from them. Never raises for what users give.

    Parameters
    ----------
    sources : sequence of RunSource or LayerSource
    spec : TileSpec
        Size and scale of the tiles that will be cut.
    searched : bool
        Tiles of runs in which nothing was found were looked at, too.
    patients : mapping of slide id to patient, optional
    parts : mapping of slide id to 'train' or 'validation', optional
        What the user chose; the others are divided by patient.
    left_out : sequence of str
        Classes that are not taught.
    folder : Path, optional
        Where files of layers and the dataset are written; none are kept without it.
    """
    from finetune.errors import FinetuneError
    from workflows.errors import WorkflowError
    from wsi.errors import SlideError

    if not sources:
        return Gathered(problems=("Add labels: the reviews of a run, or layers that were drawn over a slide.",))
    try:
        if folder is not None:
            return _gather(sources, spec, searched, patients or {}, parts or {}, left_out, folder)
        with tempfile.TemporaryDirectory() as place:
            return _gather(sources, spec, searched, patients or {}, parts or {}, left_out, Path(place))
    except (FinetuneError, WorkflowError, SlideError, OSError, ValueError) as error:
        return Gathered(problems=(in_panel(str(error)),))


def _gather(
    sources: Sequence[Source],
    spec: TileSpec,
    searched: bool,
    patients: Mapping[str, str],
    parts: Mapping[str, str],
    left_out: Sequence[str],
    folder: Path,
) -> Gathered:
    from finetune.dataset.cutting import Cutter
    from finetune.dataset.joining import join_datasets
    from finetune.errors import LeakError

    places = folder / "labels"
    places.mkdir(parents=True, exist_ok=True)
    made, problems = [], []
    for source in sources:
        one, problem = _read(source, searched, places)
        if one is not None:
            made.append((source, one))
        if problem:
            problems.append(problem)
    if not made:
        return Gathered(problems=tuple(problems))
    dataset = join_datasets("labels", [each for _, each in made])
    entries = tuple(replace(entry, patient=patients.get(entry.id, "").strip() or entry.id) for entry in dataset.slides)
    dataset = replace(dataset, slides=entries)
    names = tuple(name for name in dataset.names if name not in left_out)
    cutter = Cutter(dataset, spec, names)
    tiles = {entry.id: len(cutter.grid(entry)) for entry in dataset.slides}
    by_slide = dataset.by_slide()
    dataset = replace(dataset, slides=_divided(dataset, parts, tiles, names))
    warnings: list[str] = []
    try:
        dataset.require_no_leak()
    except LeakError:
        problems.append(_leak_words(dataset))
    counts = {name: (dataset.counts(TRAIN)[name], dataset.counts(HELD_OUT)[name]) for name in dataset.names}
    sums = tuple(sum(tiles[entry.id] for entry in dataset.of_split(part)) for part in (TRAIN, HELD_OUT))
    _judge(dataset, names, counts, sums, problems, warnings, searched, made)
    rows = tuple(
        SlideRow(
            entry.id,
            Path(entry.path).name,
            tuple(source.title for source, one in made if any(e.path == entry.path for e in one.slides)),
            entry.patient,
            entry.split,
            len(by_slide[entry.id]),
            tiles[entry.id],
        )
        for entry in dataset.slides
    )
    return Gathered(dataset, rows, counts, (sums[0], sums[1]), tuple(problems), tuple(warnings))


def _read(source: Source, searched: bool, places: Path) -> tuple[Dataset | None, str]:
    """The dataset of one source, or why there is none."""
    from finetune.errors import FinetuneError
    from workflows.errors import WorkflowError
    from wsi.errors import SlideError

    try:
        return source.dataset(searched, places), ""
    except (FinetuneError, WorkflowError, SlideError, OSError) as error:
        return None, in_panel(str(error))


def _divided(
    dataset: Dataset, parts: Mapping[str, str], tiles: Mapping[str, int], names: Sequence[str]
) -> tuple[SlideEntry, ...]:
    """Slides with their part: as chosen; where nothing was chosen, whole patients with a fifth of the labels."""
    chosen = {entry.id: parts[entry.id] for entry in dataset.slides if parts.get(entry.id) in (TRAIN, HELD_OUT)}
    held = {key for key, part in chosen.items() if part == HELD_OUT}
    if not chosen:
        held = _held_out(dataset, tiles, names)
    return tuple(replace(entry, split=HELD_OUT if entry.id in held else TRAIN) for entry in dataset.slides)


def _held_out(dataset: Dataset, tiles: Mapping[str, int], names: Sequence[str]) -> set[str]:
    """Slides of the patients that measure: those whose labels come nearest to a fifth, and are not needed to learn."""
    per: dict[str, Counter[str]] = {entry.patient: Counter() for entry in dataset.slides}
    patient_of = {entry.id: entry.patient for entry in dataset.slides}
    for label in dataset.labels:
        if label.name in names:
            per[patient_of[label.slide]][label.name] += 1
    fit = {
        patient
        for patient in per
        if per[patient].total() and any(tiles[e.id] for e in dataset.slides if e.patient == patient)
    }
    left = sum(per.values(), Counter())
    wanted = _HELD_OUT_SHARE * left.total()
    held: set[str] = set()
    taken = 0
    while taken < wanted and len(fit - held) > 1:
        best = min(fit - held, key=lambda patient: (abs(taken + per[patient].total() - wanted), patient))
        after = left - per[best]
        if any(after[name] < 2 for name in names if left[name] >= 2):
            fit.discard(best)
            continue
        if held and abs(taken + per[best].total() - wanted) >= abs(taken - wanted):
            break
        held.add(best)
        taken += per[best].total()
        left = after
    return {entry.id for entry in dataset.slides if entry.patient in held}


def _judge(
    dataset: Dataset,
    names: Sequence[str],
    counts: Mapping[str, tuple[int, int]],
    tiles: tuple[int, ...],
    problems: list[str],
    warnings: list[str],
    searched: bool,
    made: Sequence[tuple[Source, Dataset]],
) -> None:
    """Say what keeps training from starting, and what will make it poor."""
    if not names or not any(counts[name][0] + counts[name][1] for name in names):
        problems.append("There is no label to learn from. Accept, correct or draw objects, then come back.")
        return
    for name in names:
        number, held = counts[name]
        if number < 2:
            problems.append(
                f"'{name}' has {number or 'no'} training example{'s' * (number != 1)}, too few to learn from. "
                "Label more of it, or untick the class."
            )
        elif number < _FEW_LABELS:
            warnings.append(f"'{name}' has only {number} training examples; some fifty are needed to learn a class.")
        if dataset.of_split(HELD_OUT) and number >= 2 and not held:
            warnings.append(f"'{name}' is not among the held-out labels: how well it is learned is not measured.")
    if not tiles[0]:
        hint = "" if searched else ", or say that tiles without objects were looked at"
        problems.append(
            "No training tile lies where everything is labelled. Decide on every object of a tile and of its "
            f"neighbours{hint}; for drawn layers, add areas in which everything is labelled."
        )
    elif tiles[0] < _FEW_TILES:
        warnings.append(f"Only {tiles[0]} tiles to learn from. Review a larger field.")
    if len(names) == 1:
        warnings.append(f"One class only: the model is taught '{names[0]}' and everything else as nothing.")
    if not dataset.of_split(HELD_OUT):
        warnings.append(
            "Nothing is held out, so nothing will be measured: add labels of a second slide, of another patient."
        )
    elif not tiles[1]:
        problems.append("The held-out slides have no tile in which everything is labelled. Hold out another slide.")
    kinds = {label.is_point for label in dataset.labels if label.name in names}
    if kinds == {True, False}:
        problems.append("Some labels are boxes and some are points. Train with one kind at a time: remove a source.")
    if dataset.refused:
        warnings.append(f"{len(dataset.refused)} labels cannot be used; the first: {dataset.refused[0]}")


def _leak_words(dataset: Dataset) -> str:
    """Which patient or which pixels are on both sides."""
    for what in ("patient", "fingerprint"):
        seen: dict[str, SlideEntry] = {}
        for entry in dataset.slides:
            first = seen.setdefault(getattr(entry, what), entry)
            if first.split != entry.split:
                same = f"of patient {entry.patient}" if what == "patient" else "with the same pixels"
                return (
                    f"{first.id} and {entry.id} are slides {same}, one in training and one held out: scores would be "
                    "of pictures seen in training. Put both into the same part."
                )
    return ""


def in_panel(words: str) -> str:
    """An error in the words of this panel instead of those of the command line."""
    if "has no reviews" in words:
        folder = Path(words.split(" has no reviews")[0]).name
        return f"{folder} has no reviews. Accept, correct or draw objects under 'Results and review', then come back."
    if "with --images" in words:
        what = words.split("; name the slide")[0]
        return f"{what}. Bring the slide back to its place, or ask it again where it is now."
    return words


__all__ = ["HELD_OUT", "TRAIN", "Gathered", "SlideRow", "gather", "in_panel"]
