"""Errors of reading instruments."""

from workflows.errors import WorkflowError


class SheetError(WorkflowError, ValueError):
    """The fields to read cannot be understood, contradict each other, or cannot be asked of the model."""


class PhotographError(WorkflowError, ValueError):
    """A photograph cannot be read."""


class TruthError(WorkflowError, ValueError):
    """A set of photographs with known values is missing or damaged."""
