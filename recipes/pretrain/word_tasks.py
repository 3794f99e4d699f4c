"""Questions about the tile as a whole: tissue, yes or no, a sentence, a small JSON value."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qwenvl.prompts import build_prompt
from qwenvl.request import Request, Task
from recipes.pretrain.phrasings import CELL_NAMES, FINDING_NAMES, OWN_WORDS, PLURALS, PRESENCE, TISSUE_NAMES
from recipes.pretrain.question import CANONICAL_SHARE, Question, one_of, own_words
from recipes.pretrain.tiles import CLASSES, TISSUES, LabelledTile

RARITY = {"mitosis": 8.0, "necrosis": 3.0, "gland": 2.0, "fold": 3.0, "pen mark": 3.0, "blur": 3.0}
"""How much more often than others a finding is asked about where it is there: few tiles show these."""

HARD = {
    "mitosis": 3.0,
    "lymphocyte cells": 3.0,
    "fat": 2.0,
    "necrosis": 2.0,
    "tumor cells": 1.5,
    "stromal cells": 1.5,
    "epithelial cells": 1.5,
}
"""How much more often a finding is asked about, there or not: one cell decides, or a small part of the tile."""


def classify(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """Which of some tissues."""
    count = int(rng.choice([2, 3, 4, 6], p=[0.15, 0.15, 0.2, 0.5]))
    others = [t for t in rng.permutation(len(TISSUES)) if t != tile.tissue][: count - 1]
    style = 0 if rng.random() < 0.75 else int(rng.integers(2))
    chosen = sorted([tile.tissue, *map(int, others)])
    if rng.random() < 0.5:
        chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    labels = tuple(TISSUE_NAMES[TISSUES[t]][style] for t in chosen)
    prompt = None if rng.random() < CANONICAL_SHARE else one_of(rng, OWN_WORDS["classify"])
    request = Request(task=Task.CLASSIFY, labels=labels, prompt=prompt)
    return Question("classify", build_prompt(request), TISSUE_NAMES[TISSUES[tile.tissue]][style])


def truths(tile: LabelledTile) -> dict[str, bool]:
    """Every finding that can be asked about, by name, and whether the tile shows it."""
    known = {name: name in tile.findings for name in FINDING_NAMES if name not in CLASSES or name == "tumor"}
    cells = {f"{name} cells": bool((tile.classes == k).any()) for k, name in enumerate(CLASSES) if name != "mitosis"}
    return {**known, "mitosis": bool((tile.classes == CLASSES.index("mitosis")).any()), **cells}


def score_question(finding: str, truth: bool, phrasing: int = 0, name: int = 0) -> Question:
    """A yes/no question; phrasing 0 and name 0 are the recommended words."""
    asked = PRESENCE[phrasing].format(FINDING_NAMES[finding][name])
    return Question("score", build_prompt(Request(task=Task.SCORE, prompt=asked)), "yes" if truth else "no")


def score(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """Yes or no about a finding; as often true as not."""
    known = truths(tile)
    wanted = rng.random() < 0.5
    fitting = [name for name, truth in known.items() if truth == wanted] or list(known)
    weights = np.array([HARD.get(name, 1.0) * (RARITY.get(name, 1.0) if wanted else 1.0) for name in fitting])
    finding = str(rng.choice(fitting, p=weights / weights.sum()))
    phrasing = 0 if rng.random() < 0.4 else int(rng.integers(len(PRESENCE)))
    name = 0 if rng.random() < 0.6 else int(rng.integers(len(FINDING_NAMES[finding])))
    question = score_question(finding, known[finding], phrasing, name)
    kind = finding.removesuffix(" cells")
    if not known[finding] or (kind == finding and finding != "mitosis"):
        return question
    boxes = tile.boxes[tile.classes == CLASSES.index(kind)] / tile.image.shape[0]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return replace(question, evidence=tuple((float(x), float(y)) for x, y in centres))


def describe(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """One sentence."""
    question = Question("describe", build_prompt(Request(task=Task.DESCRIBE)), description(tile))
    return own_words(question, rng, "")


def description(tile: LabelledTile) -> str:
    """One sentence: the tissue, its nuclei by class, and what else is there."""
    tissue = TISSUES[tile.tissue]
    parts = []
    for k, name in enumerate(CLASSES):
        number = int((tile.classes == k).sum())
        if number:
            parts.append(f"{number} {PLURALS[name] if number > 1 else CELL_NAMES[name][1]}")
    nuclei = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else (parts[0] if parts else "no nuclei")
    also = [name for name in ("necrosis", "gland", "pen mark", "fold") if name in tile.findings and name != tissue]
    tail = f"; also {' and '.join(also)}" if also else ""
    return f"{TISSUE_NAMES[tissue][0].capitalize()} with {nuclei}{tail}."


def ask(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """Free questions about tissue or number."""
    if rng.random() < 0.5:
        return Question("ask", one_of(rng, OWN_WORDS["ask tissue"]), TISSUES[tile.tissue])
    return Question("ask", one_of(rng, OWN_WORDS["ask count"]), str(len(tile.boxes)))


_FIELDS: dict[str, tuple[str, Callable[[LabelledTile], object]]] = {
    "tissue": ("string", lambda tile: TISSUES[tile.tissue]),
    "nuclei": ("integer", lambda tile: len(tile.boxes)),
    "tumor_cells": ("integer", lambda tile: int((tile.classes == 0).sum())),
    "lymphocytes": ("integer", lambda tile: int((tile.classes == 1).sum())),
    "mitoses": ("integer", lambda tile: int((tile.classes == 4).sum())),
    "necrosis": ("boolean", lambda tile: "necrosis" in tile.findings),
}


def extract_schema(names: tuple[str, ...]) -> dict[str, object]:
    """JSON Schema that asks for some of: tissue, nuclei, tumor_cells, lymphocytes, mitoses, necrosis."""
    properties = {name: {"type": _FIELDS[name][0]} for name in names}
    return {"type": "object", "properties": properties, "required": list(names)}


def extract_question(tile: LabelledTile, names: tuple[str, ...]) -> Question:
    """The canonical extract question for some fields."""
    request = Request(task=Task.EXTRACT, output_schema=extract_schema(names))
    return Question("extract", build_prompt(request), json.dumps({name: _FIELDS[name][1](tile) for name in names}))


def extract(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """A small JSON value."""
    names = [name for name in _FIELDS if rng.random() < 0.5] or ["tissue"]
    if rng.random() < 0.4:
        names = ["tissue", "nuclei", "tumor_cells", "lymphocytes", "mitoses", "necrosis"]
    return extract_question(tile, tuple(names))
