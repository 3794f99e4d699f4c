"""Adapters: low-rank changes of a checkpoint, found by path, checked against it, put on and taken off in place.

An adapter that does not belong to a model is refused. peft alone would warn and leave the model as it was.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenvl.checkpoints.adapters.base import KeptBase, base_digest
from qwenvl.checkpoints.adapters.card import CARD, AdapterCard, read_card
from qwenvl.checkpoints.adapters.files import (
    SETTINGS,
    WEIGHTS,
    convert_names,
    language_note,
    read_settings,
    read_weights,
    require_adapter,
)
from qwenvl.checkpoints.files import fingerprint
from qwenvl.cleanup import clean_up
from qwenvl.errors import CheckpointError

if TYPE_CHECKING:
    from qwenvl.checkpoints.loading import Checkpoint


def adapter_hash(folder: Path) -> str:
    """'sha256:' and 32 hexadecimal digits over weights and settings of an adapter."""
    digest = hashlib.sha256()
    for name in (SETTINGS, WEIGHTS):
        digest.update((folder / name).read_bytes())
    return f"sha256:{digest.hexdigest()[:32]}"


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

    The change is merged into the weights, so that the model is as quick as without. Every kind of peft adapter that
    can be merged is taken, with biases, saved modules and token embeddings; the base comes back bit for bit.

    Parameters
    ----------
    checkpoint : Checkpoint
        As loaded, without an adapter. Engines made of it before a switch must not be used after it.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.info.adapter is not None:
            raise CheckpointError("the checkpoint carries an adapter already; load it without one")
        self._base = checkpoint
        self._kept: KeptBase | None = None

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
        self._kept = KeptBase(self._base.model)
        try:
            note = self._merge(path, self._kept)
        except BaseException as error:
            clean_up(error, self._restore)
            raise
        return self._described(path, card, note)

    def _merge(self, folder: Path, kept: KeptBase) -> str | None:
        """Merge an adapter into the weights; what a user must know of it."""
        try:
            from peft import get_peft_model, set_peft_model_state_dict
        except ImportError as error:
            raise CheckpointError("an adapter needs peft; install napari-qwenvl[finetune]") from error
        model = self._base.model
        modules = dict(model.named_modules())
        dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
        config = read_settings(folder)
        weights, language_only = convert_names(config, read_weights(folder), modules)
        # Before peft writes this base into the settings.
        note = language_note(config) if language_only else None
        if getattr(config, "init_lora_weights", True) not in (True, False, None, "gaussian"):
            kept.guard(modules.values())  # such a beginning takes a part out of the base's weights
        with warnings.catch_warnings():
            # peft asks transformers for an attribute that was renamed, and warns of what is checked below.
            warnings.simplefilter("ignore")
            try:
                adapted: Any = get_peft_model(model, config)
            except Exception as error:
                raise CheckpointError(f"{folder}: it cannot be put on this model: {_brief(error)}") from error
            _require_whole(adapted, config, weights, folder)
            kept.guard(_touched(adapted, modules, weights))
            try:
                result: Any = set_peft_model_state_dict(adapted, weights)
            except (RuntimeError, KeyError, ValueError) as error:
                raise CheckpointError(f"{folder}: its weights do not fit this model: {error}") from error
            if result.unexpected_keys:
                raise CheckpointError(_misfit(folder, list(result.unexpected_keys)))
            try:
                adapted.merge_and_unload(safe_merge=True)
            except Exception as error:
                raise CheckpointError(f"{folder}: it cannot be merged into the weights: {error}") from error
        model.requires_grad_(False).eval()
        for name, parameter in model.named_parameters():
            if name in dtypes and parameter.dtype != dtypes[name]:
                parameter.data = parameter.data.to(dtypes[name])
        return note

    def _restore(self) -> None:
        if self._kept is not None:
            self._kept.restore()  # where that fails, the next call fails as well: nobody is given a changed base
            self._kept = None

    def _described(self, folder: Path, card: AdapterCard | None, note: str | None) -> Checkpoint:
        base = self._base
        own = adapter_hash(folder)
        name = card.name if card is not None else folder.name
        own_note = f"adapter {name}: {note}" if note else None
        warnings = [text for text in (base.info.warning, card.warning if card else None, own_note) if text]
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


def _touched(adapted: object, modules: Mapping[str, object], weights: Mapping[str, object]) -> list[Any]:
    """Modules of the base that merging or loading an adapter writes into."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {id(own): own for own in _wrapped(adapted, BaseTunerLayer)}
    for key in weights:
        owner, _, _ = key.removeprefix("base_model.model.").rpartition(".")
        if owner in modules:  # a bias, or a module that was saved whole
            found[id(modules[owner])] = modules[owner]
    return list(found.values())


def _wrapped(adapted: Any, kind: type) -> list[object]:
    layers: list[Any] = [module for module in adapted.modules() if isinstance(module, kind)]
    return [layer.get_base_layer() for layer in layers if hasattr(layer, "base_layer")]


def _require_whole(adapted: Any, config: object, weights: Mapping[str, object], folder: Path) -> None:
    """Raise CheckpointError where the weights are not those that the settings speak of."""
    from peft import get_peft_model_state_dict
    from peft.utils.other import AuxiliaryTrainingWrapper

    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    saved = [name for name, module in adapted.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    for named in getattr(config, "modules_to_save", None) or ():
        mine = [name for name in saved if f".{name}".endswith(f".{named}")]
        if not mine or not any(key.startswith(f"{name}.") for name in mine for key in weights):
            raise CheckpointError(
                f"{folder}: {SETTINGS} says that module {named} was trained whole (modules_to_save), but "
                + (f"{WEIGHTS} has no weights of it" if mine else "this model has no such module")
                + ". This is half of what was trained; fetch the adapter again, or merge it where it was trained"
            )
    missing = sorted(expected - set(weights))
    if missing and not _converted(missing, weights):
        if not expected & set(weights):
            raise CheckpointError(_misfit(folder, sorted(weights)))
        raise CheckpointError(
            f"{folder}: {WEIGHTS} lacks {len(missing)} of {len(expected)} weights that {SETTINGS} speaks of, such as "
            f"{missing[0]}. This is half of what was trained, or it was trained on another model"
        )
    # Embeddings that are adapted are written along as they were in the base.
    unknown = sorted(key for key in set(weights) - expected if ".base_layer." not in key)
    if unknown and not _converted(missing, weights):
        raise CheckpointError(_misfit(folder, unknown))


def _brief(error: BaseException) -> str:
    """The beginning of a message; peft's may contain a whole module."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _converted(missing: list[str], weights: Mapping[str, object]) -> bool:
    """Experts are written under other names than those of the model; peft checks them as it converts."""
    return bool(missing) and all(".experts." in key for key in missing) and any(".experts." in key for key in weights)


def _misfit(folder: Path, keys: list[str]) -> str:
    return (
        f"{folder}: {len(keys)} of its weights do not fit this model, such as {keys[0]}; "
        "it was trained on another model, or with an older layout of names"
    )


__all__ = [
    "CARD",
    "SETTINGS",
    "WEIGHTS",
    "AdapterCard",
    "AdapterSwitch",
    "adapter_hash",
    "base_digest",
    "base_fingerprint",
    "read_card",
    "require_adapter",
    "require_match",
]
