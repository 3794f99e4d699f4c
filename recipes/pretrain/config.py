"""Every setting of the pre-training recipe, each documented where it is defined."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """Size of the Qwen3-VL that is trained."""

    vision_width: int = 192
    vision_depth: int = 5
    vision_heads: int = 4
    vision_mlp: int = 768
    deepstack: tuple[int, ...] = (1, 3)
    """Vision blocks whose tokens are added after language layers 0, 1, ..."""
    grid: int = 16
    """Side of the learned position grid, in patches of a 256-px tile."""
    width: int = 192
    """Width of the language model, and so of the merged vision tokens."""
    depth: int = 3
    heads: int = 4
    key_heads: int = 4
    head_dim: int = 48
    mlp: int = 640
    rope_theta: float = 10000.0
    storage: str = "float16"
    """Number type in the file; training and CPU inference use float32."""


@dataclass(frozen=True)
class PoolConfig:
    """Pictures made once by the factory and used many times under augmentation."""

    shard_size: int = 256
    """Fields per file."""
    shards: int = 64
    """Files in all; shard k holds the fields of seeds first_seed + k * shard_size and on."""
    first_seed: int = 1_000_000
    """Benchmark seeds lie below this number, so that no evaluation field is ever trained on."""
    tile: int = 256
    """Side of a tile in px."""
    mpp: float = 0.25
    """Scale of most tiles in um/px."""
    coarse_share: float = 0.12
    """Share of the fields made at twice `mpp`."""
    scales: tuple[float, float] = (0.25, 0.5)
    """Finest and coarsest scale in um/px of fresh fields (joint phase)."""
    mixed_from: int = 40 * 256
    """Fields before this number show one named tissue each; from here on tissues are drawn and mixed freely."""
    max_nuclei: tuple[int, ...] = (4, 8, 12, 16, 20, 20, 28, 40)
    """Upper limits on the objects of a field, drawn evenly."""
    rare_share: float = 0.0
    """Share of the fields drawn for a rare finding (mitosis, gland, necrosis, fold, pen mark), evenly among these."""
    real_share: float = 0.2
    """Share of tiles cut from the stained-tissue nuclei set, where it is at hand."""
    real_split_seed: int = 20
    """Seed of the split by image into training and validation."""
    real_validation: float = 0.2
    """Share of the real images that is held out."""


@dataclass(frozen=True)
class PhaseConfig:
    """One training phase."""

    steps: int
    batch: int = 16
    """Tiles per step."""
    questions: int = 1
    """Questions per tile (language and joint phase)."""
    short_questions: int = 0
    """Further questions per tile with one-word answers (count, classify, score); they cost little and need many."""
    learning_rate: float = 1e-3
    vision_learning_rate: float = 0.0
    """Rate of the vision tower in the joint phase; 0 keeps it frozen."""
    warmup: int = 100
    weight_decay: float = 0.02
    averaging: float = 0.995
    """Decay of the running average of the weights, which is what is scored and kept (language and joint phase)."""
    floor: float = 0.05
    """Last learning rate as a share of the highest (cosine schedule)."""
    curriculum: tuple[tuple[int, int], ...] = ()
    """(first step, most objects per tile) pairs; empty means no limit."""
    fresh: int = 4
    """New tiles per step of the language phase; the rest of a batch comes from the window of recent ones."""
    window: int = 1024
    """Tiles whose tokens are kept while the tower is frozen."""
    pointer_weight: float = 0.0
    """Weight of the loss that tells attention heads which cell to read for a coordinate (language and joint phase)."""
    grounding_until: int = 0
    """Before this step the only question is where the nuclei are; all tasks come after it."""
    dense_weight: float = 0.0
    """Weight of the dense loss beside the answers in the joint phase."""
    own_answers: int = 0
    """Tiles per step (joint phase) whose nuclei the model lists itself, to learn what should have stood there."""
    own_from: int = 0
    """First step with own answers: before a model can see, its mistakes teach little and cost as much."""
    other_sides: tuple[int, ...] = ()
    """Sides in px of further tiles (joint phase), multiples of 32: any two of about the usual area make a tile."""
    other_share: float = 0.0
    """Share of the steps with fresh tiles: half of them rectangles of `other_sides`, half squares of the usual side."""
    save_every: int = 500


@dataclass(frozen=True)
class PretrainConfig:
    """The whole recipe."""

    seed: int = 7
    out: str = "runs/pretrain"
    """Folder of the run: pool, states, curves; relative to the working folder."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""
    held_out: int = 64
    """Factory fields for the scores printed while training."""
    workers: int = 1
    """Processes that make fields."""
    device: str = "auto"
    """'cpu', 'cuda' or 'auto'."""
    bfloat16: bool = True
    """Matrix products in bfloat16 (autocast); weights and optimiser stay float32."""
    model: ModelShape = field(default_factory=ModelShape)
    pool: PoolConfig = field(default_factory=PoolConfig)
    vision: PhaseConfig = field(default_factory=lambda: PhaseConfig(steps=3000))
    language: PhaseConfig = field(default_factory=lambda: PhaseConfig(steps=3000, questions=2))
    joint: PhaseConfig = field(default_factory=lambda: PhaseConfig(steps=2000, questions=2))

    def save(self, path: Path) -> None:
        """Write as YAML."""
        import yaml

        path.write_text(yaml.safe_dump(_plain(dataclasses.asdict(self)), sort_keys=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> PretrainConfig:
        """Read YAML; missing fields keep their defaults, unknown ones raise TypeError."""
        import yaml

        loaded: PretrainConfig = _build(cls, yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        return loaded


def real_folder() -> Path | None:
    """The stained-tissue nuclei set under QWENVL_TEST_DATA (default ../shared/data), or None."""
    root = Path(os.environ.get("QWENVL_TEST_DATA", "../shared/data"))
    folder = root / "nuclei" / "dsb2018_stained_tissue"
    return folder if (folder / "labels").is_dir() else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _build(cls: Any, values: dict[str, Any]) -> Any:
    kinds = {f.name: f for f in dataclasses.fields(cls)}
    unknown = set(values) - set(kinds)
    if unknown:
        raise TypeError(f"{cls.__name__}: unknown settings {sorted(unknown)}; known are {sorted(kinds)}")
    parts = {
        "model": ModelShape,
        "pool": PoolConfig,
        "vision": PhaseConfig,
        "language": PhaseConfig,
        "joint": PhaseConfig,
    }
    built = {}
    for name, value in values.items():
        if cls is PretrainConfig and name in parts:
            built[name] = _build(parts[name], value)
        else:
            built[name] = _tuples(value)
    return cls(**built)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
