"""Known checkpoints: which one for which task and memory.

Geometry (layers, key-value heads, head size) is what the checkpoints' own `config.json` states; memory is an
estimate for bfloat16 weights, keys and values, and 15 % for activations.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

_PROMPT_TOKENS = 200
_ANSWER_TOKENS = 512


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A published checkpoint."""

    name: str
    family: str
    parameters: float
    """Parameters in billions, vision tower included."""
    layers: int
    """Layers that hold keys and values."""
    kv_heads: int
    head_dim: int
    factor: int
    """Tile px per visual token along one side."""
    good_for: str

    def tokens_per_tile(self, tile_size: int) -> int:
        """Visual tokens of a square tile."""
        side = max(1, round(tile_size / self.factor))
        return side * side

    def memory_gib(self, tile_size: int, batch: int) -> float:
        """Estimated GPU memory in GiB for a batch of tiles in bfloat16."""
        weights = self.parameters * 1e9 * 2
        tokens = self.tokens_per_tile(tile_size) + _PROMPT_TOKENS + _ANSWER_TOKENS
        cache = 2 * self.layers * self.kv_heads * self.head_dim * 2 * tokens * batch
        return (weights + cache) * 1.15 / 2**30


_SMALL_GPU = "scoring and sorting tiles, fine-tuning on small GPUs"
_ONE_GPU = "detection and description on one consumer GPU"
_LIKE_SMALL = "quality of a large model at the speed of a small one"
_DETECTS = "detection, counting; many fine-tunes"
_BEST = "the best default where 24 GB are at hand"
_OLDER = "older; for adapters trained on it"
KNOWN_MODELS = (
    KnownModel("Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL", 2.1, 28, 8, 128, 32, _SMALL_GPU),
    KnownModel("Qwen/Qwen3-VL-4B-Instruct", "Qwen3-VL", 4.4, 36, 8, 128, 32, _ONE_GPU),
    KnownModel("Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL", 8.8, 36, 8, 128, 32, _BEST),
    KnownModel("Qwen/Qwen3-VL-8B-Thinking", "Qwen3-VL-Thinking", 8.8, 36, 8, 128, 32, "reasoning; slow per tile"),
    KnownModel("Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen3-VL-MoE", 31.1, 48, 4, 128, 32, _LIKE_SMALL),
    KnownModel("Qwen/Qwen3-VL-32B-Instruct", "Qwen3-VL", 33.4, 64, 8, 128, 32, "descriptions and reports, few tiles"),
    KnownModel("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2.5-VL", 3.8, 36, 2, 128, 28, "long runs with little cache memory"),
    KnownModel("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL", 8.3, 28, 4, 128, 28, _DETECTS),
    KnownModel("Qwen/Qwen2-VL-2B-Instruct", "Qwen2-VL", 2.2, 28, 2, 128, 28, _OLDER),
    KnownModel("Qwen/Qwen2-VL-7B-Instruct", "Qwen2-VL", 8.3, 28, 4, 128, 28, _OLDER),
)  # fmt: skip


def print_catalogue(*, memory_gib: float | None, tile_size: int, batch: int, as_json: bool) -> None:
    """Print the known checkpoints, smallest memory first, after the one that comes along."""
    from rich.console import Console
    from rich.table import Table

    rows = [(model, model.memory_gib(tile_size, batch)) for model in KNOWN_MODELS]
    rows = sorted((row for row in rows if memory_gib is None or row[1] <= memory_gib), key=lambda row: row[1])
    if as_json:
        entries = [
            asdict(model) | {"memory_gib": round(gib, 1), "tokens_per_tile": model.tokens_per_tile(tile_size)}
            for model, gib in rows
        ]
        print(json.dumps(entries, indent=2))
        return
    table = Table(
        title=f"Checkpoints at {tile_size} px tiles, {batch} in a batch, bfloat16 (memory is an estimate)"
    )
    for column, justify in (("--model", "left"), ("tokens/tile", "right"), ("GiB", "right"), ("for", "left")):
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column == "--model")  # type: ignore[arg-type]
    table.add_row(
        "embedded (default)", "64 at 256 px", "< 1, CPU", "demo, tests, tutorials; not for diagnosis"
    )
    for model, gib in rows:
        table.add_row(model.name, str(model.tokens_per_tile(tile_size)), f"{gib:.1f}", model.good_for)
    Console().print(table)
    if not rows:
        Console().print(
            f"No larger checkpoint fits {memory_gib} GiB: try --batch 1 or a smaller --tile-size."
        )
