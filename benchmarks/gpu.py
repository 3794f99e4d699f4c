"""The in-process engine on a CUDA device, with random weights of real geometries, beside a plain loop over `generate`.

    python benchmarks/gpu.py [--models Qwen3-VL-2B ...] [--tiles N] [--rows N] [--selfcheck]

Nothing is downloaded: the models are built from their config classes (Qwen3-VL-2B, 4B and 8B, Qwen2.5-VL-7B) in
bfloat16. Tiles of 1024 px (1036 px for Qwen2.5-VL, a multiple of its 28), 200 text tokens, 64 forced new tokens. For
each model it prints the dense bfloat16 rate of this device, the share of it that scoring reaches (floating-point
operations counted by PyTorch, without those above the diagonal of causal attention), detection beside the plain loop,
peak memory beside the estimate, where the time goes, and how many answers of a batch differ from those of single tiles
in bfloat16.

Before anything is timed, both sides must write the same tokens in float32 on a tiny model of the family. Exits with 1
where a bar is missed, with 2 where there is no CUDA device. `--selfcheck` runs every step on tiny geometries on a CPU;
its times mean nothing, and no bar counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qwenvl.answer import Answer
from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint
from qwenvl.checkpoints.testing import tiny_checkpoint
from qwenvl.decoding.batching import build_batch, encode_prompt, render_request
from qwenvl.decoding.decode import Decoded, prefill
from qwenvl.engines import local
from qwenvl.engines.local import LocalEngine
from qwenvl.images.preprocess import preprocess
from qwenvl.request import Request, Task

TEXT_TOKENS = 200
NEW_TOKENS = 64
SCORING_BAR, DETECTION_BAR, MEMORY_BAR = 0.40, 5.0, 0.15

Tiles = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Geometry:
    """Sizes of one published model, from its config.json."""

    family: str
    text: dict[str, Any]
    vision: dict[str, Any]
    tied: bool
    side: int = 1024


def _qwen3(hidden: int, inner: int, layers: int, heads: int, tower: tuple[int, int, int], deep: list[int]) -> Geometry:
    text = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    }
    depth, width, wide = tower
    vision = {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": wide,
        "num_heads": 16,
        "out_hidden_size": hidden,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": deep,
    }
    return Geometry("Qwen3-VL", text, vision, tied=hidden < 4096)


GEOMETRIES = {
    "Qwen3-VL-2B": _qwen3(2048, 6144, 28, 16, (24, 1024, 4096), [5, 11, 17]),
    "Qwen3-VL-4B": _qwen3(2560, 9728, 36, 32, (24, 1024, 4096), [5, 11, 17]),
    "Qwen3-VL-8B": _qwen3(4096, 12288, 36, 32, (27, 1152, 4304), [8, 16, 24]),
    "Qwen2.5-VL-7B": Geometry(
        "Qwen2.5-VL",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152_064,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "window_size": 112,
        },
        tied=False,
        side=1036,
    ),
}
"""Models by name, after their own config.json."""


class Endless:
    """Lets no answer end early."""

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = list(ends)

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Rule out what ends an answer."""
        logits[:, self._ends] = -torch.inf

    def accept(self, row: int, token: int) -> bool:
        """Take any token but those."""
        return token not in self._ends

    def interrupt(self, row: int) -> bool:
        """Go on, though random weights like to repeat themselves."""
        return True

    def back(self, row: int, most: int) -> int:
        """Take nothing back."""
        return 0


class ForcedEngine(LocalEngine):
    """The engine, made to write as many tokens as it may, and to remember them."""

    def __init__(self, checkpoint: Checkpoint, **settings: Any) -> None:
        super().__init__(checkpoint, **settings)
        self.written: list[list[int]] = []

    def _read(self, written: Decoded, *rest: Any) -> Answer:
        self.written.append(written.tokens)
        return super()._read(written, *rest)

    def _constraint(self, request: Request, frames: Any) -> Any:
        return Endless(self.checkpoint.eos_token_ids)


