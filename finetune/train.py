"""A fine-tuning run, top to bottom: what is learned, the checks, the loop, the measurements, the adapter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.adapter import write_adapter, write_card
from finetune.config import PATHS, FinetuneConfig
from finetune.conversations.given import ConversationExam, ConversationSource, manifest, read_split, request_for
from finetune.dataset.cutting import Cutter
from finetune.dataset.samples import Dataset
from finetune.errors import RecipeError
from finetune.evaluation.evaluate import Exam, Measuring
from finetune.evaluation.forgetting import Forgetting, RetentionTest, measure
from finetune.evaluation.metrics import Score
from finetune.examples.collate import Collator
from finetune.examples.conversation import Writer
from finetune.examples.examples import ExamplePlan, ExampleSource
from finetune.examples.label_source import LabelSource, TileReader, validation_cuts
from finetune.examples.replay import (
    ReplayContext,
    ReplayTarget,
    SourceMaker,
    build_sources,
    conversation_pictures,
    label_pictures,
    shares_of,
)
from finetune.examples.schedule import Schedule, ScheduledExamples, make_schedule
from finetune.examples.tokens import TurnTokens
from finetune.loop import Loop, Step
from finetune.methods.frozen_vision import FrozenVision
from finetune.methods.loading import load_base
from finetune.methods.lora import add_lora
from finetune.preflight import Preflight, preflight
from finetune.training.run_folder import claim, log, require_same_base
from qwenvl.checkpoints.adapters.adapter import AdapterSwitch
from qwenvl.checkpoints.loading import Checkpoint
from qwenvl.decoding.onednn_linear import unpack_linears
from qwenvl.engines.local import LocalEngine
from qwenvl.request import Generation, Request


@dataclass(frozen=True)
class Result:
    """What a run ended with."""

    folder: Path
    adapter: Path | None
    """None where the run was stopped before its end."""
    base: Score | None
    score: Score | None
    forgetting: Forgetting | None
    preflight: Preflight
    steps: int
    stopped: bool = False


@dataclass(frozen=True)
class PreparedTraining:
    """Everything of a run that is there before its first step."""

    checkpoint: Checkpoint
    request: Request
    exam: Measuring | None
    skills: tuple[RetentionTest, ...]
    sources: tuple[Any, ...]
    schedule: Schedule
    collator: Collator
    manifest: dict[str, Any]
    base: Score | None
    before: dict[str, float]


@dataclass(frozen=True)
class _Learned:
    """What a run learns, and how that is measured."""

    source: ExampleSource
    request: Request
    exam: Measuring | None
    target: ReplayTarget
    manifest: dict[str, Any]
    unmeasured: str


def finetune(
    config: FinetuneConfig,
    *,
    progress: Callable[[Step], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
    cancel: threading.Event | None = None,
    overwrite: bool = False,
    loop_type: type[Loop] = Loop,
    replay_kinds: Mapping[str, SourceMaker] | None = None,
) -> Result:
    """Train an adapter, or go on with an interrupted run of the same settings.

    Parameters
    ----------
    progress : callable, optional
        Called after every step.
    say : callable
        Called with lines for the user.
    cancel : threading.Event, optional
        When set, the run saves its state after the step at hand and stops; the next call goes on from there.
    overwrite : bool
        Set another run found in the folder aside (renamed, never deleted).
    loop_type : type
        A loop that adds to the examples or the loss, for recipes of small models.
    replay_kinds : mapping of kind to SourceMaker, optional
        Kinds of replay sources beside those of `ReplaySource`.

    Raises
    ------
    FinetuneError
        Settings, data or checks are at fault; DivergedError where the loss is no longer a number.
    CheckpointError
        The base cannot be loaded.
    """
    folder = claim(config, overwrite)
    checkpoint = load_base(config)
    require_same_base(folder, checkpoint)
    prepared = _prepare(config, checkpoint, say, replay_kinds)
    log(folder, {"event": "schedule", **prepared.schedule.facts()})
    vision = None
    if not config.lora.in_vision and (not config.lora.in_merger or FrozenVision.keeps_order(checkpoint.model)):
        vision = FrozenVision(checkpoint.model, config.train.keep_features * 2**20, merger=config.lora.in_merger)
    model = add_lora(checkpoint.model, config.lora, checkpoint.family, seed=config.seed)
    loop = loop_type(
        config, folder, checkpoint, model, vision, prepared.collator, prepared.request.labels, progress, cancel
    )
    examples = ScheduledExamples(prepared.schedule, prepared.sources, loop.change)
    first = prepared.collator(_first_batch(examples))
    checked = preflight(
        model,
        loop.on_device(first),
        loop.loss_of,
        prepared.schedule,
        batch_size=config.train.batch,
        checkpointing=config.train.checkpointing,
        compute=loop.compute,
    )
    for line in checked.lines():
        say(line)
    log(folder, {"event": "preflight", **checked.as_dict()})
    outcome = loop.run(examples, prepared.exam)
    if outcome.stopped:
        say(f"stopped after step {outcome.step} of {config.train.steps}; repeat the command to go on")
        return Result(folder, None, prepared.base, None, None, checked, outcome.step, stopped=True)
    return _finish(config, folder, prepared, checked, model, vision, outcome.best or outcome.last, say)


def _prepare(
    config: FinetuneConfig,
    checkpoint: Checkpoint,
    say: Callable[[str], None],
    replay_kinds: Mapping[str, SourceMaker] | None,
) -> PreparedTraining:
    writer = Writer.of(checkpoint.description)
    tokens = TurnTokens(
        checkpoint.tokenizer,
        checkpoint.family,
        checkpoint.tokenizer.convert_ids_to_tokens(checkpoint.image_token_id),
        longest_sample(config, checkpoint),
    )
    if config.dataset:
        learned = _labels(config, checkpoint, writer, tokens)
    else:
        learned = _talk(config, checkpoint, writer, tokens, say)
    exam = learned.exam
    if exam is None:
        say(f"note: {learned.unmeasured}, so nothing is measured")
    engine = LocalEngine(checkpoint)
    kit = ReplayContext(checkpoint, writer, tokens, config.seed, config.max_new_tokens)
    settings = config.replay.sources if config.replay.share > 0 else ()
    replayed, skills = build_sources(settings, kit, engine, learned.target, replay_kinds)
    if config.replay.share == 0 and config.replay.sources:
        # Without replay the hold-outs are still measured, so that what it costs is seen.
        _, skills = build_sources(config.replay.sources, kit, engine, learned.target, replay_kinds)
    if not config.replay.sources:
        say("note: no replay sources; older skills are neither kept nor measured ('replay')")
    base = exam.score(engine) if exam is not None and config.evaluate.base else None
    if base is not None:
        say(f"before training: {config.metric} {base.values.get(config.metric, float('nan')):.4f}")
    before = measure(skills, engine)
    unpack_linears(checkpoint.model)
    train = config.train
    schedule = make_schedule(
        [learned.source, *replayed],
        shares_of(settings, config.replay.share),
        count=train.steps * train.batch * train.accumulate,
        batch=train.batch,
        seed=config.seed,
        group_by_length=train.group_by_length,
    )
    pad = checkpoint.tokenizer.pad_token_id
    collator = Collator(
        checkpoint.processor,
        checkpoint.eos_token_ids[0] if pad is None else pad,
        checkpoint.image_token_id,
        sources=config.replay.distil > 0,
    )
    sources = (learned.source, *replayed)
    return PreparedTraining(
        checkpoint, learned.request, exam, tuple(skills), sources, schedule, collator, learned.manifest, base, before
    )


def _labels(config: FinetuneConfig, checkpoint: Checkpoint, writer: Writer, tokens: TurnTokens) -> _Learned:
    """The tiles of a labelled dataset."""
    assert config.dataset is not None
    dataset = Dataset.open(config.dataset)
    dataset.require_no_leak()
    names = config.labels or dataset.names
    unknown = sorted(set(names) - set(dataset.names))
    if unknown:
        raise RecipeError(f"labels {', '.join(unknown)} are not in dataset {dataset.name} ({', '.join(dataset.names)})")
    for name, number in dataset.counts("train").items():
        if name in names and number < 2:
            raise RecipeError(
                f"class {name!r} has {number} training example{'s' * (number != 1)}, too few to learn from; "
                "label more of it, or leave it out with 'labels'"
            )
    request = request_of(config, names)
    cutter = Cutter(dataset, config.tile, names)
    labels = LabelSource(
        cutter,
        "train",
        request,
        writer,
        tokens,
        checkpoint.processor,
        tasks={config.task: 1.0, **config.tasks},
        augment=config.augment,
        empty_share=config.empty_share,
        around_share=config.around_share,
        images=config.images,
    )
    exam = None
    if dataset.of_split("validation"):
        cuts = validation_cuts(cutter, "validation", most=config.evaluate.tiles, seed=config.seed)
        exam = Exam(tuple(cuts), TileReader(dataset, config.images), request, config.evaluate.radius_um)
    return _Learned(
        labels,
        request,
        exam,
        ReplayTarget(config.tile.size, label_pictures(labels, cutter), config.augment.pool),
        dataset.manifest(),
        "the dataset has no validation split (qwenvl dataset split)",
    )


def _talk(
    config: FinetuneConfig, checkpoint: Checkpoint, writer: Writer, tokens: TurnTokens, say: Callable[[str], None]
) -> _Learned:
    """Given conversations."""
    assert config.conversations is not None
    training, kept = read_split(config.conversations, config.held_out, writer, checkpoint.processor)
    for name, rows in (("conversations", training), ("held_out", kept)):
        if rows.refused:
            say(f"note: {name}: {len(rows.refused)} rows left out, {len(rows)} used; {'; '.join(rows.refused[:3])}")
    generation = Generation(max_new_tokens=config.max_new_tokens)
    request = request_for(
        training,
        generation,
        size=config.tile.size if "tile" in config.model_fields_set else None,
        overlap=int(checkpoint.recommended.get("overlap", 64)),
    )
    exam = None
    if kept:
        exam = ConversationExam.of(kept, generation, most=config.evaluate.tiles, seed=config.seed)
    return _Learned(
        ConversationSource("conversations", training, checkpoint, tokens),
        request,
        exam,
        ReplayTarget(request.tile_size, conversation_pictures(training)),
        manifest(config.conversations, training, config.held_out, kept),
        "no conversations are held out (held_out)",
    )


def _first_batch(examples: ScheduledExamples) -> list[ExamplePlan]:
    """Two examples for the checks, one with a picture where there is any: else nothing before the words would learn."""
    shown = next((i for i in range(len(examples)) if examples[i].load is not None), 0)
    other = 0 if shown else min(1, len(examples) - 1)
    return [examples[i] for i in sorted({shown, other})]


def request_of(config: FinetuneConfig, names: tuple[str, ...]) -> Request:
    """The question that is taught, asked and stored with the adapter."""
    size = config.tile.size
    return Request(
        task=config.task,
        labels=names,
        system_prompt=config.system_prompt,
        mpp=config.tile.mpp,
        tile_size=size,
        overlap=min(size // 2, round(config.tile.overlap * size)),
        max_objects=config.max_objects,
        generation=Generation(max_new_tokens=config.max_new_tokens),
    )


def longest_sample(config: FinetuneConfig, checkpoint: Checkpoint) -> int:
    """Most tokens of a sample: what was set, within what the model takes."""
    text = checkpoint.description.config.get("text_config", checkpoint.description.config)
    most = int(text.get("max_position_embeddings", 32768))
    return min(most, config.train.max_length or most)


def _finish(
    config: FinetuneConfig,
    folder: Path,
    prepared: PreparedTraining,
    checked: Preflight,
    model: Any,
    vision: FrozenVision | None,
    weights: Path,
    say: Callable[[str], None],
) -> Result:
    """Measure the adapter as users will load it, and write it with its measurements."""
    checkpoint, request = prepared.checkpoint, prepared.request
    if vision is not None:
        vision.release()
    model.unload()
    if config.quantise != "none":
        # Users load the adapter on 16-bit weights, so that is where it is measured.
        checkpoint = load_base(config.model_copy(update={"quantise": "none"}))
    facts: dict[str, Any] = {
        "data": prepared.manifest,
        "tile": config.tile.model_dump(mode="json"),
        "recipe": config.model_dump(mode="json", exclude=set(PATHS)),
        "schedule": prepared.schedule.facts(),
        "preflight": checked.as_dict(),
        "seed": config.seed,
    }
    adapter = write_adapter(weights, checkpoint, folder / "adapter", name=config.title, request=request, facts=facts)
    switch = AdapterSwitch(checkpoint)
    engine = LocalEngine(switch.use(adapter))
    score = prepared.exam.score(engine) if prepared.exam is not None else None
    forgetting = (
        Forgetting(prepared.before, measure(prepared.skills, engine), config.replay.limit) if prepared.skills else None
    )
    facts["metrics"] = {
        "adapter": None if score is None else score.as_dict(),
        "base": None if prepared.base is None else prepared.base.as_dict(),
    }
    facts["forgetting"] = forgetting.as_dict() if forgetting is not None else {}
    write_card(adapter, checkpoint, name=config.title, request=request, facts=facts)
    switch.use(None)
    log(folder, {"event": "finished", "metrics": facts["metrics"], "forgetting": facts["forgetting"]})
    if forgetting is not None and not forgetting.passed:
        say(f"WARNING: older skills lost {forgetting.lost:.1f} points (limit {forgetting.limit:g}); it is marked")
    return Result(folder, adapter, prepared.base, score, forgetting, checked, config.train.steps)
