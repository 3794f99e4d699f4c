"""What an adapter folder contains: peft's settings and weights, and whether that is all of the adapter.

Trainers write beside an adapter what else they trained. An adapter without that part loads without a word and
answers otherwise than in training, so such a folder is refused by the name of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from qwenvl.checkpoints.files import read_header, read_json, require_utf8
from qwenvl.errors import CheckpointError

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt")
# Trainers' state, the same weights pickled, and value heads of reward training, which no answer passes through.
_HARMLESS = (
    WEIGHTS,
    "adapter_model.bin",
    "training_args.bin",
    "optimizer*",
    "scheduler*",
    "scaler*",
    "rng_state*",
    "random_states*",
    "value_head.*",
    "v_head.*",
)
_PREFIX = "base_model.model."
# Where parts of a model were called otherwise: in Qwen2-VL and Qwen2.5-VL before transformers 4.52, in a language model
# by itself (with and without its head), in a model without its head, and in servers. Each ends at a whole name.
_OLDER_NAMES = (
    (r"^(?:model\\?\.)?visual(?=[.\\]|$)", "model.visual"),
    (r"^(?:model\\?\.)?language_model\\?\.lm_head(?=[.\\]|$)", "lm_head"),
    (r"^(?:model\\?\.)?language_model\\?\.(?:model\\?\.)?(?=.)", "model.language_model."),
    (r"^(?:model\\?\.)?(?=(?:layers|embed_tokens|norm)(?:[.\\]|$))", "model.language_model."),
)


def require_adapter(folder: Path) -> None:
    """Raise CheckpointError where a folder contains no adapter in safetensors, or half of one."""
    require_utf8(folder)
    if not (folder / SETTINGS).is_file() or not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise CheckpointError(
            f"{folder}: no adapter in safetensors there ({SETTINGS} and {WEIGHTS})"
            + ("; adapter_model.bin is pickled, write it again with a newer peft" if pickled else "")
        )
    for path in sorted(folder.iterdir()):
        is_weights = any(fnmatch(path.name, pattern) for pattern in _WEIGHT_FILES)
        if is_weights and not any(fnmatch(path.name, pattern) for pattern in _HARMLESS):
            raise CheckpointError(
                f"{folder}: {path.name} contains weights that were trained beside the adapter, and peft does not load "
                "them, so this is half of what was trained. Merge both with the program that trained them and give "
                "the merged checkpoint as the model (or remove the file if it does not belong to the adapter)"
            )


def read_settings(folder: Path) -> Any:
    """The peft config of an adapter.

    Raises
    ------
    CheckpointError
        It is damaged, of a kind that this peft does not know, or of one that cannot be merged into weights.
    """
    from peft import PeftConfig

    path = folder / SETTINGS
    content = read_json(path, "train or fetch the adapter again")
    try:
        config: Any = PeftConfig.from_peft_type(**content)
    except Exception as error:
        raise CheckpointError(
            f"{path}: peft cannot read it ({type(error).__name__}: {error}); install a newer peft, or fetch it again"
        ) from error
    kind = getattr(config.peft_type, "value", str(config.peft_type))
    if config.is_prompt_learning or not hasattr(config, "target_modules"):
        raise CheckpointError(f"{path}: adapters of kind {kind} add to the prompt and cannot be merged into weights")
    for key, remedy in (
        ("layer_replication", "it repeats layers of the model; merge it with peft and load the result"),
        ("alora_invocation_tokens", "it works after some tokens only and cannot be merged"),
    ):
        if getattr(config, key, None):
            raise CheckpointError(f"{path}: {key} is not supported: {remedy}")
    config.inference_mode = True
    return config


def read_weights(folder: Path) -> dict[str, Any]:
    """Tensors of an adapter by name, on the CPU.

    Raises
    ------
    CheckpointError
        The file is damaged or empty, or contains numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    read_header(path)
    try:
        weights: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; fetch the adapter again") from error
    if not weights:
        raise CheckpointError(f"{path}: contains no weights; train or fetch the adapter again")
    for name, tensor in weights.items():
        if tensor.numel() == 0:
            raise CheckpointError(f"{path}: {name} is empty: it was saved while its parts lay elsewhere (ZeRO-3)")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path}: {name} contains numbers that are not finite; train it again")
    return weights


