"""The remote engine: any OpenAI-compatible server answers tiles, many at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from qwenvl.answer import Answer, Status
from qwenvl.cleanup import clean_up
from qwenvl.constraints.json_schema import unheld_note
from qwenvl.engines.base import Engine, ModelInfo
from qwenvl.engines.server.chat import Reply, obeys_schema
from qwenvl.engines.server.faults import Case, ServerFault
from qwenvl.engines.server.http import ServerClient
from qwenvl.engines.server.likelihood import answer_tokens, as_written, label_probabilities, yes_probability
from qwenvl.engines.server.question import Questions
from qwenvl.engines.server.served import ServedModel, choose_model, served_family, served_fingerprint
from qwenvl.errors import EngineError, PictureError, ServerError
from qwenvl.families import ModelFamily, Thinking, VideoTime
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.images.processor import ProcessorSettings
from qwenvl.parse import parse_answer
from qwenvl.request import Request, Task
from qwenvl.scoring.confidence import add_scores
from qwenvl.subject import Item, NamedPicture, Subject, as_subject, label

_LOST = 64  # items in a row that failed each for itself, after which the server counts as the cause
_UNSEEN = "The server's image processor cannot be seen: its pixel limits are taken to be {} to {} px."
_UNLISTED = " The server does not list this model."


def _stopped(fault: ServerFault, answers: Sequence[Sequence[Answer | None]] = ()) -> ServerError:
    case = fault.case
    kept = "; what was answered is kept" if answers else ""
    return ServerError(f"{case.words}: {fault}. {case.remedy}{kept}.", code=case.code, answers=answers)


class RemoteEngine(Engine):
    """Answers through a chat-completions server (vLLM, SGLang, `transformers serve`, llama.cpp).

    Parameters
    ----------
    url : str
        'http://host:port', with or without '/v1'. A key is read from QWENVL_API_KEY, else OPENAI_API_KEY.
    model : str, optional
        Name of the served model; None takes the only one that the server lists.
    family : str, optional
        Name in the family registry; needed where the model's name does not state it.
    concurrency : int
        Most requests under way at any time.
    timeout : float
        Seconds for one request, until its whole response is there.
    attempts : int
        How often a picture is sent before its answer counts as failed.
    backoff : float
        Seconds before the first repetition, doubled for each further one, up to 30.
    thinking : bool
        Let families think that can be told not to (Qwen3.5). Thinking variants always do.
    min_pixels, max_pixels : int, optional
        Limits of the processed area in px that the server works with; None takes the family's.
    send_limits : bool
        Tell the server these limits with every request (`mm_processor_kwargs`, vLLM).
    top_logprobs : int
        How many of the likeliest tokens are asked for when scoring; most servers allow 20. With boxes and points it is
        up to 12.

    Raises
    ------
    EngineError
        The server cannot be reached or refuses, or model or family are not clear.
    UnknownFamilyError
        No family is called `family`.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        family: str | None = None,
        concurrency: int = 16,
        timeout: float = 300.0,
        attempts: int = 5,
        backoff: float = 0.5,
        thinking: bool = False,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        send_limits: bool = False,
        top_logprobs: int = 20,
    ) -> None:
        if min(concurrency, attempts, top_logprobs) < 1 or timeout <= 0 or backoff < 0:
            raise EngineError("concurrency, attempts, timeout and top_logprobs are positive, backoff not negative")
        self._client = ServerClient(url, concurrency=concurrency, timeout=timeout, attempts=attempts, backoff=backoff)
        self._concurrency, self._unanswered = concurrency, 0
        self._silent = False  # gives no log-probabilities, though asked
        self._schema_ignored = False
        try:
            served = self._find_model(model)
            self.family: ModelFamily = served_family(served, family)
        except BaseException as error:
            clean_up(error, self.close)
            raise
        known = ProcessorSettings.of_family(self.family)
        self.processor = replace(
            known, min_pixels=min_pixels or known.min_pixels, max_pixels=max_pixels or known.max_pixels
        )
        size = {"shortest_edge": self.processor.min_pixels, "longest_edge": self.processor.max_pixels}
        self._questions = Questions(
            self._client,
            served.name,
            self.family,
            thinking=thinking,
            top_logprobs=top_logprobs,
            extra={"mm_processor_kwargs": {"size": size}} if send_limits else {},
        )
        self.info = ModelInfo(
            model=f"{served.name}@{self._client.host}",
            family=self.family.name,
            fingerprint=served_fingerprint(served, [self.family.name, size, thinking]),
            dtype="unknown",
            device="server",
            processor=self.processor.as_dict()
            | {"source": "family" if (min_pixels, max_pixels) == (None, None) else "user"},
            versions={"napari-qwenvl": version("napari-qwenvl"), "httpx2": version("httpx2")},
            warning=_UNSEEN.format(*size.values()) + ("" if served.listed else _UNLISTED),
        )

    def batch_size(self, request: Request) -> int:
        """Enough tiles that the server stays busy while the last ones of a call are waited for."""
        return 4 * self._concurrency

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def frame(self, width: int, height: int) -> PictureFrame:
        """The frame of a picture of `width` x `height` px.

        Raises
        ------
        PictureError
            The picture is empty or too long for its width.
        """
        limits = {"min_pixels": self.processor.min_pixels, "max_pixels": self.processor.max_pixels}
        return self.family.frame(width, height, **limits)

    def answer(self, pictures: Sequence[Item], request: Request) -> list[Answer]:
        """Answer `request` about each item; see `Engine.answer`.

        A question without a usable response is asked once more when all others are through. An item fails alone only
        where it is the cause: where the server, asked right after it, answers the same question about plain gray.

        Raises
        ------
        ServerError
            The server is away, overloaded, out of quota, or refuses key, model or request; or 64 items in a row
            failed. It contains the answers that arrived.
        """
        return self.answer_many(pictures, [request])[0]

    def answer_many(self, pictures: Sequence[Item], requests: Sequence[Request]) -> list[list[Answer]]:
        """Answer several requests about each item, all at once; see `Engine.answer_many`."""
        for request in requests:
            self.check(request)
        begun = time.perf_counter()
        asked = [(index, item, request) for request in requests for index, item in enumerate(pictures)]
        outcomes = self._client.run(self._answer_all(asked))
        stop = self._settle(asked, outcomes)
        seconds = (time.perf_counter() - begun) / max(1, len(asked))
        answers = [
            None if isinstance(outcome, ServerFault) else replace(outcome, seconds=seconds) for outcome in outcomes
        ]
        each = len(pictures)
        rows = [answers[each * number : each * (number + 1)] for number in range(len(requests))]
        if stop is not None:
            raise _stopped(stop, answers=rows)
        return [[answer for answer in row if answer is not None] for row in rows]

    def _settle(
        self, asked: Sequence[tuple[int, Item, Request]], outcomes: list[Answer | ServerFault]
    ) -> ServerFault | None:
        """Ask again, one by one, what is open, and let items fail that are the cause; the fault that ends the call."""
        if any(isinstance(outcome, Answer) for outcome in outcomes):
            self._unanswered, self._client.down = 0, False
        for number, fault in enumerate(outcomes):
            if not isinstance(fault, ServerFault):
                continue
            if fault.case.again:
                again = self._client.run(self._answer(*asked[number]))
                if isinstance(again, Answer):
                    outcomes[number] = again
                    continue
                fault = again
            index, item, request = asked[number]
            cause = self._client.run(self._about_gray(index, item, request)) if fault.case.item else fault
            if cause is not None:
                return fault if cause.case.item else cause
            self._unanswered += 1
            if self._unanswered >= _LOST:
                return ServerFault(f"{self._unanswered} items in a row failed, the last one: {fault}", Case.FAILS)
            outcomes[number] = Answer.failure(f"picture {index}: {fault}")
        return None

    async def _about_gray(self, index: int, item: Item, request: Request) -> ServerFault | None:
        """Ask the same question about plain gray pictures of the same sizes; the fault where that fails too."""
        subject = as_subject(item, index)
        gray = [replace(each, pixels=np.full_like(each.pixels, 128), marks=()) for each in subject.pictures]
        if not gray:
            request = request.model_copy(update={"prompt": "Answer in one word."})
        frames = [self._frame(index, picture) for picture in gray]
        try:
            await self._questions.send(replace(subject, pictures=tuple(gray)), frames, request)
        except ServerFault as fault:
            return fault
        return None

    def _find_model(self, wanted: str | None) -> ServedModel:
        listing = None
        try:
            listing = self._client.run(self._client.get("models"))
        except ServerFault as fault:
            if wanted is None or fault.case not in (Case.MODEL, Case.REFUSED):
                raise _stopped(fault) from None
        return choose_model(listing, wanted, self._client.url)

    async def _answer_all(self, asked: Sequence[tuple[int, Item, Request]]) -> list[Answer | ServerFault]:
        tasks = [asyncio.ensure_future(self._answer(*each)) for each in asked]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _answer(self, index: int, item: Item, request: Request) -> Answer | ServerFault:
        try:
            subject = as_subject(item, index, request.marks)
            frames = [self._frame(index, picture) for picture in subject.pictures]
        except PictureError as error:
            return Answer.failure(str(error))
        reason = subject.unfit(request)
        if reason is not None:
            return Answer.failure(f"item {index}: {reason}")
        try:
            if request.task in (Task.SCORE, Task.CLASSIFY):
                answer = await self._judge(subject, frames, request)
                if request.calibration is not None:
                    answer = request.calibration.calibrated(answer)
            else:
                reply = await self._questions.send(subject, frames, request)
                answer = self._read(reply, subject, frames, request)
        except ServerFault as fault:
            return fault
        if subject.stamps is not None and self.family.video_time is not VideoTime.TEXT:
            # Servers take no times with pictures, so the stamps go before them as text.
            answer = replace(answer, notes=(*answer.notes, "stamps-as-text"))
        return subject.noted(answer)

    def _frame(self, index: int, picture: NamedPicture) -> PictureFrame:
        try:
            return self.frame(picture.pixels.shape[1], picture.pixels.shape[0])
        except PictureError as error:
            raise PictureError(f"{label(index, picture.name)}: {error}") from None

    async def _judge(self, subject: Subject, frames: Sequence[PictureFrame], request: Request) -> Answer:
        """Score and classify: probabilities where the server gives enough of them, else its words."""
        reply = None
        if self._questions.takes("logprobs") and not self._silent:
            reply = await self._questions.send(subject, frames, request, judging=True)
            scores = self._scores(reply, request)
            if scores is not None:
                return Answer(
                    Status.OK,
                    text=None if request.task is Task.SCORE else max(scores, key=scores.__getitem__),
                    scores=scores,
                    raw=reply.text,
                    reasoning=reply.reasoning,
                    notes=reply.notes,
                    prompt_tokens=reply.prompt_tokens,
                    new_tokens=reply.new_tokens,
                )
            self._silent = not reply.tokens
        # One token was enough for a probability; the words need more.
        if reply is None or (request.task is Task.SCORE and self.family.thinking is not Thinking.ALWAYS):
            reply = await self._questions.send(subject, frames, request)
        answer = self._read(reply, subject, frames, request)
        return answer if "text" in answer.notes else replace(answer, notes=(*answer.notes, "text"))

    def _scores(self, reply: Reply, request: Request) -> Mapping[str, float] | None:
        always = self.family.thinking is Thinking.ALWAYS
        tokens = answer_tokens(reply.tokens, self.family.think_close if always else None)
        if request.task is Task.CLASSIFY:
            return label_probabilities(tokens, request.labels)
        chance = yes_probability(tokens)
        return None if chance is None else {"yes": chance}

    def _read(self, reply: Reply, subject: Subject, frames: Sequence[PictureFrame], request: Request) -> Answer:
        family = self.family
        at = subject.target_index
        frame = None if at is None else frames[at]
        expected = sum(
            family.fixed_tokens or (each.processed_width // family.factor) * (each.processed_height // family.factor)
            for each in frames
        )
        notes = list(reply.notes)
        if 0 < reply.prompt_tokens < expected:
            if family.space is CoordinateSpace.ABSOLUTE_RESIZED:
                sizes = " and ".join(f"{each.processed_width}x{each.processed_height}" for each in frames)
                return Answer.failure(
                    f"the server made the picture smaller than {sizes} px, so "
                    "that its boxes cannot be placed; give its max_pixels, or use smaller tiles",
                    raw=reply.text,
                )
            notes.append("shrunk")
        if self._questions.constrains(request) and self._questions.takes("response_format"):
            assert request.output_schema is not None
            if reply.finish_reason == "stop" and not obeys_schema(reply.text, request.output_schema):
                self._schema_ignored = True
            notes += ["schema-ignored"] * self._schema_ignored
            notes += unheld_note(request.output_schema)
        text, thinking = reply.text, None
        if reply.reasoning is None and self._questions.thinks:
            thinking = (family.think_open, family.think_close)
        elif reply.reasoning is not None and not text:
            text = f"{family.think_open}\n{reply.reasoning}"  # as it was before the server parted it
        answer = parse_answer(
            text,
            request,
            dialect=family.dialect,
            space=family.space,
            frame=frame,
            finish_reason=reply.finish_reason,
            thinking=thinking,
            image=(at or 0, len(frames)),
            prompt_tokens=reply.prompt_tokens,
            new_tokens=reply.new_tokens,
        )
        if frame is not None and answer.objects:
            answer = add_scores(answer, as_written(reply.tokens), space=family.space, frame=frame)
        return replace(
            answer,
            reasoning=answer.reasoning if answer.reasoning is not None else reply.reasoning,
            notes=(*answer.notes, *notes),
        )
