"""Errors of fine-tuning. Every message says what happened, where, and what to do next."""

from __future__ import annotations

from qwenvl.errors import QwenVLError


class FinetuneError(QwenVLError):
    """Base of every error raised by `finetune`."""


class DatasetError(FinetuneError):
    """A dataset cannot be read, or what it holds does not fit together."""


class LabelFileError(DatasetError):
    """An annotation file is broken, or says what cannot be a label."""


class LeakError(DatasetError):
    """A patient, a slide or a picture is on both sides of a split."""


class SampleTooLongError(FinetuneError):
    """A sample has more tokens than the model takes; it is refused, never cut."""


class RecipeError(FinetuneError):
    """The settings of a run do not fit the model, the dataset, or each other."""


class PreflightError(FinetuneError):
    """A check before the first step failed; training would not have done what it seems to do."""


class DivergedError(FinetuneError):
    """The loss is no longer a number; the last good checkpoint is kept."""
