"""The in-process engine on a CPU beside a plain loop over `model.generate`, in one interleaved run.

    python benchmarks/engine.py [--fast] [--threads N]

200 synthetic tiles of 256 px (48 with --fast) and the embedded checkpoint; while that is missing, a random one of the
same geometry. The plain loop is what a user would write: transformers' image processor (the PIL backend, which runs
without torchvision), then `generate`, one tile at a time, in float32. Both sides are greedy and unconstrained and must
write the same tokens, which is checked before anything is timed; then they take the same blocks of tiles in turn. Times
are of the CPU, so that other programs on the machine do not count.

Five findings are scored by separate calls and by one call that looks at each tile once (`answer_many`); both must give
the same probabilities.

Scoring is compared with the plain loop's detection and with its own; the second ratio has a ceiling, since detection
reads the same prompt first and both read it alike. Exits with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

# `finetune` is the package of that name, not the script beside this one.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

from qwenvl.checkpoints.checkpoint_metadata import EMBEDDED_FOLDER
from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint
from qwenvl.decoding.batching import render_request
from qwenvl.engines.local import LocalEngine
from qwenvl.request import Request, Task
from wsi.synthetic import sample_field

SIDE = 256
BLOCK = 48
"""Tiles that a side takes before it is the other's turn."""
ROUNDS = 3
"""Times that the engine takes each block, of which the median counts; the plain loop is long enough for one."""
MOST_NEW = 200
DETECTION_BAR = 4.0
SCORING_BAR = 10.0
CONSTRAINT_BAR = 1.10

DETECT = Request(task=Task.DETECT, labels=("nucleus",), tile_size=SIDE, generation={"max_new_tokens": MOST_NEW})
SCORE = Request(task=Task.SCORE, prompt="Is there a mitosis in this image?", tile_size=SIDE)
FINDINGS = [
    Request(task=Task.SCORE, prompt=f"Is there {finding} in this image?", tile_size=SIDE)
    for finding in ("a mitosis", "tumor", "necrosis", "inflammation", "a vessel")
]

Tiles = list[NDArray[np.uint8]]


@dataclass
class Side:
    """One way to answer tiles, and what it took."""

    name: str
    answer: Callable[[Tiles], list[list[int]]]
    seconds: float = 0.0
    tiles: int = 0
    tokens: list[int] = field(default_factory=list)
    written: list[list[int]] = field(default_factory=list)

    def take(self, tiles: Tiles) -> float:
        """Answer a block on the clock; CPU seconds."""
        start = time.process_time()
        self.written = self.answer(tiles)
        return time.process_time() - start

    def note(self, seconds: float) -> None:
        """Count the last block."""
        self.seconds += seconds
        self.tiles += len(self.written)
        self.tokens += [len(tokens) for tokens in self.written]

    @property
    def milliseconds(self) -> float:
        """CPU time per tile."""
        return 1000 * self.seconds / self.tiles


