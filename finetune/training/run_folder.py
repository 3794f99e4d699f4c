"""The folder of a fine-tuning run: whose it is, on which weights it began, and its log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from finetune.config import PATHS, FinetuneConfig
from finetune.errors import RecipeError
from qwenvl.checkpoints.adapters.adapter import base_fingerprint
from qwenvl.checkpoints.checkpoint_metadata import require_utf8
from qwenvl.checkpoints.loading import Checkpoint

CONFIG, LOG, RUN = "config.yaml", "log.jsonl", "run.json"


def claim(config: FinetuneConfig, overwrite: bool) -> Path:
    """The run's folder, with the settings in it; another run in it is refused or set aside."""
    folder = config.out
    require_utf8(folder)
    known = folder / CONFIG
    if known.is_file():
        if run_hash(type(config).load(known)) == run_hash(config):
            return folder
        if not overwrite:
            raise RecipeError(
                f"{folder} holds a run with other settings ({known}); name another folder with 'out', or set it aside "
                "with --overwrite"
            )
        number = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.bak-{n}").exists())
        folder.rename(folder.with_name(f"{folder.name}.bak-{number}"))
    elif folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder} exists and is not a fine-tuning run; name another folder with 'out'")
    folder.mkdir(parents=True, exist_ok=True)
    absolute = config.model_copy(update={key: value.absolute() for key in PATHS if (value := getattr(config, key))})
    absolute.save(known)
    return folder


def require_same_base(folder: Path, checkpoint: Checkpoint) -> None:
    """Note the weights a run begins on; a run begun on others cannot go on."""
    path, own = folder / RUN, base_fingerprint(checkpoint)
    if not path.is_file():
        path.write_text(json.dumps({"base": own, "model": checkpoint.info.model}) + "\n", encoding="utf-8")
        return
    known = json.loads(path.read_text(encoding="utf-8")).get("base")
    if known != own:
        raise RecipeError(
            f"{folder}: the run was begun on other weights ({str(known)[:19]}) than {checkpoint.info.model} has now "
            f"({own[:19]}); name another folder with 'out'"
        )


def run_hash(config: FinetuneConfig) -> str:
    """Hash of everything that decides about the weights a run ends with."""
    content = config.model_dump(mode="json", exclude={*PATHS, "name", "workers", "replay", "evaluate"})
    if config.conversations is not None:
        content["conversations"] = config.conversations.name
    del content["train"]["keep_features"]
    content["replay"] = [source.model_dump(mode="json", exclude={"path"}) for source in config.replay.sources]
    content["share"] = config.replay.share
    if config.replay.distil:
        content["distil"] = config.replay.distil
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def log(folder: Path, row: Mapping[str, object]) -> None:
    """Add a line to the run's log."""
    with (folder / LOG).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
