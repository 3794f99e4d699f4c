"""Every setting of a fine-tuning run, each documented where it is defined; written and read as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from finetune.dataset.cutting import TileSpec
from finetune.errors import RecipeError
from finetune.examples.examples import Augmentation
from finetune.methods.lora import LoraSettings
from qwenvl.request import Task

PATHS = ("dataset", "conversations", "held_out", "out", "images")
"""Fields of `FinetuneConfig` that are paths."""
METRICS = ("f1", "precision", "recall", "f1@0.3", "ap", "point_f1", "count_error")
TEXT_METRICS = ("exact", "token_f1", "rouge_l", "schema_rate", "field_accuracy", "auroc")


class _RecipeSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReplaySource(_RecipeSettings):
    """One source of older skills."""

    name: str = Field(description="Name in logs and tables.")
    kind: Literal["tiles", "dataset", "pictures", "text", "conversations", "factory"] = Field(
        description="'tiles': the training tiles with other questions; 'dataset': a labelled dataset of an older task; "
        "'pictures': a folder of pictures; 'text': questions without a picture; 'conversations': a JSON or JSONL file "
        "with given answers; 'factory': synthetic tissue with planted truth."
    )
    path: Path | None = Field(None, description="Dataset, folder or file, where the kind needs one.")
    share: float | None = Field(None, ge=0, lt=1, description="Of the supervised tokens; None splits the rest evenly.")
    questions: tuple[dict[str, Any], ...] = Field(
        (), description="Requests that are asked (fields of Request). 'text' takes prompts alone."
    )
    tile: TileSpec | None = Field(None, description="Tiles of 'dataset' and size of 'factory'.")
    examples: int = Field(64, ge=1, le=100_000, description="Pictures whose answers the base model generates.")
    held_out: int = Field(16, ge=0, le=10_000, description="Tiles, pictures or questions kept for measuring.")


class Replay(_RecipeSettings):
    """What keeps the older skills."""

    share: float = Field(0.15, ge=0, lt=1, description="Of the supervised tokens, all sources together.")
    sources: tuple[ReplaySource, ...] = ()
    distil: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How far replayed answers are taught by the base model's own probabilities of every word instead "
        "of by the word alone; costs one more look at the replayed rows without gradients.",
    )
    limit: float = Field(2.0, ge=0, description="Most points an older skill may lose before the adapter is marked.")


class TrainingSettings(_RecipeSettings):
    """The loop."""

    steps: int = Field(300, ge=1, description="Optimiser steps.")
    batch: int = Field(8, ge=1, description="Examples per step and device.")
    accumulate: int = Field(1, ge=1, description="Batches per step.")
    learning_rate: float = Field(2e-4, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps.")
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    max_length: int | None = Field(None, ge=16, description="Longest sample in tokens; None takes the model's.")
    group_by_length: bool = True
    soft_coordinates: float = Field(
        0.0,
        ge=0,
        le=50,
        description="Width of soft targets for coordinates in model units; only where the vocabulary "
        "holds whole numbers as tokens, as the embedded model's does.",
    )
    label_weight: float = Field(1.0, gt=0, le=20, description="Weight of the tokens that name a class.")
    bfloat16: bool = Field(False, description="Products in bfloat16 while weights stay float32 (autocast).")
    checkpointing: bool = Field(False, description="Recompute activations: less memory, a third more time.")
    keep_features: int = Field(512, ge=0, description="MiB of visual tokens kept of tiles that come again.")
    save_every: int = Field(50, ge=1, description="Steps between states that a run can go on from.")
    keep: int = Field(3, ge=1, description="States kept; the best one is kept besides.")


class EvaluationSettings(_RecipeSettings):
    """Measuring by generation, while training and at its end."""

    every: int | None = Field(None, ge=1, description="Steps between measurements; None measures at the end only.")
    metric: str | None = Field(
        None,
        description="What the best state is chosen by: f1 (the default), f1@0.3, ap, point_f1, count_error; of "
        "conversations exact (the default), token_f1, rouge_l, field_accuracy, auroc.",
    )
    tiles: int | None = Field(
        None, ge=1, description="Most validation tiles, or held-out conversations; None takes all."
    )
    radius_um: float = Field(6.0, gt=0, description="Points within this distance match.")
    base: bool = Field(True, description="Measure the model without the adapter too.")


class FinetuneConfig(_RecipeSettings):
    """A whole run."""

    dataset: Path | None = Field(None, description="Folder made by qwenvl dataset build.")
    conversations: Path | None = Field(
        None,
        description="In place of a dataset: JSON or JSONL of questions with their answers (ChatML, LLaVA or ShareGPT).",
    )
    held_out: Path | None = Field(
        None, description="Conversations of other pictures that measure what was learned; never trained on."
    )
    out: Path = Field(description="Folder of the run; the adapter comes to its subfolder 'adapter'.")
    name: str = Field("", description="Name of the adapter; by default that of the run's folder.")
    base: str = Field("embedded", description="Checkpoint: 'embedded', a folder, or a hub name.")
    family: str | None = None
    labels: tuple[str, ...] = Field(
        (),
        description="Classes that are asked for; by default all of the dataset. Of conversations: the labels of their "
        "boxes, where label_weight is set.",
    )
    task: Literal[Task.DETECT, Task.POINT, Task.COUNT] = Task.DETECT
    tasks: dict[Task, float] = Field({}, description="Weights of further questions made of the same labels.")
    system_prompt: str | None = None
    max_objects: int = Field(100, ge=1, le=2000)
    max_new_tokens: int = Field(512, ge=1, le=32768)
    tile: TileSpec = TileSpec()
    augment: Augmentation = Augmentation()
    empty_share: float = Field(0.15, ge=0, le=1, description="Most tiles without a label.")
    around_share: float = Field(0.3, ge=0, le=1, description="Tiles centred on a label, every class equally often.")
    lora: LoraSettings = LoraSettings()
    replay: Replay = Replay()
    train: TrainingSettings = TrainingSettings()
    evaluate: EvaluationSettings = EvaluationSettings()
    quantise: Literal["none", "nf4"] = Field("none", description="QLoRA: language model in 4 bits, vision tower not.")
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 7
    images: Path | None = Field(None, description="Where the pictures lie now, if they moved.")
    workers: int = Field(0, ge=0, le=64, description="Processes that read tiles.")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.dataset is None) == (self.conversations is None):
            raise ValueError("give what is to be learned: a dataset, or conversations, and not both")
        if self.held_out is not None and self.conversations is None:
            raise ValueError("held_out belongs to conversations; a dataset has its own validation split")
        known = METRICS if self.dataset is not None else TEXT_METRICS
        if self.metric not in known:
            raise ValueError(f"evaluate.metric {self.metric!r} is none of {', '.join(known)}")
        return self

    @field_validator("lora", mode="before")
    @classmethod
    def _targets(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("targets"), list):
            return {**value, "targets": tuple(value["targets"])}
        return value

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read YAML; paths in it are relative to its folder.

        Raises
        ------
        RecipeError
            Not YAML, or a setting is unknown or out of range.
        """
        import yaml

        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise RecipeError(f"{path}: cannot be read as YAML: {error}") from error
        if not isinstance(content, dict):
            raise RecipeError(f"{path}: settings are 'name: value' lines, not a {type(content).__name__}")
        try:
            return cls(**content).relative_to(path.parent)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:
                raise RecipeError(f"{path}: {first['msg'].removeprefix('Value error, ')}") from error
            where = ".".join(str(part) for part in first["loc"])
            raise RecipeError(f"{path}: {where}: {first['msg']} (got {first['input']!r})") from error

    def relative_to(self, folder: Path) -> Self:
        """The same with paths that begin in `folder`."""
        moved = {key: folder / value for key in PATHS if (value := getattr(self, key)) is not None}
        sources = tuple(
            source if source.path is None else source.model_copy(update={"path": folder / source.path})
            for source in self.replay.sources
        )
        moved["replay"] = self.replay.model_copy(update={"sources": sources})
        return self.model_copy(update=moved)

    def save(self, path: Path) -> None:
        """Write as YAML."""
        import yaml

        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")

    @property
    def metric(self) -> str:
        """What the best state is chosen by."""
        return self.evaluate.metric or ("exact" if self.dataset is None else "f1")

    @property
    def title(self) -> str:
        """Name of the adapter."""
        return self.name or self.out.name
