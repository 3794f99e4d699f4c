"""Calibration of scores: probabilities that mean what they say.

One temperature, and one bias per word, change what a threshold means; the order of tiles by P(yes), and so the AUROC,
stays. A calibration belongs to one model and one question, and is refused by others. `qwenvl.scoring.calibrating` fits
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qwenvl.errors import RequestError

if TYPE_CHECKING:
    from qwenvl.answer import Answer

FEWEST = 20
"""Labelled tiles below which nothing is fitted."""

LIMIT = 1e-6
"""Probabilities are kept so far from 0 and 1."""


class Calibration(BaseModel):
    """Temperature and biases of one model's answers to one question; a field of `Request`.

    Probabilities p of the words become softmax(log(p) / temperature + bias).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(description="Fingerprint of the model it was fitted on.")
    model_name: str = Field(description="That model as it was named, for messages.")
    question: str = Field(description="Hash of the question it was fitted on (`Request.question`).")
    words: tuple[str, ...] = Field(min_length=2, description="'yes' and 'no', or the labels.")
    temperature: float = Field(gt=0)
    bias: tuple[float, ...] = Field(description="One per word; that of the last word is 0.")
    tiles: int = Field(ge=FEWEST, description="Labelled tiles it was fitted on.")
    ece_before: float = Field(ge=0, le=1, description="Expected calibration error of the model as it is.")
    ece_after: float = Field(ge=0, le=1, description="The same of tiles left out of the fit, in five folds.")

    @model_validator(mode="after")
    def _one_bias_per_word(self) -> Self:
        if len(self.bias) != len(self.words):
            raise ValueError(f"bias: {len(self.bias)} numbers for {len(self.words)} words")
        return self

    def check(self, fingerprint: str, name: str) -> None:
        """Refuse a model that this calibration was not fitted on.

        Parameters
        ----------
        fingerprint, name : str
            Of the model that is to answer.

        Raises
        ------
        RequestError
        """
        if fingerprint != self.model:
            raise RequestError(
                f"this calibration was fitted on {self.model_name} ({self.model}), and {name} is another model "
                f"({fingerprint}); fit one for it, or ask without calibration"
            )

    def apply(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Calibrated probabilities of `Answer.scores`: those of every label, or that of 'yes' alone."""
        logs = [math.log(max(LIMIT, p)) for p in complete(scores, self.words)]
        values = [each / self.temperature + bias for each, bias in zip(logs, self.bias, strict=True)]
        top = max(values)
        parts = [math.exp(value - top) for value in values]
        shares = {word: part / sum(parts) for word, part in zip(self.words, parts, strict=True)}
        return {word: shares[word] for word in scores}

    def calibrated(self, answer: Answer) -> Answer:
        """An answer with calibrated scores, and the label that is then the likeliest.

        Words that a server gave in place of probabilities (note 'text') stay, with the note 'uncalibrated'.
        """
        if not answer.scores or "text" in answer.notes:
            noted = (*answer.notes, "uncalibrated") if answer.status.complete else answer.notes
            return replace(answer, notes=noted)
        scores = self.apply(answer.scores)
        text = answer.text if len(scores) == 1 else max(scores, key=scores.__getitem__)
        return replace(answer, scores=scores, text=text, notes=(*answer.notes, "calibrated"))

    def save(self, path: str | Path) -> Path:
        """Write as JSON, whole or not at all."""
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        part.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return part.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises
        ------
        RequestError
            It is missing, or no calibration.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RequestError(f"{path}: no calibration: {reason}; fit one with qwenvl.calibrate") from error


def complete(scores: Mapping[str, float], words: Sequence[str]) -> list[float]:
    """Probabilities of all words; that of 'no' follows from 'yes'."""
    if set(scores) == {"yes"} and tuple(words) == ("yes", "no"):
        return [scores["yes"], 1.0 - scores["yes"]]
    return [scores[word] for word in words]
