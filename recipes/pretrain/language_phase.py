"""Phases two and three: the language model learns to answer, first over a frozen tower, then together with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.training.curves import Curves
from recipes.pretrain.config import PhaseConfig, PretrainConfig
from recipes.pretrain.data import TileSource
from recipes.pretrain.dense import DenseHeads, DenseTargets, smoothed_numbers
from recipes.pretrain.evaluate import answer_scores
from recipes.pretrain.feature_window import Encoded, FeatureWindow, recycled
from recipes.pretrain.model import Compared, answer_states
from recipes.pretrain.object_tasks import detect_question, every_nucleus
from recipes.pretrain.own_answers import HardTiles, own_answers
from recipes.pretrain.pointer import evidence_loss, pointer_loss
from recipes.pretrain.state import WeightAverage, learning_rate, load_state, make_optimizer, pick_device, save_state
from recipes.pretrain.tasks import ask_about, ask_shortly
from recipes.pretrain.tiles import LabelledTile
from recipes.pretrain.tokenizer import TextCodec
from recipes.pretrain.turns import IGNORED, TurnBatch, TurnWriter
from recipes.pretrain.vision_phase import encode_tiles

PHASES = {"language": 2, "joint": 3}


def answer_loss(
    model: Any,
    codec: TextCodec,
    turns: TurnBatch,
    first_cell: int,
    cells: tuple[int, int],
    merged: Tensor,
    deepstack: list[Tensor],
    smooth: Tensor,
    pointer_weight: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of the token losses of a batch, the sum of the weights, and the loss of the pointers.

    Parameters
    ----------
    cells : (rows, columns) of merged tokens
    merged, deepstack
        Tokens of the pictures (not yet repeated per question).
    smooth : (1001, 1001)
        Soft targets of coordinates.
    """
    pictures = merged[turns.owner], [tap[turns.owner] for tap in deepstack]
    looked: list[Compared] | None = [] if pointer_weight else None
    states = answer_states(model, turns.ids, cells, *pictures, first_cell, looked)
    asked = turns.targets != IGNORED
    targets, weights, places = turns.targets[asked], turns.weights[asked], turns.places[asked]
    logp = model.lm_head(states[asked]).float().log_softmax(-1)
    losses = -logp.gather(1, targets[:, None])[:, 0]
    near = places != IGNORED
    if near.any():
        comma = torch.from_numpy(codec.comma_numbers).to(logp.device)
        bare = torch.from_numpy(codec.bare_numbers).to(logp.device)
        is_comma = (targets[near] == comma[places[near]])[:, None]
        part = logp[near]
        numbers = torch.where(is_comma, part[:, comma], part[:, bare])
        losses = losses.masked_scatter(near, -(smooth[places[near]] * numbers).sum(1))
    pointing = losses.new_zeros(())
    if looked is not None:
        pointing = pointer_loss(looked, turns, first_cell)
        searching = pointer_weight * evidence_loss(looked, turns, first_cell)
        return (losses * weights).sum() + searching, weights.sum(), pointing
    return (losses * weights).sum(), weights.sum(), pointing


def question_batches(
    tiles: list[LabelledTile], phase: PhaseConfig, writer: TurnWriter, rng: np.random.Generator, step: int
) -> Iterator[TurnBatch]:
    """Every tile is asked a few things; sequences of similar length go together, in three batches.

    Before `grounding_until` there is one question per tile, and it is where the nuclei are.
    """
    if step >= phase.grounding_until:
        asked = [(ask_about(tile, rng), row) for row, tile in enumerate(tiles) for _ in range(phase.questions)]
        asked += [(ask_shortly(tile, rng), row) for row, tile in enumerate(tiles) for _ in range(phase.short_questions)]
    else:
        asked = [(detect_question(tile, every_nucleus()), row) for row, tile in enumerate(tiles)]
    asked.sort(key=lambda pair: len(pair[0].answer) + len(pair[0].prompt) / 4)
    long = len(asked) * phase.questions // (phase.questions + phase.short_questions)
    most, many = len(asked) - (long + 1) // 2, len(asked) - (long + 5) // 6
    for part in (asked[:most], asked[most:many], asked[many:]):
        if part:
            yield writer.batch([q for q, _ in part], [row for _, row in part], rng)


def object_limit(phase: PhaseConfig, step: int) -> int | None:
    """The curriculum's limit on objects per tile at a step; None when there is none any more."""
    limit = None
    for first, most in phase.curriculum:
        if step >= first:
            limit = most or None
    return limit


def other_shapes(phase: PhaseConfig, side: int, seed: int) -> dict[int, tuple[int, int]]:
    """Step to (height, width) of its fresh tiles, for the steps that do not take tiles of the pool.

    A processor brings every picture to about the area of a tile of `side` px: rectangles differ from it by at most a
    fifth.
    """
    rectangles = [
        (height, width)
        for height in phase.other_sides
        for width in phase.other_sides
        if height != width and abs(height * width / side**2 - 1) <= 0.2
    ]
    shapes = {}
    for step in range(phase.steps):
        rng = np.random.default_rng([seed, step, 3])
        if rng.random() < phase.other_share:
            square = not rectangles or rng.random() < 0.5
            shapes[step] = (side, side) if square else rectangles[int(rng.integers(len(rectangles)))]
    return shapes


