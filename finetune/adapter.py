"""The adapter folder: peft's two files, the picture settings, and a card that says what it is and how good."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError
from qwenvl.checkpoints.adapters.adapter import CARD, adapter_hash, base_fingerprint, read_card, require_adapter
from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint
from qwenvl.images.processor import PROCESSOR_FILES
from qwenvl.request import Request


def write_adapter(
    model: Any, checkpoint: Checkpoint, folder: Path, *, name: str, request: Request, facts: Mapping[str, Any]
) -> Path:
    """Write an adapter; the folder takes its name when all is written.

    Parameters
    ----------
    model : peft.PeftModel or Path
        A trained model, or a folder that peft wrote.
    facts : mapping
        Data manifest, metrics, forgetting, recipe: they become part of the card.
    """
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    if isinstance(model, Path):
        partial.mkdir(parents=True)
        for each in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy2(model / each, partial / each)
    else:
        model.save_pretrained(partial)
    for each in PROCESSOR_FILES:
        source = checkpoint.description.folder / each
        if source.is_file():
            shutil.copy2(source, partial / each)
    _own_words(partial / "README.md", name, checkpoint, request, facts)
    write_card(partial, checkpoint, name=name, request=request, facts=facts)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return folder


def write_card(
    folder: Path, checkpoint: Checkpoint, *, name: str, request: Request, facts: Mapping[str, object]
) -> None:
    """Write the card alone, for example once the adapter has been measured."""
    card = {
        "format": 1,
        "name": name,
        "hash": adapter_hash(folder),
        "base": {
            "name": checkpoint.info.model,
            "family": checkpoint.family.name,
            "fingerprint": base_fingerprint(checkpoint),
        },
        "processor": checkpoint.processor.as_dict(),
        "labels": list(request.labels),
        "request": request.model_dump(mode="json"),
        "versions": {package: version(package) for package in ("napari-qwenvl", "peft", "torch", "transformers")},
        **facts,
    }
    path = folder / CARD
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _own_words(path: Path, name: str, checkpoint: Checkpoint, request: Request, facts: Mapping[str, object]) -> None:
    labels = ", ".join(request.labels)
    path.write_text(
        f"# {name}\n\nAdapter of {checkpoint.info.model} ({checkpoint.family.name}) for: {labels}.\n\n"
        f'Use it with `qwenvl {request.task} SLIDE --adapter {name} --labels "{labels}"`. What it was trained on and '
        f"how good it is stands in `{CARD}`.\n",
        encoding="utf-8",
    )


def merge_adapter(
    adapter: Path, out: Path, *, base: str | None = None, device: str = "cpu", dtype: str = "auto"
) -> Path:
    """Write a plain checkpoint with the adapter in its weights; it loads anywhere, without peft.

    Parameters
    ----------
    base : str, optional
        The model it was trained on, where that is no longer found by the name in its card.

    Raises
    ------
    FinetuneError
        `out` exists.
    CheckpointError
        The adapter does not belong to the model.
    """
    if out.exists():
        raise FinetuneError(f"{out} exists already; name another folder")
    require_adapter(adapter)
    card = read_card(adapter)
    name = base or (card.base if card is not None else None)
    if name is None:
        raise FinetuneError(f"{adapter} does not say which model it belongs to; name it with --model")
    checkpoint = load_checkpoint(name, device=device, dtype=dtype, adapter=adapter)
    partial = out.with_name(out.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    checkpoint.model.save_pretrained(partial)
    for file in checkpoint.description.folder.iterdir():
        keep = file.suffix in (".json", ".jinja", ".txt") and not file.name.startswith(("config", "model.safetensors"))
        if keep and not (partial / file.name).exists():
            shutil.copy2(file, partial / file.name)
    own = partial / "qwenvl.json"
    stated = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    stated["name"] = f"{stated.get('name', name)} + {card.name if card else adapter.name}"
    stated["merged_adapter"] = {"name": card.name if card else adapter.name, "hash": adapter_hash(adapter)}
    if checkpoint.info.warning:
        stated["warning"] = checkpoint.info.warning
    if card is not None:
        stated["recommended"] = dict(checkpoint.recommended)
    own.write_text(json.dumps(stated, indent=1) + "\n", encoding="utf-8")
    partial.rename(out)
    return out
