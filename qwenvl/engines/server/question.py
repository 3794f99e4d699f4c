"""Sending one question about one subject, with as many of the request's wishes as the server takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qwenvl.engines.server import chat as _chat
from qwenvl.engines.server.faults import Case, ServerFault
from qwenvl.engines.server.http import ServerClient
from qwenvl.families import ModelFamily, Thinking
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.images.images import png_url
from qwenvl.request import Request, Task
from qwenvl.subject import Subject

# Tokens listed at each place of an answer with boxes: the ten digits, and what may follow a number.
_DIGITS = 12


class Questions:
    """Asks one served model; remembers which optional fields its server refuses.

    Parameters
    ----------
    client : ServerClient
    model : str
        Name of the served model.
    family : ModelFamily
    thinking : bool
        Let a family think that can be told not to.
    top_logprobs : int
        Likeliest tokens asked for when judging; with boxes and points up to twelve of them.
    extra : Mapping
        Further fields of every question.
    """

    def __init__(
        self,
        client: ServerClient,
        model: str,
        family: ModelFamily,
        *,
        thinking: bool,
        top_logprobs: int,
        extra: Mapping[str, object],
    ) -> None:
        self._client, self._model, self._family = client, model, family
        self._thinking, self._top, self._extra = thinking, top_logprobs, dict(extra)
        self._refused: set[str] = set()

    @property
    def thinks(self) -> bool:
        """True where the model writes its reasoning first."""
        mode = self._family.thinking
        return mode is Thinking.ALWAYS or (mode is Thinking.SWITCHABLE and self._thinking)

    def takes(self, field: str) -> bool:
        """False once the server has refused an optional field."""
        return field not in self._refused

    async def send(
        self, subject: Subject, frames: Sequence[PictureFrame], request: Request, *, judging: bool = False
    ) -> _chat.Reply:
        """Ask about a subject.

        Parameters
        ----------
        subject : Subject
        frames : sequence of PictureFrame
            One per picture.
        request : Request
        judging : bool
            Only the likelihood of the answer's first words is wanted.

        Raises
        ------
        ServerFault
            No usable response in any attempt, or the server refuses the question, or a setting that decides which
            tokens are drawn.
        """
        while True:
            wished = self._fields(request, judging=judging)
            left_out = sorted(field for field in self._refused if set(_chat.OPTIONAL[field]) & set(wished))
            keys = {key for field in left_out for key in _chat.OPTIONAL[field]}
            fields = {key: value for key, value in wished.items() if key not in keys}

            def make(fields: Mapping[str, object] = fields) -> dict[str, object]:
                # The server's own resize must find nothing to do where boxes are in px of the resized picture.
                ours = self._family.space is CoordinateSpace.ABSOLUTE_RESIZED
                urls = [
                    png_url(_resized(picture.pixels, frame) if ours and frame.resized else picture.pixels)
                    for picture, frame in zip(subject.pictures, frames, strict=True)
                ]
                messages = _chat.chat_messages(request, subject, urls)
                return {"model": self._model, "messages": messages, **fields}

            try:
                reply = await self._client.post("chat/completions", make, _chat.read_reply)
            except ServerFault as fault:
                self._learn(fault, fields, request)
                continue
            hide = self._client.hide  # a model may write down what a gateway put into its prompt
            reply = replace(
                reply, text=hide(reply.text), reasoning=None if reply.reasoning is None else hide(reply.reasoning)
            )
            return replace(reply, notes=(*reply.notes, *(f"refused:{field}" for field in left_out)))

    def _learn(self, fault: ServerFault, fields: Mapping[str, object], request: Request) -> None:
        """Take note of the optional fields that a refusal names; raise where it is about anything else."""
        named = _chat.refused_fields(str(fault), fields) if fault.status in (400, 422) else set()
        if not named:
            raise fault
        needed = sorted(field for field in named if _chat.changes_sampling(field, request.generation))
        if needed:
            raise ServerFault(f"{', '.join(needed)}; {fault}", Case.SETTING, fault.status) from None
        self._refused |= named

    def _fields(self, request: Request, *, judging: bool) -> dict[str, object]:
        """Everything of a question but model and messages, as if the server took it all."""
        # Special tokens are part of the older families' boxes, and servers drop them unless told.
        fields: dict[str, object] = {"stream": False, "skip_special_tokens": False, **self._extra}
        fields |= _chat.sampling_fields(request.generation)
        judged = request.task in (Task.SCORE, Task.CLASSIFY)
        fields |= _chat.template_fields(self._family, self._thinking and not judged)
        fields["max_tokens"] = request.generation.max_new_tokens
        if judging:
            fields |= {"logprobs": True, "top_logprobs": self._top}
            if request.task is Task.SCORE and self._family.thinking is not Thinking.ALWAYS:
                fields["max_tokens"] = 1
        elif request.task in (Task.DETECT, Task.POINT):
            fields |= {"logprobs": True, "top_logprobs": min(self._top, _DIGITS)}
        if self.constrains(request):
            assert request.output_schema is not None
            fields |= _chat.schema_fields(request.output_schema)
        return fields

    def constrains(self, request: Request) -> bool:
        """True where the answer is to be kept within a schema; a thought would not fit it."""
        return request.output_schema is not None and not self.thinks


def _resized(picture: NDArray[np.uint8], frame: PictureFrame) -> NDArray[np.uint8]:
    from qwenvl.images.preprocess import resize_picture  # torch is loaded only where it is needed

    return resize_picture(picture, frame)
