"""Adapters of peft on every family: are the answers peft's, and does the base come back bit for bit?

    python benchmarks/adapters.py          every family x every kind of adapter, some minutes on one core
    python benchmarks/adapters.py --fast   two families x every kind

The last kind is trained on the language model by itself, in its own class of transformers; its logits are about words.
Tiny random models, one thread. An adapter of each kind gets random weights in a model that peft wraps, and is saved
by peft. `AdapterSwitch` then loads it on a model of its own: its logits about a prompt with an image are compared with
those of the wrapped model (the largest difference, as a share of the largest logit). All kinds of a family are put on
one model one after the other, in two orders, in one of them with the base in between; there the SHA-256 over every
parameter and buffer has to be that of the base. 'moved' is how far the adapter moves the logits.

Exit code 1 where logits differ by more than 1e-4, an adapter moves nothing, or a bit of the base changed.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from qwenvl.checkpoints.adapters.adapter import AdapterSwitch, base_digest
from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint
from qwenvl.checkpoints.testing import TINY_FAMILIES, language_model_alone, tiny_checkpoint

BAR = 1e-4
_LANGUAGE = (
    r".*language_model\.layers\.\d+\."
    r"(?:self_attn\.(?:q_proj|v_proj|o_proj)|mlp\.down_proj|linear_attn\.out_proj)"
)
_BOTH = rf"(?:{_LANGUAGE})|.*visual\.blocks\.\d+\.attn\.(?:qkv|proj)"
_ALONE = "language model alone"
_ATTENTION = r".*language_model\.layers\.\d+\.self_attn\.(?:q_proj|o_proj)"


def kinds(family: str) -> dict[str, Callable[[], Any]]:
    """Configs of peft by the name of the kind."""
    import peft

    def lora(**settings: Any) -> Callable[[], Any]:
        return lambda: peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": _BOTH} | settings)

    made: dict[str, Callable[[], Any]] = {
        "LoRA": lora(),
        "rsLoRA, rank and alpha patterns": lora(
            use_rslora=True, rank_pattern={r"layers.3.self_attn.q_proj": 7}, alpha_pattern={r"self_attn.v_proj": 3}
        ),
        "DoRA": lora(use_dora=True),
        "bias all": lora(bias="all"),
        "bias lora_only": lora(bias="lora_only"),
        "modules_to_save": lora(target_modules=_LANGUAGE, modules_to_save=["lm_head", "merger"]),
        "embeddings": lora(target_modules=["embed_tokens", "lm_head", "o_proj"]),
        "trainable tokens": lora(target_modules=_LANGUAGE, trainable_token_indices=[5, 20, 77]),
        "PiSSA": lora(target_modules=_ATTENTION, init_lora_weights="pissa"),
        "LoHa": lambda: peft.LoHaConfig(r=4, alpha=8, target_modules=_LANGUAGE),
        "LoKr": lambda: peft.LoKrConfig(r=4, alpha=8, target_modules=_LANGUAGE),
        "IA3": lambda: peft.IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=8, target_modules=_ATTENTION),
        "VeRA": lambda: peft.VeraConfig(r=8, target_modules=_ATTENTION),
        "LN tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "q_norm"]),
    }
    if "MoE" in family:
        made["experts"] = lora(target_modules=_ATTENTION, target_parameters=["mlp.experts.down_proj"])
    made[_ALONE] = lora(target_modules=["q_proj", "v_proj", "o_proj"], modules_to_save=["lm_head"])
    return made


def words(model: Any) -> torch.Tensor:
    """Logits about words alone."""
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=torch.tensor([[5, 20, 33, 77, 40, 60]])).logits
    return result.clone()


def logits(model: Any, checkpoint: Checkpoint) -> torch.Tensor:
    """Logits about an image of 4 x 4 patches between words."""
    generator = torch.Generator().manual_seed(3)
    ids = [5, 20, 33, *[checkpoint.image_token_id] * 4, 40, 77, 5, 60]
    kind = [int(number == checkpoint.image_token_id) for number in ids]
    start = checkpoint.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    end = checkpoint.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    ids[2], ids[7] = start, end
    with torch.inference_mode():
        result: torch.Tensor = model(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            mm_token_type_ids=torch.tensor([kind]),
            pixel_values=torch.randn(16, checkpoint.processor.patch_dim, generator=generator),
            image_grid_thw=torch.tensor([[1, 4, 4]]),
        ).logits
    return result.clone()


def train(base: Path, config: Any, folder: Path, *, alone: bool = False) -> tuple[torch.Tensor, Any]:
    """Random weights in every place that peft would train, saved by peft; the logits, and the names it trains."""
    import peft

    checkpoint = load_checkpoint(base, device="cpu")
    torch.manual_seed(11)
    adapted = peft.get_peft_model(language_model_alone(checkpoint) if alone else checkpoint.model, config)
    generator = torch.Generator().manual_seed(7)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    with torch.no_grad():
        for _, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    adapted.eval()
    adapted.save_pretrained(folder)
    return words(adapted) if alone else logits(adapted, checkpoint), trained


def measure(family: str, root: Path) -> list[dict[str, Any]]:
    """One row per kind of adapter."""
    base = tiny_checkpoint(family, root / family / "base")
    checkpoint = load_checkpoint(base, device="cpu")
    plain, digest = logits(checkpoint.model, checkpoint), base_digest(checkpoint.model)
    plain_words = words(checkpoint.model)
    expected: dict[str, torch.Tensor] = {}
    rows: dict[str, dict[str, Any]] = {}
    for kind, config in kinds(family).items():
        rows[kind] = {"family": family, "kind": kind}
        try:
            expected[kind], trained = train(base, config(), root / family / kind, alone=kind == _ALONE)
        except (ValueError, NotImplementedError, RuntimeError, AttributeError) as error:
            rows[kind]["refused"] = f"peft: {str(error).splitlines()[0][:60]}"
            continue
        rows[kind] |= {"trained": len(trained), "difference": 0.0, "restored": True}
    switch = AdapterSwitch(checkpoint)
    forth = list(expected)
    mixed = random.Random(family).sample(forth, len(forth))
    for order, between in ((forth, True), (mixed, False)):
        for kind in order:
            row = rows[kind]
            start = time.perf_counter()
            switch.use(root / family / kind)
            row["seconds"] = time.perf_counter() - start
            own = words(checkpoint.model) if kind == _ALONE else logits(checkpoint.model, checkpoint)
            scale = float(expected[kind].abs().max())
            row["difference"] = max(row["difference"], float((own - expected[kind]).abs().max()) / scale)
            row["moved"] = float((own - (plain_words if kind == _ALONE else plain)).abs().max()) / scale
            if between:
                switch.use(None)
                row["restored"] = _is_base(checkpoint, plain, digest)
    switch.use(None)
    if not _is_base(checkpoint, plain, digest):
        rows[mixed[-1]]["restored"] = False
    return list(rows.values())


def _is_base(checkpoint: Checkpoint, plain: torch.Tensor, digest: str) -> bool:
    same = torch.equal(logits(checkpoint.model, checkpoint), plain)
    return same and base_digest(checkpoint.model) == digest


def is_right(row: Mapping[str, Any]) -> bool:
    """True where a row of `measure` is as it should be; what peft itself refuses counts neither way."""
    if "refused" in row:
        return True
    return bool(row["restored"]) and row["difference"] <= BAR and row["moved"] > 10 * BAR


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="two families")
    parser.add_argument("--family", action="append", choices=TINY_FAMILIES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    families = options.family or (("Qwen2.5-VL", "Qwen3.5-MoE") if options.fast else TINY_FAMILIES)
    rows: list[dict[str, Any]] = []
    print("| family | adapter | tensors trained | moved | difference to peft | base restored | ms |")
    print("|---|---|---|---|---|---|---|")
    for family in families:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stderr(sys.stdout):
            warnings.simplefilter("ignore")
            found = measure(family, Path(folder))
        for row in found:
            if "refused" in row:
                print(f"| {family} | {row['kind']} | {row['refused']} | | | | |", flush=True)
                continue
            restored = "yes" if row["restored"] else "NO"
            print(
                f"| {family} | {row['kind']} | {row['trained']} | {row['moved']:.2g} | {row['difference']:.1e} | "
                f"{restored} | {row['seconds'] * 1000:.0f} |",
                flush=True,
            )
        rows += found
    compared = [row for row in rows if "refused" not in row]
    wrong = [row for row in rows if not is_right(row)]
    print(f"\n{len(compared)} of {len(rows)} compared, {len(rows) - len(compared)} refused by peft, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
