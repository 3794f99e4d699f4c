"""Prefill, decoding, sampling and scoring on tiny models, against transformers' own `generate` and `forward`."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint
from qwenvl.checkpoints.testing import TINY_FAMILIES
from qwenvl.decoding.batching import TokenBatch, build_batch, encode_prompt, plan_batches, render_request
from qwenvl.decoding.decode import decode, extend, prefill
from qwenvl.decoding.repetition import Repetition, loops
from qwenvl.decoding.sampling import Sampler
from qwenvl.decoding.vision import fold_frames
from qwenvl.errors import RequestError
from qwenvl.images.preprocess import preprocess
from qwenvl.request import Generation, Request, Task
from qwenvl.scoring.likelihood import label_spellings, word_probabilities, yes_and_no

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]
REQUEST = Request(task=Task.DETECT, labels=("nucleus",))


def batch_of(checkpoint: Checkpoint, pictures: Pictures, request: Request = REQUEST) -> TokenBatch:
    prompt = encode_prompt(checkpoint, render_request(checkpoint, request, thinking=False))
    return build_batch(checkpoint, [prompt] * len(pictures), preprocess(pictures, checkpoint.processor))


def their_inputs(batch: TokenBatch) -> dict[str, Any]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "pixel_values": batch.patches.pixel_values,
        "image_grid_thw": batch.patches.image_grid_thw,
    }


@pytest.mark.parametrize("family", TINY_FAMILIES)
@torch.inference_mode()
def test_prefill_equals_forward_and_single(tiny: Tiny, pictures: Pictures, family: str) -> None:
    checkpoint = load_checkpoint(tiny(family))
    batch = batch_of(checkpoint, pictures)
    assert batch.padded
    assert bool((batch.attention_mask[:, -1] == 1).all())  # padding stands on the left
    together = prefill(checkpoint.model, batch).logits
    theirs = checkpoint.model(**their_inputs(batch), mm_token_type_ids=batch.mm_token_type_ids).logits[:, -1]
    torch.testing.assert_close(together, theirs, rtol=1e-4, atol=1e-4)
    for row, picture in enumerate(pictures):
        alone = prefill(checkpoint.model, batch_of(checkpoint, [picture])).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)  # the picture matters


@pytest.mark.parametrize("family", TINY_FAMILIES)
@torch.inference_mode()
def test_greedy_equals_generate(tiny: Tiny, pictures: Pictures, family: str) -> None:
    checkpoint = load_checkpoint(tiny(family))
    batch = batch_of(checkpoint, pictures)
    steps = 12
    expected = checkpoint.model.generate(
        **their_inputs(batch), mm_token_type_ids=batch.mm_token_type_ids, max_new_tokens=steps, do_sample=False
    )[:, batch.input_ids.shape[1] :].tolist()
    written = decode(
        checkpoint.model,
        prefill(checkpoint.model, batch),
        batch,
        Generation(max_new_tokens=steps),
        eos=checkpoint.eos_token_ids,
    )
    for row, ids in zip(written, expected, strict=True):
        end = next((at for at, token in enumerate(ids) if token in checkpoint.eos_token_ids), steps)
        assert row.tokens == ids[:end]
        assert row.finish_reason == ("length" if end == steps else "stop")
        assert len(row.log_probabilities) == len(row.tokens)


@torch.inference_mode()
def test_without_token_types_generate_is_silently_wrong(tiny: Tiny, pictures: Pictures) -> None:
    """Why `mm_token_type_ids` is always passed: without it transformers counts visual tokens like words."""
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    batch = batch_of(checkpoint, pictures[:1])
    ours = prefill(checkpoint.model, batch).logits
    options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    right = checkpoint.model.generate(
        **their_inputs(batch), mm_token_type_ids=batch.mm_token_type_ids, **options
    ).logits[0]
    wrong = checkpoint.model.generate(**their_inputs(batch), **options).logits[0]
    torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-4)
    assert (wrong - right).abs().max() > 1e-2
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        checkpoint.model(**their_inputs(batch))


@pytest.mark.parametrize("family", ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3.5"])
@torch.inference_mode()
def test_frames_folded_into_one(tiny: Tiny, pictures: Pictures, family: str) -> None:
    checkpoint = load_checkpoint(tiny(family))
    checkpoint.model.double()
    names = list(checkpoint.model.state_dict())
    batch = batch_of(checkpoint, pictures)
    expected = prefill(checkpoint.model, batch).logits
    fold_frames(checkpoint.model)
    fold_frames(checkpoint.model)
    assert list(checkpoint.model.state_dict()) == names
    torch.testing.assert_close(prefill(checkpoint.model, batch).logits, expected)
    still = preprocess(pictures, dataclasses.replace(checkpoint.processor, temporal_patch_size=1))
    assert still.pixel_values.shape[1] * 2 == batch.patches.pixel_values.shape[1]
    folded = prefill(checkpoint.model, dataclasses.replace(batch, patches=still)).logits
    torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-5)


def test_positions_by_hand(tiny: Tiny, pictures: Pictures) -> None:
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    prompt = encode_prompt(checkpoint, render_request(checkpoint, REQUEST, thinking=False))
    batch = batch_of(checkpoint, [pictures[0], pictures[3]])  # 7 x 7 and 7 x 14 visual tokens
    start = len(prompt.parts[0])
    long = batch.position_ids[:, 1]
    assert long[:, start].tolist() == [start] * 3
    assert long[:, start + 7].tolist() == [start, start + 1, start]
    assert long[:, start + 97].tolist() == [start, start + 13, start + 6]
    assert long[:, start + 98].tolist() == [start + 14] * 3
    assert batch.next_position.tolist() == [start + side + len(prompt.parts[1]) for side in (7, 14)]
    assert batch.position_ids[:, 0, -1].tolist() == [batch.next_position[0] - 1] * 3


@torch.inference_mode()
def test_log_probabilities_are_the_models_own(tiny: Tiny, pictures: Pictures) -> None:
    checkpoint = load_checkpoint(tiny("Qwen2.5-VL"))
    batch = batch_of(checkpoint, pictures[:2])
    settings = Generation(max_new_tokens=6, temperature=0.7, repetition_penalty=1.3, seed=3)
    row = decode(checkpoint.model, prefill(checkpoint.model, batch), batch, settings, eos=())[1]
    state = prefill(checkpoint.model, batch)
    logits = extend(checkpoint.model, state, torch.tensor([row.tokens[:-1]] * 2))[1]
    table = torch.cat([state.logits[1:], logits]).log_softmax(-1)
    expected = table.gather(1, torch.tensor(row.tokens)[:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(row.log_probabilities), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["Qwen2.5-VL", "Qwen3.5"])
@torch.inference_mode()
def test_probabilities_that_are_kept_are_the_models_own(tiny: Tiny, pictures: Pictures, family: str) -> None:
    """Also of a row that is still written when another has ended."""
    checkpoint = load_checkpoint(tiny(family), device="cpu")
    batch = batch_of(checkpoint, pictures[:2])
    settings = Generation(max_new_tokens=10, temperature=1.5, seed=4)
    first = decode(checkpoint.model, prefill(checkpoint.model, batch), batch, settings, eos=())
    ending = first[0].tokens[3]
    assert ending not in first[1].tokens
    watched = sorted({*first[1].tokens[::2], 70, 71})
    ended, row = decode(
        checkpoint.model, prefill(checkpoint.model, batch), batch, settings, eos=(ending,), watched=watched
    )
    assert len(ended.alternatives) == len(ended.tokens) == first[0].tokens.index(ending)
    assert row.tokens == first[1].tokens
    state = prefill(checkpoint.model, batch)
    logits = extend(checkpoint.model, state, torch.tensor([row.tokens[:-1]] * 2))[1]
    table = torch.cat([state.logits[1:], logits]).softmax(-1)[:, watched].numpy()
    for at, (token, found) in enumerate(zip(row.tokens, row.alternatives, strict=True)):
        assert (found is not None) == (token in watched)
        if found is not None:
            np.testing.assert_allclose(found.astype(float), table[at], rtol=2e-3, atol=1e-6)
    assert first[0].alternatives == [None] * 10


@torch.inference_mode()
def test_sampling_does_not_depend_on_the_batch(tiny: Tiny, pictures: Pictures) -> None:
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))

    def write(chosen: Pictures, seed: int) -> list[list[int]]:
        batch = batch_of(checkpoint, chosen)
        settings = Generation(max_new_tokens=12, temperature=1.0, top_p=0.9, top_k=50, seed=seed)
        rows = decode(checkpoint.model, prefill(checkpoint.model, batch), batch, settings, eos=checkpoint.eos_token_ids)
        return [row.tokens for row in rows]

    together = write(pictures, 1)
    assert together == [write([picture], 1)[0] for picture in pictures]
    assert together == write(pictures, 1)
    assert together != write(pictures, 2)


def test_sampler_limits() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]]).repeat(1, 1)
    assert Sampler(Generation(), torch.zeros(1, 1, dtype=torch.int64), 4).choose(logits).tolist() == [1]
    for settings, allowed in [
        (Generation(temperature=1.0, top_k=2), {1, 2}),
        (Generation(temperature=1.0, top_p=0.6), {1}),
        (Generation(temperature=1.0, top_p=0.7), {1, 2}),
    ]:
        sampler = Sampler(settings, torch.zeros(1, 1, dtype=torch.int64), 4)
        assert {int(sampler.choose(logits)) for _ in range(200)} == allowed
    penalised = Sampler(Generation(repetition_penalty=2.0), torch.tensor([[1]]), 4)
    assert [int(penalised.choose(logits)) for _ in range(3)] == [2, 1, 1]
    counts = np.bincount(
        [
            int(Sampler(Generation(temperature=1.0, seed=n), torch.zeros(1, 1, dtype=torch.int64), 4).choose(logits))
            for n in range(3000)
        ],
        minlength=4,
    )
    np.testing.assert_allclose(counts / 3000, torch.softmax(logits[0], 0).numpy(), atol=0.03)


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        ([], False),
        ([7] * 47, False),
        ([7] * 48, True),
        ([1, 2, 3] * 16, True),
        ([*range(20), *range(20)], False),  # a box twice
        ([*range(20)] * 3, True),
        ([*range(9)] * 3, False),
        ([*range(9)] * 6, True),
        ([*range(64)] * 3, True),
        ([*range(65)] * 3, False),
        ([*([*range(20)] * 3), 99], False),
    ],
)
def test_loops(tokens: list[int], found: bool) -> None:
    assert loops(tokens) is found


def _written(boxes: Sequence[Sequence[int]]) -> list[int]:
    """A list of boxes in bytes, as a byte-level tokenizer writes it."""
    items = ", ".join(f'{{"bbox_2d": {list(box)}, "label": "nucleus"}}' for box in boxes)
    return list(f"[{items}]".encode())


def _stops_after(tokens: Sequence[int]) -> int | None:
    watch = Repetition()
    return next((at for at, token in enumerate(tokens, 1) if watch.add(token)), None)


def test_what_counts_as_going_in_circles() -> None:
    rng = np.random.default_rng(1)
    many = [tuple(sorted(rng.integers(0, 1000, 4).tolist())) for _ in range(200)]
    assert _stops_after(_written(many)) is None, "200 different boxes"
    assert _stops_after(_written([*many[:20], many[3], *many[20:40], many[5]])) is None, "some twice"
    row = [(x, 10, x + 20, 30) for x in range(0, 900, 10)]
    assert _stops_after(_written(row)) is None, "a row that drifts is no circle"
    own = len(_written(many[:6]))
    item = len(_written(many[:1]))
    for repeated in ([many[0]] * 50, many[:6] * 20, [many[at] for at in rng.integers(0, 6, 200)]):
        stop = _stops_after(_written([*many[:6], *repeated]))
        assert stop is not None
        assert own < stop < own + 6 * item, "within a few boxes that say nothing new"
    prose = "The nuclei are large. The stroma is loose. There is no necrosis in this picture. "
    assert _stops_after(list(prose.encode())) is None
    assert len(prose) < (_stops_after(list((prose * 9).encode())) or 0) < 3 * len(prose)
    watch = Repetition()
    assert not any(watch.add(token) for token in [*range(60)] * 2)
    watch.forget()
    assert not any(watch.add(token) for token in range(60))


@torch.inference_mode()
def test_a_loop_is_stopped(tiny: Tiny, pictures: Pictures) -> None:
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    batch = batch_of(checkpoint, pictures[:2])

    class OnlyA:
        def apply(self, logits: torch.Tensor, rows: Sequence[int]) -> None:
            forced = torch.full_like(logits, -torch.inf)
            forced[:, 5] = 0
            logits.copy_(forced)

        def accept(self, row: int, token: int) -> bool:
            return token == 5

        def interrupt(self, row: int) -> bool:
            return False

        def back(self, row: int, most: int) -> int:
            return 0

    settings = Generation(max_new_tokens=200)
    rows = decode(checkpoint.model, prefill(checkpoint.model, batch), batch, settings, eos=(), constraint=OnlyA())
    assert [row.finish_reason for row in rows] == ["loop", "loop"]
    assert all(48 <= len(row.tokens) < 60 for row in rows)


def test_batches_keep_to_the_budget() -> None:
    lengths = [100, 30, 100, 500, 30, 30, 100]
    batches = plan_batches(lengths, budget=300, max_rows=2)
    assert batches == [[3], [0, 2], [6, 1], [4, 5]]
    assert plan_batches([], budget=300, max_rows=2) == []
    wide = plan_batches(lengths, budget=300, max_rows=64)
    assert sorted(row for batch in wide for row in batch) == list(range(7))
    for batch in wide:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 300


def test_a_prompt_may_not_hold_the_picture_token(tiny: Tiny) -> None:
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    request = Request(task=Task.ASK, prompt="What is <|image_pad|>?")
    with pytest.raises(RequestError, match="2 times"):
        encode_prompt(checkpoint, render_request(checkpoint, request, thinking=False))


@pytest.mark.parametrize("family", ["Qwen3-VL", "Qwen3.5"])
@torch.inference_mode()
def test_word_probabilities_by_hand(tiny: Tiny, pictures: Pictures, family: str) -> None:
    """Single and multi-token words, padded rows, and a cache that cannot be cut back (Qwen3.5)."""
    checkpoint = load_checkpoint(tiny(family))
    model = checkpoint.model
    batch = batch_of(checkpoint, pictures)
    state = prefill(model, batch)
    length = state.cache.get_seq_length()
    words = [((7,),), ((8, 9, 10), (11, 12))]
    table = word_probabilities(model, state, words)
    assert state.cache.get_seq_length() == length
    torch.testing.assert_close(table, word_probabilities(model, state, words))
    sums = []
    for word in words:
        chances = []
        for ids in word:
            fresh = prefill(model, batch)
            chance = fresh.logits.log_softmax(-1)[:, ids[0]]
            for before, token in itertools.pairwise(ids):
                step = extend(model, fresh, torch.full((len(pictures), 1), before))[:, -1]
                fresh.next_position = fresh.next_position + 1
                if fresh.attention_mask is not None:
                    fresh.attention_mask = torch.nn.functional.pad(fresh.attention_mask, (0, 1), value=1)
                chance = chance + step.log_softmax(-1)[:, token]
            chances.append(chance.exp())
        sums.append(sum(chances))
    expected = torch.stack(sums, 1)
    torch.testing.assert_close(table, expected / expected.sum(1, keepdim=True), rtol=1e-3, atol=1e-6)


def test_spellings(tiny: Tiny, real_data: Path) -> None:
    from transformers import AutoTokenizer

    qwen = AutoTokenizer.from_pretrained(real_data / "tokenizers" / "qwen3_vl", local_files_only=True)
    yes, no = (set(sum(word, ())) for word in yes_and_no(qwen))
    assert yes >= {9693, 9834, 9454}  # 'yes', ' yes', 'Yes'
    assert no >= {2152, 2753, 2308}  # 'no', 'No', ' No'
    assert all(len(ids) == 1 for word in yes_and_no(qwen) for ids in word)
    tokenizer = load_checkpoint(tiny("Qwen3-VL")).tokenizer
    tumour, edge = label_spellings(tokenizer, ("tumour", "tumour edge"), end=266)
    assert len(tumour) == len(edge) == 2
    assert all(ids[-1] == 266 for ids in tumour)
    assert all(ids[-1] != 266 for ids in edge)
    with pytest.raises(RequestError, match="same word"):
        label_spellings(tokenizer, ("fat", "Fat"), end=266)
