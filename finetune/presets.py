"""Recipes to choose from by memory: the most thorough one that fits is taken. No torch here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenvl.checkpoints.memory import ModelWidths

_SMALL = 500_000_000
"""Models with fewer parameters are trained in all their language layers, with larger steps."""
_TEXT_TOKENS = 400
"""Question and answer of a tile with some twenty objects."""
_SPARE = 0.85
"""Part of the free memory that may be used."""
_NF4_BYTES = 0.56
"""Per parameter: four bits and the constants of its block."""


@dataclass(frozen=True)
class Preset:
    """A recipe.

    Attributes
    ----------
    name : str
        One word for menus.
    about : str
        What it is good for.
    lora, train : mapping
        Fields of `LoraSettings` and `Training`.
    quantise : str
        As of `FinetuneConfig`.
    replay, distil : float
        As of `finetune.config.Replay`. Small models forget sooner, and need more.
    """

    name: str
    about: str
    lora: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    quantise: str = "none"
    replay: float = 0.15
    distil: float = 0.0

    @property
    def batch(self) -> int:
        """Examples that are in memory together."""
        return int(self.train.get("batch", 8))

    def fields(self) -> dict[str, Any]:
        """Fields of `FinetuneConfig`."""
        return {"lora": dict(self.lora), "train": dict(self.train), "quantise": self.quantise}


SMALL = (
    Preset(
        "small model",
        "all language layers and the merger of a small checkpoint such as the embedded one",
        {"rank": 32, "targets": "language", "merger": True},
        {"batch": 8, "learning_rate": 1.5e-3, "label_weight": 2.0, "bfloat16": True},
        replay=0.4,
        distil=0.7,
    ),
)
LARGE = (
    Preset(
        "thorough",
        "attention and MLP of the language model: learns most, needs replay most",
        {"rank": 16, "targets": "language"},
        {"batch": 4, "accumulate": 2, "learning_rate": 1e-4},
    ),
    Preset(
        "standard",
        "q and v projections in 16 bits: learns well, forgets little",
        {"rank": 16, "targets": "qv"},
        {"batch": 4, "accumulate": 2, "learning_rate": 2e-4},
    ),
    Preset(
        "economical",
        "the same, tile by tile, with recomputed activations: a third more time",
        {"rank": 16, "targets": "qv"},
        {"batch": 1, "accumulate": 8, "learning_rate": 2e-4, "checkpointing": True},
    ),
    Preset(
        "4 bits",
        "QLoRA: the language model in 4 bits, the vision tower not",
        {"rank": 16, "targets": "qv"},
        {"batch": 1, "accumulate": 8, "learning_rate": 2e-4, "checkpointing": True},
        "nf4",
    ),
)


@dataclass(frozen=True)
class BaseFacts:
    """What the estimate needs to know of a model.

    Attributes
    ----------
    parameters : int
    quantisable : int
        Of these, parameters that 4 bits can hold.
    size : int
        Bytes of a number.
    widths : ModelWidths
    tokens : int
        Visual tokens of a tile.
    whole_numbers : bool
        Its vocabulary holds coordinates as whole numbers (`train.soft_coordinates`).
    """

    parameters: int
    quantisable: int
    size: int
    widths: ModelWidths
    tokens: int
    whole_numbers: bool = False

    @classmethod
    def of(cls, model: str, tile_size: int) -> BaseFacts | None:
        """Facts of 'embedded', a folder, or a model of the catalogue; None for others.

        Raises
        ------
        CheckpointError
            The folder is no checkpoint.
        """
        from qwenvl.checkpoints.catalogue import KNOWN_MODELS
        from qwenvl.checkpoints.checkpoint_metadata import EMBEDDED, describe_checkpoint

        if model == EMBEDDED or Path(model).expanduser().is_dir():
            found = describe_checkpoint(model)
            text = found.config.get("text_config", found.config)
            hidden, heads = text["hidden_size"], text["num_attention_heads"]
            widths = ModelWidths(
                text["num_hidden_layers"],
                text.get("num_key_value_heads", heads),
                text.get("head_dim") or hidden // heads,
                hidden,
                text.get("intermediate_size", 4 * hidden),
                text["vocab_size"],
                0,
            )
            size = 4 if found.dtype == "float32" else 2
            return cls(
                found.parameters, found.quantisable, size, widths, found.tokens_per_tile(tile_size), model == EMBEDDED
            )
        for known in KNOWN_MODELS:
            if known.name == model:
                w = known.widths
                attention = w.hidden * w.head_dim * w.kv_heads * 2 + 2 * w.hidden * w.hidden
                matrices = w.layers * (attention + 3 * w.hidden * w.intermediate)
                total = round(known.parameters * 1e9)
                return cls(total, min(matrices, total), 2, w, known.tokens_per_tile(tile_size))
        return None

    @property
    def small(self) -> bool:
        """Whether the recipes of small models are for it."""
        return self.parameters < _SMALL

    def learning(self, preset: Preset) -> int:
        """Parameters that learn, roughly: those of the language layers."""
        w, rank = self.widths, int(preset.lora.get("rank", 16))
        inner, keys = w.hidden, w.kv_heads * w.head_dim
        if preset.lora.get("targets") == "qv":
            per_layer = (w.hidden + inner) + (w.hidden + keys)
        else:
            per_layer = 2 * (w.hidden + inner) + 2 * (w.hidden + keys) + 3 * (w.hidden + w.intermediate)
        return rank * per_layer * w.layers

    def memory(self, preset: Preset) -> int:
        """Bytes of a training step: weights, what learns with its moments, activations, logits.

        Terms as of `finetune.preflight.training_memory`, which knows the loaded model.
        """
        w = self.widths
        weights = float(self.parameters * self.size)
        if preset.quantise != "none":
            weights -= self.quantisable * (self.size - _NF4_BYTES)
        tokens = preset.batch * (self.tokens + _TEXT_TOKENS)
        per_layer = tokens * self.size * (10 * w.hidden + 4 * w.intermediate)
        layers = w.layers
        if preset.train.get("checkpointing"):
            kept = layers * tokens * w.hidden * self.size + per_layer
        else:
            kept = layers * per_layer
        return int(weights + 16 * self.learning(preset) + kept + 3 * tokens * w.vocabulary * 4)


@dataclass(frozen=True)
class RecipeChoice:
    """A preset and what it takes of what there is.

    Attributes
    ----------
    memory : int or None
        Bytes it takes; None for a model that is not known before it is loaded.
    fits : bool
    """

    preset: Preset
    memory: int | None
    fits: bool


def choices(model: str, tile_size: int, free: int | None) -> list[RecipeChoice]:
    """Presets for a model, most thorough first.

    Parameters
    ----------
    free : int or None
        Bytes that can be used; None where nobody knows.

    Raises
    ------
    CheckpointError
        A folder was named that is no checkpoint.
    """
    facts = BaseFacts.of(model, tile_size)
    if facts is None:
        return [RecipeChoice(preset, None, True) for preset in LARGE]
    found = []
    for preset in SMALL if facts.small else LARGE:
        if preset.quantise != "none" and importlib.util.find_spec("bitsandbytes") is None:
            continue
        memory = facts.memory(preset)
        found.append(RecipeChoice(preset, memory, free is None or memory <= _SPARE * free))
    return found


def chosen(found: list[RecipeChoice]) -> RecipeChoice:
    """The most thorough one that fits, else the one that takes least."""
    return next((each for each in found if each.fits), found[-1])


def free_memory() -> tuple[int | None, str]:
    """Bytes that a training can use, and where: of the largest GPU, else of this computer. Takes a second."""
    import shutil
    import subprocess

    if shutil.which("nvidia-smi"):
        try:
            words = subprocess.run(
                ["nvidia-smi", "--query-gpu=memory.free,name", "--format=csv,noheader,nounits"],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=10,
                check=True,
            ).stdout
            rows = [line.split(",", 1) for line in words.splitlines() if "," in line]
            best = max(rows, key=lambda row: int(row[0]))
            return int(best[0]) * 2**20, best[1].strip()
        except (OSError, ValueError, subprocess.SubprocessError):
            pass  # no driver that answers: training then runs on the processor
    try:
        import psutil
    except ImportError:
        return None, "this computer"
    return int(psutil.virtual_memory().available), "this computer's processor"


__all__ = ["LARGE", "SMALL", "BaseFacts", "RecipeChoice", "Preset", "choices", "chosen", "free_memory"]
