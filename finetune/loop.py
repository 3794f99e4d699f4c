"""The loop: transformers' Trainer, with a frozen tower, a loss that must stay a number, and states to go on from."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.config import FinetuneConfig
from finetune.errors import DivergedError
from finetune.evaluation.evaluate import Measuring, engine_of
from finetune.evaluation.metrics import best_of
from finetune.examples.collate import KEYS, PLACES, SOURCES, Collator
from finetune.examples.examples import ExamplePlan
from finetune.examples.schedule import ScheduledExamples
from finetune.methods.frozen_vision import FrozenVision
from finetune.methods.loss import NumberTokenWeights, answer_loss, whole_numbers
from finetune.training.curves import Curves, plot_curves
from finetune.training.states import BEST, LAST, STATES, best_score, last_state, save_weights
from qwenvl.checkpoints.loading import Checkpoint

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from transformers import PreTrainedTokenizerBase

TENSORBOARD = "tensorboard"
CURVES = ("f1", "f1@0.3", "ap", "exact", "token_f1", "field_accuracy", "auroc")
"""Measurements that are drawn over the steps."""


@dataclass(frozen=True)
class Step:
    """Where a run stands."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds_left: float
    metric: str
    best: float | None


@dataclass(frozen=True)
class TrainingOutcome:
    """Where the weights are that a loop ended with."""

    step: int
    stopped: bool
    last: Path
    best: Path | None


