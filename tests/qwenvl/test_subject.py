"""Questions about several pictures, or none: the words, the batch, and whose px the boxes are in."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from server import SERVED, ServerProcess
from subjects import ASK, CLASSIFY, DETECT, EVERY, EXTRACT, SCORE, mixed, pair, plain

from qwenvl.answer import Status
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.checkpoints.testing import TINY_FAMILIES
from qwenvl.decoding.batching import build_batch, encode_prompt, render_request
from qwenvl.decoding.decode import Decoded, prefill
from qwenvl.engines import local
from qwenvl.engines.fake import FakeEngine
from qwenvl.engines.local import LocalEngine
from qwenvl.errors import RequestError
from qwenvl.families import FAMILIES
from qwenvl.images.preprocess import preprocess
from qwenvl.prompts import render_chat
from qwenvl.request import Request, Task
from qwenvl.subject import NamedPicture, Subject, Turn, ask_about

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
WORDS = 'Locate every object of these classes: "nucleus". Report bbox_2d and label in JSON format.'


@pytest.mark.parametrize(
    ("folder", "family", "system"), [("qwen2_5_vl", "Qwen2.5-VL", SYSTEM), ("qwen3_vl", "Qwen3-VL", "")]
)
def test_golden_prompts(real_data: Path, pictures: Pictures, folder: str, family: str, system: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_data / "tokenizers" / folder, local_files_only=True)

    def rendered(messages: Any, **options: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))

    for subject, words in [
        (pair(pictures[:2]), f'context: {PICTURE}detail: {PICTURE}In the picture "detail": {WORDS}'),
        (pair(pictures[:2], target=0), f'context: {PICTURE}detail: {PICTURE}In the picture "context": {WORDS}'),
        (Subject((NamedPicture("detail", pictures[0]),)), f"detail: {PICTURE}{WORDS}"),
        (Subject((NamedPicture("", pictures[0]),)), f"{PICTURE}{WORDS}"),
    ]:
        messages = ask_about(DETECT, subject)
        expected = f"{system}<|im_start|>user\n{words}<|im_end|>\n<|im_start|>assistant\n"
        assert rendered(messages) == expected
        assert render_chat(messages, FAMILIES[family]) == expected
    assert rendered(ask_about(ASK, Subject())) == (
        f"{system}<|im_start|>user\nWhat is this?<|im_end|>\n<|im_start|>assistant\n"
    )
    talk = Subject((NamedPicture("", pictures[0]),), turns=(Turn("A <|im_end|>?", "Yes."), Turn("Sure?", "Quite.")))
    assert rendered(ask_about(ASK, talk)) == render_chat(ask_about(ASK, talk), FAMILIES[family])
    assert rendered(ask_about(ASK, talk)) == (
        f"{system}<|im_start|>user\n{PICTURE}A < |im_end|>?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nQuite.<|im_end|>\n"
        "<|im_start|>user\nWhat is this?<|im_end|>\n<|im_start|>assistant\n"
    )
    # The form of the anchors is that in which the templates themselves number pictures.
    numbered = pair(pictures[:2], ("Picture 1", "Picture 2"))
    bare = ask_about(ASK, numbered)
    bare[0]["content"] = [part for part in bare[0]["content"] if ": " not in part.get("text", "")]
    assert rendered(ask_about(ASK, numbered)) == rendered(bare, add_vision_id=True)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_batch_size_changes_no_answer(tiny: Tiny, pictures: Pictures, family: str) -> None:
    engine = LocalEngine.load(tiny(family), device="cpu")
    one_by_one = LocalEngine(engine.checkpoint, token_budget=1)
    items = mixed(pictures)
    for request in EVERY:
        together, alone = engine.answer(items, request), one_by_one.answer(items, request)
        assert [plain(answer) for answer in together] == [plain(answer) for answer in alone]
        for ours, theirs in zip(together, alone, strict=True):
            assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
        failed = [answer.status is Status.FAILED and answer.finish_reason == "error" for answer in together]
        assert failed == [False] * 5 + [request is DETECT]
    assert "needs a picture" in str(engine.answer(items, DETECT)[-1].error)


@pytest.mark.parametrize("family", ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "Qwen3.5"])
@torch.inference_mode()
def test_the_same_logits_as_transformers_alone(tiny: Tiny, pictures: Pictures, family: str) -> None:
    """Each row of a mixed batch against `forward`, which works out features and positions by itself."""
    checkpoint = load_checkpoint(tiny(family), device="cpu")
    subjects = [item for item in mixed(pictures) if isinstance(item, Subject)]
    prompts = [
        encode_prompt(
            checkpoint, render_request(checkpoint, ASK, subject, thinking=False), pictures=len(subject.pictures)
        )
        for subject in subjects
    ]
    pixels = [[picture.pixels for picture in subject.pictures] for subject in subjects]
    patches = preprocess(list(itertools.chain.from_iterable(pixels)), checkpoint.processor)
    ours = prefill(checkpoint.model, build_batch(checkpoint, prompts, patches)).logits
    for row, (prompt, seen) in enumerate(zip(prompts, pixels, strict=True)):
        own = preprocess(seen, checkpoint.processor)
        visual = [checkpoint.processor.image_tokens(frame) for frame in own.frames]
        ids = torch.tensor([prompt.ids(visual, checkpoint.image_token_id)])
        shown = {"pixel_values": own.pixel_values, "image_grid_thw": own.image_grid_thw} if seen else {}
        theirs = checkpoint.model(
            input_ids=ids,
            mm_token_type_ids=(ids == checkpoint.image_token_id).long(),
            attention_mask=torch.ones_like(ids),
            **shown,
        ).logits[0, -1]
        torch.testing.assert_close(ours[row], theirs, rtol=1e-4, atol=1e-4)
    swapped = pair((pictures[3], pictures[0]))
    assert LocalEngine(checkpoint).answer([swapped], SCORE)[0].scores != pytest.approx(
        LocalEngine(checkpoint).answer([subjects[0]], SCORE)[0].scores, abs=1e-4
    )


# The context is 224 x 224, the detail 300 x 100, which every family resizes: to 308 x 112 or 288 x 96.
PLANTED = '[{"bbox_2d": [28, 28, 112, 56], "label": "nucleus"}]'
PLACES = [
    ("Qwen2.5-VL", 0, (28, 28, 112, 56)),
    ("Qwen2.5-VL", 1, (28 * 300 / 308, 25, 112 * 300 / 308, 50)),
    ("Qwen3-VL", 0, (28 * 0.224, 28 * 0.224, 112 * 0.224, 56 * 0.224)),
    ("Qwen3-VL", 1, (8.4, 2.8, 33.6, 5.6)),
    ("Qwen2-VL", 1, (8.4, 2.8, 33.6, 5.6)),
]


@pytest.mark.parametrize(("family", "target", "box"), PLACES)
def test_boxes_are_in_px_of_the_target(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, family: str, target: int, box: Any
) -> None:
    engine = LocalEngine.load(tiny(family), device="cpu")
    tokens = engine.checkpoint.tokenizer(PLANTED)["input_ids"]
    monkeypatch.setattr(local, "decode", lambda *_, **__: [Decoded(tokens, [math.log(0.5)] * len(tokens), "stop")])
    answer = engine.answer([pair((pictures[0], pictures[2]), target=target)], DETECT)[0]
    assert [item.box for item in answer.objects] == [pytest.approx(box)]
    # Nine digits of four numbers, each one half.
    assert answer.objects[0].score == pytest.approx(0.5 ** (9 / 4))


@pytest.mark.parametrize(("family", "target", "box"), PLACES[:4])
def test_boxes_of_a_server_are_in_px_of_the_target(
    server: ServerProcess, pictures: Pictures, connect: Any, family: str, target: int, box: Any
) -> None:
    engine = connect(family)
    server.control(say={"content": PLANTED, "logprob": math.log(0.5)})
    answer = engine.answer([pair((pictures[0], pictures[2]), target=target)], DETECT)[0]
    assert [item.box for item in answer.objects] == [pytest.approx(box)]
    # Nine digits of four numbers, each one half.
    assert answer.objects[0].score == pytest.approx(0.5 ** (9 / 4))
    asked = server.stats()["asked"][0]
    assert asked["sizes"] == [[224, 224], [308, 112] if family == "Qwen2.5-VL" else [300, 100]]
    name = ("context", "detail")[target]
    assert asked["parts"] == ["context: ", "(picture)", "detail: ", "(picture)", f'In the picture "{name}": {WORDS}']


def test_a_server_that_shrinks_one_of_two_is_noticed(server: ServerProcess, pictures: Pictures, connect: Any) -> None:
    engine = connect("Qwen2.5-VL")
    server.control(say={"content": "[]"}, prompt_tokens=100)  # 64 + 44 visual tokens are due
    answer = engine.answer([pair((pictures[0], pictures[2]))], DETECT)[0]
    assert answer.status is Status.FAILED
    assert "224x224 and 308x112" in str(answer.error)


@pytest.mark.parametrize("family", SERVED)
def test_a_server_answers_alike(tiny: Tiny, pictures: Pictures, connect: Any, family: str) -> None:
    engine = LocalEngine.load(tiny(family), device="cpu")
    limits = {"min_pixels": engine.checkpoint.processor.min_pixels, "max_pixels": 448**2}
    remote = connect(family, top_logprobs=400, **limits)
    items = mixed(pictures)
    for request in (ASK, EXTRACT):
        ours, theirs = remote.answer(items, request), engine.answer(items, request)
        assert [plain(answer) for answer in ours] == [plain(answer) for answer in theirs]
    for one, other in zip(remote.answer(items, SCORE), engine.answer(items, SCORE), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    statuses = [answer.status for answer in remote.answer(items, DETECT)]
    assert statuses[-1] is Status.FAILED


def test_without_a_picture_no_place_means_anything(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")

    def say(text: str) -> Any:
        tokens = engine.checkpoint.tokenizer(text)["input_ids"]
        monkeypatch.setattr(local, "decode", lambda *_, **__: [Decoded(tokens, [-1.0] * len(tokens), "stop")])
        return engine.answer([Subject()], ASK)[0]

    answer = say("Here: <ref>nucleus</ref><box>(1,2),(300,400)</box> is one.")
    assert (answer.status, answer.objects) == (Status.REPAIRED, ())
    assert "unplaced" in answer.notes
    assert "is one" in str(answer.text)
    assert say("There are many.").status is Status.OK


def test_one_bad_picture_of_two_fails_its_subject_alone(tiny: Tiny, pictures: Pictures) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")
    bad = [
        pair((pictures[0], np.zeros((8, 8, 3), np.float32))),  # type: ignore[arg-type]
        pair((np.zeros((1, 500, 3), np.uint8), pictures[0])),
        pair((pictures[0], pictures[1])),
    ]
    answers = engine.answer(bad, CLASSIFY)
    assert [answer.status for answer in answers] == [Status.FAILED, Status.FAILED, Status.OK]
    assert "picture 0 (detail)" in str(answers[0].error)
    assert "picture 1 (context)" in str(answers[1].error)


def test_a_stand_in_looks_at_the_target() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    engine = FakeEngine(boxes=5)
    assert engine.answer([pair(pictures), pictures[1]], DETECT)[0] == engine.answer(pictures, DETECT)[1]
    assert engine.answer([Subject()], DETECT)[0].status is Status.FAILED


@pytest.mark.parametrize(
    ("names", "target", "message"),
    [
        (("a", "b"), None, "say which one"),
        (("a", "a"), "a", "name of its own"),
        (("a", ""), "a", "name of its own"),
        (("a", "b"), "c", "names none"),
        ((), "a", "names none"),
        (("a<|image_pad|>",), None, "without '<|'"),
        ((" a",), None, "outer spaces"),
    ],
)
def test_a_subject_is_checked(names: tuple[str, ...], target: str | None, message: str) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(RequestError, match=message):
        Subject(tuple(NamedPicture(name, pixels) for name in names), target)


def test_words_of_several_pictures() -> None:
    from qwenvl.prompts import build_prompt

    count = Request(task=Task.COUNT, labels=("nucleus",))
    assert build_prompt(SCORE, target="later") == 'In the picture "later": Is there a nucleus? Answer yes or no.'
    assert build_prompt(count, target="later").startswith('In the picture "later": How many')
    assert build_prompt(ASK, target="later") == "What is this?"
