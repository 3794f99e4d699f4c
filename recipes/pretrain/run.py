"""Train the embedded model from nothing: `python -m recipes.pretrain.run --config recipes/pretrain/config.yaml`.

Interrupt it at any moment; the same command goes on from the last saved step of the phase it was in.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from finetune.training.curves import plot_curves
from recipes.pretrain.config import PretrainConfig, real_folder
from recipes.pretrain.data import TilePool, TileSource
from recipes.pretrain.dense import DenseHeads, DenseTargets
from recipes.pretrain.export import export_checkpoint
from recipes.pretrain.first_weights import copy_box_head, rescale_merger
from recipes.pretrain.language_phase import run_answer_phase
from recipes.pretrain.model import build_model, parameter_count
from recipes.pretrain.real import RealNuclei
from recipes.pretrain.state import load_modules
from recipes.pretrain.tiles import LabelledTile, from_field
from recipes.pretrain.tokenizer import TextCodec, build_tokenizer, save_tokenizer
from recipes.pretrain.vision_phase import encode_tiles, run_vision_phase
from wsi.synthetic import sample_field

PHASES = ("vision", "language", "joint", "export")


def setup(config: PretrainConfig) -> tuple[Any, DenseHeads, TextCodec, TileSource, dict[str, list[LabelledTile]]]:
    """Model, heads, tokenizer, tiles and a small held-out set, all from the config alone."""
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.yaml")
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    if not (folder / "tokenizer.json").exists():
        from recipes.pretrain.tasks import corpus

        save_tokenizer(build_tokenizer(corpus(config.seed)), folder)
    codec = TextCodec.load(folder)
    model = build_model(config.model, codec)
    heads = DenseHeads(config.model.width, len(config.model.deepstack))
    print(f"{parameter_count(model):,} weights, {codec.size} tokens", flush=True)
    pool = TilePool(config.pool, folder / "pool", config.workers)
    found = real_folder()
    real = RealNuclei(found, config.pool) if found else None
    print(f"{len(pool)} fields; real tiles from {len(real.training_names) if real else 0} pictures", flush=True)
    held_out = {"synthetic": [_evaluation_field(config, seed) for seed in range(config.held_out)]}
    if real:
        held_out["real"] = real.held_out(config.pool.tile)
    if config.joint.other_share:
        held_out["coarse"] = [_evaluation_field(config, seed, config.pool.scales[1]) for seed in range(16)]
    return model, heads, codec, TileSource(pool, real, config.seed), held_out


def _evaluation_field(config: PretrainConfig, seed: int, mpp: float | None = None) -> LabelledTile:
    field = sample_field(seed, size=config.pool.tile, mpp=mpp or config.pool.mpp, max_nuclei=20)
    return from_field(field)


def hand_over(model: Any, heads: DenseHeads, source: TileSource) -> None:
    """Bring the vision tokens to the scale of words, and let the last language layer read what the box head read."""
    visual, cpu = model.model.visual, torch.device("cpu")
    tiles = source.batch(0, 0, 16)
    with torch.no_grad():
        merged, deepstack = encode_tiles(model, tiles, cpu, False)
        rescale_merger(visual.merger, merged, 0.2)
        for merger, tap in zip(visual.deepstack_merger_list, deepstack, strict=True):
            rescale_merger(merger, tap, 0.03)
        merged, _ = encode_tiles(model, tiles, cpu, False)
        objects = merged[DenseTargets.of(tiles).filled[..., 0]]
        copy_box_head(model.model.language_model.layers[-1].self_attn, heads, objects)


def main(arguments: list[str] | None = None) -> None:
    """Run the phases in order; each goes on where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    options = parser.parse_args(arguments)
    config = PretrainConfig.load(options.config)
    model, heads, codec, source, held_out = setup(config)
    if "vision" in options.phases:
        run_vision_phase(config, model, heads, source, held_out)
    folder, visual, language = Path(config.out), model.model.visual, model.model.language_model
    if "language" in options.phases:
        if not (folder / "language.pt").exists():
            load_modules(folder / "vision.pt", {"visual": visual, "heads": heads})
            hand_over(model, heads, source)
        run_answer_phase("language", config, model, heads, codec, source, held_out)
    if "joint" in options.phases and config.joint.steps:
        if not (folder / "joint.pt").exists():
            load_modules(folder / "language.pt", {"visual": visual, "heads": heads, "average language": language})
        run_answer_phase("joint", config, model, heads, codec, source, held_out)
    plot_curves(Path(config.out))
    if "export" in options.phases:
        if config.joint.steps:
            load_modules(folder / "joint.pt", {"average visual": visual, "average language": language})
        else:
            load_modules(folder / "language.pt", {"visual": visual, "average language": language})
        export_checkpoint(config, model, codec)


if __name__ == "__main__":
    main()