def _encoded(
    name: str, config: PretrainConfig, source: TileSource, encode: Callable[[list[LabelledTile]], Encoded], first: int
) -> Iterator[tuple[list[LabelledTile], Encoded]]:
    """Tiles and tokens of steps `first` and on: recycled over a frozen tower, fresh where the tower learns."""
    phase: PhaseConfig = getattr(config, name)
    moving = phase.vision_learning_rate > 0
    fill = 0 if moving else phase.window // phase.fresh
    count = phase.batch if moving else phase.fresh
    limits = {s: m for s in range(phase.steps + fill) if (m := object_limit(phase, max(0, s - fill))) is not None}
    shapes = other_shapes(phase, config.pool.tile, config.seed) if moving else {}
    batches = source.batches(PHASES[name], first, phase.steps + fill, count, limits, shapes)
    if moving:
        yield from ((tiles, encode(tiles)) for tiles in batches)
        return
    seeds = (np.random.default_rng([config.seed, PHASES[name], s, 2]) for s in range(first, phase.steps))
    yield from recycled(batches, encode, FeatureWindow(phase.window), fill, phase.batch, seeds)


def _joined(tokens: Encoded, count: int, more: Encoded) -> Encoded:
    """Tokens of the first `count` tiles of one batch, then those of another."""
    taps = [torch.cat([tap[:count], other]) for tap, other in zip(tokens[1], more[1], strict=True)]
    return torch.cat([tokens[0][:count], more[0]]), taps


def run_answer_phase(
    name: str,
    config: PretrainConfig,
    model: Any,
    heads: DenseHeads,
    codec: TextCodec,
    source: TileSource,
    held_out: dict[str, list[LabelledTile]],
) -> None:
    """Train phase 'language' or 'joint' from the last saved state to its end."""
    phase: PhaseConfig = getattr(config, name)
    device, folder = pick_device(config), Path(config.out)
    model.to(device).train()
    heads.to(device).train()
    visual, language = model.model.visual, model.model.language_model
    moving = phase.vision_learning_rate > 0
    visual.requires_grad_(moving)
    groups = [(language, phase.learning_rate)]
    if moving:
        groups += [(visual, phase.vision_learning_rate), (heads, phase.vision_learning_rate)]
    optimizer = make_optimizer(groups, phase.weight_decay)
    average = WeightAverage({"language": language} | ({"visual": visual} if moving else {}), phase.averaging)
    modules = {"visual": visual, "language": language, "heads": heads, **average.modules}
    first = load_state(folder / f"{name}.pt", modules, optimizer)
    curves = Curves(folder / f"{name}.csv", first)
    writers: dict[tuple[int, int], TurnWriter] = {}
    smooth = smoothed_numbers().to(device)
    hard = HardTiles()
    began = time.monotonic()

    def encode(tiles: list[LabelledTile]) -> Encoded:
        with torch.set_grad_enabled(moving):
            return encode_tiles(model, tiles, device, config.bfloat16)

    for step, (tiles, (merged, deepstack)) in enumerate(_encoded(name, config, source, encode, first), first):
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * learning_rate(phase, step)
        rng = np.random.default_rng([config.seed, PHASES[name], step, 1])
        total, pointers = merged.new_zeros(()).float(), merged.new_zeros(()).float()
        weight, boxes, cells = 0.0, 0, tiles[0].cells
        writer = writers.setdefault(cells, TurnWriter(codec, cells))
        lessons = [(turns, merged, deepstack) for turns in question_batches(tiles, phase, writer, rng, step)]
        if moving and phase.own_answers and step >= phase.own_from:
            again = hard.drawn(phase.own_answers // 2, cells, rng)
            asked = tiles[: phase.own_answers - len(again)]
            shown = _joined((merged, deepstack), len(asked), encode(again)) if again else (merged, deepstack)
            own, wrong = own_answers(model, codec, writer, asked + again, *shown, rng)
            hard.add(wrong)
            if own is not None:
                lessons.append((own, *shown))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
            for turns, seen, taps in lessons:
                part, amount, pointing = answer_loss(
                    model, codec, turns.to(device), writer.first_cell, cells, seen, taps, smooth, phase.pointer_weight
                )
                places = int((turns.corners == 0).sum())
                total, weight = total + part, weight + float(amount)
                pointers, boxes = pointers + pointing * places, boxes + places
            answers, pointers = total / weight, pointers / max(1, boxes)
            parts = {"answers": float(answers.detach()), "pointers": float(pointers.detach())}
            loss = answers + phase.pointer_weight * pointers
            if moving and phase.dense_weight:
                dense, dense_parts = heads(merged, deepstack, DenseTargets.of(tiles).to(device))
                loss = loss + phase.dense_weight * dense
                parts |= {"dense": float(dense.detach())} | (dense_parts if step % 10 == 0 else {})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        average.update(step)
        curves.add(step, {"loss": float(loss.detach())} | parts)
        if (step + 1) % phase.save_every == 0 or step + 1 == phase.steps:
            save_state(folder / f"{name}.pt", step + 1, modules, optimizer)
            with average.in_place():
                scores = {
                    f"{kind} {key}": value
                    for kind, some in held_out.items()
                    for key, value in answer_scores(model, codec, some[:16], device).items()
                }
            curves.add(step, scores)
            model.train()
            rate = (step + 1 - first) / (time.monotonic() - began)
            print(
                f"{name} {step + 1}: {rate:.2f} steps/s",
                {k: round(v, 3) for k, v in (scores | parts).items()},
                flush=True,
            )
