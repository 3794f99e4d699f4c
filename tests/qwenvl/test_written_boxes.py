"""Boxes while they are written: corners in order, and none that stands there already."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwenvl.answer import Answer, Status
from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint
from qwenvl.checkpoints.testing import TINY_FAMILIES
from qwenvl.constraints.box_constraint import TokenPieces, WrittenBoxes
from qwenvl.decoding.batching import TokenBatch, build_batch, encode_prompt, render_request
from qwenvl.decoding.compiled import CompiledStep
from qwenvl.decoding.cpu_decoder import LightLanguage, LightSteps
from qwenvl.decoding.decode import Steps, TransformersSteps, croppable, decode, prefill
from qwenvl.engines.local import LocalEngine
from qwenvl.images.preprocess import preprocess
from qwenvl.request import Generation, Request, Task
from wsi.synthetic import sample_field

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]
Vocabulary = list[bytes]

DIGITS: Vocabulary = [bytes((byte,)) for byte in range(128)]
"""One token per character, as the numbers of every published Qwen."""
WHOLE: Vocabulary = [
    b'[{"bbox_2d": [',
    b'], "label": "',
    b'"}, {"bbox_2d": [',
    b'"}]',
    b"a",
    b"b",
    b"[]",
    *(b"%d, " % value for value in range(1001)),
    *(b"%d" % value for value in range(1001)),
]
"""One token per number, as in the embedded model."""


def spelled(text: str, pieces: Vocabulary) -> list[int]:
    """Longest token first."""
    rest, tokens = text.encode(), []
    while rest:
        token = max((t for t, piece in enumerate(pieces) if rest.startswith(piece)), key=lambda t: len(pieces[t]))
        tokens.append(token)
        rest = rest[len(pieces[token]) :]
    return tokens


def written(*objects: tuple[list[int], str]) -> str:
    return json.dumps([{"bbox_2d": box, "label": label} for box, label in objects])


def read(boxes: WrittenBoxes, text: str, pieces: Vocabulary, most: int = 100) -> tuple[str, str]:
    """What can be written of a text, and what of that is taken back: up to the first token that is not allowed."""
    told: list[str] = []
    for token in spelled(text, pieces):
        if not boxes.take(0, token):
            break
        told.append(pieces[token].decode())
        if count := boxes.back(0, most):
            return "".join(told), "".join(told[-count:])
    return "".join(told), ""


@pytest.mark.parametrize("pieces", [DIGITS, WHOLE], ids=["digits", "whole numbers"])
@pytest.mark.parametrize(
    ("box", "stands"),
    [
        ([10, 20, 30, 40], True),
        ([0, 0, 1000, 1000], True),
        ([999, 999, 1000, 1000], True),
        ([5, 7, 30, 8], True),
        ([30, 20, 10, 40], False),
        ([30, 20, 30, 40], False),
        ([10, 40, 30, 20], False),
        ([10, 40, 30, 40], False),
        ([1000, 20, 30, 40], False),
        ([10, 1000, 30, 40], False),
        ([100, 20, 99, 40], False),
    ],
)
def test_corners_keep_in_order(pieces: Vocabulary, box: list[int], stands: bool) -> None:
    boxes = WrittenBoxes(TokenPieces(pieces), [(1000, 1000)])
    text = written(([1, 1, 9, 9], "a"), (box, "b"))
    told, _ = read(boxes, text, pieces)
    assert (told == text) is stands
    assert told.startswith(text[: text.index("b")])  # the first object is never in the way


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=4, max_size=4), st.sampled_from([DIGITS, WHOLE]))
def test_numbers_are_judged_alike_however_they_are_spelled(box: list[int], pieces: Vocabulary) -> None:
    """By digits too a number that cannot become one in order is stopped at once, and no other is."""
    text = written((box, "a"))
    told, _ = read(WrittenBoxes(TokenPieces(pieces), [(300, 120)]), text, pieces)
    in_order = box[0] < box[2] and box[1] < box[3] and max(box[1], box[3]) <= 120
    assert (told == text) is in_order


def test_text_within_labels_is_not_read() -> None:
    label = 'a, 9] [["}\\'
    text = written(([1, 2, 3, 4], label), ([1, 2, 3, 4], label))
    told, taken = read(WrittenBoxes(TokenPieces(DIGITS), [(1000, 1000)]), text, DIGITS)
    assert told == text[:-1]
    assert taken == '1, 2, 3, 4], "label": ' + json.dumps(label) + "}"


FIRST, SHIFTED, BESIDE = [100, 200, 200, 300], [104, 203, 205, 298], [160, 200, 260, 300]


@pytest.mark.parametrize("pieces", [DIGITS, WHOLE], ids=["digits", "whole numbers"])
@pytest.mark.parametrize(
    ("box", "label", "taken"), [(FIRST, "a", True), (SHIFTED, "a", True), (BESIDE, "a", False), (FIRST, "b", False)]
)
def test_what_stands_there_already_is_taken_back(pieces: Vocabulary, box: list[int], label: str, taken: bool) -> None:
    text = written((FIRST, "a"), (box, label), ([500, 500, 600, 600], "a"))
    boxes = WrittenBoxes(TokenPieces(pieces), [(1000, 1000)])
    told, back = read(boxes, text, pieces)
    if not taken:
        assert (told, back) == (text, "")
        return
    numbers = ", ".join(map(str, box))
    assert back.startswith(f'{numbers}], "label": "{label}"'), "up to where its numbers begin"
    assert read(boxes, f'{numbers}], "label": "', pieces)[0] == ""
    moved = f'{box[0] + 160}, {box[1]}, {box[2] + 160}, {box[3]}], "label": "a"}}, {{"bbox_2d": ['
    assert read(boxes, moved, pieces) == (moved, "")
    once_more = f'{numbers}], "label": "'
    assert read(boxes, once_more, pieces) == (once_more, ""), "it was not to be written there, and only there"


def test_a_box_is_taken_back_only_as_far_as_tokens_are_left() -> None:
    text = written((FIRST, "a"), (FIRST, "a"), (FIRST, "a"))
    assert read(WrittenBoxes(TokenPieces(WHOLE), [(1000, 1000)]), text, WHOLE, most=6) == (text, "")
    assert read(WrittenBoxes(TokenPieces(WHOLE), [(1000, 1000)]), text, WHOLE, most=7)[1]


def offered(boxes: WrittenBoxes, likely: dict[bytes, float], pieces: Vocabulary = WHOLE) -> list[bytes]:
    """What may come of tokens with these probabilities."""
    logits = torch.full((len(pieces),), -torch.inf)
    for piece, probability in likely.items():
        logits[pieces.index(piece)] = np.log(probability)
    boxes.narrow(0, logits)
    return [pieces[token] for token in (logits > -torch.inf).nonzero()[:, 0].tolist()]


def test_another_corner_is_taken_only_where_the_model_thinks_of_one() -> None:
    """At x nothing else is likely, at y it is: the second nucleus lies below the first."""
    boxes = WrittenBoxes(TokenPieces(WHOLE), [(1000, 1000)])
    assert read(boxes, written((FIRST, "a"), (FIRST, "a")), WHOLE)[1]
    assert not boxes.take(0, WHOLE.index(b"100, "))
    assert offered(boxes, {b"100, ": 0.85, b"110, ": 0.1, b"700, ": 0.05}) == [b"100, ", b"110, ", b"700, "]
    assert boxes.take(0, WHOLE.index(b"100, "))
    assert offered(boxes, {b"200, ": 0.6, b"240, ": 0.1, b"260, ": 0.3}) == [b"260, "]
    assert not boxes.take(0, WHOLE.index(b"200, "))
    assert boxes.take(0, WHOLE.index(b"260, "))
    assert offered(boxes, {b"200, ": 0.9, b"90, ": 0.1}) == [b"200, "]
    assert boxes.take(0, WHOLE.index(b"200, "))
    assert offered(boxes, {b"300": 0.5, b"360": 0.4, b"260": 0.1}) == [b"300", b"360"]
    rest = '360], "label": "a"}]'
    assert read(boxes, rest, WHOLE) == (rest, "")


@pytest.mark.parametrize("numbers", ["1, 200, 200, 300", "220, 190, 540, 300", "160, 200, 260, 600"])
def test_a_box_made_of_two_is_no_other_box(numbers: str) -> None:
    """Its left side is elsewhere, another where it was: taken back too, and the next number may be another."""
    boxes = WrittenBoxes(TokenPieces(WHOLE), [(1000, 1000)])
    assert read(boxes, written((FIRST, "a"), (FIRST, "a")), WHOLE)[1]
    told, back = read(boxes, f'{numbers}], "label": "a"}}, {{"bbox_2d": [', WHOLE)
    assert back == told
    assert boxes.take(0, WHOLE.index(b"100, "))
    assert not boxes.take(0, WHOLE.index(b"200, "))


@pytest.mark.parametrize(("pieces", "label"), [(WHOLE, "a"), (DIGITS, "a"), (DIGITS, 'a"}, {')])
@pytest.mark.parametrize("ends", [0.05, 0.3])
def test_a_model_that_has_nothing_else_to_say(pieces: Vocabulary, label: str, ends: float) -> None:
    """It may end its list before the repeated box, where that is likely enough; otherwise the box stays."""
    boxes = WrittenBoxes(TokenPieces(pieces), [(1000, 1000)])
    first = written((FIRST, label))[:-1]
    again = written((FIRST, label), (FIRST, label), (BESIDE, label))
    told, taken = read(boxes, again, pieces)
    assert told.endswith(taken)
    for token in spelled(taken, pieces):
        if not boxes.take(0, token):
            assert offered(boxes, {pieces[token]: 1.0}, pieces) == [pieces[token]]
            assert boxes.take(0, token)
        if count := boxes.back(0, 100):
            break
    assert count, "once more, from where the list might have ended"
    goes_on, end = (b'"}, {"bbox_2d": [', b'"}]') if pieces is WHOLE else (b",", b"]")
    assert not boxes.take(0, pieces.index(goes_on))
    left = offered(boxes, {goes_on: 1 - ends, end: ends}, pieces)
    assert left == ([end] if ends > 0.1 else sorted([goes_on, end], key=pieces.index))
    if ends > 0.1:
        assert boxes.take(0, pieces.index(end))
        return
    rest = again[len(first) - len(goes_on.split(b",")[0]) :]
    assert read(boxes, rest, pieces) == (rest, ""), "nothing is taken back a third time"


def batch_of(checkpoint: Checkpoint, pictures: Pictures) -> TokenBatch:
    request = Request(task=Task.DETECT, labels=("nucleus",))
    prompt = encode_prompt(checkpoint, render_request(checkpoint, request, thinking=False))
    return build_batch(checkpoint, [prompt] * len(pictures), preprocess(pictures, checkpoint.processor))


def steps_of(kind: str, checkpoint: Checkpoint, batch: TokenBatch) -> Steps:
    state = prefill(checkpoint.model, batch)
    if kind == "transformers":
        return TransformersSteps(checkpoint.model, state)
    if kind == "compiled":
        return CompiledStep(checkpoint.model, "eager").steps(state, 40)
    assert LightLanguage.unfit(checkpoint.model) is None
    language = LightLanguage(checkpoint.model)
    return LightSteps(language, state.cache, state.attention_mask, state.next_position)


KINDS = [
    *(("transformers", family) for family in TINY_FAMILIES if not family.startswith("Qwen3.5")),
    *(("light", family) for family in ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL")),
    *(("compiled", family) for family in ("Qwen2.5-VL", "Qwen3-VL")),
]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("kind", "family"), KINDS)
@torch.inference_mode()
def test_tokens_taken_back_leave_nothing_behind(
    tiny: Tiny, pictures: Pictures, kind: str, family: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same logits as if they had never been read, for that row and for the others, also after a row has left."""
    monkeypatch.setattr("qwenvl.decoding.cpu_decoder._NEW", 4)
    checkpoint = load_checkpoint(tiny(family), device="cpu")
    batch = batch_of(checkpoint, [pictures[0], pictures[2 if padded else 1], pictures[0]])
    assert batch.padded == padded

    def straight(row: int, tokens: Sequence[int]) -> torch.Tensor:
        plain = steps_of("transformers", checkpoint, batch)
        return [plain.read(torch.tensor([token] * 3)) for token in tokens][-1][row]

    steps = steps_of(kind, checkpoint, batch)
    for tokens in ([5, 6, 8], [7, 30, 41], [8, 31, 42]):
        steps.read(torch.tensor(tokens))
    steps.back(1, 3)
    again = steps.read(torch.tensor([9, 6, 10]))
    for row, tokens in enumerate(([5, 7, 8, 9], [6], [8, 41, 42, 10])):
        torch.testing.assert_close(again[row], straight(row, tokens), rtol=1e-4, atol=1e-4)
    steps.keep(torch.tensor([1, 2]))
    steps.read(torch.tensor([66, 11]))
    last = steps.read(torch.tensor([67, 12]))
    torch.testing.assert_close(last[0], straight(1, [6, 66, 67]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last[1], straight(2, [8, 41, 42, 10, 11, 12]), rtol=1e-4, atol=1e-4)


class Wavering:
    """Takes back three tokens of row 1 twice; otherwise everything may come."""

    def __init__(self) -> None:
        self.count = 0
        self.asked: list[int] = []

    def apply(self, logits: torch.Tensor, rows: Sequence[int]) -> None:
        raise AssertionError("nothing was refused")

    def accept(self, row: int, token: int) -> bool:
        self.count += row == 1
        return True

    def interrupt(self, row: int) -> bool:
        return False

    def back(self, row: int, most: int) -> int:
        if row == 1:
            self.asked.append(most)
        return 3 if row == 1 and self.count in (5, 9) and most >= 3 else 0


@pytest.mark.parametrize("family", TINY_FAMILIES)
@torch.inference_mode()
def test_an_answer_does_not_show_what_was_taken_back(tiny: Tiny, pictures: Pictures, family: str) -> None:
    checkpoint = load_checkpoint(tiny(family), device="cpu")
    batch = batch_of(checkpoint, pictures)
    most = Generation(max_new_tokens=12)
    watched = range(len(checkpoint.tokenizer))
    straight = decode(checkpoint.model, prefill(checkpoint.model, batch), batch, most, eos=(), watched=watched)
    wavering = Wavering()
    ours = decode(
        checkpoint.model, prefill(checkpoint.model, batch), batch, most, eos=(), constraint=wavering, watched=watched
    )
    for row, (mine, theirs) in enumerate(zip(ours, straight, strict=True)):
        assert (mine.tokens, mine.finish_reason) == (theirs.tokens, "length")
        assert mine.log_probabilities == pytest.approx(theirs.log_probabilities, abs=1e-4)
        for one, other in zip(mine.alternatives, theirs.alternatives, strict=True):
            if other is not None:
                np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-5)
        can = croppable(prefill(checkpoint.model, batch).cache)
        assert mine.retaken == (2 if row == 1 and can else 0)
    # Half of the twelve tokens may be taken back, and none of a model that cannot forget.
    assert set(wavering.asked) == ({6, 3, 0} if mine is not None and can else {0})


