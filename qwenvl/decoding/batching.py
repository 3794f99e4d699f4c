"""Batches: prompts to token ids, one row per tile, padded on the left, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from qwenvl.checkpoints.loading import Checkpoint
from qwenvl.errors import RequestError
from qwenvl.families import Thinking, VideoTime
from qwenvl.images.preprocess import Patches
from qwenvl.images.video import FrameTimestamps
from qwenvl.prompts import render_chat
from qwenvl.request import Request
from qwenvl.subject import Subject, ask_about


@dataclass(frozen=True, slots=True)
class Prompt:
    """The token ids of a request, cut at the pictures.

    Attributes
    ----------
    parts : tuple of tuple of int
        Ids before, between and after the visual tokens: one part more than there are pictures.
    stamps : FrameTimestamps, optional
        The pictures are a film.
    """

    parts: tuple[tuple[int, ...], ...]
    stamps: FrameTimestamps | None = None

    def length(self, *visual_tokens: int) -> int:
        """Tokens of the whole prompt, given the visual tokens of each picture."""
        return sum(map(len, self.parts)) + sum(visual_tokens)

    def ids(self, visual_tokens: Sequence[int], image: int) -> list[int]:
        """All token ids, with `image` (or the token of films) for each visual token."""
        found = list(self.parts[0])
        for count, part in zip(visual_tokens, self.parts[1:], strict=True):
            found += [*[image] * count, *part]
        return found


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Model inputs of several tiles; all tensors are on the model's device except `image_grid_thw`.

    Attributes
    ----------
    input_ids, mm_token_type_ids : int64 Tensor (rows, length)
        The second is 1 at visual tokens (2 at those of films) and 0 elsewhere; positions cannot be right without it.
    attention_mask : int64 Tensor (rows, length)
        0 at the padding on the left.
    position_ids : int64 Tensor (3, rows, length)
        Time, height and width of every token.
    next_position : int64 Tensor (rows,)
        Position of the first new token, the same on all three axes.
    lengths : tuple of int
        Prompt tokens of each row without padding.
    film : bool
        Every row is about a film; films and pictures never share a batch.
    """

    input_ids: Tensor
    mm_token_type_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    next_position: Tensor
    patches: Patches
    lengths: tuple[int, ...]
    film: bool = False

    @property
    def padded(self) -> bool:
        """True where rows differ in length."""
        return min(self.lengths) != max(self.lengths)


def render_request(
    checkpoint: Checkpoint,
    request: Request,
    subject: Subject | None = None,
    *,
    thinking: bool,
    answer_at_once: bool = False,
) -> str:
    """The text of a request with one image token per picture, by the checkpoint's own chat template.

    Parameters
    ----------
    subject : Subject, optional
        Whose number and names of pictures count, not their pixels; None is one picture without a name.
    thinking : bool
        Let a family think that can be told not to.
    answer_at_once : bool
        Close the thought that a Thinking variant's prompt opens, so that the next token belongs to the answer.
    """
    family = checkpoint.family
    messages = ask_about(request, subject, one_block=family.video_time is not VideoTime.TEXT)
    if checkpoint.tokenizer.chat_template is None:
        text = render_chat(messages, family, thinking=thinking)
    else:
        options: dict[str, Any] = {}
        if family.thinking is Thinking.SWITCHABLE:
            options["enable_thinking"] = thinking
        text = checkpoint.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    if answer_at_once and text.endswith(f"{family.think_open}\n"):
        text += f"\n{family.think_close}\n\n"
    return text


def encode_prompt(
    checkpoint: Checkpoint, text: str, *, pictures: int = 1, stamps: FrameTimestamps | None = None
) -> Prompt:
    """Token ids of a rendered request about a number of pictures, or about a film.

    Raises
    ------
    RequestError
        The words hold the names of special tokens, so that it is not clear where the pictures are.
    """
    if stamps is not None:
        pictures = len(stamps.values) if checkpoint.family.video_time is VideoTime.TEXT else 1
    ids: list[int] = checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
    image = checkpoint.image_token_id
    places = [at for at, token in enumerate(ids) if token == image]
    if len(places) != pictures:
        token = checkpoint.tokenizer.convert_ids_to_tokens(image)
        raise RequestError(f"the prompt holds {token!r} {len(places)} times instead of {pictures}; leave it out")
    starts, stops = [0, *(at + 1 for at in places)], [*places, len(ids)]
    parts = tuple(tuple(ids[start:stop]) for start, stop in zip(starts, stops, strict=True))
    if stamps is not None and len(parts) == 2:  # one block: its frames follow each other without a word
        parts = (parts[0], *[()] * (len(stamps.values) - 1), parts[1])
    return Prompt(parts, stamps)


