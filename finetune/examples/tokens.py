"""Turns to token ids: which of them the model is taught is read off the chat template, never searched for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.errors import RecipeError, SampleTooLongError
from finetune.examples.conversation import Exchange
from qwenvl.families import ModelFamily, Thinking
from qwenvl.prompts import Message, conversation, render_chat

IGNORED = -100
"""Label of a token that is not taught."""
_END = "<|im_end|>"


@dataclass(frozen=True)
class Tokens:
    """One sequence.

    Attributes
    ----------
    ids : tuple of int
        Visual tokens included.
    taught : tuple of bool
        True where the token belongs to an assistant's answer or ends it.
    """

    ids: tuple[int, ...]
    taught: tuple[bool, ...]
    seen: tuple[int, ...] | None = None
    """What the model is shown, where that differs from what it is taught (`Loop.change`)."""

    @property
    def supervised(self) -> int:
        """Tokens that are taught."""
        return sum(self.taught)

    @property
    def labels(self) -> list[int]:
        """The ids where taught, IGNORED elsewhere."""
        return [token if on else IGNORED for token, on in zip(self.ids, self.taught, strict=True)]


@dataclass(frozen=True)
class TurnTokens:
    """Turns to tokens, by a checkpoint's own tokenizer and chat template.

    Attributes
    ----------
    tokenizer : transformers tokenizer
    family : ModelFamily
    image_token : str
        The token that is repeated for every visual token.
    limit : int
        Longest sequence in tokens.
    """

    tokenizer: Any
    family: ModelFamily
    image_token: str = "<|image_pad|>"
    limit: int = 32768
    _memory: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def turn(self, turn: Exchange, visual: Sequence[int]) -> Tokens:
        """Tokens of one question and answer about pictures of `visual` tokens each."""
        key = (turn.prompt, turn.system, len(visual))
        if key not in self._memory:
            messages = conversation(turn.prompt, system_prompt=turn.system, pictures=len(visual))
            self._memory[key] = self._prompt(messages), self._ending(messages)
        prompt, ending = self._memory[key]
        opening = ""
        if prompt.endswith(f"{self.family.think_open}\n"):
            # A Thinking variant's prompt opens a thought; the answer that is taught closes it at once.
            opening = f"\n{self.family.think_close}\n\n"
        return self._tokens([(prompt, False), (opening + turn.answer + ending, True)], visual)

    def conversation(self, messages: Sequence[Message], visual: Sequence[int]) -> Tokens:
        """Tokens of a conversation of any number of turns; every assistant turn is taught.

        Raises
        ------
        RecipeError
            The template renders an answer otherwise than it stands in the conversation.
        """
        whole = self._render(messages, start_answer=False)
        at = 0
        segments: list[tuple[str, bool]] = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:number], start_answer=True)
            answer = words_of(message)
            start = len(before)
            if not whole.startswith(before):
                # Templates of families that think drop or close the thought of earlier turns.
                start = whole.find(answer, at)
            end = start + len(answer) + len(_END)
            if start < at or whole[start:end] != answer + _END:
                raise RecipeError(
                    f"turn {number}: {self.family.name}'s template renders {answer[:60]!r} otherwise than it is "
                    "written, so it is not clear what would be taught; remove thoughts and markers from the answer"
                )
            segments += [(whole[at:start], False), (whole[start:end], True)]
            at = end
        if not segments:
            raise RecipeError("a conversation without an assistant's turn teaches nothing; leave it out")
        return self._tokens([*segments, (whole[at:], False)], visual)

    # ------------------------------------------------------------------ the template

    def _render(self, messages: Sequence[Message], *, start_answer: bool) -> str:
        options: dict[str, Any] = {}
        if self.family.thinking is Thinking.SWITCHABLE:
            options["enable_thinking"] = False
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=start_answer, **options
        )
        return text

    def _prompt(self, messages: Sequence[Message]) -> str:
        if self.tokenizer.chat_template is None:
            return render_chat(messages, self.family, thinking=False)
        return self._render(messages, start_answer=True)

    def _ending(self, messages: Sequence[Message]) -> str:
        """What the template writes after an answer, up to the mark that ends the turn."""
        if self.tokenizer.chat_template is None:
            return _END
        probe = "the answer 7351"
        text = self._render([*messages, {"role": "assistant", "content": probe}], start_answer=False)
        tail = text[text.rindex(probe) + len(probe) :]
        if not tail.startswith(_END):
            raise RecipeError(
                f"{self.family.name}'s template ends an answer with {tail[:40]!r}, not with {_END!r}; a model taught "
                "without its end mark would not stop"
            )
        return _END

    def _tokens(self, segments: Sequence[tuple[str, bool]], visual: Sequence[int]) -> Tokens:
        """Tokens of segments, each by itself: that is how a prompt meets an answer when the model is asked."""
        image = self.tokenizer.convert_tokens_to_ids(self.image_token)
        counts = iter(visual)
        ids: list[int] = []
        taught: list[bool] = []
        for text, on in segments:
            pieces: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            for piece in pieces:
                if piece == image:
                    number = next(counts, 0)
                    if not number or on:
                        raise RecipeError(f"the words hold {self.image_token!r} where no picture is; leave it out")
                    ids += [image] * number
                    taught += [False] * number
                else:
                    ids.append(piece)
                    taught.append(on)
        left = sum(1 for _ in counts)
        if left:
            raise RecipeError(f"{left} pictures have no place in the words of {self.family.name}'s template")
        if len(ids) > self.limit:
            raise SampleTooLongError(
                f"{len(ids)} tokens ({sum(visual)} of pictures, {sum(taught)} of answers) are more than {self.limit}; "
                "use smaller tiles or raise train.max_length (a sample is never cut)"
            )
        return Tokens(tuple(ids), tuple(taught))


def words_of(message: Message) -> str:
    """The text of a message."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text" or "text" in part)
