"""The second nucleus of a 32-px cell has heads of its own: attention that reads it with the first one's is wrong."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from recipes.pretrain.dense import DenseHeads
from recipes.pretrain.first_weights import copy_box_head
from recipes.pretrain.own_answers import corrected
from recipes.pretrain.pointer import SINK, pointer_loss
from recipes.pretrain.question import Question
from recipes.pretrain.tasks import corpus
from recipes.pretrain.tokenizer import TextCodec, build_tokenizer
from recipes.pretrain.turns import TurnBatch, TurnWriter

FIRST, BESIDE, THIRD, LATER = ([10, 20, 110, 120], [130, 150, 240, 260], [250, 280, 330, 360], [700, 710, 800, 820])
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
    assert turns.slots[0][asked].tolist() == [1, 1], "both boxes after the first begin where the second should"


def attention(turns: TurnBatch, first_cell: int, heads: int, second: int) -> list[tuple[Tensor, Tensor]]:
    """What two layers compare whose heads look where they should, those of a second nucleus from head `second` on."""
    length = turns.ids.shape[1]
    wanted = torch.full((heads, length), SINK)
    for place in (turns.corners[0] >= 0).nonzero()[:, 0]:
        head = turns.corners[0, place] + second * int(turns.slots[0, place] > 0)
        wanted[head, place] = turns.pointers[0, place] + first_cell
    keys = torch.eye(length).expand(1, heads, length, length)
    read = 30 * nn.functional.one_hot(wanted, length).float()[None]
    before = torch.full((1, length), SINK)
    for place in ((turns.pointers[0] >= 0) | (turns.naming[0] >= 0)).nonzero()[:, 0]:
        before[0, place] = max(turns.pointers[0, place], turns.naming[0, place]) + first_cell
    found = 30 * nn.functional.one_hot(before.expand(heads, length), length).float()[None]
    return [(found, keys), (read, keys)]


def test_a_second_nucleus_read_with_the_heads_of_the_first_is_a_fault(writer: TurnWriter) -> None:
    turns = writer.batch([question([FIRST, BESIDE, THIRD, LATER])], [0])
    right, wrong = (pointer_loss(attention(turns, writer.first_cell, 8, s), turns, writer.first_cell) for s in (4, 0))
    assert float(right) < 0.01
    assert float(wrong) > 5
    four = pointer_loss(attention(turns, writer.first_cell, 4, 0), turns, writer.first_cell)
    assert float(four) < 0.01, "with four heads there is no other place to read it"


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