class PlainLoop:
    """The image processor and `generate`, one tile at a time."""

    def __init__(self, checkpoint: Checkpoint, request: Request) -> None:
        settings = checkpoint.processor
        self._checkpoint = checkpoint
        self._text = render_request(checkpoint, request, thinking=False)
        self._picture = checkpoint.tokenizer.convert_ids_to_tokens(checkpoint.image_token_id)
        self._processor = Qwen2VLImageProcessorPil(
            patch_size=settings.patch_size,
            merge_size=settings.merge_size,
            temporal_patch_size=2,
            image_mean=list(settings.image_mean),
            image_std=list(settings.image_std),
            size={"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels},
        )

    @torch.inference_mode()
    def __call__(self, tiles: Tiles) -> list[list[int]]:
        """Tokens written about each tile."""
        return [self._one(tile) for tile in tiles]

    def _one(self, tile: NDArray[np.uint8]) -> list[int]:
        checkpoint = self._checkpoint
        device, model = checkpoint.device, checkpoint.model
        pixels = self._processor(images=[Image.fromarray(tile)], return_tensors="pt")
        count = int(pixels["image_grid_thw"].prod()) // checkpoint.processor.merge_size**2
        text = self._text.replace(self._picture, self._picture * count)
        ids = checkpoint.tokenizer(text, return_tensors="pt")["input_ids"].to(device)
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == checkpoint.image_token_id).long(),
            pixel_values=pixels["pixel_values"].to(device, model.dtype),
            image_grid_thw=pixels["image_grid_thw"].to(device),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
        tokens: list[int] = written[0, ids.shape[1] :].tolist()
        return tokens


