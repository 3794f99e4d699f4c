"""The in-process engine: a transformers model in this process answers tiles in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwenvl.answer import Answer, Status
from qwenvl.batching import Batch, Prompt, build_batch, encode_prompt, plan_batches, render_request
from qwenvl.checkpoint import Checkpoint, load_checkpoint
from qwenvl.confidence import add_scores
from qwenvl.decoding import Constraint, Decoded, Prefilled, decode, prefill
from qwenvl.engines.base import Engine
from qwenvl.errors import PictureError
from qwenvl.families import Thinking
from qwenvl.geometry import PictureFrame
from qwenvl.grammar import Grammars, ThinkFirst, vocabulary_size
from qwenvl.light import LightLanguage
from qwenvl.packed import pack_linears
from qwenvl.parse import parse_answer
from qwenvl.preprocess import check_picture, preprocess
from qwenvl.request import Request, Task
from qwenvl.scoring import label_spellings, word_probabilities, yes_and_no
from qwenvl.vision import fold_frames

MAX_ROWS = 64
"""Most tiles of a batch."""

_CPU_BUDGET = 8_192
_CPU_ROWS = 32
_GPU_BUDGET = 65_536
_THOUGHT = 0.5  # share of the new tokens that a thought may take
_MEMORY_SHARE = 0.8  # of the free memory that a batch may be expected to take

Picture = NDArray[np.uint8]


class LocalEngine(Engine):
    """Answers with a model in this process.

    Parameters
    ----------
    checkpoint : Checkpoint
    token_budget : int, optional
        Most prompt tokens of a batch; None chooses by device and free memory.
    thinking : bool
        Let families think that can be told not to (Qwen3.5). Thinking variants always do.
    constrained : bool
        Let the model write only what its task's grammar allows (`qwenvl.task_grammar`). The schema of extract is
        kept to either way.

    Notes
    -----
    One instance, and one model, is used by one thread at a time: the model's cache and this engine's buffers are
    not guarded, and transformers keeps positions of the last call on the model (`rope_deltas`).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        token_budget: int | None = None,
        thinking: bool = False,
        constrained: bool = True,
    ) -> None:
        self.checkpoint = checkpoint
        unpacked = pack_linears(checkpoint.model)
        fold_frames(checkpoint.model, packed=unpacked is None)
        own_step = unpacked or LightLanguage.unfit(checkpoint.model)
        self._language = LightLanguage(checkpoint.model) if own_step is None else None
        self._constrained = constrained
        facts = {
            "constrained": constrained,
            "products": "oneDNN" if unpacked is None else f"PyTorch ({unpacked})",
            "decoding": "light" if own_step is None else f"transformers ({own_step})",
        }
        self.info = replace(checkpoint.info, processor={**checkpoint.info.processor, **facts})
        self._processor = replace(checkpoint.processor, temporal_patch_size=1)
        self._budget = token_budget or _token_budget(checkpoint)
        self._thinking = thinking
        self._max_rows = MAX_ROWS
        self._memory: Tensor | None = None
        self._grammars: Grammars | None = None

    @classmethod
    def load(cls, name_or_path: str | Path = "embedded", **settings: Any) -> LocalEngine:
        """An engine for a checkpoint; `settings` are those of `load_checkpoint`."""
        return cls(load_checkpoint(name_or_path, **settings))

    def batch_size(self, request: Request) -> int:
        """Tiles of `request` that fit one batch; few on a CPU, because a run stores what it hands over at once."""
        length = self._prompt(request).length(self.checkpoint.description.tokens_per_tile(request.tile_size))
        most = self._max_rows if self.checkpoint.device.type != "cpu" else min(self._max_rows, _CPU_ROWS)
        return max(1, min(most, self._budget // length))

    def close(self) -> None:
        """Let go of the model; its memory is free once no one else holds the checkpoint."""
        self._memory = None
        self._grammars = None
        del self.checkpoint
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def answer(self, pictures: Sequence[Picture], request: Request) -> list[Answer]:
        """Answer `request` about each picture; see `Engine.answer`."""
        prompt = self._prompt(request)
        run = self._runner(request, prompt)
        answers: list[Answer | None] = [None] * len(pictures)
        usable: list[tuple[int, int]] = []  # picture, prompt tokens
        for index, picture in enumerate(pictures):
            try:
                check_picture(picture)
                frame = self.checkpoint.processor.frame(picture.shape[1], picture.shape[0])
            except PictureError as error:
                answers[index] = Answer.failure(f"picture {index}: {error}")
            else:
                usable.append((index, prompt.length(self.checkpoint.processor.image_tokens(frame))))
        for rows in plan_batches([size for _, size in usable], budget=self._budget, max_rows=self._max_rows):
            indices = [usable[row][0] for row in rows]
            for index, answer in zip(indices, self._run(run, [pictures[i] for i in indices]), strict=True):
                answers[index] = answer
        return [answer if answer is not None else Answer.failure("not asked") for answer in answers]

    def _run(self, run: Callable[[list[Picture]], list[Answer]], pictures: list[Picture]) -> list[Answer]:
        """Run one batch; where memory runs out, its halves."""
        start = time.perf_counter()
        try:
            answers = run(pictures)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            answers = []
        if answers:
            seconds = (time.perf_counter() - start) / len(pictures)
            return [replace(answer, seconds=seconds) for answer in answers]
        # Outside the except clause, so that the error's frames no longer hold the batch's tensors.
        self._memory = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(pictures) == 1:
            height, width, _ = pictures[0].shape
            return [
                Answer.failure(
                    f"out of memory on {self.checkpoint.device} with a single picture of {width}x{height} px; "
                    "use smaller tiles, a smaller model, or another dtype"
                )
            ]
        half = len(pictures) // 2
        self._max_rows = max(1, min(self._max_rows, len(pictures) - half))
        return self._run(run, pictures[:half]) + self._run(run, pictures[half:])

    def _runner(self, request: Request, prompt: Prompt) -> Callable[[list[Picture]], list[Answer]]:
        """The function that answers one batch, with what is the same for all batches done once."""
        model, tokenizer = self.checkpoint.model, self.checkpoint.tokenizer
        if request.task is Task.SCORE:
            words = yes_and_no(tokenizer)
            return lambda pictures: self._scored(pictures, prompt, words, ("yes", "no"), request)
        if request.task is Task.CLASSIFY:
            end = tokenizer.convert_tokens_to_ids("<|im_end|>")
            words = label_spellings(tokenizer, request.labels, end=end)
            return lambda pictures: self._scored(pictures, prompt, words, request.labels, request)

        def write(pictures: list[Picture]) -> list[Answer]:
            batch, state = self._prefill(pictures, prompt)
            constraint = self._constraint(request, batch.patches.frames)
            eos = self.checkpoint.eos_token_ids
            written = decode(model, state, batch, request.generation, eos=eos, constraint=constraint,
                             language=self._language)  # fmt: skip
            rows = zip(written, batch.patches.frames, batch.lengths, strict=True)
            return [self._read(row, request, frame, length) for row, frame, length in rows]

        return write

    def _prompt(self, request: Request) -> Prompt:
        at_once = request.task in (Task.SCORE, Task.CLASSIFY)
        thinking = self._thinking and not at_once
        text = render_request(self.checkpoint, request, thinking=thinking, answer_at_once=at_once)
        return encode_prompt(self.checkpoint, text)

    def _thinks(self) -> bool:
        mode = self.checkpoint.family.thinking
        return mode is Thinking.ALWAYS or (mode is Thinking.SWITCHABLE and self._thinking)

    def _constraint(self, request: Request, frames: Sequence[PictureFrame]) -> Constraint | None:
        """What keeps the answers of one batch within their grammar; a thinking model thinks before it."""
        if not self._constrained and request.output_schema is None:
            return None
        checkpoint, family = self.checkpoint, self.checkpoint.family
        if self._grammars is None:
            self._grammars = Grammars(
                checkpoint.tokenizer, vocabulary_size(checkpoint.model), checkpoint.eos_token_ids
            )
        answers = self._grammars.constraint(request, frames, dialect=family.dialect, space=family.space)
        if answers is None or not self._thinks():
            return answers
        close = checkpoint.tokenizer(f"{family.think_close}\n\n", add_special_tokens=False)["input_ids"]
        budget = int(_THOUGHT * request.generation.max_new_tokens)
        return ThinkFirst(answers, len(frames), budget=budget, close=close, eos=checkpoint.eos_token_ids)

    def _prefill(self, pictures: list[Picture], prompt: Prompt) -> tuple[Batch, Prefilled]:
        patches = preprocess(
            pictures, self._processor, device=self.checkpoint.device, dtype=self.checkpoint.model.dtype,
            out=self._memory,
        )  # fmt: skip
        self._memory = patches.pixel_values
        batch = build_batch(self.checkpoint, prompt, patches)
        return batch, prefill(self.checkpoint.model, batch)

    def _scored(
        self, pictures: list[Picture], prompt: Prompt, words: Any, names: Sequence[str], request: Request
    ) -> list[Answer]:
        batch, state = self._prefill(pictures, prompt)
        table = word_probabilities(self.checkpoint.model, state, words).tolist()
        answers = []
        for row, length in zip(table, batch.lengths, strict=True):
            scores = dict(zip(names, row, strict=True))
            chosen = None
            if request.task is Task.SCORE:
                scores = {"yes": scores["yes"]}
            else:
                chosen = max(scores, key=scores.__getitem__)
            answers.append(Answer(Status.OK, text=chosen, scores=scores, prompt_tokens=length))
        return answers

    def _read(self, written: Decoded, request: Request, frame: PictureFrame, prompt_tokens: int) -> Answer:
        family, tokenizer = self.checkpoint.family, self.checkpoint.tokenizer
        text = tokenizer.decode(written.tokens, skip_special_tokens=False)
        answer = parse_answer(
            text, request, dialect=family.dialect, space=family.space, frame=frame,
            finish_reason=written.finish_reason,
            thinking=(family.think_open, family.think_close) if self._thinks() else None,
            prompt_tokens=prompt_tokens, new_tokens=len(written.tokens),
        )  # fmt: skip
        objects = add_scores(
            answer.objects, written.tokens, written.log_probabilities, tokenizer=tokenizer, space=family.space,
            frame=frame,
        )  # fmt: skip
        return replace(answer, objects=objects)


def _token_budget(checkpoint: Checkpoint) -> int:
    """Prompt tokens of a batch that device and free memory allow."""
    device = checkpoint.device
    if device.type != "cuda":
        return _CPU_BUDGET
    free, _ = torch.cuda.mem_get_info(device)
    side = 32 * checkpoint.processor.factor
    one = checkpoint.description.estimate_memory(side, dtype=checkpoint.info.dtype)
    tokens = checkpoint.description.tokens_per_tile(side)
    return int(
        max(tokens, min(_GPU_BUDGET, _MEMORY_SHARE * free * tokens / (one.kv_per_tile + one.activations)))
    )


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "out of memory" in text or "can't allocate memory" in text
