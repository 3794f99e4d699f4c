"""Known checkpoints: which one for which task and memory.

Sizes are what the checkpoints' own `config.json` states; memory is that of `qwenvl.checkpoints.memory`, for bfloat16.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from qwenvl.checkpoints.memory import MemoryEstimate, ModelWidths

_PROMPT_TOKENS = 200
_ANSWER_TOKENS = 512


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A published checkpoint."""

    name: str
    family: str
    parameters: float
    """Parameters in billions, vision tower included."""
    widths: ModelWidths
    factor: int
    """Tile px per visual token along one side."""
    good_for: str

    def tokens_per_tile(self, tile_size: int) -> int:
        """Visual tokens of a square tile."""
        side = max(1, round(tile_size / self.factor))
        return side * side

    def memory_gib(self, tile_size: int, batch: int) -> float:
        """Estimated GPU memory in GiB for a batch of tiles in bfloat16."""
        return self.estimate_memory(tile_size, batch).total / 2**30

    def estimate_memory(self, tile_size: int, batch: int, *, new_tokens: int = _ANSWER_TOKENS) -> MemoryEstimate:
        """Estimated memory of a batch of tiles in bfloat16."""
        return self.widths.estimate(
            round(self.parameters * 1e9 * 2),
            self.tokens_per_tile(tile_size),
            batch=batch,
            prompt_tokens=_PROMPT_TOKENS,
            new_tokens=new_tokens,
            size=2,
        )


_SMALL_GPU = "scoring and sorting tiles, fine-tuning on small GPUs"
_ONE_GPU = "detection and description on one consumer GPU"
_LIKE_SMALL = "quality of a large model at the speed of a small one"
_DETECTS = "detection, counting; many fine-tunes"
_BEST = "the best default where 24 GB are at hand"
_OLDER = "older; for adapters trained on it"
KNOWN_MODELS = (
    KnownModel(
        "Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL", 2.1, ModelWidths(28, 8, 128, 2048, 6144, 151936, 1024), 32, _SMALL_GPU
    ),
    KnownModel(
        "Qwen/Qwen3-VL-4B-Instruct", "Qwen3-VL", 4.4, ModelWidths(36, 8, 128, 2560, 9728, 151936, 1024), 32, _ONE_GPU
    ),
    KnownModel(
        "Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL", 8.8, ModelWidths(36, 8, 128, 4096, 12288, 151936, 1152), 32, _BEST
    ),
    KnownModel(
        "Qwen/Qwen3-VL-8B-Thinking",
        "Qwen3-VL-Thinking",
        8.8,
        ModelWidths(36, 8, 128, 4096, 12288, 151936, 1152),
        32,
        "reasoning; slow per tile",
    ),
    KnownModel(
        "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "Qwen3-VL-MoE",
        31.1,
        ModelWidths(48, 4, 128, 2048, 6144, 151936, 1152),
        32,
        _LIKE_SMALL,
    ),
    KnownModel(
        "Qwen/Qwen3-VL-32B-Instruct",
        "Qwen3-VL",
        33.4,
        ModelWidths(64, 8, 128, 5120, 25600, 151936, 1152),
        32,
        "descriptions and reports, few tiles",
    ),
    KnownModel(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "Qwen2.5-VL",
        3.8,
        ModelWidths(36, 2, 128, 2048, 11008, 151936, 1280),
        28,
        "long runs with little cache memory",
    ),
    KnownModel(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen2.5-VL",
        8.3,
        ModelWidths(28, 4, 128, 3584, 18944, 152064, 1280),
        28,
        _DETECTS,
    ),
    KnownModel(
        "Qwen/Qwen2-VL-2B-Instruct", "Qwen2-VL", 2.2, ModelWidths(28, 2, 128, 1536, 8960, 151936, 1280), 28, _OLDER
    ),
    KnownModel(
        "Qwen/Qwen2-VL-7B-Instruct", "Qwen2-VL", 8.3, ModelWidths(28, 4, 128, 3584, 18944, 152064, 1280), 28, _OLDER
    ),
)


def print_catalogue(*, memory_gib: float | None, tile_size: int, batch: int, as_json: bool) -> None:
    """Print the known checkpoints, smallest memory first, after the bundled one."""
    from rich.console import Console
    from rich.table import Table

    rows = [(model, model.memory_gib(tile_size, batch)) for model in KNOWN_MODELS]
    rows = sorted((row for row in rows if memory_gib is None or row[1] <= memory_gib), key=lambda row: row[1])
    if as_json:
        entries = [
            _flat(model) | {"memory_gib": round(gib, 1), "tokens_per_tile": model.tokens_per_tile(tile_size)}
            for model, gib in rows
        ]
        print(json.dumps(entries, indent=2))
        return
    table = Table(title=f"Checkpoints at {tile_size} px tiles, {batch} in a batch, bfloat16 (memory is an estimate)")
    for column, justify in (("--model", "left"), ("tokens/tile", "right"), ("GiB", "right"), ("for", "left")):
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column == "--model")  # type: ignore[arg-type]
    table.add_row("embedded (default)", "64 at 256 px", "< 1, CPU", "demo, tests, tutorials; not for diagnosis")
    for model, gib in rows:
        table.add_row(model.name, str(model.tokens_per_tile(tile_size)), f"{gib:.1f}", model.good_for)
    Console().print(table)
    if not rows:
        Console().print(f"No larger checkpoint fits {memory_gib} GiB: try --batch 1 or a smaller --tile-size.")


def _flat(model: KnownModel) -> dict[str, object]:
    facts = asdict(model)
    widths: dict[str, Any] = facts.pop("widths")
    return facts | widths
