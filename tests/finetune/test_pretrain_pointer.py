"""The second nucleus of a 32-px cell has heads of its own: attention that reads it with the first one's is wrong."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from finetune.pretrain.dense import DenseHeads
from finetune.pretrain.first_weights import copy_box_head
from finetune.pretrain.own_answers import corrected
from finetune.pretrain.pointer import SINK, pointer_loss
from finetune.pretrain.question import Question
from finetune.pretrain.tasks import corpus
from finetune.pretrain.tokenizer import TextCodec, build_tokenizer
from finetune.pretrain.turns import TurnBatch, TurnWriter

FIRST, BESIDE, THIRD, LATER = (
    [10, 20, 110, 120],
    [130, 150, 240, 260],
    [250, 280, 330, 360],
    [700, 710, 800, 820],
)
"""Three nuclei of one cell (of 2 x 2) and one of the last."""
CELLS = (2, 2)


@pytest.fixture(scope="module")
def writer() -> TurnWriter:
    return TurnWriter(TextCodec(build_tokenizer(corpus(1, count=200))), CELLS)


def question(boxes: list[list[int]]) -> Question:
    answer = json.dumps([{"bbox_2d": box, "label": "nucleus"} for box in boxes])
    return Question("detect", "Locate nucleus.", answer)


def slots(turns: TurnBatch) -> list[int]:
    """The slot of every box of the first sequence, the same at its four corners."""
    found = turns.slots[0][turns.corners[0] >= 0].view(-1, 4)
    assert (found == found[:, :1]).all()
    return [int(v) for v in found[:, 0]]


def test_nuclei_of_a_cell_are_counted(writer: TurnWriter) -> None:
    assert slots(writer.batch([question([FIRST, BESIDE, THIRD, LATER])], [0])) == [0, 1, 2, 0]


def test_a_box_that_stands_there_twice_is_no_second_nucleus(writer: TurnWriter) -> None:
    assert slots(writer.batch([question([FIRST, FIRST, BESIDE, FIRST, LATER])], [0])) == [0, 0, 1, 0, 0]


def test_a_corrected_box_has_the_slot_of_the_true_one(writer: TurnWriter) -> None:
    turns = corrected(writer, [question([FIRST, FIRST, LATER])], [question([FIRST, BESIDE, LATER])], [0])
    asked = turns.places[0] == BESIDE[0]
    assert turns.slots[0][asked].tolist() == [1, 1], (
        "both boxes after the first begin where the second should"
    )


def looks(turns: TurnBatch, first_cell: int, heads: int, layers: int) -> list[Tensor]:
    """Per layer, the place every head (heads, length) should look at from every place."""
    length, corners = turns.ids.shape[1], turns.corners[0]
    wanted = [torch.full((heads, length), SINK) for _ in range(layers)]
    last, before, first = wanted[-1], wanted[-2], wanted[0]
    for place in range(length):
        corner, cell = int(corners[place]), int(turns.pointers[0, place]) + first_cell
        begins, named = corner == 0, int(turns.naming[0, place])
        if layers > 2 and (begins or named >= 0):
            first[:4, place] = turns.previous[0, place]
        if layers > 3 and begins:
            wanted[-3][0, place] = cell
        if begins and turns.left[0, place] >= 0:
            before[1, place] = turns.left[0, place] + first_cell
        if corner > 0 and heads > 3:
            before[3, place] = place - corner
        if corner >= 0:
            second = 4 * int(turns.slots[0, place] > 0) if heads == 8 else 0
            last[corner + second, place] = before[0, place] = cell
        if named >= 0:
            before[2, place] = named + first_cell
    return wanted


def surprise(wanted: list[Tensor], turns: TurnBatch, first_cell: int) -> float:
    """The loss of layers whose heads look at these places."""
    heads, length = wanted[0].shape
    keys = torch.eye(length).expand(1, heads, length, length)
    looked = [(30 * nn.functional.one_hot(w, length).float()[None], keys, keys) for w in wanted]
    return float(pointer_loss(looked, turns, first_cell))


@pytest.fixture(scope="module")
def turns(writer: TurnWriter) -> TurnBatch:
    return writer.batch([question([FIRST, BESIDE, THIRD, LATER])], [0])


@pytest.mark.parametrize(("heads", "layers"), [(8, 2), (4, 2), (8, 3), (4, 3), (8, 4), (4, 5)])
def test_heads_that_look_where_they_should_cost_nothing(
    writer: TurnWriter, turns: TurnBatch, heads: int, layers: int
) -> None:
    assert surprise(looks(turns, writer.first_cell, heads, layers), turns, writer.first_cell) < 0.01


def test_a_second_nucleus_read_with_the_heads_of_the_first_is_a_fault(
    writer: TurnWriter, turns: TurnBatch
) -> None:
    wanted = looks(turns, writer.first_cell, 8, 4)
    wanted[-1] = torch.cat([wanted[-1][:4].maximum(wanted[-1][4:]), torch.full_like(wanted[-1][4:], SINK)])
    assert surprise(wanted, turns, writer.first_cell) > 5


def test_coordinates_that_forget_where_their_box_began_are_a_fault(
    writer: TurnWriter, turns: TurnBatch
) -> None:
    wanted = looks(turns, writer.first_cell, 8, 4)
    wanted[-2][3] = SINK
    assert surprise(wanted, turns, writer.first_cell) > 5


@torch.no_grad()
@pytest.mark.parametrize("count", [2, 4, 8])
def test_heads_start_from_what_the_box_head_reads(count: int) -> None:
    """Head 4 * i + j copies what the box head reads for coordinate j of slot i; with too few heads, nothing."""
    torch.manual_seed(3)
    width, size = 24, 24
    heads = DenseHeads(width, 1)
    part = SimpleNamespace(
        head_dim=size,
        k_proj=nn.Linear(width, count * size, bias=False),
        v_proj=nn.Linear(width, count * size, bias=False),
        o_proj=nn.Linear(count * size, width, bias=False),
    )
    before = part.v_proj.weight.clone()
    objects = torch.randn(40, width)
    copy_box_head(part, heads, objects)
    if count < 4:
        torch.testing.assert_close(part.v_proj.weight, before)
        return
    normed = objects * torch.rsqrt(objects.pow(2).mean(-1, keepdim=True))
    numbers = heads.number.weight.view(-1, width, width)
    for head in range(count):
        rows = slice(head * size, (head + 1) * size)
        copied = normed @ part.v_proj.weight[rows].T @ part.o_proj.weight[:, rows].T
        read = (normed - normed.mean(-1, keepdim=True)) * heads.norm.weight @ numbers[head].T
        alike = nn.functional.cosine_similarity(copied.flatten(), read.flatten(), dim=0)
        assert float(alike) > 0.999, head
