"""Films: the words, ids and positions are those of transformers' own processors and models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from subjects import ASK, CLASSIFY, DETECT, EXTRACT, SCORE, plain

from qwenvl.answer import Status
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.decoding.batching import build_batch, encode_prompt, render_request
from qwenvl.decoding.decode import prefill
from qwenvl.engines.local import LocalEngine
from qwenvl.errors import RequestError
from qwenvl.families import VideoTime
from qwenvl.images.marks import Mark
from qwenvl.images.preprocess import preprocess
from qwenvl.images.video import FrameTimestamps
from qwenvl.request import Request, Task
from qwenvl.subject import NamedPicture, Subject, ask_about

Tiny = Callable[[str], Path]
FAMILIES = ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "Qwen3.5")
BLOCK = "<|vision_start|><|video_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def frames() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(11)
    return [rng.integers(0, 256, (56, 112, 3), dtype=np.uint8) for _ in range(4)]


@pytest.mark.parametrize(
    ("values", "unit", "texts"),
    [
        ((0.0, 0.5, 10.25), "seconds", ("<0.0 seconds>", "<0.5 seconds>", "<10.2 seconds>")),
        ((0.0, 300.0), "seconds", ("<0.0 seconds>", "<300.0 seconds>")),
        ((0, 0.125, 0.25), "um", ("<0.00 um>", "<0.12 um>", "<0.25 um>")),
        ((0.0, 0.01, 0.02), "seconds", ("<0.000 seconds>", "<0.010 seconds>", "<0.020 seconds>")),
    ],
)
def test_stamps_are_written_as_the_families_do_and_never_alike(
    values: tuple[float, ...], unit: str, texts: tuple[str, ...]
) -> None:
    assert FrameTimestamps(values, unit).texts == texts
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("values", "unit", "word"),
    [
        ((1.0,), "seconds", "at least two"),
        ((0.0, 2.0, 2.0), "seconds", "rise"),
        ((0.0, float("nan")), "seconds", "finite"),
        ((0.0, 1.0), "frames", "choose from"),
    ],
)
def test_stamps_that_are_none(values: tuple[float, ...], unit: str, word: str) -> None:
    with pytest.raises(RequestError, match=word):
        FrameTimestamps(values, unit)


def test_a_film_is_pictures_of_one_size_without_a_target(frames: list[NDArray[np.uint8]]) -> None:
    stamps = FrameTimestamps((0.0, 1.0))
    film = Subject.film(frames[:2], stamps)
    assert film.target_index is None
    assert "every picture of the film" in str(film.unfit(DETECT))
    assert film.unfit(SCORE) is None
    marked = Request(task=Task.SCORE, prompt="Is it marked?", marks=(Mark(kind="point", points=((3, 4),)),))
    assert "no target" in str(film.unfit(marked))
    for wrong, word in [
        (lambda: Subject.film(frames[:3], stamps), "one each"),
        (lambda: Subject.film([frames[0], frames[1][:32]], stamps), "one size"),
        (lambda: Subject((NamedPicture("a", frames[0]), NamedPicture("b", frames[1])), stamps=stamps), "names"),
    ]:
        with pytest.raises(RequestError, match=word):
            wrong()


@pytest.mark.parametrize("folder", ["qwen2_5_vl", "qwen3_vl"])
def test_ids_are_those_of_the_processors(real_data: Path, frames: list[NDArray[np.uint8]], folder: str) -> None:
    """The real vocabulary and chat template, expanded by the processor's own code and by ours."""
    from transformers import AutoTokenizer
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    tokenizer = AutoTokenizer.from_pretrained(real_data / "tokenizers" / folder, local_files_only=True)
    stamps = FrameTimestamps((0.0, 0.5, 2.5, 40.0))
    kind: Any = Qwen3VLProcessor if folder == "qwen3_vl" else Qwen2_5_VLProcessor
    processor = kind.__new__(kind)  # its video processor would need torchvision; only numbers of it are asked for
    processor.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    processor.video_token = "<|video_pad|>"
    processor.vision_start_token, processor.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    # Every frame twice, at two frames per second: each fills a temporal patch of its own.
    indices = [round(2 * value) for value in stamps.values for _ in range(2)]
    grid = torch.tensor([[4, 4, 8]])
    inputs = {"video_grid_thw": grid, "video_metadata": [SimpleNamespace(fps=2.0, frames_indices=indices)]}
    replacement = processor.replace_video_token(inputs, 0)
    conversation = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is this?"}]}]
    template = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert template.count(BLOCK) == 1
    replaced = BLOCK if folder == "qwen3_vl" else "<|video_pad|>"
    theirs = tokenizer(template.replace(replaced, replacement), add_special_tokens=False)["input_ids"]

    time = VideoTime.TEXT if folder == "qwen3_vl" else VideoTime.POSITIONS
    checkpoint: Any = SimpleNamespace(
        tokenizer=tokenizer,
        family=SimpleNamespace(video_time=time, thinking="never", think_open="<think>", think_close="</think>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )
    film = Subject.film(frames, stamps)
    prompt = encode_prompt(checkpoint, render_request(checkpoint, ASK, film, thinking=False), stamps=stamps)
    visual = int(grid[0, 1:].prod()) // 4
    assert prompt.ids([visual] * 4, tokenizer.convert_tokens_to_ids("<|video_pad|>")) == theirs


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_positions_and_logits_are_those_of_the_model_alone(
    tiny: Tiny, frames: list[NDArray[np.uint8]], family: str
) -> None:
    """A padded batch of films against `forward`, which takes video patches of two frames and finds positions itself."""
    checkpoint = load_checkpoint(tiny(family), device="cpu")
    config = checkpoint.model.config
    films = [
        Subject.film(frames, FrameTimestamps((0.0, 2.5, 5.0, 7.5))),
        Subject.film(frames[1:3], FrameTimestamps((3.0, 13.0))),
    ]
    prompts = [
        encode_prompt(checkpoint, render_request(checkpoint, ASK, film, thinking=False), stamps=film.stamps)
        for film in films
    ]
    pictures = [picture.pixels for film in films for picture in film.pictures]
    patches = preprocess(pictures, checkpoint.processor)
    batch = build_batch(checkpoint, prompts, patches)
    ours = prefill(checkpoint.model, batch).logits
    for row, (film, prompt) in enumerate(zip(films, prompts, strict=True)):
        shown = [picture.pixels for picture in film.pictures]
        own = preprocess(shown, checkpoint.processor)  # each patch holds its picture twice, as both of its frames
        ids = torch.tensor([prompt.ids([own.image_grid_thw[0].prod().item() // 4] * len(shown), config.video_token_id)])
        grid = own.image_grid_thw[:1].clone()
        grid[0, 0] = len(shown)
        assert film.stamps is not None
        step = film.stamps.values[1] - film.stamps.values[0]
        options = {"second_per_grid_ts": torch.tensor([step])} if family == "Qwen2.5-VL" else {}
        kinds = (ids == config.video_token_id).long() * 2
        positions, deltas = checkpoint.model.model.get_rope_index(
            ids, mm_token_type_ids=kinds, video_grid_thw=grid, attention_mask=torch.ones_like(ids), **options
        )
        length = ids.shape[1]
        assert torch.equal(batch.position_ids[:, row, -length:], positions[:, 0])
        assert int(batch.next_position[row]) == length + int(deltas)
        theirs = checkpoint.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=kinds,
            pixel_values_videos=own.pixel_values,
            video_grid_thw=grid,
            **options,
        ).logits[0, -1]
        torch.testing.assert_close(ours[row], theirs, rtol=1e-4, atol=1e-4)


def test_uneven_times_follow_the_rule_of_even_ones(tiny: Tiny, frames: list[NDArray[np.uint8]]) -> None:
    """A film that leaves out frames of an even one gives those left the positions they had."""
    checkpoint = load_checkpoint(tiny("Qwen2.5-VL"), device="cpu")

    def times(values: tuple[float, ...]) -> list[int]:
        film = Subject.film([frames[0]] * len(values), FrameTimestamps(values))
        text = render_request(checkpoint, ASK, film, thinking=False)
        prompt = encode_prompt(checkpoint, text, stamps=film.stamps)
        patches = preprocess([frames[0]] * len(values), checkpoint.processor)
        batch = build_batch(checkpoint, [prompt], patches)
        found = batch.position_ids[0, 0][batch.mm_token_type_ids[0] == 2]
        return [int(value) - int(found[0]) for value in found.unique()]

    even = times((0.0, 0.75, 1.5, 2.25, 3.0))
    per_second = checkpoint.model.config.vision_config.tokens_per_second
    assert even == [int(i * 0.75 * per_second) for i in range(5)]
    assert times((0.0, 0.75, 3.0)) == [even[0], even[1], even[4]]
    with pytest.raises(RequestError, match="larger unit"):
        times((0.0, 90_000.0))


@pytest.mark.parametrize("family", ["Qwen2.5-VL", "Qwen3-VL"])
def test_films_among_pictures_change_no_answer(tiny: Tiny, frames: list[NDArray[np.uint8]], family: str) -> None:
    engine = LocalEngine.load(tiny(family), device="cpu")
    one_by_one = LocalEngine(engine.checkpoint, token_budget=1)
    films = [
        Subject.film(frames, FrameTimestamps((0.0, 1.0, 2.0, 5.0))),
        Subject.film(frames[:2], FrameTimestamps((0.0, 9.0))),
    ]
    items = [frames[0], films[0], Subject(), films[1], frames[1]]
    requests = [ASK, SCORE, CLASSIFY, EXTRACT, DETECT]
    alone = [one_by_one.answer(items, request) for request in requests]
    for together, single in zip(engine.answer_many(items, requests), alone, strict=True):
        assert [plain(answer) for answer in together] == [plain(answer) for answer in single]
        for ours, theirs in zip(together, single, strict=True):
            assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
    detected = alone[-1]
    assert [answer.status is Status.FAILED for answer in detected] == [False, True, True, True, False]
    # The time is seen: another pace is another answer.
    slow = Subject.film(frames, FrameTimestamps((0.0, 10.0, 20.0, 50.0)))
    assert engine.answer([slow], SCORE)[0].scores["yes"] != pytest.approx(alone[1][1].scores["yes"], abs=1e-5)


def test_servers_are_told_the_times_as_text(frames: list[NDArray[np.uint8]]) -> None:
    film = Subject.film(frames[:2], FrameTimestamps((0.0, 90.0)))
    content = ask_about(ASK, film)[0]["content"]
    assert [part.get("text", part["type"]) for part in content] == [
        "<0.0 seconds>",
        "image",
        "<90.0 seconds>",
        "image",
        "What is this?",
    ]
