"""Scores of boxes and points: how sure the model was of the place, whatever way its vocabulary writes numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.constraints.numeric_vocabulary import Alternatives, NumberTokens, number_piece
from qwenvl.engines.server.chat import Token
from qwenvl.engines.server.likelihood import as_written
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.request import Request
from qwenvl.scoring.confidence import FRAME, SIDE, NumberVocabulary, Written, add_scores

FRAME_1000 = PictureFrame.same(1000, 1000)
DIGITS = NumberTokens.of([(str(n).encode(), False) for n in range(10)])
WHOLE = NumberTokens.of([(str(n).encode(), closed) for n in range(1001) for closed in (True, False)])


def scores(written: Written, *objects: TileObject) -> list[float | None]:
    """Scores of objects whose numbers stand in the text as brackets with nothing else in them."""
    text = b"".join(written.pieces).decode()
    placed = tuple(replace(item, number_spans=spans_in(text, item)) for item in objects)
    answer = Answer(Status.OK, placed, raw=text)
    found = add_scores(answer, written, space=CoordinateSpace.RELATIVE_1000, frame=FRAME_1000).objects
    assert [(o.label, o.box, o.point) for o in found] == [(o.label, o.box, o.point) for o in objects]
    return [item.score for item in found]


def spans_in(text: str, item: TileObject) -> tuple[tuple[int, int], ...]:
    """Where the numbers of an object stand, each of which stands once in the text."""
    found = [re.search(rf"\b{number:.0f}\b", text) for number in item.box or item.point or ()]
    return tuple(match.span() for match in found if match) if all(found) else ()


def parsed(text: str, *labels: str, **settings: Any) -> Answer:
    """A text as read, its objects scored with tokens of one byte: the n-th number of the text has the chance 1/2^n."""
    request = Request(task="detect", labels=labels or ("mitosis", "nucleus"))
    answer = parse_answer(
        text, request, **{"dialect": "json", "space": CoordinateSpace.RELATIVE_1000, "frame": FRAME_1000} | settings
    )
    chances = np.zeros(len(text.encode()))
    for order, number in enumerate(re.finditer(rb"[0-9]+", text.encode()), 1):
        chances[number.start()] = -order * math.log(2)
    written = Written([bytes((byte,)) for byte in text.encode()], chances.tolist())
    return add_scores(answer, written, space=CoordinateSpace.RELATIVE_1000, frame=FRAME_1000)


def numbers_of(answer: Answer) -> list[float]:
    """Which numbers of the text, on average, each object's score is made of: from 1."""
    return [-math.log2(item.score) if item.score else math.nan for item in answer.objects]


def in_digits(text: str, tables: Mapping[int, Mapping[int, Mapping[str, float]]]) -> Written:
    """A text of one token per byte; `tables` gives each number's place in the text, then digit by digit its chances."""
    chances = [1.0] * len(text)
    others: list[Alternatives | None] = [None] * len(text)
    for start, table in tables.items():
        for at, row in table.items():
            probabilities = np.array([row.get(str(n), 0.0) for n in range(10)])
            others[start + at] = Alternatives(DIGITS, probabilities)
            chances[start + at] = row[text[start + at]]
    return Written([bytes((byte,)) for byte in text.encode()], [math.log(c) for c in chances], others)


def in_whole(numbers: Sequence[int], tables: Sequence[NDArray[np.float64]]) -> Written:
    """Numbers that are tokens of their own, the last without what follows it, each with the chances of 0..1000."""
    pieces: list[bytes] = [b'[{"bbox_2d": [']
    others: list[Alternatives | None] = [None]
    chances = [1.0]
    for at, (number, table) in enumerate(zip(numbers, tables, strict=True)):
        last = at == len(numbers) - 1
        pieces.append(str(number).encode() + (b"" if last else b", "))
        spread = np.zeros(2002)
        spread[int(last) :: 2] = table
        others.append(Alternatives(WHOLE, spread))
        chances.append(float(table[number]))
    return Written([*pieces, b"]}]"], [*(math.log(c) for c in chances), 0.0], [*others, None])


