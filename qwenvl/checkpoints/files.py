"""The files of a checkpoint folder: JSON, safetensors headers, which weights are loaded, and a fingerprint of it all.

Folders come from anywhere, so sizes and depths are bounded and no name leads out of the folder. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from pathlib import Path
from typing import Any, TypeGuard

from qwenvl.errors import CheckpointError
from qwenvl.images.processor import PROCESSOR_FILES

INDEX = "model.safetensors.index.json"
BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "C64": 64,
}
"""Bits of a number of each type of safetensors."""

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SAMPLE = 65_536  # bytes hashed at each of five places of a weights file
_SMALL = 64 * 2**20  # files up to this size are hashed whole
_LONGEST_HEADER = 100_000_000  # the limit of the safetensors library
_LONGEST_JSON = 64 * 2**20
_LOADED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    *PROCESSOR_FILES,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "qwenvl.json",
    INDEX,
)


def read_json(path: Path, remedy: str = "fetch the checkpoint again") -> dict[str, Any]:
    """The JSON object of a file.

    Raises
    ------
    CheckpointError
        It is missing, too long, nested too deeply, or no JSON object.
    """
    try:
        if path.stat().st_size > _LONGEST_JSON:
            raise CheckpointError(f"{path}: longer than {_LONGEST_JSON >> 20} MiB of JSON; {remedy}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent}: no {path.name} there; give a folder with a Hugging Face checkpoint, or 'embedded'"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested too deeply to be read; {remedy}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}; {remedy}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: contains no JSON object; {remedy}")
    return content


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensors of a safetensors file by name, each with 'dtype', 'shape' and 'data_offsets'.

    Source: https://huggingface.co/docs/safetensors, section Format.

    Raises
    ------
    CheckpointError
        The file is cut short, or its header contradicts itself or the size of the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_LONGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        header.pop("__metadata__", None)
        end = max((_end_of(name, tensor) for name, tensor in header.items()), default=0)
        if end != size - 8 - length:
            raise ValueError(f"{size - 8 - length:,} bytes of weights where its header speaks of {end:,}")
    except RecursionError as error:
        raise CheckpointError(f"{path}: not a safetensors file (a header nested too deeply); fetch it again") from error
    except (OSError, struct.error, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}); fetch it again") from error
    return header


def _end_of(name: str, tensor: object) -> int:
    """Where a tensor's bytes end; ValueError where it contradicts itself."""
    if not isinstance(tensor, dict):
        raise ValueError(f"{name} is no tensor")
    kind, shape, offsets = tensor.get("dtype"), tensor.get("shape"), tensor.get("data_offsets")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2 or not isinstance(kind, str):
        raise ValueError(f"{name} has no dtype, shape and data_offsets")
    begin, end = offsets
    bits = BITS.get(kind)
    if begin > end or (bits is not None and 8 * (end - begin) != math.prod(shape) * bits):
        raise ValueError(f"{name} of shape {shape} and type {kind} has {end - begin:,} bytes")
    return int(end)


def _are_counts(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that are loaded of a checkpoint folder, sorted.

    Raises
    ------
    CheckpointError
        There are none, a shard that the index names is missing or outside the folder, or it is not clear which are
        loaded.
    """
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        names = _shards(index)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise CheckpointError(
                f"{folder}: missing {', '.join(missing[:3])}{more}, which {INDEX} names; fetch the checkpoint again"
            )
        if single.is_file() and names != [single.name]:
            raise CheckpointError(
                f"{folder}: contains {single.name} and an index of other files ({names[0]}), and which one is loaded "
                "is left to the library; remove the one that does not belong here"
            )
        return [folder / name for name in names]
    if single.is_file():
        return [single]
    if next(folder.glob("model-*.safetensors"), None):
        raise CheckpointError(
            f"{folder}: the weights lie in several files, and {INDEX}, which names them, is missing; fetch it"
        )
    if any(next(folder.glob(pattern), None) for pattern in _PICKLED):
        raise CheckpointError(
            f"{folder}: holds only pickled weights, which can run any code when they are loaded; "
            "convert them to safetensors (save_pretrained of a trusted machine does) or fetch a safetensors revision"
        )
    raise CheckpointError(f"{folder}: no weights (model.safetensors); fetch the checkpoint again")


def _shards(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: has no weight_map from tensors to files; fetch the checkpoint again")
    for name in names.values():
        if Path(name).name != name or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: names {name!r} as a file of weights, which is no safetensors file in this folder; do not "
                "use this checkpoint, or fetch it again from its maker"
            )
    return sorted(set(names.values()))


def fingerprint(folder: Path, *, extra: str = "") -> str:
    """'sha256:' and 32 hexadecimal digits over every file that is loaded: settings, tokenizer, code and weights.

    Files above 64 MiB are hashed by name, size, header and samples, so that it takes milliseconds at any size.
    """
    digest = hashlib.sha256(extra.encode())
    loaded = [*(folder / name for name in _LOADED), *sorted(folder.glob("*.safetensors"))]
    # Code in the folder runs only where the user allows it; then it decides about every answer.
    for path in (*loaded, *sorted(folder.glob("*.py")), *sorted(folder.glob("*.tiktoken"))):
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
