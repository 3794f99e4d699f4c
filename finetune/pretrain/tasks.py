"""From a labelled tile to questions and answers, in the project's own prompts and Qwen3-VL's answer formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from finetune.pretrain.dense import reading_order, relative
from finetune.pretrain.phrasings import (
    ABSENT_LABELS,
    CELL_NAMES,
    COMMON_WORDS,
    FINDING_NAMES,
    NUCLEUS_NAMES,
    OWN_WORDS,
    PLURALS,
    PRESENCE,
    REGION_NAMES,
    TISSUE_NAMES,
)
from finetune.pretrain.tiles import CLASSES, TISSUES, UNKNOWN, LabelledTile
from qwenvl.prompts import build_prompt
from qwenvl.request import Request, Task

CANONICAL_SHARE = 0.7
"""Share of the questions in the words of `qwenvl.prompts`; the others are people's own words."""

SHARES = {"detect": 0.5, "regions": 0.04, "point": 0.07, "count": 0.1, "classify": 0.09, "score": 0.12,
          "describe": 0.03, "ask": 0.02, "extract": 0.03}  # fmt: skip
RARITY = {"mitosis": 5.0, "necrosis": 3.0, "gland": 2.0, "fold": 3.0, "pen mark": 3.0, "blur": 3.0}
"""How much more often than others a finding is asked about where it is there: few tiles show these."""
SHORT_SHARES = {"score": 0.55, "count": 0.25, "classify": 0.2}
REAL_SHARES = {"detect": 0.8, "point": 0.08, "count": 0.12}


@dataclass(frozen=True)
class Question:
    """One turn each of user and assistant about one tile."""

    task: str
    prompt: str
    answer: str
    evidence: tuple[tuple[float, float], ...] = ()
    """Centres (x, y in 0..1) of the nuclei that make a yes true, where single nuclei do."""

    @property
    def has_coordinates(self) -> bool:
        """Whether numbers of the answer are places, so that a near miss is half right."""
        return self.task in ("detect", "regions", "point")


def ask_about(tile: LabelledTile, rng: np.random.Generator, task: str | None = None) -> Question:
    """A question about a tile, of a random task unless one is named."""
    if task is None:
        shares = SHARES if tile.named else REAL_SHARES
        task = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    return _MAKERS[task](tile, rng)