def convert_names(config: Any, weights: Mapping[str, object], modules: Iterable[str]) -> tuple[dict[str, Any], bool]:
    """Weights under the names of this transformers; the names in `config` are changed along.

    Before transformers 4.52 the parts of Qwen2-VL and Qwen2.5-VL were called `visual` and `model.layers`, since then
    `model.visual` and `model.language_model.layers`. Adapters of a language model by itself say `model.layers` too.

    Parameters
    ----------
    config : peft config
        Changed in place where names are of another layout.
    weights : mapping
        By name, as in the file.
    modules : iterable of str
        Names of the model's modules.

    Returns
    -------
    weights : dict
    language_only : bool
        The names are those of another layout, and none is of the vision tower.

    Raises
    ------
    CheckpointError
        Two weights would take one name, or modules that the settings name have no weights.
    """
    known = set(modules)
    renamed = {key: _fitting(key, known) for key in weights}
    if all(old == new for old, new in renamed.items()):
        return dict(weights), False
    if len(set(renamed.values())) < len(renamed):
        raise CheckpointError("the adapter has weights under older and newer names for the same module")
    adapted = set()
    for name in renamed.values():
        owner = _owner(name.removeprefix(_PREFIX), known) if _renamed(name) == name else None
        if owner and not name.endswith((f"{owner}.weight", f"{owner}.bias")):
            adapted.add(owner)
    _require_named(config, adapted, known)
    # A pattern of the older names can match other modules now. The weights say what was adapted.
    config.target_modules = adapted
    config.exclude_modules = None
    for key in ("layers_to_transform", "layers_pattern"):
        if hasattr(config, key):
            setattr(config, key, None)
    for key in ("rank_pattern", "alpha_pattern"):
        if getattr(config, key, None):
            setattr(config, key, {_renamed(name): value for name, value in getattr(config, key).items()})
    for key in ("modules_to_save", "feedforward_modules"):
        names = getattr(config, key, None)
        if names and not isinstance(names, str):
            setattr(config, key, [_renamed(name) if "." in name else name for name in names])
    language_only = not any(name.startswith(f"{_PREFIX}model.visual.") for name in renamed.values())
    return {new: weights[old] for old, new in renamed.items()}, language_only


def _require_named(config: object, adapted: set[str], known: set[str]) -> None:
    """Raise CheckpointError where layers of the language model that the settings name have no weights."""
    targets = getattr(config, "target_modules", None)
    partial = getattr(config, "layers_to_transform", None) is not None or getattr(config, "exclude_modules", None)
    if isinstance(targets, str) or not targets or partial:
        return
    inside = [name for name in known if name.startswith("model.language_model.layers.")]
    named = {name for name in inside if any(f".{name}".endswith(f".{_renamed(target)}") for target in targets)}
    if missing := sorted(named - adapted):
        raise CheckpointError(
            f"the adapter has no weights of {len(missing)} of {len(named)} modules that {SETTINGS} names, such as "
            f"{missing[0]}. This is half of what was trained, or it was trained on a smaller model"
        )


def _fitting(key: str, known: set[str]) -> str:
    """A weight's name, under the layout in which it names more of a module of this model."""
    new = _renamed(key)
    own, other = (_owner(name.removeprefix(_PREFIX), known) or "" for name in (key, new))
    beyond = new.removeprefix(f"{_PREFIX}{other}.").partition(".")[0].isdigit()  # a layer that is not there
    return new if len(other) > len(own) and not beyond else key


def _renamed(name: str) -> str:
    bare = name.removeprefix(_PREFIX)
    start = name[: len(name) - len(bare)]
    anchor = "^" if bare.startswith("^") else ""
    bare = bare.removeprefix("^")
    for pattern, new in _OLDER_NAMES:
        found, count = re.subn(pattern, new, bare)
        if count:
            return start + anchor + found
    return name


def _owner(name: str, known: set[str]) -> str | None:
    """The longest module name that a weight's name begins with."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        if (owner := ".".join(parts[:count])) in known:
            return owner
    return None


def language_note(config: object) -> str | None:
    """What is to be said of an adapter with names of a language model by itself; None where its base can see."""
    base = str(getattr(config, "base_model_name_or_path", None) or "")
    if re.search(r"vl", base, re.IGNORECASE):
        return None
    trained = f" ({base})" if base else ""
    return (
        f"its weights are named as those of a language model by itself{trained}; "
        "they are put on the language model of this one"
    )


__all__ = ["SETTINGS", "WEIGHTS", "convert_names", "language_note", "read_settings", "read_weights", "require_adapter"]