def build_batch(checkpoint: Checkpoint, prompts: Sequence[Prompt], patches: Patches) -> TokenBatch:
    """Model inputs of one question per row.

    Parameters
    ----------
    prompts : sequence of Prompt
        One per row; about films all of them, or none.
    patches : Patches
        Of the pictures of all rows, in their order.
    """
    film = any(prompt.stamps is not None for prompt in prompts)
    image = checkpoint.video_token_id if film else checkpoint.image_token_id
    visual = iter([checkpoint.processor.image_tokens(frame) for frame in patches.frames])
    rows = [prompt.ids(list(islice(visual, len(prompt.parts) - 1)), image) for prompt in prompts]
    lengths = tuple(map(len, rows))
    longest = max(lengths)
    shape = (len(rows), longest)
    pad = checkpoint.tokenizer.pad_token_id
    input_ids = torch.full(shape, checkpoint.eos_token_ids[0] if pad is None else pad, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    for row, ids in enumerate(rows):
        input_ids[row, longest - len(ids) :] = torch.tensor(ids, dtype=torch.int64)
        attention_mask[row, longest - len(ids) :] = 1
    mm_token_type_ids = (input_ids == image).long() * (2 if film else 1)
    if film:
        position_ids, deltas = _film_positions(
            checkpoint, prompts, patches, input_ids, mm_token_type_ids, attention_mask
        )
    else:
        # Computed here and passed on: the model would keep the offset of the last batch on itself (`rope_deltas`).
        position_ids, deltas = checkpoint.model.model.get_rope_index(
            input_ids,
            mm_token_type_ids=mm_token_type_ids,
            image_grid_thw=patches.image_grid_thw if patches.frames else None,
            attention_mask=attention_mask,
        )
    next_position = torch.tensor(lengths, dtype=torch.int64) + deltas.view(-1).cpu()
    device = checkpoint.device
    return TokenBatch(
        input_ids.to(device),
        mm_token_type_ids.to(device),
        attention_mask.to(device),
        position_ids.to(device),
        next_position.to(device),
        patches,
        lengths,
        film,
    )


def _film_positions(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    patches: Patches,
    input_ids: Tensor,
    kinds: Tensor,
    attention_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Positions of films: the model's own, with the frames' times where the family is told them by positions.

    Raises
    ------
    RequestError
        The times reach beyond what the model has positions for.
    """
    frames = [len(prompt.parts) - 1 for prompt in prompts]
    first = patches.image_grid_thw[torch.tensor([0, *frames[:-1]]).cumsum(0)]
    grid = torch.cat([torch.tensor(frames)[:, None], first[:, 1:]], dim=1)
    timed = checkpoint.family.video_time is VideoTime.POSITIONS
    options = {"second_per_grid_ts": [0.0] * len(frames)} if timed else {}
    position_ids, deltas = checkpoint.model.model.get_rope_index(
        input_ids, mm_token_type_ids=kinds, video_grid_thw=grid, attention_mask=attention_mask, **options
    )
    if not timed:
        return position_ids, deltas
    config = checkpoint.model.config
    most = config.get_text_config().max_position_embeddings
    for row, prompt in enumerate(prompts):
        assert prompt.stamps is not None
        steps = prompt.stamps.positions(config.vision_config.tokens_per_second)
        tokens = torch.nonzero(kinds[row]).flatten()
        position_ids[0, row, tokens] += torch.tensor(steps).repeat_interleave(len(tokens) // len(steps))
        end = int(position_ids[:, row].max()) + 1
        if end > most:
            length = f"{prompt.stamps.values[-1] - prompt.stamps.values[0]:g} {prompt.stamps.unit}"
            raise RequestError(
                f"a film of {length} reaches position {end:,}, and the model has {most:,}; give the stamps in a "
                "larger unit (minutes, hours)"
            )
        deltas[row] = end - int(attention_mask[row].sum())
    return position_ids, deltas


def plan_batches(lengths: Sequence[int], *, budget: int, max_rows: int) -> list[list[int]]:
    """Distribute rows over batches whose padded size stays within a budget.

    Parameters
    ----------
    lengths : sequence of int
        Prompt tokens of each row.
    budget : int
        Most tokens of a batch, padding included; a row that is longer goes alone.
    max_rows : int
        Most rows of a batch.

    Returns
    -------
    list of list of int
        Row numbers. Rows of equal length stand together in their order, so that little is padded.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        # The first row of a batch is its longest, since rows come in order of falling length.
        if batches and len(batches[-1]) < min(max_rows, budget // lengths[batches[-1][0]]):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
