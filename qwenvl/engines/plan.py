"""What the in-process engine works out before a batch: requests with their prompts, and items with their frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qwenvl.checkpoints.loading import Checkpoint
from qwenvl.decoding.batching import Prompt, encode_prompt, render_request
from qwenvl.families import VideoTime
from qwenvl.images.geometry import PictureFrame
from qwenvl.request import Request, Task
from qwenvl.scoring.likelihood import Spellings, label_spellings, yes_and_no
from qwenvl.subject import Subject

JUDGING = (Task.SCORE, Task.CLASSIFY)
"""Tasks that are answered by probabilities of words."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One item of a call, ready to be asked about.

    Attributes
    ----------
    index : int
        Its place in the call.
    subject : Subject
    frames : tuple of PictureFrame
        One per picture.
    length : int
        Tokens of its longest prompt.
    """

    index: int
    subject: Subject
    frames: tuple[PictureFrame, ...]
    length: int

    @property
    def frame(self) -> PictureFrame | None:
        """Frame of the picture that the question is about."""
        at = self.subject.target_index
        return None if at is None else self.frames[at]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """A request, and what is the same for all its batches.

    Attributes
    ----------
    request : Request
    checkpoint : Checkpoint
    thinking : bool
        Let a family think that can be told not to.
    words : list of Spellings or None
        What is judged; None where the answer is written.
    names : tuple of str
        One per word.
    """

    request: Request
    checkpoint: Checkpoint
    thinking: bool
    words: list[Spellings] | None
    names: tuple[str, ...]
    _prompts: dict[object, Prompt] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request, checkpoint: Checkpoint, *, thinking: bool) -> BatchPlan:
        """The plan of a request."""
        tokenizer = checkpoint.tokenizer
        if request.task is Task.SCORE:
            return cls(request, checkpoint, thinking, yes_and_no(tokenizer), ("yes", "no"))
        if request.task is Task.CLASSIFY:
            end = tokenizer.convert_tokens_to_ids("<|im_end|>")
            words = label_spellings(tokenizer, request.labels, end=end)
            return cls(request, checkpoint, thinking, words, request.labels)
        return cls(request, checkpoint, thinking, None, ())

    def prompt(self, subject: Subject | None = None) -> Prompt:
        """The prompt about a subject; None is one picture without a name. Each form is encoded once."""
        form = (("",), None, None, ()) if subject is None else subject.form
        if form not in self._prompts:
            at_once = self.request.task in JUDGING
            text = render_request(
                self.checkpoint, self.request, subject, thinking=self.thinking and not at_once, answer_at_once=at_once
            )
            self._prompts[form] = encode_prompt(self.checkpoint, text, pictures=len(form[0]), stamps=form[2])
        return self._prompts[form]

    def fitting(self, rows: Sequence[BatchRow]) -> list[BatchRow]:
        """The rows that the request can be asked about."""
        return [row for row in rows if row.subject.unfit(self.request) is None]

    def reads_on(self, rows: Sequence[BatchRow]) -> bool:
        """True where the words after the last picture follow it in position too, so that they can be read later.

        Where frames have temporal positions, the words after a film count on from its places, not from its times.
        """
        text = self.checkpoint.family.video_time is VideoTime.TEXT
        return text or all(row.subject.stamps is None for row in rows)


def shared_beginnings(plans: Sequence[BatchPlan], rows: Sequence[BatchRow]) -> list[list[int]]:
    """Put plans together whose prompts are the same up to the last picture of every row.

    What follows must be the same for all rows of a plan, so that it can be read on in one go.

    Returns
    -------
    list of list of int
        Numbers of plans.
    """
    groups: dict[object, list[int]] = {}
    for number, plan in enumerate(plans):
        prompts = [plan.prompt(row.subject) for row in rows]
        even = len({prompt.parts[-1] for prompt in prompts}) == 1 and all(row.frames for row in rows)
        even = even and len(plan.fitting(rows)) == len(rows) and plan.reads_on(rows)
        key: object = tuple(prompt.parts[:-1] for prompt in prompts) if even else number
        groups.setdefault(key, []).append(number)
    return list(groups.values())
