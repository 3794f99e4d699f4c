"""What a checkpoint folder says about itself, read from JSON and safetensors headers alone: no torch, no weights."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenvl.errors import CheckpointError
from qwenvl.families import ModelFamily, family_of, stated_grounding
from qwenvl.memory import MemoryEstimate, ModelWidths
from qwenvl.processor import PROCESSOR_FILES, ProcessorSettings, read_processor
from qwenvl.quantise import quantisation_of
from qwenvl.trained import TrainedOn

EMBEDDED = "embedded"
"""Name of the checkpoint that comes with the package."""

EMBEDDED_FOLDER = Path(__file__).parent / "checkpoints" / "embedded"

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SAMPLE = 65_536  # bytes hashed at each of five places of a weights file
_SMALL = 64 * 2**20  # files up to this size are hashed whole
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class CheckpointDescription:
    """A checkpoint, seen from outside.

    Attributes
    ----------
    name : str
        As given.
    folder : Path
    family : ModelFamily
        With the coordinate space and dialect that `qwenvl.json` states for this checkpoint, if any.
    processor : ProcessorSettings
    config : Mapping
        Content of `config.json`.
    dtype : str
        Of most weights, such as 'bfloat16'.
    parameters : int
    weight_bytes : int
    quantisable : int
        Parameters that `quantise` can keep in fewer bits: matrices of the language model's blocks.
    recommended : Mapping
        Request settings of `qwenvl.json` (tile_size, mpp, overlap, max_new_tokens, labels), possibly empty.
    warning : str or None
        What a reader of a report must know, from `qwenvl.json`.
    chat_template : str or None
    trained : TrainedOn or None
        At which size and scales it was trained, from `qwenvl.json`.
    """

    name: str
    folder: Path
    family: ModelFamily
    processor: ProcessorSettings
    config: Mapping[str, Any]
    dtype: str
    parameters: int
    weight_bytes: int
    quantisable: int = 0
    recommended: Mapping[str, Any] = field(default_factory=dict)
    warning: str | None = None
    chat_template: str | None = None
    trained: TrainedOn | None = None

    def tokens_per_tile(self, tile_size: int) -> int:
        """Visual tokens of a square tile of `tile_size` px."""
        if self.family.fixed_tokens is not None:
            return self.family.fixed_tokens
        return self.processor.image_tokens(self.processor.frame(tile_size, tile_size))

    def estimate_memory(
        self, tile_size: int, *, batch: int = 1, prompt_tokens: int = 200, new_tokens: int = 512,
        dtype: str | None = None, quantise: str | None = None,
    ) -> MemoryEstimate:  # fmt: skip
        """Estimate the memory of a batch of tiles.

        Parameters
        ----------
        tile_size : int
            Side in px.
        batch : int
            Tiles answered together.
        prompt_tokens, new_tokens : int
            Text tokens of the question and the longest answer.
        dtype : str, optional
            'float32', 'float16' or 'bfloat16'; None takes the checkpoint's own.
        quantise : str, optional
            '4bit' or '8bit', as of `load_checkpoint`.
        """
        size = _DTYPE_BYTES.get(dtype or self.dtype, 2)
        text = self.config.get("text_config", self.config)
        hidden, heads = text["hidden_size"], text["num_attention_heads"]
        head_dim = text.get("head_dim") or hidden // heads
        layer_types = text.get("layer_types") or []
        layers = text["num_hidden_layers"]
        if self.family.linear_attention:
            layers = layer_types.count("full_attention") or layers // text.get("full_attention_interval", 4)
        vision = self.config.get("vision_config", {})
        widths = ModelWidths(
            layers=layers,
            kv_heads=text.get("num_key_value_heads", heads),
            head_dim=head_dim,
            hidden=hidden,
            intermediate=text.get("intermediate_size", 4 * hidden),
            vocabulary=text["vocab_size"],
            vision=vision.get("embed_dim", vision.get("hidden_size", 1280)),
            merged=self.family.merge_size**2,
            patch=self.processor.patch_dim,
        )
        weights = self.parameters * size
        if quantise is not None:
            saved = size - quantisation_of(quantise).bytes_per_weight
            weights -= int(self.quantisable * saved)
        return widths.estimate(
            weights, self.tokens_per_tile(tile_size), batch=batch, prompt_tokens=prompt_tokens, new_tokens=new_tokens,
            size=size,
        )  # fmt: skip


def describe_checkpoint(
    name_or_path: str | Path, *, name: str | None = None, family: str | None = None
) -> CheckpointDescription:
    """Describe a local checkpoint without loading it.

    Parameters
    ----------
    name_or_path : str or Path
        'embedded', or a folder.
    name : str, optional
        What to call it, such as its hub name; also tells a Thinking variant that has no chat template.
    family : str, optional
        Name of the family, where the folder does not tell it rightly.

    Raises
    ------
    CheckpointError
        There is no such folder, or it is incomplete or pickled.
    UnknownFamilyError
        Its `model_type` is not known.
    """
    folder = EMBEDDED_FOLDER if str(name_or_path) == EMBEDDED else Path(name_or_path).expanduser()
    config = _read(folder / "config.json")
    chat_template = read_chat_template(folder)
    found = family_of(config, name=name or folder.resolve().name, chat_template=chat_template, family=family)
    extra = _read(folder / "qwenvl.json") if (folder / "qwenvl.json").is_file() else {}
    found = stated_grounding(found, extra, folder / "qwenvl.json")
    headers = [_header(path) for path in weight_files(folder)]
    sizes: dict[str, int] = {}
    weight_bytes = quantisable = 0
    for header in headers:
        for name_of_tensor, tensor in header.items():
            count = math.prod(tensor["shape"])
            quantisable += count * _is_quantisable(name_of_tensor, tensor["shape"])
            sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + count
            weight_bytes += count * _BYTES.get(tensor["dtype"], 1)
    most = max(sizes, key=sizes.__getitem__, default="F32")
    processor = ProcessorSettings.of_family(found) if found.fixed_size else read_processor(folder)
    return CheckpointDescription(
        name=name or str(name_or_path),
        folder=folder,
        family=found,
        processor=processor,
        config=config,
        dtype={"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(most, most),
        parameters=sum(sizes.values()),
        weight_bytes=weight_bytes,
        quantisable=quantisable,
        recommended=extra.get("recommended", {}),
        warning=extra.get("warning"),
        chat_template=chat_template,
        trained=TrainedOn.read(extra),
    )


def estimate_memory(name_or_path: str | Path, tile_size: int, **settings: Any) -> MemoryEstimate:
    """`CheckpointDescription.estimate_memory` of a local checkpoint, with the same settings."""
    return describe_checkpoint(name_or_path).estimate_memory(tile_size, **settings)


def read_chat_template(folder: Path) -> str | None:
    """The Jinja text of a folder's chat template, wherever its generation of transformers put it."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).is_file():
            template = _read(folder / name).get("chat_template")
            if isinstance(template, str):
                return template
    return None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, sorted.

    Raises
    ------
    CheckpointError
        There are none, or a shard that the index names is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_read(index)["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder}: missing {', '.join(missing)}; fetch the checkpoint again")
        return [folder / name for name in names]
    found = sorted(folder.glob("model*.safetensors"))
    if found:
        return found
    if any(next(folder.glob(pattern), None) for pattern in _PICKLED):
        raise CheckpointError(
            f"{folder}: holds only pickled weights, which can run any code when they are loaded; "
            "convert them to safetensors (save_pretrained of a trusted machine does) or fetch a safetensors revision"
        )
    raise CheckpointError(f"{folder}: no weights (model.safetensors); fetch the checkpoint again")


