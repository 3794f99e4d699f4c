"""The one interface of everything that can answer: in-process models, servers, and stand-ins for measuring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwenvl.answer import Answer
from qwenvl.checkpoints.training_domain import TrainedOn
from qwenvl.errors import ServerError
from qwenvl.request import Request
from qwenvl.subject import Item

if TYPE_CHECKING:
    from qwenvl.checkpoints.checkpoint_metadata import MemoryEstimate


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a report says of the model that answered."""

    model: str
    """Folder or hub name, as given."""
    family: str
    """Name in the family registry."""
    fingerprint: str
    """Hash of weights and configuration; a run is only resumed by the same model."""
    dtype: str = "float32"
    device: str = "cpu"
    adapter: str | None = None
    processor: Mapping[str, Any] = field(default_factory=dict)
    """Settings that decide which pixels the model sees: factor, mean, std, min and max pixels."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that ran it."""
    warning: str | None = None
    """What a reader of the report must know, such as 'not for diagnosis'."""
    trained: TrainedOn | None = None
    """On which tiles it was trained, where the checkpoint says so."""


class Engine(ABC):
    """Answers requests about pictures. One instance is used by one thread at a time."""

    info: ModelInfo

    def check(self, request: Request) -> None:
        """Refuse a request that this model must not answer.

        Raises
        ------
        RequestError
            Its calibration was fitted on another model.
        """
        if request.calibration is not None:
            request.calibration.check(self.info.fingerprint, self.info.model)

    @abstractmethod
    def answer(self, pictures: Sequence[Item], request: Request) -> list[Answer]:
        """Answer `request` about each item.

        Parameters
        ----------
        pictures : sequence of uint8 arrays (height, width, 3), or of Subject
            RGB; sizes may differ. A `Subject` holds several named pictures, or none.
        request : Request

        Returns
        -------
        list of Answer
            One per item, in order. An item that cannot be answered gets a failed Answer; the others
            are not touched by it. Objects are in px of the item's picture, of a Subject's target.

        Raises
        ------
        EngineError
            The model itself is unusable.
        RequestError
            The request asks for what this model cannot do.
        """

    def answer_many(self, pictures: Sequence[Item], requests: Sequence[Request]) -> list[list[Answer]]:
        """Answer several requests about each item.

        The answers are those of separate calls of `answer`; engines that can, look at each picture only once.

        Parameters
        ----------
        pictures : sequence of Item
            As of `answer`.
        requests : sequence of Request

        Returns
        -------
        list of list of Answer
            One list per request, in order, with one Answer per item.

        Raises
        ------
        EngineError, RequestError
            As `answer` does.
        """
        return [self.answer(pictures, request) for request in requests]

    def batch_size(self, request: Request) -> int:
        """How many tiles of `request` are best handed over in one call."""
        return 16

    def prompt_tokens(self, request: Request) -> int | None:
        """Tokens that one tile of `request` is asked with, its picture included; None where that is not known."""
        return None

    def memory(self, request: Request) -> MemoryEstimate | None:
        """Estimated memory of a batch of `batch_size` tiles; None where the model does not run in this process."""
        return None

    def close(self) -> None:  # noqa: B027 - most stand-ins hold nothing
        """Release memory and connections."""


def answers_that_arrive(
    engine: Engine, pictures: Sequence[Item], requests: Sequence[Request]
) -> tuple[Sequence[Sequence[Answer | None]], ServerError | None]:
    """The answers of an engine, also where its server is lost in the middle.

    A runner stores what arrived and then raises the error; what has no answer stays open.

    Parameters
    ----------
    engine : Engine
    pictures, requests : sequences
        As of `Engine.answer_many`.

    Returns
    -------
    answers : sequence of sequences of Answer or None
        One per request, with one entry per item; None where no answer arrived.
    lost : ServerError or None
        Why answers are missing; None where none is.

    Raises
    ------
    EngineError, RequestError
        As `Engine.answer` does, where there is no answer at all.
    """
    try:
        if len(requests) == 1:
            return [engine.answer(pictures, requests[0])], None
        return engine.answer_many(pictures, requests), None
    except ServerError as error:
        if not any(answer is not None for row in error.answers for answer in row):
            raise
        return error.answers, error