def build(geometry: Geometry, folder: Path, device: str, dtype: torch.dtype) -> Checkpoint:
    """A checkpoint with random weights of a geometry; tokenizer and processor are those of a tiny one."""
    tiny = load_checkpoint(tiny_checkpoint(geometry.family, folder), device="cpu")
    ids = {
        key: tiny.model.config.to_dict()[key]
        for key in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    }
    architecture = getattr(transformers, tiny.family.architecture)
    config = architecture.config_class(
        text_config={**geometry.text, "tie_word_embeddings": geometry.tied, "bos_token_id": None, "eos_token_id": None},
        vision_config=geometry.vision,
        tie_word_embeddings=geometry.tied,
        **ids,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = architecture(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    count = sum(parameter.numel() for parameter in model.parameters())
    settings = replace(tiny.processor, max_pixels=16_777_216)
    description = replace(
        tiny.description,
        config=config.to_dict(),
        processor=settings,
        dtype=str(dtype).removeprefix("torch."),
        parameters=count,
        weight_bytes=count * dtype.itemsize,
    )
    info = replace(tiny.info, model=geometry.family, device=device, dtype=description.dtype)
    return Checkpoint(model, tiny.tokenizer, settings, tiny.family, info, description)


def requests(checkpoint: Checkpoint, side: int) -> tuple[Request, Request]:
    """A question to score and one to answer, both of 200 text tokens."""

    def sized(make: Callable[[str], Request], at_once: bool) -> Request:
        def length(prompt: str) -> int:
            text = render_request(checkpoint, make(prompt), thinking=False, answer_at_once=at_once)
            return encode_prompt(checkpoint, text).length()

        return make("?" * (1 + TEXT_TOKENS - length("?")))

    settings = {"tile_size": side, "overlap": 0}
    return (
        sized(lambda prompt: Request(task=Task.SCORE, prompt=prompt, **settings), True),
        sized(
            lambda prompt: Request(
                task=Task.DETECT, prompt=prompt, generation={"max_new_tokens": NEW_TOKENS}, **settings
            ),
            False,
        ),
    )


def wait_for(device: torch.device) -> None:
    """Let the device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of some work, and its result."""
    wait_for(device)
    start = time.perf_counter()
    result = work()
    wait_for(device)
    return time.perf_counter() - start, result


def dense_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations per second of a large square matrix product; the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = [timed(device, lambda: a @ b)[0] for _ in range(13)][3:]
    return 2 * size**3 / min(seconds)


@torch.inference_mode()
def operations(checkpoint: Checkpoint, request: Request, tile: NDArray[np.uint8]) -> float:
    """Floating-point operations of scoring one tile."""
    text = render_request(checkpoint, request, thinking=False, answer_at_once=True)
    settings = replace(checkpoint.processor, temporal_patch_size=1)
    patches = preprocess([tile], settings, device=checkpoint.device, dtype=checkpoint.model.dtype)
    batch = build_batch(checkpoint, [encode_prompt(checkpoint, text)], patches)
    with FlopCounterMode(display=False) as counter:
        prefill(checkpoint.model, batch)
    language = checkpoint.model.config.text_config
    heads = language.num_attention_heads
    width = heads * (getattr(language, "head_dim", None) or language.hidden_size // heads)
    above_diagonal = 2 * batch.lengths[0] ** 2 * width * language.num_hidden_layers
    return float(counter.get_total_flops() - above_diagonal)


@contextmanager
def stopwatches(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds spent in the engine's parts while the context lasts."""
    names = {"preprocess": "pixels", "picture_features": "vision", "prefill": "prefill", "decode": "decode"}
    spent = dict.fromkeys(names.values(), 0.0)
    originals = {name: getattr(local, name) for name in names}

    def watch(name: str) -> Callable[..., Any]:
        def watched(*arguments: Any, **settings: Any) -> Any:
            seconds, result = timed(device, lambda: originals[name](*arguments, **settings))
            spent[names[name]] += seconds
            return result

        return watched

    for name in names:
        setattr(local, name, watch(name))
    try:
        yield spent
    finally:
        for name, original in originals.items():
            setattr(local, name, original)


def same_tokens(family: str, device: str) -> int:
    """Compare both sides in float32 on a tiny model; the number of tiles compared. SystemExit where one differs."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = load_checkpoint(tiny_checkpoint(family, folder), device=device, dtype="float32")
    _, request = requests(checkpoint, 224)
    some = random_tiles(2, 224)
    expected = PlainLoop(checkpoint, request)(some)
    engine = ForcedEngine(checkpoint)
    engine.answer(some, request)
    if engine.written != expected:
        raise SystemExit(f"{family}: the two sides write different tokens; nothing was timed")
    return len(some)


def random_tiles(count: int, side: int) -> Tiles:
    """Blocky noise."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, -(-side // 14), -(-side // 14), 3), dtype=np.uint8)
    return [tile.repeat(14, 0).repeat(14, 1)[:side, :side].copy() for tile in small]


@dataclass(frozen=True)
class Measured:
    """What one model came to."""

    name: str
    operations: float
    scoring: float
    detection: float
    plain: float
    rate: float
    spent: dict[str, float]
    peak: int | None
    estimate: int
    changed: int
    compared: int

    @property
    def share(self) -> float:
        """Of the dense rate that scoring reaches."""
        return self.operations * self.scoring / self.rate


def measure(name: str, geometry: Geometry, device: str, rate: float, count: int, rows: int) -> Measured:
    """Score, write, loop; times are of whole calls of the engine, pixels to answers."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = build(geometry, Path(folder), device, torch.bfloat16)
    where = checkpoint.device
    score, detect = requests(checkpoint, geometry.side)
    visual = checkpoint.description.tokens_per_tile(geometry.side)
    engine = ForcedEngine(checkpoint, token_budget=rows * (visual + TEXT_TOKENS))
    tiles = random_tiles(count, geometry.side)
    work = operations(checkpoint, score, tiles[0])
    engine.answer(tiles[:rows], score)  # warm
    engine.answer(tiles[:rows], detect)
    scoring, _ = timed(where, lambda: engine.answer(tiles, score))
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    detection, answers = timed(where, lambda: engine.answer(tiles, detect))
    peak = torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None
    together = engine.written[-count:]
    if any(answer.new_tokens != NEW_TOKENS for answer in answers):
        raise SystemExit(f"{name}: an answer ended before {NEW_TOKENS} tokens; the ratio would mean nothing")
    with stopwatches(where) as spent:
        total, _ = timed(where, lambda: engine.answer(tiles, detect))
    spent["wait"] = total - sum(spent.values())
    few = tiles[: min(8, max(2, count - 1))]
    engine.written.clear()
    for tile in few:
        engine.answer([tile], detect)
    changed = sum(one != other for one, other in zip(together, engine.written, strict=False))
    loop = PlainLoop(checkpoint, detect)
    loop(few[:1])
    plain, _ = timed(where, lambda: loop(few))
    estimate = checkpoint.description.estimate_memory(
        geometry.side, batch=min(rows, count), prompt_tokens=TEXT_TOKENS, new_tokens=NEW_TOKENS, dtype="bfloat16"
    )
    return Measured(
        name,
        work,
        count / scoring,
        count / detection,
        len(few) / plain,
        rate,
        {part: seconds / total for part, seconds in spent.items()},
        peak,
        estimate.total,
        changed,
        len(few),
    )


def report(found: Sequence[Measured], device: str, count: int, rows: int, judged: bool) -> int:
    """Print the table and the bars; 1 where one is missed."""
    title = f"{device}: {count} tiles, batches of {rows}, {TEXT_TOKENS} text tokens, {NEW_TOKENS} new tokens, bfloat16"
    table = Table("", *(each.name for each in found), title=title)
    for label, cell in {
        "dense rate, TFLOP/s": lambda m: f"{m.rate / 1e12:.3g}",
        "TFLOP per scored tile": lambda m: f"{m.operations / 1e12:.3g}",
        "scoring, tiles/s": lambda m: f"{m.scoring:.2f}",
        "... share of the dense rate": lambda m: f"{m.share:.1%}",
        "detection, tiles/s": lambda m: f"{m.detection:.2f}",
        "plain loop, tiles/s": lambda m: f"{m.plain:.2f}",
        "... ratio": lambda m: f"{m.detection / m.plain:.1f}x",
        "peak memory, GiB": lambda m: "-" if m.peak is None else f"{m.peak / 2**30:.1f}",
        "... estimate, GiB": lambda m: f"{m.estimate / 2**30:.3g}",
        "answers that the batch changed": lambda m: f"{m.changed} of {m.compared}",
    }.items():
        table.add_row(label, *(cell(each) for each in found))
    for part in found[0].spent:
        table.add_row(f"time in {part}", *(f"{each.spent[part]:.0%}" for each in found))
    Console(width=140).print(table)
    if not judged:
        print("self-check: every step ran; times of tiny geometries on a CPU mean nothing, no bar counts")
        return 0
    missed = 0
    for each in found:
        off = abs(each.estimate / each.peak - 1) if each.peak else 1.0
        for words, value, reached in (
            (f"scoring at {SCORING_BAR:.0%} or more of the dense rate", f"{each.share:.1%}", each.share >= SCORING_BAR),
            (
                f"detection at {DETECTION_BAR:g}x or more of the plain loop",
                f"{each.detection / each.plain:.1f}x",
                each.detection / each.plain >= DETECTION_BAR,
            ),
            (f"estimate within {MEMORY_BAR:.0%} of peak memory", f"{off:.1%} off", off <= MEMORY_BAR),
        ):
            print(f"bar: {each.name}: {words}: {'reached' if reached else 'MISSED'} ({value})")
            missed += not reached
    return int(missed > 0)


def tiny_geometries() -> dict[str, Geometry]:
    """One small geometry per family, for the self-check."""
    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    }
    vision = {"depth": 4, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    third = GEOMETRIES["Qwen3-VL-8B"].text["rope_parameters"] | {"mrope_section": [4, 2, 2]}
    second = GEOMETRIES["Qwen2.5-VL-7B"].text["rope_parameters"] | {"mrope_section": [2, 3, 3]}
    return {
        "tiny Qwen3-VL": Geometry(
            "Qwen3-VL",
            text | {"head_dim": 16, "rope_parameters": third},
            vision | {"num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1, 2]},
            tied=True,
            side=128,
        ),
        "tiny Qwen2.5-VL": Geometry(
            "Qwen2.5-VL",
            text | {"rope_parameters": second},
            vision | {"fullatt_block_indexes": [1, 3], "window_size": 112},
            tied=False,
            side=140,
        ),
    }


def main() -> int:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=GEOMETRIES, default=list(GEOMETRIES))
    parser.add_argument("--tiles", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16, help="tiles of a batch")
    parser.add_argument("--selfcheck", action="store_true", help="tiny geometries on a CPU")
    options = parser.parse_args()
    if not options.selfcheck and not torch.cuda.is_available():
        print("needs a CUDA device, and there is none; --selfcheck runs every step on tiny geometries on a CPU")
        return 2
    device = "cpu" if options.selfcheck else "cuda"
    chosen = tiny_geometries() if options.selfcheck else {name: GEOMETRIES[name] for name in options.models}
    count, rows = (3, 2) if options.selfcheck else (options.tiles, options.rows)
    for family in sorted({geometry.family for geometry in chosen.values()}):
        print(f"{family}: {same_tokens(family, device)} tiles, both sides write the same tokens in float32")
    rate = dense_rate(torch.device(device), torch.bfloat16, 256 if options.selfcheck else 8192)
    found = []
    for name, geometry in chosen.items():
        found.append(measure(name, geometry, device, rate, count, rows))
        if device == "cuda":
            torch.cuda.empty_cache()
    named = "self-check on a CPU" if options.selfcheck else torch.cuda.get_device_name()
    return report(found, named, count, rows, judged=not options.selfcheck)


if __name__ == "__main__":
    sys.exit(main())
