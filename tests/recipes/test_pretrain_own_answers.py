"""What a model wrote itself is read, and what should have stood there is the target."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from recipes.pretrain.own_answers import LESSON, UNREADABLE, HardTiles, corrected, dropped, readable
from recipes.pretrain.question import Question
from recipes.pretrain.tasks import corpus
from recipes.pretrain.tiles import LabelledTile
from recipes.pretrain.tokenizer import TextCodec, build_tokenizer
from recipes.pretrain.turns import IGNORED, TurnBatch, TurnWriter

Box = list[int]
FIRST, BESIDE, LATER = [10, 20, 110, 120], [130, 150, 240, 260], [700, 710, 800, 820]
"""Two nuclei of one cell (of 2 x 2) and one of the last."""
TRUE = [FIRST, BESIDE, LATER]
OPEN, CLOSE = '"}, {"bbox_2d": [', '"}]'


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return TextCodec(build_tokenizer(corpus(1, count=200)))


def lesson(codec: TextCodec, wrote: list[Box], labels: list[str] | None = None) -> TurnBatch:
    """The turn of an answer about a tile that shows `TRUE`."""
    names = labels or ["nucleus"] * len(wrote)
    own = json.dumps([{"bbox_2d": b, "label": n} for b, n in zip(wrote, names, strict=True)])
    true = json.dumps([{"bbox_2d": b, "label": "nucleus"} for b in TRUE])
    writer = TurnWriter(codec, (2, 2))
    prompt = "Locate nucleus."
    return corrected(writer, [Question("detect", prompt, own)], [Question("detect", prompt, true)], [0])


def taught(codec: TextCodec, turns: TurnBatch) -> list[list[int | str | None]]:
    """Per written object: its four targets, the first token of its label's, and what is to follow."""
    targets, ids = turns.targets[0].tolist(), turns.ids[0].tolist()
    begins = [p for p in range(len(ids)) if codec.decode([ids[p]]).endswith('"bbox_2d": [')]
    told: list[list[int | str | None]] = []
    for place in begins:
        numbers = [turns.places[0, place + c].item() for c in range(4)]
        rest = [None if (t := targets[place + c]) == IGNORED else codec.decode([t]) for c in (5, 6)]
        told.append([*(None if n == IGNORED else n for n in numbers), *rest])
    return told


def test_a_right_answer_is_its_own_target(codec: TextCodec) -> None:
    writer = TurnWriter(codec, (2, 2))
    true = json.dumps([{"bbox_2d": b, "label": "nucleus"} for b in TRUE])
    plain = writer.batch([Question("detect", "Locate nucleus.", true)], [0])
    same = lesson(codec, TRUE)
    for name in ("ids", "targets", "places", "pointers", "corners", "left", "naming"):
        assert getattr(same, name).tolist() == getattr(plain, name).tolist(), name
    torch.testing.assert_close(same.weights, plain.weights)


def test_near_misses_are_corrected(codec: TextCodec) -> None:
    moved = [[v + 12 for v in box] for box in TRUE]
    told = taught(codec, lesson(codec, moved))
    assert told == [[*box, "nucleus", OPEN] for box in TRUE[:2]] + [[*LATER, "nucleus", CLOSE]]


def test_after_a_box_that_was_written_before_comes_its_neighbour(codec: TextCodec) -> None:
    told = taught(codec, lesson(codec, [FIRST, FIRST, FIRST, LATER]))
    again = [BESIDE[0], None, None, None, None, OPEN]
    # Behind the last object of its cell nothing goes back: the neighbour that was never written is not asked for again.
    assert told == [[*FIRST, "nucleus", OPEN], again, again, [BESIDE[0], *LATER[1:], "nucleus", CLOSE]]


def test_a_box_of_two_nuclei_is_corrected_where_it_departs(codec: TextCodec) -> None:
    told = taught(codec, lesson(codec, [FIRST, [130, 150, 240, 20], LATER]))
    assert told[1] == [*BESIDE, None, OPEN]


def test_an_early_end_is_told_to_go_on_and_a_late_one_to_end(codec: TextCodec) -> None:
    assert taught(codec, lesson(codec, [FIRST, BESIDE]))[-1][-1] == OPEN
    told = taught(codec, lesson(codec, [*TRUE, LATER]))
    assert told[2][-1] == CLOSE
    assert told[3] == [None, None, None, None, None, CLOSE]


def test_a_wrong_label_is_corrected(codec: TextCodec) -> None:
    told = taught(codec, lesson(codec, TRUE, ["tumor", "nucleus", "nucleus"]))
    assert told[0] == [*FIRST, "nucleus", OPEN]


def test_mistakes_weigh_more(codec: TextCodec) -> None:
    right, wrong = lesson(codec, TRUE), lesson(codec, [FIRST, BESIDE, BESIDE])
    end = int((right.targets[0] != IGNORED).nonzero()[-2])
    assert wrong.ids.shape == right.ids.shape
    assert wrong.weights[0, end] == pytest.approx(3 * right.weights[0, end].item())


def test_copies_and_swapped_corners_are_what_a_reader_drops() -> None:
    boxes = np.array([FIRST, BESIDE, FIRST, [130, 150, 120, 260], [10, 20, 110, 121]])
    assert dropped(boxes).tolist() == [False, False, True, True, False]


def test_a_box_to_drop_weighs_most(codec: TextCodec) -> None:
    copied, false = lesson(codec, [FIRST, FIRST, LATER]), lesson(codec, [FIRST, [400, 20, 490, 110], LATER])
    begins = (copied.corners[0] == 0).nonzero()[1]
    assert copied.places[0, begins] == false.places[0, begins] == BESIDE[0]
    assert copied.weights[0, begins].item() == pytest.approx(UNREADABLE / LESSON * false.weights[0, begins].item())


def test_hard_tiles_are_asked_about_again() -> None:
    """Those of another shape wait, and the oldest make room."""
    hard = HardTiles(3)
    rng = np.random.default_rng(0)
    blank = LabelledTile(np.zeros((64, 64, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    wide = replace(blank, image=np.zeros((64, 96, 3), np.uint8))
    assert hard.drawn(4, (2, 2), rng) == []
    hard.add([blank, wide, blank])
    assert [tile.cells for tile in hard.drawn(4, (2, 2), rng)] == [(2, 2)] * 2
    assert len(hard.drawn(1, (2, 2), rng)) == 1
    hard.add([wide, wide, wide])
    assert hard.drawn(4, (2, 2), rng) == []


def test_a_loop_is_cut_and_closed() -> None:
    one = '{"bbox_2d": [1, 2, 30, 1000], "label": "tumor cell"}'
    endless = "[" + ", ".join([one] * 30) + ', {"bbox_2d": [1, 2'
    assert readable(endless, 5) == "[" + ", ".join([one] * 5) + "]"
    assert readable(endless, 99) == "[" + ", ".join([one] * 30) + "]"
    assert readable(f"[{one}]", 9) == f"[{one}]"
    for nothing in ("[]", "Yes", "[" + one.replace("1000", "1001") + "]", f"{one}]"):
        assert readable(nothing, 9) is None
