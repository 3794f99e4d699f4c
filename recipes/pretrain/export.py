"""Write the checkpoint folder: what transformers loads, and the project's own facts beside it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from recipes.pretrain.config import PretrainConfig
from recipes.pretrain.geometry import MERGE, PATCH
from recipes.pretrain.model import parameter_count
from recipes.pretrain.phrasings import CELL_NAMES, NUCLEUS_NAMES, TISSUE_NAMES
from recipes.pretrain.tokenizer import TextCodec, save_tokenizer

LARGEST_FILE = 16 * 1024 * 1024
"""No file of the checkpoint may be larger: it is part of the repository and of the wheel."""


def export_checkpoint(config: PretrainConfig, model: Any, codec: TextCodec, folder: Path | None = None) -> Path:
    """Save the model in transformers' format.

    Parameters
    ----------
    folder : Path, optional
        `<run>/checkpoint` when left out.

    Raises
    ------
    ValueError
        A file would exceed `LARGEST_FILE`.
    """
    folder = folder or Path(config.out) / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    stored = copy.deepcopy(model).to("cpu", getattr(torch, config.model.storage)).eval()
    stored.config.dtype = getattr(torch, config.model.storage)
    end, pad = codec.special["<|im_end|>"], codec.special["<|endoftext|>"]
    stored.generation_config.update(
        do_sample=False, eos_token_id=[end, pad], pad_token_id=pad, bos_token_id=pad, max_new_tokens=320
    )
    stored.save_pretrained(folder, safe_serialization=True)
    (folder / "model.safetensors").chmod(0o644)
    save_tokenizer(codec.content, folder)
    side = config.pool.tile
    _write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "processor_class": "Qwen3VLProcessor",
            # Every picture is brought to about the area that was trained: larger tiles are seen at a coarser scale.
            "size": {"shortest_edge": side**2, "longest_edge": side**2},
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "merge_size": MERGE,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "do_resize": True,
            "do_convert_rgb": True,
            "resample": 3,
        },
    )
    _write(folder / "qwenvl.json", project_facts(config, parameter_count(model), side))
    large = [p.name for p in folder.iterdir() if p.stat().st_size > LARGEST_FILE]
    if large:
        raise ValueError(f"{folder}: {large} exceed {LARGEST_FILE} bytes; choose a smaller model or storage type")
    return folder


def project_facts(config: PretrainConfig, weights: int, tile: int) -> dict[str, Any]:
    """Content of `qwenvl.json`: how to ask this model, what it knows, where it comes from."""
    return {
        "name": "embedded",
        "family": "qwen3-vl",
        "warning": "not for diagnosis",
        "weights": weights,
        "recommended": {
            "tile_size": tile,
            "mpp": config.pool.mpp,
            "overlap": 64,
            "max_objects": 40,
            "max_new_tokens": 320,
            "labels": [NUCLEUS_NAMES[0]],
        },
        "trained": {"side": tile, "mpp": [config.pool.mpp, config.pool.mpp * (2 if config.pool.coarse_share else 1)]},
        "labels": {"any": NUCLEUS_NAMES[0], "classes": list(CELL_NAMES)},
        "synonyms": {name: sorted(set(names)) for name, names in CELL_NAMES.items()},
        "tissues": list(TISSUE_NAMES),
        "whole_pixels": True,
        "training": {
            "recipe": "recipes/pretrain",
            "seed": config.seed,
            "fields": config.pool.shards * config.pool.shard_size,
            "real": "Data Science Bowl 2018 stained tissue (CC0)",
            "real_split_seed": config.pool.real_split_seed,
            "real_validation": config.pool.real_validation,
            "steps": {"vision": config.vision.steps, "language": config.language.steps, "joint": config.joint.steps},
        },
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