class Loop:
    """Runs the training of one adapter.

    Parameters
    ----------
    model : peft.PeftModel
    vision : FrozenVision or None
        None where merger or tower learn, which needs the tower's gradients.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        folder: Path,
        checkpoint: Checkpoint,
        model: Any,
        vision: FrozenVision | None,
        collator: Collator,
        names: tuple[str, ...],
        progress: Callable[[Step], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        self.config, self.folder, self.checkpoint = config, folder, checkpoint
        self.model, self.vision, self.collator = model, vision, collator
        self.progress, self.cancel = progress, cancel
        self.change: Callable[[ExamplePlan, int], ExamplePlan] | None = None
        """What the model is shown of an example, given its seed; what it is taught stays."""
        self.numbers: NumberTokenWeights | None = None
        if config.train.soft_coordinates > 0:
            self.numbers = whole_numbers(checkpoint.tokenizer, "train.soft_coordinates")
        self.names = names or config.labels
        heavy = self.names if config.train.label_weight != 1 else ()
        self._label_tokens = _label_tokens(checkpoint.tokenizer, heavy) if heavy else None
        self.compute = torch.bfloat16 if config.train.bfloat16 else None

    def on_device(self, batch: Mapping[str, object]) -> dict[str, Any]:
        """A batch where the model is."""
        device = self.checkpoint.device
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}

    def loss_of(self, model: nn.Module, batch: dict[str, Any], count: Tensor | int | None = None) -> Tensor:
        """Loss of a batch; its keys tell the frozen tower which tiles it has seen."""
        batch = dict(batch)
        keys, places, labels = batch.pop(KEYS, None), batch.pop(PLACES, None), batch.pop("labels")
        rows = self._replayed(batch.pop(SOURCES, None), labels)
        teacher = None if rows is None else self._base_logits(batch, rows, keys)
        if self.vision is not None:
            self.vision.keys = keys
        device = self.checkpoint.device.type
        with torch.autocast(device, self.compute) if self.compute is not None else nullcontext():
            logits = model(**batch, use_cache=False).logits
        weights = None
        if self._label_tokens is not None:
            heavy = torch.isin(labels, self._label_tokens.to(labels.device)) & places[:, : labels.shape[1]]
            weights = torch.where(heavy, self.config.train.label_weight, 1.0)
        loss = answer_loss(
            logits,
            labels,
            count,
            numbers=self.numbers,
            places=places,
            sigma=self.config.train.soft_coordinates,
            weights=weights,
            teacher=teacher,
            taught_rows=rows,
            distil=self.config.replay.distil,
        )
        return loss + self.auxiliary_loss(batch, labels)

    def auxiliary_loss(self, batch: dict[str, Any], labels: Tensor) -> Tensor | float:
        """Loss beside that of the answers, of the pass that was just made. Here there is none."""
        return 0.0

    def prepare(self) -> None:
        """Put on the model what learns beside the adapter, before the optimiser is made. Here nothing."""

    def _replayed(self, sources: list[str] | None, labels: Tensor) -> Tensor | None:
        """Rows that the base model helps to teach; None where there are none."""
        if not self.config.replay.distil or sources is None:
            return None
        names = {source.name for source in self.config.replay.sources}
        rows = torch.tensor([i for i, name in enumerate(sources) if name in names], device=labels.device)
        return rows if len(rows) else None

    @torch.no_grad()
    def _base_logits(self, batch: dict[str, Any], rows: Tensor, keys: list[str | None] | None) -> Tensor:
        """What the model says of some rows without its adapter."""
        part = {name: batch[name][rows] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
        shown = batch["mm_token_type_ids"].sum(1) > 0
        if bool(shown[rows].any()):
            number = (shown.cumsum(0) - 1)[rows][shown[rows]].tolist()
            grid = batch["image_grid_thw"]
            patches = batch["pixel_values"].split(grid.prod(dim=1).tolist())
            part["pixel_values"] = torch.cat([patches[i] for i in number])
            part["image_grid_thw"] = grid[number]
            if self.vision is not None and keys is not None:
                self.vision.keys = [keys[i] for i in number]
        device = self.checkpoint.device.type
        with (
            self.model.disable_adapter(),
            torch.autocast(device, self.compute) if self.compute is not None else nullcontext(),
        ):
            logits: Tensor = self.model(**part, use_cache=False).logits
        return logits

    def release(self) -> None:
        """Take off the model what only training needs. Here nothing."""

    def run(self, examples: ScheduledExamples, exam: Measuring | None) -> TrainingOutcome:
        """Train from the last state, or from the start, to the end or until told to stop.

        Raises
        ------
        DivergedError
            The loss or a gradient is no longer a number; the last good state is kept.
        """
        train = self.config.train
        states = self.folder / STATES
        found = last_state(states)
        first = int(found.name.rpartition("-")[2]) if found is not None else 0
        self.prepare()
        watcher = _Watcher(self, exam, first)
        trainer = _Trainer(
            self,
            model=self.model,
            args=self._arguments(states),
            train_dataset=examples,  # type: ignore[arg-type]
            data_collator=self.collator,
            callbacks=[watcher],
        )
        trainer.remove_callback(PrinterCallback)
        last = self.folder / LAST
        if found is not None and first >= train.steps:
            # Trained to the end before, and stopped while it was measured: this model has not seen a step.
            last, step, stopped = found, first, False
        else:
            trainer.train(resume_from_checkpoint=None if found is None else str(found))
            step = max(first, trainer.state.global_step)
            stopped = step < train.steps
            if not stopped:
                save_weights(self.model, last)
        self.release()
        plot_curves(self.folder)
        best = self.folder / BEST
        return TrainingOutcome(step, stopped, last, best if (best / "score.json").is_file() else None)

    def _arguments(self, states: Path) -> TrainingArguments:
        train = self.config.train
        on_cpu = self.checkpoint.device.type == "cpu"
        return TrainingArguments(
            output_dir=str(states),
            max_steps=train.steps,
            per_device_train_batch_size=train.batch,
            gradient_accumulation_steps=train.accumulate,
            learning_rate=train.learning_rate,
            lr_scheduler_type=train.schedule,
            warmup_steps=round(train.warmup * train.steps),
            weight_decay=train.weight_decay,
            max_grad_norm=train.clip,
            optim="adamw_torch",
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            save_steps=train.save_every,
            save_total_limit=train.keep,
            train_sampling_strategy="sequential",
            **_checkpointing(train.checkpointing),
            remove_unused_columns=False,
            label_names=["labels"],
            dataloader_num_workers=self.config.workers,
            dataloader_pin_memory=not on_cpu,
            ddp_find_unused_parameters=True,
            use_cpu=on_cpu,
            seed=self.config.seed,
            report_to=[],
            disable_tqdm=True,
            average_tokens_across_devices=False,
        )


class _Trainer(Trainer):
    """Trainer that computes its loss with `Loop.loss_of` and stops where that is not a number."""

    def __init__(self, loop: Loop, **options: Any) -> None:
        self._loop = loop
        super().__init__(**options)
        # The taught tokens of all batches of a step are counted and handed to compute_loss.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        loss = self._loop.loss_of(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise _diverged(self._loop, self.state.global_step, f"the loss is {float(loss.detach())}")
        return loss


class _Watcher(TrainerCallback):
    """Progress, curves, measurements, stopping."""

    def __init__(self, loop: Loop, exam: Measuring | None, first: int) -> None:
        self.loop, self.exam, self.first = loop, exam, first
        self.began = time.monotonic()
        self.curves = Curves(loop.folder / "training.csv", first + 1)
        measured = exam is not None and loop.config.evaluate.every
        self.scores = Curves(loop.folder / "validation.csv", first + 1) if measured else None
        self.board = _board(loop.folder / TENSORBOARD, first)
        self.best = best_score(loop.folder / BEST, loop.config.metric)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: object
    ) -> None:
        for name, parameter in self.loop.model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise _diverged(self.loop, state.global_step, f"the gradient of {name} is not a number")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **rest: object,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        step, rate = state.global_step, float(logs.get("learning_rate", 0.0))
        loss = float(logs["loss"])
        self.curves.add(step, {"loss": loss})
        self._write(
            {"train/loss": loss, "train/learning_rate": rate, "train/grad_norm": float(logs.get("grad_norm", 0))}, step
        )
        if self.loop.progress is not None:
            done, left = step - self.first, state.max_steps - step
            seconds = (time.monotonic() - self.began) / max(1, done) * left
            metric = self.loop.config.metric
            self.loop.progress(Step(step, state.max_steps, loss, rate, seconds, metric, self.best))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: object
    ) -> TrainerControl:
        every = self.loop.config.evaluate.every
        if self.exam is not None and every and state.global_step % every == 0:
            self._measure(state.global_step)
        if self.loop.cancel is not None and self.loop.cancel.is_set():
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: object
    ) -> None:
        if self.board is not None:
            self.board.close()

    def _measure(self, step: int) -> None:
        assert self.exam is not None
        loop = self.loop
        with engine_of(loop.checkpoint, loop.model, loop.vision) as engine:
            score = self.exam.score(engine)
        metric = loop.config.metric
        values = {key: value for key, value in score.values.items() if value == value}
        assert self.scores is not None
        self.scores.add(step, {key: values[key] for key in CURVES if key in values})
        self._write({f"validation/{key}": value for key, value in values.items()}, step)
        value = values.get(metric)
        if value is None:
            return
        if self.best is None or best_of([{metric: self.best}, {metric: value}], metric) == 1:
            self.best = value
            save_weights(loop.model, loop.folder / BEST)
            text = json.dumps({"step": step, "metric": metric, "value": value, **score.as_dict()})
            (loop.folder / BEST / "score.json").write_text(text + "\n", encoding="utf-8")

    def _write(self, values: dict[str, float], step: int) -> None:
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """Arguments for recomputed activations, never the reentrant kind: it silently leaves adapters without gradients."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    prefix = "activation" if "activation_checkpointing" in names else "gradient"  # renamed in transformers 5.2x
    if not wanted:
        return {}
    return {f"{prefix}_checkpointing": True, f"{prefix}_checkpointing_kwargs": {"use_reentrant": False}}


def _diverged(loop: Loop, step: int, what: str) -> DivergedError:
    found = last_state(loop.folder / STATES)
    kept = f"the last good state is {found}" if found is not None else "no state had been saved yet"
    return DivergedError(
        f"step {step + 1}: {what}; {kept}. Lower train.learning_rate or train.clip and start again (with quantised or "
        "half-precision weights also look for samples that are all padding)"
    )


def _board(folder: Path, first: int) -> SummaryWriter | None:
    """TensorBoard's writer, where it is installed; the CSV files hold the same numbers."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first + 1)


def _label_tokens(tokenizer: PreTrainedTokenizerBase, names: tuple[str, ...]) -> Tensor:
    return torch.tensor(sorted({i for name in names for i in tokenizer(name, add_special_tokens=False)["input_ids"]}))