def spread_around(centre: int, reach: int, share: float = 1.0) -> NDArray[np.float64]:
    table = np.zeros(1001)
    table[centre - reach : centre + reach + 1] = share / (2 * reach + 1)
    return table


def test_a_model_that_spreads_its_bets_within_reach_is_sure() -> None:
    box = (200, 300, 300, 380)  # 15 px to each side of an x, 12 of a y
    item = TileObject("a", box=box)
    sure = in_whole(box, [spread_around(n, 10) for n in box])
    assert scores(sure, item) == [pytest.approx(1.0, abs=1e-6)]
    doubtful = in_whole(box, [spread_around(n, 10, 0.5) + spread_around(n + 100, 10, 0.5) for n in box])
    assert scores(doubtful, item) == [pytest.approx(0.5, abs=1e-6)]
    wide = in_whole(box, [spread_around(n, 62) for n in box])
    near = [(2 * round(SIDE * side) + 1) / 125 for side in (100, 80)]
    assert scores(wide, item) == [pytest.approx(math.sqrt(near[0] * near[1]))]
    # Of two numbers at the edge of the picture, one is a digit longer.
    edge = (850, 850, 1000, 1000)
    tables = [spread_around(n, 10) for n in edge[:2]] + [spread_around(990, 10)] * 2
    assert scores(in_whole(edge, tables), TileObject("a", box=edge)) == [pytest.approx(1.0, abs=1e-6)]


def test_numbers_written_digit_by_digit() -> None:
    text = "[100, 100, 439, 300]"
    item = TileObject("a", box=(100, 100, 439, 300))  # reach 51 in x: 388..490
    sure = {0: {"1": 1.0}, 1: {"0": 1.0}, 2: {"0": 1.0}}
    tables = {1: sure, 6: sure, 16: {0: {"3": 1.0}, 1: {"0": 1.0}, 2: {"0": 1.0}}}
    x1 = {
        0: {"4": 0.6, "3": 0.3, "9": 0.1},  # of 300..399 twelve are near
        1: {"3": 0.5, "8": 0.4, "9": 0.1},  # 480..489 are, of 490..499 one is
        2: {"9": 0.2, "1": 0.8},
    }
    near = 0.3 * 12 / 100 + 0.6 * (0.4 + 0.1 / 10 + 0.5)
    assert scores(in_digits(text, tables | {11: x1}), item) == [pytest.approx(near**0.25)]
    # Beyond the picture no number is: what begins with 9 beside 1000 has three digits.
    text = "[100, 100, 1000, 300]"
    item = TileObject("a", box=(100, 100, 1000, 300))  # 865..1135
    tables[17] = tables.pop(16)
    x1 = {0: {"1": 0.7, "9": 0.2, "8": 0.1}, 1: {"0": 1.0}, 2: {"0": 1.0}, 3: {"0": 1.0}}
    near = 0.7 + 0.2 + 0.1 * 35 / 100
    assert scores(in_digits(text, tables | {11: x1}), item) == [pytest.approx(near**0.25)]


def test_points_are_judged_by_a_share_of_the_frame() -> None:
    reach = round(1000 * FRAME)
    written = in_whole((500, 100), [spread_around(500, 2 * reach), spread_around(100, 0)])
    near = (2 * reach + 1) / (4 * reach + 1)
    assert scores(written, TileObject("a", point=(500, 100))) == [pytest.approx(math.sqrt(near))]


