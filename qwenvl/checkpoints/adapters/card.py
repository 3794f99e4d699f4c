"""What an adapter says of itself, read without torch: its base, its question, its measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenvl.errors import CheckpointError

CARD = "qwenvl_adapter.json"
"""What an adapter says of itself, beside peft's own two files."""


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter of this project says of itself.

    Attributes
    ----------
    name : str
    family : str
        Family of the model it was trained on.
    base : str
        That model, as it was named then.
    base_fingerprint : str
    processor : mapping
        Settings of the pictures it was trained on.
    labels : tuple of str
    request : mapping
        Fields of the `Request` it was taught to answer.
    forgetting : mapping
        'limit' and 'lost' in points and 'passed'; empty where nothing was measured.
    facts : mapping
        Everything else of the file: data manifest, metrics, recipe, versions.
    """

    name: str
    family: str
    base: str
    base_fingerprint: str
    processor: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict)
    forgetting: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def warning(self) -> str | None:
        """What must be said wherever its answers appear."""
        if self.forgetting and not self.forgetting.get("passed", True):
            return (
                f"adapter {self.name} FORGETS: it lost {self.forgetting.get('lost', float('nan')):.1f} points of older "
                f"skills, more than the {self.forgetting.get('limit', float('nan')):g} allowed"
            )
        return None

    @property
    def downsample(self) -> float | None:
        """Level-0 px per px of the tiles it was trained on, where these slides state no scale; else None."""
        stated = (self.facts.get("tile") or {}).get("downsample")
        return None if stated is None else float(stated)

    @property
    def recommended(self) -> dict[str, Any]:
        """Request settings it was trained with: tile_size, mpp, overlap, labels, max_new_tokens."""
        request = dict(self.request)
        generation = request.get("generation") or {}
        wanted = {
            key: request[key] for key in ("tile_size", "mpp", "overlap", "max_objects") if request.get(key) is not None
        }
        if self.labels:
            wanted["labels"] = list(self.labels)
        if generation.get("max_new_tokens"):
            wanted["max_new_tokens"] = generation["max_new_tokens"]
        return wanted


def read_card(folder: Path) -> AdapterCard | None:
    """The card of an adapter; None for adapters of other makers, which have none.

    Raises
    ------
    CheckpointError
        It is there but cannot be read.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        base = content["base"]
        return AdapterCard(
            name=content["name"],
            family=base["family"],
            base=base["name"],
            base_fingerprint=base["fingerprint"],
            processor=content["processor"],
            labels=tuple(content.get("labels", ())),
            request=content.get("request") or {},
            forgetting=content.get("forgetting") or {},
            facts=content,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}; train the adapter again") from error
