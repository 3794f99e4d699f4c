"""Questions about nuclei and regions: where they are, and how many."""

from __future__ import annotations

import json

import numpy as np

from qwenvl.prompts import build_prompt
from qwenvl.request import Request, Task
from recipes.pretrain.dense import reading_order, relative
from recipes.pretrain.phrasings import ABSENT_LABELS, CELL_NAMES, NUCLEUS_NAMES, REGION_NAMES
from recipes.pretrain.question import Question, one_of, own_words
from recipes.pretrain.tiles import CLASSES, UNKNOWN, LabelledTile


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
    objects = []
    for i in reading_order(tile.boxes):
        name = next((label for label, kinds in labels.items() if int(tile.classes[i]) in kinds), None)
        if name is not None:
            objects.append((tile.boxes[i], name))
    return _written(objects, tile, points)


def _written(objects: list[tuple[np.ndarray, str]], tile: LabelledTile, points: bool) -> str:
    items, shape = [], tile.image.shape[:2]
    for box, name in objects:
        if points:
            centre = (box[:2] + box[2:]) / 2
            items.append({"point_2d": relative(centre, shape).tolist(), "label": name})
        else:
            items.append({"bbox_2d": relative(box, shape).tolist(), "label": name})
    return json.dumps(items)


def _pick_labels(tile: LabelledTile, rng: np.random.Generator) -> dict[str, frozenset[int]]:
    if not tile.named or rng.random() < 0.35:
        return every_nucleus(one_of(rng, NUCLEUS_NAMES))
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


def detect(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """Boxes of all nuclei or of some classes."""
    return _objects(tile, rng, points=False)


def point(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """Points at all nuclei or at some classes."""
    return _objects(tile, rng, points=True)


def _objects(tile: LabelledTile, rng: np.random.Generator, points: bool) -> Question:
    labels = _pick_labels(tile, rng)
    question = detect_question(tile, labels, points)
    return own_words(question, rng, ", ".join(labels))


def regions(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """Boxes of regions and glands."""
    wanted = {str(rng.choice(names)): key for key, names in REGION_NAMES.items() if rng.random() < 0.4}
    wanted = wanted or {"necrosis": "necrosis"}
    found = [(np.array(box, np.float32), kind) for kind, box in tile.regions]
    order = reading_order(np.array([box for box, _ in found], np.float32).reshape(-1, 4))
    named = {key: name for name, key in wanted.items()}
    objects = [(found[i][0], named[found[i][1]]) for i in order if found[i][1] in named]
    prompt = build_prompt(Request(task=Task.DETECT, labels=tuple(wanted)))
    return Question("regions", prompt, _written(objects, tile, False))


def count(tile: LabelledTile, rng: np.random.Generator) -> Question:
    """How many nuclei of some classes."""
    labels = _pick_labels(tile, rng)
    wanted = frozenset().union(*labels.values())
    number = sum(int(c) in wanted for c in tile.classes)
    prompt = build_prompt(Request(task=Task.COUNT, labels=tuple(labels)))
    return own_words(Question("count", prompt, str(number)), rng, ", ".join(labels))