def test_each_object_gets_the_score_of_its_own_numbers() -> None:
    first, second = "[1, 22, 333, 444]", "(555,9),(77,80)"
    text = f'ü {{"label": "CD8 cells", "bbox_2d": {first}}} <box>{second}</box>'.encode()
    chances = np.full(len(text), -9.0)
    for part, chance in ((first, 0.8), (second, 0.3)):
        at = text.index(part.encode())
        for offset, symbol in enumerate(part):
            if symbol.isdigit():
                chances[at + offset] = math.log(chance)
    found = scores(
        Written([bytes((byte,)) for byte in text], chances.tolist()),
        TileObject("a", box=(1, 22, 333, 444)),
        TileObject("b", box=(77, 9, 555, 80)),  # corners put in order by the parser
        TileObject("c", box=(500, 500, 600, 600)),  # not in the text
        TileObject("d", box=(1, 22, 333, 444), score=0.125),
    )
    # Nothing is known of other numbers: the chance of a number is that of all its digits.
    assert found == [pytest.approx(0.8 ** (9 / 4)), pytest.approx(0.3 ** (8 / 4)), None, 0.125]
    assert scores(Written([], [])) == []


@given(st.integers(0, 999), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_a_share_is_that_of_the_numbers_behind_a_token(number: int, reach: int, seed: int) -> None:
    """Every number of as many digits, counted."""
    text = str(number)
    prefix = text[: np.random.default_rng(seed).integers(0, len(text))]
    low, high = number - reach, number + reach
    shares = DIGITS.shares(prefix, len(text), low, high, 1000)
    for digit in range(10):
        begun = prefix + str(digit)
        rest = len(text) - len(begun) if begun != "0" else 0
        behind = [int(begun + f"{n:0{rest}d}" if rest else begun) for n in range(10**rest)]
        assert shares[digit] == pytest.approx(np.mean([low <= n <= high for n in behind]))


def test_what_a_server_lists() -> None:
    def token(piece: str, chance: float, **top: float) -> Token:
        listed = tuple((key.strip("_").encode(), math.log(value)) for key, value in top.items())
        return Token(piece.encode(), math.log(chance), listed)

    text = "[10, 20, 50, 60]"
    tokens = [token(c, 1.0) for c in text]
    # "50" with a reach of 6 is near 44..56: of what begins with 4, six of ten.
    tokens[9] = token("5", 0.5, _5=0.5, _4=0.3, x=0.2)
    tokens[10] = token("0", 0.25, _0=0.25, _6=0.5, _7=0.125)
    near = 0.3 * 0.6 + 0.5 * (0.25 + 0.5)
    assert scores(as_written(tokens), TileObject("a", box=(10, 20, 50, 60))) == [pytest.approx(near**0.25)]


def test_numbers_of_a_vocabulary(tiny: Callable[[str], Path]) -> None:
    ours = load_checkpoint("embedded")
    tokens, numbers = NumberVocabulary(ours.tokenizer, 10_000).numbers
    assert len(tokens) == 2002
    texts = [ours.tokenizer.decode([token]) for token in tokens]
    parts = [number_piece(text.encode()) for text in texts]
    assert [(int(part[0]), part[1]) for part in parts if part] == [
        (value, closed) for value, closed in zip(numbers.values.tolist(), numbers.closed.tolist(), strict=True)
    ]
    theirs = load_checkpoint(tiny("Qwen3-VL"), device="cpu")
    tokens, numbers = NumberVocabulary(theirs.tokenizer, 10_000).numbers
    assert sorted(numbers.values.tolist()) == list(range(10))
    assert not numbers.closed.any()
    assert NumberVocabulary(theirs.tokenizer, min(tokens)).numbers[0] == []


SAME = '"bbox_2d": [100, 200, 300, 400]'


@pytest.mark.parametrize(
    ("text", "settings", "numbers"),
    [
        # Number 1 is the 2 of the key.
        (f'[{{{SAME}, "label": "mitosis"}}, {{{SAME}, "label": "nucleus"}}]', {}, [3.5, 8.5]),
        # The first of two equal boxes belongs to nothing that counts.
        (f'[{{{SAME}, "label": "mitosis", "image": 2}}, {{{SAME}, "label": "mitosis"}}]', {}, [9.5]),
        (f'[{{{SAME}, "label": "mitosis", "is_mitosis": false}}, {{{SAME}, "label": "mitosis"}}]', {}, [8.5]),
        (f'I looked at [100, 200, 300, 400].\n[{{{SAME}, "label": "mitosis"}}]', {}, [7.5]),
        (f'<think>[100, 200, 300, 400]?</think>[{{{SAME}, "label": "mitosis"}}]', {}, [7.5]),
        (f'[{{"was": [100, 200, 300, 400], {SAME}, "label": "mitosis"}}]', {}, [7.5]),
        ('[{"label": "mitosis", "bbox_2d": [300, 400, 100, 200]}]', {}, [3.5]),
        (f'```json\n[{{{SAME}, "label": "mitosis"}}]\n```', {}, [3.5]),
        ("[{'label': 'mitosis', 'bbox_2d': [100, 200, 300, 400]}]", {}, [3.5]),
        ('[{\\"label\\": \\"mitosis\\", \\"bbox_2d\\": [100, 200, 300, 400]}]', {}, [3.5]),
        ('"[{\\"label\\": \\"mitosis\\", \\"bbox_2d\\": [100, 200, 300, 400]}]"', {}, [3.5]),
        ('[{"bbox_2d": "100, 200, 300, 400", "label": "mitosis"}]', {}, [3.5]),
        ('[{"bbox_2d": [[100, 200], [300, 400]], "label": "mitosis"}]', {}, [3.5]),
        ('[{"label": "ü", "x1": 100, "y1": 200, "x2": 300, "y2": 400}]', {}, [(2 + 4 + 6 + 8) / 4]),
        ("ü [[100, 200, 300, 400], [100, 200, 300, 401]]", {}, [2.5, 6.5]),
        ("| label | x1 | y1 | x2 | y2 |\n|---|---|---|---|---|\n| mitosis | 100 | 200 | 300 | 400 |", {}, [6.5]),
        ("| label | bbox |\n|---|---|\n| mitosis | [100, 200, 300, 400] |", {}, [2.5]),
        (
            "<ref>mitosis</ref><box>(100,200),(300,400)</box><ref>nucleus</ref><box>(100,200),(300,400)</box>",
            {"dialect": "tags_v1"},
            [2.5, 6.5],
        ),
        ("mitosis(100,200),(300,400)nucleus(100,200),(300,400)", {}, [2.5, 6.5]),
        ("bbox_2d: 100, 200, 300, 400 label: mitosis", {}, [3.5]),
        # A number written nowhere has no probability.
        ('[{"label": "mitosis", "x": 100, "y": 200, "w": 200, "h": 200}]', {}, [math.nan]),
    ],
)
def test_a_score_is_of_the_very_numbers_of_its_object(
    text: str, settings: dict[str, Any], numbers: list[float]
) -> None:
    assert numbers_of(parsed(text, **settings)) == pytest.approx(numbers, nan_ok=True)


def test_tokens_that_stand_around_the_answer() -> None:
    answer = "[{'bbox_2d': [100, 200, 300, 400], 'label': 'mitosis'}]"
    read = parse_answer(
        answer,
        Request(task="detect", labels=("mitosis",)),
        dialect="json",
        space=CoordinateSpace.RELATIVE_1000,
        frame=FRAME_1000,
    )
    thought = f"Perhaps {answer}?\n"
    for pieces in ([thought], [thought, "<|im_start|>"], ["<|box_start|>"], []):
        tokens = [*pieces, *answer[:12], "<|object_ref_start|>", *answer[12:]]
        logs = [math.log(0.5 if token.isdigit() else 0.9) for token in tokens]
        written = Written([token.encode() for token in tokens], logs)
        found = add_scores(read, written, space=CoordinateSpace.RELATIVE_1000, frame=FRAME_1000)
        assert found.objects[0].score == pytest.approx(0.5**3)
    other = Written([b"[1, 2, 3, 4]"], [0.0])
    assert add_scores(read, other, space=CoordinateSpace.RELATIVE_1000, frame=FRAME_1000) == read
