"""The one interface of everything that can answer: in-process models, servers, and stand-ins for measuring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer
from qwenvl.request import Request


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


class Engine(ABC):
    """Answers requests about pictures. One instance is used by one thread at a time."""

    info: ModelInfo

    @abstractmethod
    def answer(self, pictures: Sequence[NDArray[np.uint8]], request: Request) -> list[Answer]:
        """Answer `request` about each picture.

        Parameters
        ----------
        pictures : sequence of uint8 arrays (height, width, 3)
            RGB; sizes may differ.
        request : Request

        Returns
        -------
        list of Answer
            One per picture, in order. A picture that cannot be answered gets a failed Answer; the others
            are not touched by it. Objects are in px of their own picture.

        Raises
        ------
        EngineError
            The model itself is unusable.
        RequestError
            The request asks for what this model cannot do.
        """

    def batch_size(self, request: Request) -> int:
        """How many tiles of `request` are best handed over in one call."""
        return 16

    def close(self) -> None:  # noqa: B027 - most stand-ins hold nothing
        """Release memory and connections."""
