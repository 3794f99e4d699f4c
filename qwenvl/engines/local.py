"""The in-process engine: a transformers model in this process answers tiles in batches."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenvl.answer import OUT_OF_MEMORY, Answer, Status
from qwenvl.checkpoints.checkpoint_metadata import MemoryEstimate
from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint
from qwenvl.constraints.grammar import Grammars, ThinkFirst, vocabulary_size
from qwenvl.constraints.json_schema import unheld_note
from qwenvl.decoding.batching import TokenBatch, build_batch, plan_batches
from qwenvl.decoding.compiled import CompiledStep
from qwenvl.decoding.cpu_decoder import LightLanguage
from qwenvl.decoding.decode import Constraint, Decoded, Prefilled, croppable, decode, prefill, read_on
from qwenvl.decoding.onednn_linear import pack_linears
from qwenvl.decoding.vision import fold_frames, picture_features
from qwenvl.engines.base import Engine
from qwenvl.engines.plan import JUDGING, BatchPlan, BatchRow, shared_beginnings
from qwenvl.errors import PictureError
from qwenvl.families import Thinking
from qwenvl.images.geometry import PictureFrame
from qwenvl.images.preprocess import Patches, preprocess
from qwenvl.parse import parse_answer
from qwenvl.request import Request, Task
from qwenvl.scoring.confidence import NumberVocabulary, add_scores
from qwenvl.scoring.likelihood import Spellings, word_probabilities
from qwenvl.subject import Item, Subject, as_subject, label

MAX_ROWS = 64
"""Most tiles of a batch."""

_CPU_BUDGET = 8_192
_CPU_ROWS = 32
_GPU_BUDGET = 65_536
_THOUGHT = 0.5  # share of the new tokens that a thought may take
_MEMORY_SHARE = 0.8  # of the free memory that a batch may be expected to take
_NOWHERE = PictureFrame.same(1000, 1000)  # grammar of an answer about no picture, which holds no places


class LocalEngine(Engine):
    """Answers with a model in this process.

    Parameters
    ----------
    checkpoint : Checkpoint
    token_budget : int, optional
        Most prompt tokens of a batch; None chooses by device and free memory.
    thinking : bool
        Let families think that can be told not to (Qwen3.5). Thinking variants always do.
    compiled : bool or str
        Decode by a compiled step with a cache of fixed size (`qwenvl.decoding.compiled`), on CUDA as a graph; a string
        names
        another backend of torch.compile. Where it does not work, `info.processor['compiled']` says why.
    constrained : bool
        Let the model write only what its task's grammar allows (`qwenvl.constraints.grammar`). The schema of extract is
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
        compiled: bool | str = False,
    ) -> None:
        self.checkpoint = checkpoint
        self._compiled: CompiledStep | None = None
        if compiled:
            backend = compiled if isinstance(compiled, str) else "inductor"
            self._compiled = CompiledStep(checkpoint.model, backend)
        works = self._compiled is not None and self._compiled.reason is None
        unpacked = "compiled" if works else pack_linears(checkpoint.model)
        fold_frames(checkpoint.model, packed=unpacked is None)
        own_step = unpacked or LightLanguage.unfit(checkpoint.model)
        self._language = LightLanguage(checkpoint.model) if own_step is None else None
        self._constrained = constrained
        facts = {
            "constrained": constrained,
            "products": "oneDNN" if unpacked is None else f"PyTorch ({unpacked})",
            "decoding": "light" if own_step is None else f"transformers ({own_step})",
        }
        if self._compiled is not None:
            reason = self._compiled.reason
            facts["compiled"] = "yes" if reason is None else f"no ({reason})"
            if reason is None:
                facts["decoding"] = "compiled"
        self.info = replace(checkpoint.info, processor={**checkpoint.info.processor, **facts})
        self._processor = replace(checkpoint.processor, temporal_patch_size=1)
        self._budget = token_budget or _token_budget(checkpoint)
        self._thinking = thinking
        self._max_rows = MAX_ROWS
        self._memory: Tensor | None = None
        self._grammars: Grammars | None = None
        self._vocabulary = NumberVocabulary(checkpoint.tokenizer, vocabulary_size(checkpoint.model))

    @classmethod
    def load(
        cls, name_or_path: str | Path = "embedded", *, compiled: bool | str = False, **settings: Any
    ) -> LocalEngine:
        """An engine for a checkpoint; the other `settings` are those of `load_checkpoint`."""
        return cls(load_checkpoint(name_or_path, **settings), compiled=compiled)

    def batch_size(self, request: Request) -> int:
        """Tiles of `request` that fit one batch; few on a CPU, because a run stores what it hands over at once."""
        most = self._max_rows if self.checkpoint.device.type != "cpu" else min(self._max_rows, _CPU_ROWS)
        return max(1, min(most, self._budget // self.prompt_tokens(request)))

    def prompt_tokens(self, request: Request) -> int:
        """Tokens that one tile of `request` is asked with, its picture included."""
        visual = self.checkpoint.description.tokens_per_tile(request.tile_size)
        return self._plan(request).prompt().length(visual)

    def memory(self, request: Request) -> MemoryEstimate:
        """Estimated memory of a batch of `batch_size` tiles."""
        description = self.checkpoint.description
        visual = description.tokens_per_tile(request.tile_size)
        return description.estimate_memory(
            request.tile_size,
            batch=self.batch_size(request),
            dtype=self.info.dtype,
            quantise=self.info.processor.get("quantise"),
            prompt_tokens=self.prompt_tokens(request) - visual,
            new_tokens=0 if request.task in JUDGING else request.generation.max_new_tokens,
        )

    def close(self) -> None:
        """Let go of the model; its memory is free once no one else holds the checkpoint."""
        self._memory = None
        self._grammars = None
        del self.checkpoint
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def answer(self, pictures: Sequence[Item], request: Request) -> list[Answer]:
        """Answer `request` about each item; see `Engine.answer`."""
        return self.answer_many(pictures, [request])[0]

    @torch.inference_mode()
    def answer_many(self, pictures: Sequence[Item], requests: Sequence[Request]) -> list[list[Answer]]:
        """Answer several requests about each item; see `Engine.answer_many`.

        Each picture goes through the vision tower once. Requests that begin alike, up to the last picture, share
        the reading of that too.
        """
        marks = [request.marks for request in requests]
        if any(each != marks[0] for each in marks):  # other marks are other pixels
            return [self.answer_many(pictures, [request])[0] for request in requests]
        answers: list[list[Answer | None]] = [[None] * len(pictures) for _ in requests]
        plans = [self._plan(request) for request in requests]
        rows: list[BatchRow] = []
        for index, item in enumerate(pictures):
            try:
                rows.append(self._row(index, as_subject(item, index, marks[0] if marks else ()), plans))
            except PictureError as error:
                for told in answers:
                    told[index] = Answer.failure(str(error))
        for chosen in self._batches(rows):
            for told, found in zip(answers, self._run(plans, chosen), strict=True):
                for row, answer in zip(chosen, found, strict=True):
                    told[row.index] = row.subject.noted(answer)
        return [[answer if answer is not None else Answer.failure("not asked") for answer in told] for told in answers]

    def _batches(self, rows: Sequence[BatchRow]) -> Iterator[list[BatchRow]]:
        """Rows that are asked together; films, whose visual tokens are other ones, apart from pictures."""
        for kind in (False, True):
            chosen = [row for row in rows if (row.subject.stamps is not None) is kind]
            lengths = [row.length for row in chosen]
            for batch in plan_batches(lengths, budget=self._budget, max_rows=self._max_rows):
                yield [chosen[index] for index in batch]

    def _row(self, index: int, subject: Subject, plans: Sequence[BatchPlan]) -> BatchRow:
        settings = self.checkpoint.processor
        frames = []
        for picture in subject.pictures:
            height, width, _ = picture.pixels.shape
            try:
                frames.append(settings.frame(width, height))
            except PictureError as error:
                raise PictureError(f"{label(index, picture.name)}: {error}") from None
        visual = [settings.image_tokens(frame) for frame in frames]
        longest = max((plan.prompt(subject).length(*visual) for plan in plans), default=0)
        return BatchRow(index, subject, tuple(frames), longest)

    def _run(self, plans: Sequence[BatchPlan], rows: list[BatchRow]) -> list[list[Answer]]:
        """Run one batch; where memory runs out, its halves."""
        start = time.perf_counter()
        try:
            answers = self._ask(plans, rows)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            answers = []
        if answers:
            seconds = (time.perf_counter() - start) / (len(rows) * len(plans))
            return [[replace(answer, seconds=seconds) for answer in told] for told in answers]
        # Outside the except clause, so that the error's frames no longer hold the batch's tensors.
        self._memory = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            sizes = " and ".join(f"{frame.width}x{frame.height}" for frame in rows[0].frames) or "no"
            failed = Answer.failure(
                f"out of memory on {self.checkpoint.device} with a single picture of {sizes} px; "
                "use smaller tiles, a smaller model, or another dtype",
                notes=(OUT_OF_MEMORY,),
            )
            return [[failed] for _ in plans]
        half = len(rows) // 2
        self._max_rows = max(1, min(self._max_rows, len(rows) - half))
        halves = self._run(plans, rows[:half]), self._run(plans, rows[half:])
        return [first + second for first, second in zip(*halves, strict=True)]

    def _ask(self, plans: Sequence[BatchPlan], rows: list[BatchRow]) -> list[list[Answer]]:
        """One batch: every plan's answers about every row."""
        patches, features = self._look(rows)
        answers: list[dict[int, Answer]] = [{} for _ in plans]
        for group in shared_beginnings(plans, rows):
            # A row that a plan cannot be asked about has no picture, so the others' pictures stay in place.
            fitting = plans[group[0]].fitting(rows)
            if fitting:
                states = self._prefill([plans[number] for number in group], fitting, patches, features)
                for number, (batch, state) in zip(group, states, strict=True):
                    told = self._finish(plans[number], batch, state, fitting)
                    answers[number] |= {row.index: answer for row, answer in zip(fitting, told, strict=True)}
        return [
            [told.get(row.index) or _refused(row, plan) for row in rows]
            for plan, told in zip(plans, answers, strict=True)
        ]

    def _look(self, rows: list[BatchRow]) -> tuple[Patches, object]:
        """The patches of all pictures of a batch, and what the vision tower makes of them."""
        checkpoint = self.checkpoint
        pictures = [picture.pixels for row in rows for picture in row.subject.pictures]
        patches = preprocess(
            pictures, self._processor, device=checkpoint.device, dtype=checkpoint.model.dtype, out=self._memory
        )
        if not pictures:
            return patches, None
        self._memory = patches.pixel_values
        grid = patches.image_grid_thw.to(checkpoint.device)
        return patches, picture_features(checkpoint.model, patches.pixel_values, grid)

    def _prefill(
        self, plans: Sequence[BatchPlan], rows: list[BatchRow], patches: Patches, features: object
    ) -> Iterator[tuple[TokenBatch, Prefilled]]:
        """Read the prompts of plans that begin alike, what they share only once."""
        checkpoint, model = self.checkpoint, self.checkpoint.model
        prompts = [plans[0].prompt(row.subject) for row in rows]
        if len(plans) == 1:
            batch = build_batch(checkpoint, prompts, patches)
            yield batch, prefill(model, batch, features)
            return
        beginnings = [replace(prompt, parts=(*prompt.parts[:-1], ())) for prompt in prompts]
        start = build_batch(checkpoint, beginnings, patches)
        shared = prefill(model, start, features)
        for number, plan in enumerate(plans):
            rest = plan.prompt(rows[0].subject).parts[-1]
            # Scoring and the light step leave the cache as it was, so that what was read on can be cut off again.
            cut = croppable(shared.cache) and (plan.words is not None or self._language is not None)
            last = number + 1 == len(plans)
            state = shared if cut or last else replace(shared, cache=copy.deepcopy(shared.cache))
            more = torch.tensor([rest], device=start.input_ids.device).expand(len(rows), -1)
            lengths = tuple(length + len(rest) for length in start.lengths)
            batch = replace(start, input_ids=torch.cat([start.input_ids, more], dim=1), lengths=lengths)
            yield batch, read_on(model, state, rest)
            if cut and not last:
                shared.cache.crop(-len(rest))

    def _finish(self, plan: BatchPlan, batch: TokenBatch, state: Prefilled, rows: list[BatchRow]) -> list[Answer]:
        """Judge or write once the prompts are read."""
        if plan.words is not None:
            return self._judge(plan, plan.words, batch, state)
        request = plan.request
        frames = [row.frame or _NOWHERE for row in rows]
        constraint = self._constraint(request, frames)
        written = decode(
            self.checkpoint.model,
            state,
            batch,
            request.generation,
            eos=self.checkpoint.eos_token_ids,
            constraint=constraint,
            language=self._language,
            stepper=self._compiled.steps if self._compiled is not None and self._compiled.reason is None else None,
            watched=self._vocabulary.numbers[0] if request.task in (Task.DETECT, Task.POINT) else (),
        )
        answers = [
            self._read(decoded, request, row, length)
            for decoded, row, length in zip(written, rows, batch.lengths, strict=True)
        ]
        if self._compiled is not None and self._compiled.reason and self.info.processor["compiled"] == "yes":
            answers = [replace(answer, notes=(*answer.notes, "uncompiled")) for answer in answers]
        for row in constraint.closed if isinstance(constraint, ThinkFirst) else ():
            answers[row] = _thought_closed(answers[row])
        return answers

    def _judge(self, plan: BatchPlan, words: list[Spellings], batch: TokenBatch, state: Prefilled) -> list[Answer]:
        table = word_probabilities(self.checkpoint.model, state, words).tolist()
        answers = []
        for row, length in zip(table, batch.lengths, strict=True):
            scores = dict(zip(plan.names, row, strict=True))
            chosen = None
            if plan.request.task is Task.SCORE:
                scores = {"yes": scores["yes"]}
            else:
                chosen = max(scores, key=scores.__getitem__)
            answers.append(Answer(Status.OK, text=chosen, scores=scores, prompt_tokens=length))
        calibration = plan.request.calibration
        return answers if calibration is None else [calibration.calibrated(answer) for answer in answers]

    def _plan(self, request: Request) -> BatchPlan:
        self.check(request)
        return BatchPlan.of(request, self.checkpoint, thinking=self._thinking)

    def _thinks(self) -> bool:
        mode = self.checkpoint.family.thinking
        return mode is Thinking.ALWAYS or (mode is Thinking.SWITCHABLE and self._thinking)

    def _constraint(self, request: Request, frames: Sequence[PictureFrame]) -> Constraint | None:
        """What keeps the answers of one batch within their grammar; a thinking model thinks before it."""
        if not self._constrained and request.output_schema is None:
            return None
        checkpoint, family = self.checkpoint, self.checkpoint.family
        if self._grammars is None:
            self._grammars = Grammars(checkpoint.tokenizer, vocabulary_size(checkpoint.model), checkpoint.eos_token_ids)
        answers = self._grammars.constraint(request, frames, dialect=family.dialect, space=family.space)
        if answers is None or not self._thinks():
            return answers
        close = checkpoint.tokenizer(f"{family.think_close}\n\n", add_special_tokens=False)["input_ids"]
        budget = int(_THOUGHT * request.generation.max_new_tokens)
        return ThinkFirst(answers, len(frames), budget=budget, close=close, eos=checkpoint.eos_token_ids)

    def _read(self, written: Decoded, request: Request, row: BatchRow, prompt_tokens: int) -> Answer:
        family, tokenizer, frame = self.checkpoint.family, self.checkpoint.tokenizer, row.frame
        text = tokenizer.decode(written.tokens, skip_special_tokens=False)
        answer = parse_answer(
            text,
            request,
            dialect=family.dialect,
            space=family.space,
            frame=frame,
            finish_reason=written.finish_reason,
            thinking=(family.think_open, family.think_close) if self._thinks() else None,
            image=(row.subject.target_index or 0, len(row.frames)),
            prompt_tokens=prompt_tokens,
            new_tokens=len(written.tokens),
        )
        if written.retaken:
            answer = replace(answer, notes=(*answer.notes, f"retaken:{written.retaken}"))
        if request.output_schema is not None:
            answer = replace(answer, notes=(*answer.notes, *unheld_note(request.output_schema)))
        if frame is None or not answer.objects:
            return answer
        sure = self._vocabulary.written(written.tokens, written.log_probabilities, written.alternatives)
        return add_scores(answer, sure, space=family.space, frame=frame)


def _token_budget(checkpoint: Checkpoint) -> int:
    """Prompt tokens of a batch that device and free memory allow."""
    device = checkpoint.device
    if device.type != "cuda":
        return _CPU_BUDGET
    free, _ = torch.cuda.mem_get_info(device)
    side = 32 * checkpoint.processor.factor
    one = checkpoint.description.estimate_memory(side, dtype=checkpoint.info.dtype)
    tokens = checkpoint.description.tokens_per_tile(side)
    return int(max(tokens, min(_GPU_BUDGET, _MEMORY_SHARE * free * tokens / (one.kv_per_tile + one.activations))))


def _thought_closed(answer: Answer) -> Answer:
    """An answer to a thought that was closed for the model: what it found counts, that there is nothing does not."""
    none = answer.status is Status.EMPTY or (answer.status is Status.OK and answer.value == 0)
    status = Status.TRUNCATED if none else answer.status
    return replace(answer, status=status, notes=(*answer.notes, "thought-closed"))


def _refused(row: BatchRow, plan: BatchPlan) -> Answer:
    return Answer.failure(f"item {row.index}: {row.subject.unfit(plan.request)}")


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "out of memory" in text or "can't allocate memory" in text