def ask_shortly(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """A question with a one-word answer; of a tile without classes only the count can be asked."""
    task = str(rng.choice(list(SHORT_SHARES), p=list(SHORT_SHARES.values()))) if tile.named else "count"
    return _MAKERS[task](tile, rng)


def detect_question(tile: LabelledTile, labels: dict[str, frozenset[int]], points: bool = False) -> Question:
    """The canonical detect (or point) question.

    Parameters
    ----------
    labels : dict of str to set of int
        Which nucleus classes (positions in `CLASSES`, or `UNKNOWN`) each label of the request stands for.
    """
    request = Request(task=Task.POINT if points else Task.DETECT, labels=tuple(labels))
    return Question(str(request.task), build_prompt(request), objects_answer(tile, labels, points))


def every_nucleus(name: str = "nucleus") -> dict[str, frozenset[int]]:
    """One label for all classes."""
    return {name: frozenset((UNKNOWN, *range(len(CLASSES))))}


def objects_answer(tile: LabelledTile, labels: dict[str, frozenset[int]], points: bool = False) -> str:
    """Objects with a wanted class in reading order, as Qwen3-VL writes them; '[]' when there is none."""
    size = tile.image.shape[0]
    objects = []
    for i in reading_order(tile.boxes):
        name = next((label for label, kinds in labels.items() if int(tile.classes[i]) in kinds), None)
        if name is not None:
            objects.append((tile.boxes[i], name))
    return _written(objects, size, points)


def _written(objects: list[tuple[np.ndarray, str]], size: int, points: bool) -> str:
    items = []
    for box, name in objects:
        if points:
            centre = (box[:2] + box[2:]) / 2
            items.append({"point_2d": relative(centre, size).tolist(), "label": name})
        else:
            items.append({"bbox_2d": relative(box, size).tolist(), "label": name})
    return json.dumps(items)


def _pick_labels(tile: LabelledTile, rng: np.random.Generator) -> dict[str, frozenset[int]]:
    if not tile.named or rng.random() < 0.35:
        return every_nucleus(_one(rng, NUCLEUS_NAMES))
    count = int(rng.choice([1, 2, 3, 5], p=[0.33, 0.22, 0.15, 0.3]))
    style = int(rng.integers(2)) if rng.random() < 0.8 else -1
    chosen: dict[str, frozenset[int]] = {}
    for k in rng.permutation(len(CLASSES))[:count]:
        names = CELL_NAMES[CLASSES[k]]
        chosen[names[style] if style >= 0 else str(rng.choice(names))] = frozenset([int(k)])
    if rng.random() < 0.08:
        chosen[str(rng.choice(ABSENT_LABELS))] = frozenset()
    if rng.random() < 0.5:  # as often in the order of the classes as in any other
        order = sorted(chosen, key=lambda name: min(chosen[name], default=99))
        chosen = {name: chosen[name] for name in order}
    return chosen


def _detect(tile: LabelledTile, rng: np.random.Generator) -> Question:
    return _objects(tile, rng, points=False)


def _point(tile: LabelledTile, rng: np.random.Generator) -> Question:
    return _objects(tile, rng, points=True)


def _objects(tile: LabelledTile, rng: np.random.Generator, points: bool) -> Question:
    labels = _pick_labels(tile, rng)
    question = detect_question(tile, labels, points)
    return _own_words(question, rng, ", ".join(labels))


def _regions(tile: LabelledTile, rng: np.random.Generator) -> Question:
    wanted = {str(rng.choice(names)): key for key, names in REGION_NAMES.items() if rng.random() < 0.4}
    wanted = wanted or {"necrosis": "necrosis"}
    found = [(np.array(box, np.float32), kind) for kind, box in tile.regions]
    order = reading_order(np.array([box for box, _ in found], np.float32).reshape(-1, 4))
    named = {key: name for name, key in wanted.items()}
    objects = [(found[i][0], named[found[i][1]]) for i in order if found[i][1] in named]
    prompt = build_prompt(Request(task=Task.DETECT, labels=tuple(wanted)))
    return Question("regions", prompt, _written(objects, tile.image.shape[0], False))


def _count(tile: LabelledTile, rng: np.random.Generator) -> Question:
    labels = _pick_labels(tile, rng)
    wanted = frozenset().union(*labels.values())
    number = sum(int(c) in wanted for c in tile.classes)
    prompt = build_prompt(Request(task=Task.COUNT, labels=tuple(labels)))
    return _own_words(Question("count", prompt, str(number)), rng, ", ".join(labels))


def _classify(tile: LabelledTile, rng: np.random.Generator) -> Question:
    count = int(rng.choice([2, 3, 4, 6], p=[0.15, 0.15, 0.2, 0.5]))
    others = [t for t in rng.permutation(len(TISSUES)) if t != tile.tissue][: count - 1]
    style = 0 if rng.random() < 0.75 else int(rng.integers(2))
    chosen = sorted([tile.tissue, *map(int, others)])
    if rng.random() < 0.5:
        chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    labels = tuple(TISSUE_NAMES[TISSUES[t]][style] for t in chosen)
    prompt = None if rng.random() < CANONICAL_SHARE else _one(rng, OWN_WORDS["classify"])
    request = Request(task=Task.CLASSIFY, labels=labels, prompt=prompt)
    return Question("classify", build_prompt(request), TISSUE_NAMES[TISSUES[tile.tissue]][style])


def truths(tile: LabelledTile) -> dict[str, bool]:
    """Every finding that can be asked about, by name, and whether the tile shows it."""
    known = {name: name in tile.findings for name in FINDING_NAMES if name not in CLASSES or name == "tumor"}
    cells = {
        f"{name} cells": bool((tile.classes == k).any())
        for k, name in enumerate(CLASSES)
        if name != "mitosis"
    }
    return {**known, "mitosis": bool((tile.classes == CLASSES.index("mitosis")).any()), **cells}


def score_question(finding: str, truth: bool, phrasing: int = 0, name: int = 0) -> Question:
    """A yes/no question; phrasing 0 and name 0 are the recommended words."""
    asked = PRESENCE[phrasing].format(FINDING_NAMES[finding][name])
    return Question("score", build_prompt(Request(task=Task.SCORE, prompt=asked)), "yes" if truth else "no")


def _score(tile: LabelledTile, rng: np.random.Generator) -> Question:
    known = truths(tile)
    wanted = rng.random() < 0.5
    fitting = [name for name, truth in known.items() if truth == wanted] or list(known)
    weights = np.array([RARITY.get(name, 1.0) if wanted else 1.0 for name in fitting])
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


def _describe(tile: LabelledTile, rng: np.random.Generator) -> Question:
    question = Question("describe", build_prompt(Request(task=Task.DESCRIBE)), description(tile))
    return _own_words(question, rng, "")


def description(tile: LabelledTile) -> str:
    """One sentence: the tissue, its nuclei by class, and what else is there."""
    tissue = TISSUES[tile.tissue]
    parts = []
    for k, name in enumerate(CLASSES):
        number = int((tile.classes == k).sum())
        if number:
            parts.append(f"{number} {PLURALS[name] if number > 1 else CELL_NAMES[name][1]}")
    nuclei = (
        f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else (parts[0] if parts else "no nuclei")
    )
    also = [
        name for name in ("necrosis", "gland", "pen mark", "fold") if name in tile.findings and name != tissue
    ]
    tail = f"; also {' and '.join(also)}" if also else ""
    return f"{TISSUE_NAMES[tissue][0].capitalize()} with {nuclei}{tail}."


def _ask(tile: LabelledTile, rng: np.random.Generator) -> Question:
    if rng.random() < 0.5:
        return Question("ask", _one(rng, OWN_WORDS["ask tissue"]), TISSUES[tile.tissue])
    return Question("ask", _one(rng, OWN_WORDS["ask count"]), str(len(tile.boxes)))


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
    return Question(
        "extract", build_prompt(request), json.dumps({name: _FIELDS[name][1](tile) for name in names})
    )


def _extract(tile: LabelledTile, rng: np.random.Generator) -> Question:
    names = [name for name in _FIELDS if rng.random() < 0.5] or ["tissue"]
    if rng.random() < 0.4:
        names = ["tissue", "nuclei", "tumor_cells", "lymphocytes", "mitoses", "necrosis"]
    return extract_question(tile, tuple(names))


def _own_words(question: Question, rng: np.random.Generator, labels: str) -> Question:
    if rng.random() < CANONICAL_SHARE:
        return question
    return Question(question.task, _one(rng, OWN_WORDS[question.task]).format(labels), question.answer)


def _one(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    """The first choice half of the time, else any."""
    return choices[0] if rng.random() < 0.5 else str(rng.choice(choices))


_MAKERS: dict[str, Callable[[LabelledTile, np.random.Generator], Question]] = {
    "detect": _detect, "regions": _regions, "point": _point, "count": _count, "classify": _classify,
    "score": _score, "describe": _describe, "ask": _ask, "extract": _extract,
}  # fmt: skip


def corpus(seed: int, count: int = 6000) -> Iterator[str]:
    """Prompts and answers about made-up tiles, for the tokenizer."""
    rng = np.random.default_rng([seed, 99])
    blank = np.zeros((256, 256, 3), np.uint8)
    for i in range(count):
        n = int(rng.integers(0, 6))
        corner = rng.uniform(0, 200, (n, 2))
        places = tuple((str(k), (0.0, 0.0, 99.0, 99.0)) for k in rng.choice(list(REGION_NAMES), 2))
        tile = LabelledTile(
            image=blank,
            boxes=np.concatenate([corner, corner + 30], 1).astype(np.float32),
            classes=rng.integers(0, len(CLASSES), n),
            tissue=i % len(TISSUES),
            findings=frozenset(rng.choice(list(FINDING_NAMES), 3).tolist()),
            regions=places,
        )
        question = ask_about(tile, rng, list(_MAKERS)[i % len(_MAKERS)])
        yield f"user\n{question.prompt}\nassistant\n{question.answer}"
    for _ in range(2):
        yield f"system\n{COMMON_WORDS}"