def fingerprint(folder: Path, *, extra: str = "") -> str:
    """'sha256:' and 32 hexadecimal digits over configuration, tokenizer, processor and weights.

    Files above 64 MiB are hashed by name, size, header and samples, so that it takes milliseconds at any size.
    """
    digest = hashlib.sha256(extra.encode())
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
             "chat_template.jinja", "vocab.json", "merges.txt", *PROCESSOR_FILES)  # fmt: skip
    for path in (*(folder / name for name in names), *sorted(folder.glob("*.safetensors"))):
        if not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        if size <= _SMALL:
            digest.update(path.read_bytes())
            continue
        with path.open("rb") as file:
            for part in range(5):
                file.seek((size - _SAMPLE) * part // 4)
                digest.update(file.read(_SAMPLE))
    return f"sha256:{digest.hexdigest()[:32]}"


def _is_quantisable(name: str, shape: list[int]) -> bool:
    return len(shape) == 2 and ".layers." in name and "visual" not in name and name.endswith(".weight")


def _header(path: Path) -> dict[str, Any]:
    """Tensors of a safetensors file by name (https://huggingface.co/docs/safetensors, section Format)."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
    except (struct.error, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file ({error}); fetch the checkpoint again"
        ) from error
    header.pop("__metadata__", None)
    return header


def require_utf8(folder: Path) -> None:
    """Raise CheckpointError where the path of a folder of weights is no UTF-8: safetensors and tokenizers need that."""
    try:
        os.fsencode(folder.absolute()).decode("utf-8")
    except UnicodeError as error:
        shown = str(folder).encode("ascii", "backslashreplace").decode()
        raise CheckpointError(
            f"{shown}: the name is no UTF-8, which the libraries for weights and tokenizers cannot open; rename the "
            "folder, or name a link to it that has a plain name"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent}: no {path.name} there; give a folder with a Hugging Face checkpoint, or '{EMBEDDED}'"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}; fetch the checkpoint again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object; fetch the checkpoint again")
    return content
