"""What a checkpoint and an adapter recommend, known before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def recommended_of(model: str, adapter: Path | None = None) -> Mapping[str, Any] | None:
    """What a local checkpoint recommends, from its JSON alone; None where it is not here yet.

    An adapter's own scale, tiles and limits come before those of its base, as where it is loaded.
    """
    from qwenvl.checkpoints.adapters.card import read_card
    from qwenvl.checkpoints.checkpoint_metadata import EMBEDDED, describe_checkpoint
    from qwenvl.errors import QwenVLError

    try:
        card = None if adapter is None else read_card(adapter)
        known = model == EMBEDDED or Path(model).expanduser().is_dir()
        base = describe_checkpoint(model).recommended if known else None
    except QwenVLError:
        return None
    if card is None:
        return base
    return {key: value for key, value in (base or {}).items() if key != "mpp"} | card.recommended


def factor_of(model: str) -> int | None:
    """What sides of tiles are multiples of for a local checkpoint; None where it is not here yet."""
    from qwenvl.checkpoints.checkpoint_metadata import EMBEDDED, describe_checkpoint
    from qwenvl.errors import QwenVLError

    try:
        if model == EMBEDDED or Path(model).expanduser().is_dir():
            return describe_checkpoint(model).processor.factor
    except QwenVLError:
        pass
    return None