class PlainLoop:
    """The image processor and `generate`, one tile at a time, on a model of its own."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        settings = checkpoint.processor
        self._checkpoint = checkpoint
        self._text = render_request(checkpoint, DETECT, thinking=False)
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
        """Tokens written about each tile, without the one that ends the answer."""
        return [self._one(tile) for tile in tiles]

    def _one(self, tile: NDArray[np.uint8]) -> list[int]:
        model, tokenizer = self._checkpoint.model, self._checkpoint.tokenizer
        pixels = self._processor(images=[Image.fromarray(tile)], return_tensors="pt")
        count = int(pixels["image_grid_thw"].prod()) // self._checkpoint.processor.merge_size**2
        inputs = tokenizer(self._text.replace(self._picture, self._picture * count), return_tensors="pt")
        ids = inputs["input_ids"]
        written = model.generate(
            input_ids=ids,
            attention_mask=inputs["attention_mask"],
            mm_token_type_ids=(ids == self._checkpoint.image_token_id).long(),
            pixel_values=pixels["pixel_values"],
            image_grid_thw=pixels["image_grid_thw"],
            max_new_tokens=MOST_NEW,
            do_sample=False,
        )
        tokens: list[int] = written[0, ids.shape[1] :].tolist()
        return tokens[:-1] if tokens and tokens[-1] in self._checkpoint.eos_token_ids else tokens


def written_by(engine: LocalEngine, request: Request) -> Callable[[Tiles], list[list[int]]]:
    """A side that asks an engine; of its answers only the number of tokens is of interest."""
    return lambda tiles: [[0] * answer.new_tokens for answer in engine.answer(tiles, request)]


def found_by(engine: LocalEngine, *, together: bool) -> Callable[[Tiles], list[list[int]]]:
    """A side that scores every finding, with one call or one call each; nothing is written."""

    def score(tiles: Tiles) -> list[list[int]]:
        if together:
            engine.answer_many(tiles, FINDINGS)
        else:
            for request in FINDINGS:
                engine.answer(tiles, request)
        return [[] for _ in tiles]

    return score


def same_answers(loop: PlainLoop, engine: LocalEngine, tiles: Tiles) -> str:
    """Compare what both sides write; raises SystemExit where a tile differs."""
    tokenizer = engine.checkpoint.tokenizer
    answers = engine.answer(tiles, DETECT)
    stopped = 0
    for number, (answer, tokens) in enumerate(zip(answers, loop(tiles), strict=True)):
        if answer.finish_reason == "loop":  # the plain loop goes on repeating itself
            stopped += 1
            tokens = tokens[: answer.new_tokens]
        if answer.raw != tokenizer.decode(tokens, skip_special_tokens=False):
            raise SystemExit(f"tile {number}: the two sides write different answers")
    return f"{len(tiles)} of {len(tiles)} answers equal" + (f", {stopped} stopped as loops" if stopped else "")


def same_scores(engine: LocalEngine, tiles: Tiles) -> str:
    """Compare findings asked together with findings asked apart; raises SystemExit where a probability differs."""
    apart = [engine.answer(tiles, request) for request in FINDINGS]
    together = engine.answer_many(tiles, FINDINGS)
    most = max(
        abs(one.scores["yes"] - other.scores["yes"])
        for ours, theirs in zip(together, apart, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    )
    if most > 1e-4:
        raise SystemExit(f"findings asked together have other probabilities, by up to {most:.2g}")
    return f"{len(FINDINGS) * len(tiles)} probabilities of findings equal (to {most:.0e})"


def checkpoint_folder(spare: Path) -> Path:
    """The embedded checkpoint, or a random one of the same geometry."""
    if (EMBEDDED_FOLDER / "config.json").is_file() and any(EMBEDDED_FOLDER.glob("*.safetensors")):
        return EMBEDDED_FOLDER
    from recipes.pretrain.config import PretrainConfig
    from recipes.pretrain.export import export_checkpoint
    from recipes.pretrain.model import build_model
    from recipes.pretrain.tasks import corpus
    from recipes.pretrain.tokenizer import TextCodec, build_tokenizer

    config = PretrainConfig()
    codec = TextCodec(build_tokenizer(corpus(config.seed)))
    torch.manual_seed(0)
    return export_checkpoint(config, build_model(config.model, codec), codec, spare)


def main() -> int:
    """Check, measure, print; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="48 tiles")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fields = range(48 if options.fast else 200)
    tiles = [sample_field(seed, size=SIDE, mpp=0.25, max_nuclei=20).image for seed in fields]
    with tempfile.TemporaryDirectory() as spare:
        folder = checkpoint_folder(Path(spare))
        loop = PlainLoop(load_checkpoint(folder, device="cpu"))
        free = LocalEngine(load_checkpoint(folder, device="cpu"), constrained=False)
    bound = LocalEngine(free.checkpoint)
    print(same_answers(loop, free, tiles))
    print(same_scores(free, tiles))
    sides = [
        Side("plain loop, detection", loop),
        Side("qwenvl, detection", written_by(free, DETECT)),
        Side("qwenvl, detection, constrained", written_by(bound, DETECT)),
        Side("qwenvl, scoring", written_by(free, SCORE)),
        Side("qwenvl, five findings apart", found_by(free, together=False)),
        Side("qwenvl, five findings together", found_by(free, together=True)),
    ]
    written_by(bound, DETECT)(tiles[:2])  # compiles the grammar
    for start in range(0, len(tiles), BLOCK):
        block = tiles[start : start + BLOCK]
        times: list[list[float]] = [[] for _ in sides]
        for turn in range(ROUNDS):
            for side, taken in zip(sides, times, strict=True):
                if turn == 0 or side.answer is not loop:
                    taken.append(side.take(block))
        for side, taken in zip(sides, times, strict=True):
            side.note(statistics.median(taken))
    return report(sides, folder)


def report(sides: list[Side], folder: Path) -> int:
    """Print the table and the bars."""
    loop, free, bound, score, apart, together = sides
    trained = "embedded checkpoint" if folder == EMBEDDED_FOLDER else "random weights"
    title = f"{loop.tiles} tiles of {SIDE} px, {trained}, {torch.get_num_threads()} thread(s), CPU time"
    table = Table("", "ms per tile", "tiles/s", "tokens per tile", "beside the plain loop", title=title)
    for side in sides:
        table.add_row(
            side.name,
            f"{side.milliseconds:.1f}",
            f"{1000 / side.milliseconds:.1f}",
            f"{np.mean(side.tokens):.0f}",
            f"{loop.milliseconds / side.milliseconds:.1f}x",
        )
    Console(width=120).print(table)
    # A grammar may change how much is written, so its cost is taken per token written.
    prompt = score.seconds
    cost = (bound.seconds - prompt) / max(sum(bound.tokens), 1) * sum(free.tokens) + prompt
    bars: list[tuple[str, float, bool]] = [
        ("detection beside the plain loop, at least 4x", ratio := loop.seconds / free.seconds, ratio >= DETECTION_BAR),
        (
            "scoring beside the plain loop's detection, at least 10x",
            ratio := loop.seconds / score.seconds,
            ratio >= SCORING_BAR,
        ),
        (
            "constrained beside free detection of the same length, at most 1.10x",
            ratio := cost / free.seconds,
            ratio <= CONSTRAINT_BAR,
        ),
    ]
    for name, value, reached in bars:
        print(f"bar: {name}: {'reached' if reached else 'MISSED'} ({value:.2f}x)")
    print(f"no bar: scoring beside this engine's own detection: {free.seconds / score.seconds:.1f}x")
    print(f"no bar: five findings together beside one after the other: {apart.seconds / together.seconds:.1f}x")
    return 0 if all(reached for _, _, reached in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
