"""Boxes in tags: what a model can write between and around the tags of Qwen2-VL."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qwenvl.answer import Status
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.constraints.grammar import Grammars, vocabulary_size
from qwenvl.engines.local import LocalEngine
from qwenvl.images.geometry import PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.request import Request, Task

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]
REF, FER, BOX, XOB = "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"
END = "<|im_end|>"
DETECT = Request(task=Task.DETECT, labels=("tumour", "tumour edge"), max_objects=3)
POINT = Request(task=Task.POINT, labels=("cell",))
OPEN = Request(task=Task.DETECT, prompt="Find all.")
TWO = f"{REF}tumour{FER}{BOX}(1,2),(30,1000){XOB}{REF}tumour edge{FER}{BOX}(0,5),(999,12){XOB}"


@pytest.fixture(scope="module")
def checkpoint(tiny: Tiny) -> Any:
    return load_checkpoint(tiny("Qwen2-VL"), device="cpu")


def taken(checkpoint: Any, request: Request, text: str) -> int:
    """How many tokens of a text may come; each is tried both ways, as the most likely one and under the mask."""
    grammars = Grammars(checkpoint.tokenizer, vocabulary_size(checkpoint.model), checkpoint.eos_token_ids)
    family = checkpoint.family
    constraint = grammars.constraint(request, [PictureFrame.same(100, 100)], dialect=family.dialect, space=family.space)
    assert constraint is not None
    ids = checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
    for count, token in enumerate(ids):
        logits = torch.zeros(1, vocabulary_size(checkpoint.model))
        constraint.apply(logits, [0])
        allowed = bool(logits[0, token] == 0)
        assert constraint.accept(0, token) is allowed, (text, count)
        if not allowed:
            return count
    return len(ids)


@pytest.mark.parametrize(
    ("request_", "text", "stops_before"),
    [
        (DETECT, TWO + END, None),
        (DETECT, f"There are none.{END}", None),
        (DETECT, f"Here: {TWO} and that is all.{END}", None),
        (DETECT, f"{REF}tumour{FER}{BOX}(1,2),(3,4){XOB}{BOX}(5,6),(7,8){XOB}{END}", None),
        (DETECT, f"{REF}tumour{FER}{BOX}(1,2),(3,4){XOB}" * 3 + END, None),
        (DETECT, f"{REF}tumour{FER}{BOX}(1,2),(3,4){XOB}" * 3 + "x", "x"),
        (DETECT, f"{REF}tumour{FER}{BOX}(1,2),(3,4){XOB}" * 3 + REF, "last"),
        (DETECT, f"{REF}stroma", "s"),
        (DETECT, f"{REF}tumour{FER}x", "x"),
        (DETECT, f"{REF}tumour{END}", END),
        (DETECT, f"{REF}tumour{FER}{BOX}(1001", "last"),
        (DETECT, f"{REF}tumour{FER}{BOX}(01", "last"),
        (DETECT, f"{REF}tumour{FER}{BOX}(1,2){XOB}", XOB),
        (DETECT, f"{REF}tumour{FER}{BOX}(1,2),(3,4){END}", END),
        (DETECT, BOX, BOX),
        (DETECT, f"some text {BOX}", BOX),
        (DETECT, f"{FER}", FER),
        (DETECT, "<|im_start|>", "<|im_start|>"),
        (POINT, f"{REF}cell{FER}{BOX}(1,2){XOB}{BOX}(3,4){XOB}{END}", None),
        (POINT, f"{REF}cell{FER}{BOX}(1,2),", ","),
        (OPEN, f"{REF}a large, pale «cell»{FER}{BOX}(1,2),(3,4){XOB}{END}", None),
    ],
)
def test_what_may_be_written(checkpoint: Any, request_: Request, text: str, stops_before: str | None) -> None:
    ids = checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
    count = taken(checkpoint, request_, text)
    if stops_before is None:
        assert count == len(ids)
    elif stops_before == "last":
        assert count == len(ids) - 1
    else:
        assert checkpoint.tokenizer.decode(ids[count:]).startswith(stops_before)


def test_the_parser_reads_it(checkpoint: Any) -> None:
    family = checkpoint.family
    answer = parse_answer(TWO, DETECT, dialect=family.dialect, space=family.space, frame=PictureFrame.same(1000, 1000))
    assert answer.status is Status.OK
    assert [(item.label, item.box) for item in answer.objects] == [
        ("tumour", (1, 2, 30, 1000)),
        ("tumour edge", (0, 5, 999, 12)),
    ]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 3}])
def test_random_models_write_no_broken_tag(
    tiny: Tiny, pictures: Pictures, checkpoint: Any, settings: dict[str, Any]
) -> None:
    """Logits are tilted towards tags, so that a random model writes some; they come out whole, or cut at the end."""
    engine = LocalEngine(checkpoint)
    request = Request(task=Task.DETECT, labels=("nucleus",), generation={"max_new_tokens": 200, **settings})
    head = checkpoint.model.lm_head
    ref = checkpoint.tokenizer.convert_tokens_to_ids(REF)
    handle = head.register_forward_hook(lambda _, __, out: out + 20.0 * (torch.arange(out.shape[-1]) == ref).float())
    plain = LocalEngine(checkpoint, constrained=False)
    engine._language = plain._language = None
    try:
        answers = engine.answer(pictures, request)
        one = LocalEngine(checkpoint, token_budget=1)
        one._language = None
        assert [answer.raw for answer in answers] == [a.raw for a in one.answer(pictures, request)]
    finally:
        handle.remove()
    whole = rf"{re.escape(REF)}nucleus{re.escape(FER)}(?:{re.escape(BOX)}\(\d+,\d+\),\(\d+,\d+\){re.escape(XOB)})+"
    tags = "|".join(map(re.escape, (REF, FER, BOX, XOB, "<|quad_start|>", "<|quad_end|>")))
    assert any(re.search(whole, answer.raw) for answer in answers)
    for answer in answers:
        rest = re.sub(whole, "", answer.raw)
        # Only the last object may be cut.
        assert len(re.findall(tags, rest)) <= 3, rest
        if answer.finish_reason == "stop":
            assert not re.search(tags, rest)
