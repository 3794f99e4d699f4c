"""Sizes that the model's pictures and tokens share."""

from __future__ import annotations

PATCH = 16
"""Side of a patch of the vision tower in px."""
MERGE = 2
"""Patches per merged token along one side."""
CELL = PATCH * MERGE
"""Side in px of the square that one merged vision token stands for."""
