"""What a training leaves in its folder: states to resume from, the last weights, and the best ones with their score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

STATES, BEST, LAST = "states", "best", "last"


def last_state(folder: Path) -> Path | None:
    """The newest state that was written whole."""
    states = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(states, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def save_weights(model: Any, folder: Path) -> None:
    """Write an adapter's weights; the folder takes its name when all is written."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def best_score(folder: Path, metric: str) -> float | None:
    """The best measurement so far, of the same metric; None where there is none."""
    path = folder / "score.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return float(content["value"]) if content["metric"] == metric else None
