"""Loading a checkpoint: model, tokenizer and processor settings by themselves, without torchvision.

`AutoProcessor` needs torchvision, which does not import beside every build of torch; the three parts do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenvl.checkpoints.checkpoint_metadata import (
    EMBEDDED,
    EMBEDDED_FOLDER,
    CheckpointDescription,
    describe_checkpoint,
    estimate_memory,
    fingerprint,
    require_utf8,
)
from qwenvl.checkpoints.quantize import (
    Quantisation,
    check_quantised,
    quantisation_config,
    quantisation_of,
    refuse_mixture,
)
from qwenvl.checkpoints.quantized import QuantisedWeights
from qwenvl.engines.base import ModelInfo
from qwenvl.errors import CheckpointError
from qwenvl.families import ModelFamily
from qwenvl.images.processor import ProcessorSettings

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "describe_checkpoint", "estimate_memory", "find_checkpoint", "load_checkpoint"]

_NEEDED = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.json")
_WORTH_A_BAR = 10**9  # bytes of weights from which loading shows its progress


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A loaded model with everything needed to ask it."""

    model: Any
    """The transformers model, in evaluation mode."""
    tokenizer: Any
    """The transformers tokenizer, padding on the left."""
    processor: ProcessorSettings
    family: ModelFamily
    info: ModelInfo
    description: CheckpointDescription

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings, where inputs go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def recommended(self) -> Mapping[str, Any]:
        """Request settings recommended by the checkpoint: tile_size, mpp, overlap, max_new_tokens, labels."""
        return self.description.recommended

    @property
    def warning(self) -> str | None:
        """What a reader of a report must know."""
        return self.description.warning

    @property
    def image_token_id(self) -> int:
        """Id of the token that stands for one visual token."""
        return int(self.model.config.image_token_id)

    @property
    def video_token_id(self) -> int:
        """Id of the token that stands for one visual token of a film."""
        return int(self.model.config.video_token_id)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        ids = self.model.generation_config.eos_token_id
        ids = {self.tokenizer.eos_token_id, *(ids if isinstance(ids, list) else [ids])}
        end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        return tuple(sorted(int(i) for i in {*ids, end} - {None, self.tokenizer.unk_token_id}))


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The local folder of a checkpoint, fetched from the hub where it is a hub name.

    Raises
    ------
    CheckpointError
        Neither a folder nor something the hub knows; the message says what was tried.
    """
    name = str(name_or_path)
    if name == EMBEDDED:
        if (EMBEDDED_FOLDER / "config.json").is_file():
            return EMBEDDED_FOLDER
        raise CheckpointError(f"the embedded checkpoint is missing from {EMBEDDED_FOLDER}; install the package again")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name_or_path, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{name}: no such folder, and not a hub name of the form 'owner/model'; "
            f"check the path, or use '{EMBEDDED}' for the checkpoint that comes with the package"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_NEEDED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{name}: tried as a folder ({folder.absolute()}), in the local hub cache, and on the hub: {reason}. "
            "Check the spelling and the connection, or give a folder that holds the checkpoint"
        ) from error


def load_checkpoint(
    name_or_path: str | Path = EMBEDDED,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    adapter: str | Path | None = None,
    family: str | None = None,
    trust_remote_code: bool = False,
    quantise: str | None = None,
) -> Checkpoint:
    """Load a checkpoint.

    Parameters
    ----------
    name_or_path : str or Path
        'embedded', a folder, or a hub name such as 'Qwen/Qwen3-VL-8B-Instruct'.
    device : str or torch.device
        'auto' takes a GPU where there is one.
    dtype : str or torch.dtype
        'auto' takes the checkpoint's own on a GPU and float32 on a CPU.
    adapter : str or Path, optional
        Folder of a LoRA adapter in safetensors; it is merged into the weights.
    family : str, optional
        Name of the family, where the checkpoint does not tell it rightly.
    trust_remote_code : bool
        Run model code that comes with the checkpoint (Qwen-VL only).
    quantise : str, optional
        '4bit' or '8bit' for the language model's blocks (`qwenvl.checkpoints.quantize`); the rest keeps `dtype`, of
        which 'auto'
        is then the checkpoint's own on a CPU too, or bfloat16 where that is float32.

    Raises
    ------
    CheckpointError
        Not found, incomplete, pickled, without processor settings, or weights that do not fit the model; or the
        adapter is not one of this model.
    UnknownFamilyError
        Its `model_type` is not known.
    """
    import torch

    folder = find_checkpoint(name_or_path)
    require_utf8(folder)
    description = describe_checkpoint(folder, name=str(name_or_path), family=family)
    known = description.family
    if known.remote_code and not trust_remote_code:
        raise CheckpointError(
            f"{name_or_path}: {known.name} is not part of transformers and needs the code that comes with it, "
            "written for transformers 4.32. Use Qwen2-VL or later, serve it with such an older stack and connect to "
            "that server, or pass trust_remote_code=True if you have read the code"
        )
    chosen = _device(device)
    quantisation = None if quantise is None else quantisation_of(quantise)
    ready = description.quantised
    if ready is not None:
        _check_ready(ready, description, quantisation, adapter)
    if quantisation is not None and known.mixture:
        refuse_mixture(quantisation, description)
    if quantisation is not None and (known.remote_code or adapter is not None):
        raise CheckpointError(
            f"quantise {quantise}: not with {'remote code' if known.remote_code else 'an adapter, which is merged'}; "
            "leave one of the two out"
        )
    if quantisation is not None and str(dtype) == "auto":
        dtype = description.dtype if description.dtype in ("bfloat16", "float16") else "bfloat16"
    if ready is not None and str(dtype) == "auto":
        dtype = description.dtype  # scales and kernels were made for it, on a CPU too
    number = _dtype(dtype, description, chosen)
    model = _load_model(description, number, trust_remote_code, quantisation, chosen)
    placed = quantisation is not None or ready is not None
    model = (model if placed else model.to(chosen)).eval().requires_grad_(False)
    tokenizer = _load_tokenizer(folder, description, trust_remote_code)
    info = ModelInfo(
        model=str(name_or_path),
        family=known.name,
        fingerprint=fingerprint(folder, extra="" if quantisation is None else f"quantise={quantisation}"),
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(chosen),
        processor=description.processor.as_dict()
        | ({} if quantisation is None else {"quantise": str(quantisation)})
        | ({} if ready is None else {"quantised": str(ready)}),
        versions=_versions(torch),
        warning=description.warning,
        trained=description.trained,
    )
    checkpoint = Checkpoint(model, tokenizer, description.processor, known, info, description)
    if adapter is None:
        return checkpoint
    from qwenvl.checkpoints.adapters.adapter import AdapterSwitch

    return AdapterSwitch(checkpoint).use(adapter)


def _check_ready(
    ready: QuantisedWeights,
    description: CheckpointDescription,
    quantisation: Quantisation | None,
    adapter: str | Path | None,
) -> None:
    """Raise CheckpointError for what weights that are quantised already do not allow, or need."""
    if quantisation is not None:
        raise CheckpointError(
            f"{description.name}: quantise {quantisation}: its weights are quantised already ({ready}); leave quantise "
            "out, or take the model that is not quantised"
        )
    if adapter is not None:
        raise CheckpointError(
            f"{description.name}: an adapter is merged into the weights, and these are quantised ({ready}); load it on "
            "the model that is not quantised"
        )
    ready.require_backend(description.name)


def _device(device: str | torch.device) -> torch.device:
    import torch

    if str(device) != "auto":
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"device {device!r} cannot be used: {reason}; use 'auto' or 'cpu'") from error
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(dtype: str | torch.dtype, description: CheckpointDescription, device: torch.device) -> torch.dtype:
    import torch

    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        name = "float32" if device.type == "cpu" else description.dtype
    if name not in ("float32", "float16", "bfloat16"):
        raise CheckpointError(f"dtype {name!r} is none of float32, float16, bfloat16")
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def _load_model(
    description: CheckpointDescription,
    dtype: torch.dtype,
    trust_remote_code: bool,
    quantisation: Quantisation | None,
    device: torch.device,
) -> Any:
    import transformers

    folder, family = description.folder, description.family
    if family.remote_code:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    from transformers.utils import logging

    architecture = getattr(transformers, family.architecture)
    # Quantised weights are made on their device and cannot be moved.
    quantised: dict[str, Any] = {}
    if quantisation is not None:
        config = quantisation_config(quantisation, dtype)
        quantised = {"quantization_config": config, "device_map": {"": device}}
    elif description.quantised is not None:
        quantised = {"device_map": {"": device}}
    bar = logging.is_progress_bar_enabled()
    if description.weight_bytes < _WORTH_A_BAR:
        logging.disable_progress_bar()
    try:
        # Shapes that do not fit are reported below with the other faults, by name.
        model, loading = architecture.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **quantised,
        )
    except MemoryError:
        raise
    except Exception as error:  # what a foreign folder can raise has no common class: SafetensorError has none
        raise CheckpointError(
            f"{folder}: cannot be loaded as {family.name}: {error or type(error).__name__}"
        ) from error
    finally:
        if bar:
            logging.enable_progress_bar()
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    missing = sorted(set(loading["missing_keys"]) - tied)
    unexpected = sorted(set(loading["unexpected_keys"]) - tied)
    mismatched = sorted(str(key[0]) for key in loading["mismatched_keys"])
    for what, keys in (("lack", missing), ("hold unknown", unexpected), ("have other shapes for", mismatched)):
        if keys:
            raise CheckpointError(
                f"{folder}: the weights {what} {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''} ({len(keys)}), "
                f"so they are not those of a {family.name} with this config.json; fetch the checkpoint again"
            )
    if quantisation is not None:
        check_quantised(model, quantisation, dtype)
    return model


def _load_tokenizer(folder: Path, description: CheckpointDescription, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, padding_side="left", trust_remote_code=trust_remote_code
        )
    except Exception as error:  # tokenizers raises plain exceptions
        raise CheckpointError(f"{folder}: its tokenizer cannot be loaded: {error}; fetch it again") from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = description.chat_template
    return tokenizer


def _versions(torch: Any) -> dict[str, str]:
    versions = {"torch": str(torch.__version__)}
    for package in ("napari-qwenvl", "transformers", "tokenizers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
