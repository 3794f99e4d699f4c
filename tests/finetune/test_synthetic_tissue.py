"""Questions about synthetic tissue are answered by what was planted."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from finetune.examples.conversation import Writer
from finetune.examples.replay import ReplayContext
from finetune.examples.synthetic_tissue import FieldSkill, FieldSource, field_of, objects_of, turn_of
from finetune.examples.tokens import TurnTokens
from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint("embedded")


def test_every_answer_is_what_was_planted(checkpoint):
    writer, frame = Writer.of(checkpoint.description), checkpoint.processor.frame(256, 256)
    asked = set()
    for seed in range(120):
        field = field_of(seed % 6, 256)
        turn = turn_of(field, objects_of(field), writer, frame, np.random.default_rng(seed))
        names = re.findall(r'"([^"]+)"', turn.prompt)
        wanted = len(field.labels) if names == ["nucleus"] else sum(label in names for label in field.labels)
        kind = re.match(r"\w+", turn.prompt).group()
        asked.add(kind)
        assert turn.places == (kind in ("Locate", "Point"))
        match kind:
            case "Locate" | "Point":
                found = json.loads(turn.answer)
                assert len(found) == wanted
                key = "bbox_2d" if kind == "Locate" else "point_2d"
                assert all(len(each[key]) == (4 if kind == "Locate" else 2) for each in found)
            case "How":
                assert int(turn.answer) == wanted
            case "Is":
                finding = re.match(r"Is there (.+) in this image", turn.prompt).group(1)
                assert turn.answer == ("yes" if finding in field.findings else "no")
            case _:
                assert turn.answer == field.tissue
                assert turn.answer in names
                assert len(names) > 1
    assert asked == {"Locate", "Point", "How", "Is", "Which"}


def test_boxes_turn_with_their_pictures(checkpoint):
    tokens = TurnTokens(checkpoint.tokenizer, checkpoint.family, "<|image_pad|>", 2048)
    kit = ReplayContext(checkpoint, Writer.of(checkpoint.description), tokens, 0, 64)
    source = FieldSource("tissue", kit, 128, fields=4)
    inside, outside = [], []
    for seed in range(40):
        plan = source.plan(np.random.default_rng(seed))
        if not plan.turn.prompt.startswith('Locate every object of these classes: "nucleus"'):
            continue
        gray = plan.load().mean(axis=2)
        shown = np.zeros(gray.shape, bool)
        for item in json.loads(plan.turn.answer):
            x0, y0, x1, y1 = (np.array(item["bbox_2d"]) * 128 / 1000).astype(int)
            shown[y0 : y1 + 1, x0 : x1 + 1] = True
        if shown.any() and not shown.all():
            inside.append(gray[shown].mean())
            outside.append(gray[~shown].mean())
    assert len(inside) >= 5
    assert np.mean(np.array(inside) < np.array(outside)) == 1.0  # nuclei are darker than what is around them
    first, again = (source.plan(np.random.default_rng(3)) for _ in range(2))
    assert first.tokens == again.tokens
    assert np.array_equal(first.load(), again.load())


def test_the_skill_is_detection_on_fields_that_are_not_taught(checkpoint):
    from qwenvl.engines.local import LocalEngine

    skill = FieldSkill.of("tissue", 256, 2, 320)
    assert [len(truth) for truth in skill.truth] == [len(field_of(890_000 + n, 256).labels) for n in range(2)]
    assert skill.points(LocalEngine(checkpoint)) > 50
