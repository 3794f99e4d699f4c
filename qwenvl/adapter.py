"""Adapters: low-rank changes of a checkpoint, found by path, checked against it, put on and taken off in place.

An adapter that does not belong to a model is refused. peft alone would warn and leave the model as it was.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenvl.adapter_card import CARD, AdapterCard, read_card
from qwenvl.checkpoint import Checkpoint
from qwenvl.description import fingerprint, require_utf8
from qwenvl.errors import CheckpointError
from qwenvl.packed import unpack_linears

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def adapter_hash(folder: Path) -> str:
    """'sha256:' and 32 hexadecimal digits over weights and settings of an adapter."""
    digest = hashlib.sha256()
    for name in (SETTINGS, WEIGHTS):
        digest.update((folder / name).read_bytes())
    return f"sha256:{digest.hexdigest()[:32]}"


def require_adapter(folder: Path) -> None:
    """Raise CheckpointError where a folder holds no adapter in safetensors, or its path is no UTF-8."""
    require_utf8(folder)
    if not (folder / SETTINGS).is_file() or not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder}: no adapter in safetensors there ({SETTINGS} and {WEIGHTS})")


def require_match(card: AdapterCard, checkpoint: Checkpoint, folder: Path) -> None:
    """Raise CheckpointError where an adapter was trained on another family, base or kind of picture."""
    if card.family != checkpoint.family.name:
        raise CheckpointError(
            f"{folder}: adapter {card.name} was trained on {card.family}, the model is a {checkpoint.family.name}; "
            f"load it on {card.base}"
        )
    known = base_fingerprint(checkpoint)
    if card.base_fingerprint != known:
        raise CheckpointError(
            f"{folder}: adapter {card.name} was trained on other weights of {card.family} ({card.base}, "
            f"{card.base_fingerprint[:19]}) than these ({checkpoint.info.model}, {known[:19]}); load it on those, or "
            "train it again on these"
        )
    mine = checkpoint.processor.as_dict()
    differing = [key for key, value in dict(card.processor).items() if key in mine and mine[key] != value]
    if differing:
        key = differing[0]
        raise CheckpointError(
            f"{folder}: adapter {card.name} was trained on pictures with {key}={card.processor[key]}, the model's "
            f"settings say {mine[key]}; boxes would be scaled otherwise, so copy the adapter's settings to the model"
        )


def base_fingerprint(checkpoint: Checkpoint) -> str:
    """Fingerprint of a checkpoint's own weights, whatever adapter is on it."""
    return fingerprint(checkpoint.description.folder)


class AdapterSwitch:
    """Puts adapters on one loaded model and takes them off, without loading the model again.

    The low-rank change is added to the weights, so that the model is as quick as without; the weights that were
    there are kept, and come back bit for bit.

    Parameters
    ----------
    checkpoint : Checkpoint
        As loaded, without an adapter. Engines made of it before a switch must not be used after it.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.info.adapter is not None:
            raise CheckpointError("the checkpoint carries an adapter already; load it without one")
        self._base = checkpoint
        self._saved: dict[str, Tensor] = {}

    def use(self, folder: str | Path | None) -> Checkpoint:
        """The checkpoint with an adapter on it, or with none.

        Raises
        ------
        CheckpointError
            No adapter there, or it does not belong to this model; the model is then as it was without one.
        """
        self._restore()
        if folder is None:
            return self._base
        path = Path(folder)
        require_adapter(path)
        card = read_card(path)
        if card is not None:
            require_match(card, self._base, path)
        try:
            self._merge(path)
        except BaseException:
            self._restore()
            raise
        return self._described(path, card)

    def _merge(self, folder: Path) -> None:
        try:
            from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict
        except ImportError as error:
            raise CheckpointError("an adapter needs peft; install napari-qwenvl[finetune]") from error
        model = self._base.model
        config = LoraConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
        before = dict(model.named_parameters())
        with warnings.catch_warnings():
            # peft asks transformers for an attribute that was renamed.
            warnings.simplefilter("ignore", FutureWarning)
            try:
                adapted = get_peft_model(model, config)
            except ValueError as error:
                raise CheckpointError(
                    f"{folder}: its target modules are not in this model: {error}"
                ) from error
        result: Any = set_peft_model_state_dict(adapted, weights)
        # An adapter whose keys match nothing leaves the base model as it was, with no more than a warning.
        missing = [key for key in result.missing_keys if "lora_" in key]
        if result.unexpected_keys or missing:
            adapted.unload()
            keys = [*result.unexpected_keys, *missing]
            raise CheckpointError(
                f"{folder}: {len(keys)} of its weights do not fit this model, such as {keys[0]}; "
                "it was trained on another model, or with an older layout of names"
            )
        touched = {id(p) for p in _adapted_parameters(adapted)}
        self._saved = {name: p.detach().clone() for name, p in before.items() if id(p) in touched}
        adapted.merge_and_unload(safe_merge=True)
        model.requires_grad_(False).eval()
        unpack_linears(model)

    @torch.no_grad()
    def _restore(self) -> None:
        if not self._saved:
            return
        parameters = dict(self._base.model.named_parameters())
        for name, weight in self._saved.items():
            parameters[name].data = weight
        self._saved = {}
        unpack_linears(self._base.model)

    def _described(self, folder: Path, card: AdapterCard | None) -> Checkpoint:
        base = self._base
        own = adapter_hash(folder)
        name = card.name if card is not None else folder.name
        warnings = [text for text in (base.info.warning, card.warning if card else None) if text]
        info = replace(
            base.info,
            adapter=str(folder),
            fingerprint=fingerprint(base.description.folder, extra=own),
            versions={**base.info.versions, "adapter": f"{name} {own}"},
            warning="; ".join(warnings) or None,
            trained=None,  # an adapter may have been trained at a size and scale of its own
        )
        description = base.description
        if card is not None:
            # A scale that the base recommends is not the one this adapter was trained at.
            older = {key: value for key, value in description.recommended.items() if key != "mpp"}
            description = replace(description, recommended={**older, **card.recommended})
        return replace(base, info=info, description=description)


def _adapted_parameters(adapted: Any) -> list[Tensor]:
    """The base model's own parameters that layers of an adapter stand before."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = []
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            own = module.get_base_layer()
            named = getattr(module, "parameter_name", None)
            found += [getattr(own, named)] if named else list(own.parameters(recurse=False))
    return found


__all__ = [
    "CARD",
    "SETTINGS",
    "WEIGHTS",
    "AdapterCard",
    "AdapterSwitch",
    "adapter_hash",
    "base_fingerprint",
    "read_card",
    "require_adapter",
    "require_match",
]