def boxes_of(answer: Answer) -> list[list[float]]:
    return [item["bbox_2d"] for item in json.loads(answer.raw)]


def test_the_embedded_model_says_no_box_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields on which it once did, and once more without what takes boxes back."""
    fields = [sample_field(seed, size=256, max_nuclei=20).image for seed in (710037, 720025, 530013)]
    request = Request(
        task=Task.DETECT, labels=("nucleus",), tile_size=256, mpp=0.25, generation={"max_new_tokens": 320}
    )
    engine = LocalEngine.load("embedded", device="cpu")
    answers = engine.answer(fields, request)
    assert [answer.status for answer in answers] == [Status.OK] * 3
    assert all("retaken" in " ".join(answer.notes) for answer in answers)
    for answer in answers:
        assert len(set(map(tuple, boxes_of(answer)))) == len(answer.objects)
    monkeypatch.setattr("qwenvl.constraints.box_constraint.SAME", 2.0)
    before = engine.answer(fields, request)
    assert [answer.status for answer in before] == [Status.REPAIRED] * 3
    assert all(len(set(map(tuple, boxes_of(answer)))) < len(boxes_of(answer)) for answer in before)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=3), st.sampled_from([(40, 40), (1000, 1000), (1036, 77)]), st.booleans())
def test_numbers_looked_at_together_are_judged_as_one_by_one(
    numbers: list[int], extent: tuple[int, int], retried: bool
) -> None:
    """Every token of both spellings, with and without a box that is not to be written again."""
    vocabulary = [*DIGITS, *WHOLE[7:], b"10, 4", b"1]", b"0"]
    boxes = WrittenBoxes(TokenPieces(vocabulary), [extent])
    start = written(([3, 4, 20, 30], "a"), ([3, 4, 20, 30], "a"))
    told = start[: -len('3, 4, 20, 30], "label": "a"}]')]
    assert read(boxes, start if retried else told, DIGITS)[1] == ("" if not retried else start[len(told) : -1])
    for number in numbers:
        if not all(boxes.take(0, byte) for byte in b"%d, " % number):
            return
    retry = boxes._retries[0]
    together = boxes._fitting(0, torch.arange(len(vocabulary)), retry).tolist()
    for token, fits in enumerate(together):
        assert (boxes._after(0, token, retry) is not None) is fits, vocabulary[token]


def test_by_digits_another_place_is_seen_where_the_numbers_part() -> None:
    """The model wavers between 345 and 640, and shows it at the first digit; 3 could also become 30 or 399."""
    boxes = WrittenBoxes(TokenPieces(DIGITS), [(1000, 1000)])
    box = [345, 200, 445, 300]
    assert read(boxes, written((box, "a"), (box, "a")), DIGITS)[1]
    assert offered(boxes, {b"3": 0.7, b"6": 0.3}, DIGITS) == [b"6"]
    rest = '640, 200, 740, 300], "label": "a"}]'
    assert read(boxes, rest, DIGITS) == (rest, "")


def test_by_digits_a_number_without_another_place_is_written_again() -> None:
    boxes = WrittenBoxes(TokenPieces(DIGITS), [(1000, 1000)])
    box = [345, 200, 445, 300]
    assert read(boxes, written((box, "a"), (box, "a")), DIGITS)[1]
    for digit in (b"3", b"4", b"5"):
        assert set(offered(boxes, {digit: 0.95, b"9": 0.05}, DIGITS)) == {digit, b"9"}
        assert boxes.take(0, DIGITS.index(digit))
    assert offered(boxes, {b",": 0.95, b"6": 0.05}, DIGITS) == [b","]
    assert boxes.take(0, DIGITS.index(b","))
    assert boxes.take(0, DIGITS.index(b" "))
    assert offered(boxes, {b"2": 0.8, b"5": 0.2}, DIGITS) == [b"5"], "y is looked at next"
