"""What a checkpoint folder says about itself, read from JSON and safetensors headers alone: no torch, no weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenvl.checkpoints.files import fingerprint, read_header, read_json, require_utf8, weight_files
from qwenvl.checkpoints.memory import MemoryEstimate, ModelWidths
from qwenvl.checkpoints.quantize import quantisation_of
from qwenvl.checkpoints.quantized import QuantisedWeights, compute_dtype, quantised_weights
from qwenvl.checkpoints.training_domain import TrainedOn
from qwenvl.errors import CheckpointError
from qwenvl.families import ModelFamily, family_of, stated_grounding
from qwenvl.images.processor import ProcessorSettings, read_processor

EMBEDDED = "embedded"
"""Name of the checkpoint that comes with the package."""

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
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
        Of most weights, such as 'bfloat16'; of quantised weights the one they are computed in.
    parameters : int
        Numbers that are stored; several quantised weights may be packed into one.
    weight_bytes : int
        Of all tensors, as they lie in the files.
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
    quantised: QuantisedWeights | None = None
    """How its maker quantised the weights; None where they are plain numbers."""

    def tokens_per_tile(self, tile_size: int) -> int:
        """Visual tokens of a square tile of `tile_size` px."""
        if self.family.fixed_tokens is not None:
            return self.family.fixed_tokens
        return self.processor.image_tokens(self.processor.frame(tile_size, tile_size))

    def estimate_memory(
        self,
        tile_size: int,
        *,
        batch: int = 1,
        prompt_tokens: int = 200,
        new_tokens: int = 512,
        dtype: str | None = None,
        quantise: str | None = None,
    ) -> MemoryEstimate:
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
        # Quantised weights stay as they are in the file, whatever the rest is computed in.
        weights = self.parameters * size if self.quantised is None else self.weight_bytes
        if quantise is not None:
            if self.quantised is not None:
                raise CheckpointError(
                    f"{self.name}: quantise {quantise}: its weights are quantised already ({self.quantised}); leave "
                    "quantise out, or take the model that is not quantised"
                )
            saved = size - quantisation_of(quantise).bytes_per_weight
            weights -= int(self.quantisable * saved)
        return widths.estimate(
            weights,
            self.tokens_per_tile(tile_size),
            batch=batch,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            size=size,
        )


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
        There is no such folder, it is incomplete, damaged or pickled, or an adapter; or weights and `config.json`
        contradict each other.
    UnknownFamilyError
        Its `model_type` is not known.
    """
    folder = EMBEDDED_FOLDER if str(name_or_path) == EMBEDDED else Path(name_or_path).expanduser()
    _require_no_adapter(folder)
    config = read_json(folder / "config.json")
    chat_template = read_chat_template(folder)
    found = family_of(config, name=name or folder.resolve().name, chat_template=chat_template, family=family)
    extra = read_json(folder / "qwenvl.json") if (folder / "qwenvl.json").is_file() else {}
    found = stated_grounding(found, extra, folder / "qwenvl.json")
    headers = [read_header(path) for path in weight_files(folder)]
    sizes: dict[str, int] = {}
    weight_bytes = quantisable = 0
    for header in headers:
        for name_of_tensor, tensor in header.items():
            count = math.prod(tensor["shape"])
            quantisable += count * _is_quantisable(name_of_tensor, tensor["shape"])
            sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + count
            begin, end = tensor["data_offsets"]
            weight_bytes += end - begin
    quantised = quantised_weights(config, name or str(name_or_path))
    floats = {kind: count for kind, count in sizes.items() if kind in _DTYPES}
    most = max(floats, key=floats.__getitem__, default="")
    plain = quantised is None and sum(floats.values()) * 2 > sum(sizes.values())
    _require_consistent(config, headers, folder, quantised)
    processor = ProcessorSettings.of_family(found) if found.fixed_size else read_processor(folder)
    return CheckpointDescription(
        name=name or str(name_or_path),
        folder=folder,
        family=found,
        processor=processor,
        config=config,
        dtype=_DTYPES[most] if plain else compute_dtype(config),
        parameters=sum(sizes.values()),
        weight_bytes=weight_bytes,
        quantisable=quantisable,
        recommended=extra.get("recommended", {}),
        warning=extra.get("warning"),
        chat_template=chat_template,
        trained=TrainedOn.read(extra),
        quantised=quantised,
    )


def _require_no_adapter(folder: Path) -> None:
    """Raise CheckpointError for an adapter folder: transformers would load whatever base that names, from anywhere."""
    path = folder / "adapter_config.json"
    if path.is_file():
        base = read_json(path).get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder}: contains an adapter ({path.name}, of {base!r}). Give its base as the model and this folder as "
            f"the adapter; or, where its weights are merged already, remove {path.name}"
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
            template = read_json(folder / name).get("chat_template")
            if isinstance(template, str):
                return template
    return None


def _is_quantisable(name: str, shape: list[int]) -> bool:
    """True for matrices of the language model's blocks; experts are fused into one tensor when they are loaded."""
    plain = len(shape) == 2 and name.endswith(".weight") and ".experts." not in name
    return plain and ".layers." in name and "visual" not in name


def _require_consistent(
    config: Mapping[str, Any], headers: list[dict[str, Any]], folder: Path, quantised: QuantisedWeights | None
) -> None:
    """Raise CheckpointError where a config states sizes that the weights do not have.

    A config of another model, or one that asks for a thousand times the memory, is known before anything is loaded.
    """
    text = config.get("text_config", config)
    vision = config.get("vision_config") or {}
    if not isinstance(text, Mapping) or not isinstance(vision, Mapping):
        raise CheckpointError(
            f"{folder / 'config.json'}: text_config or vision_config is no JSON object; fetch it again"
        )
    for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"):
        if type(text.get(key)) is not int or text[key] < 1:
            raise CheckpointError(f"{folder / 'config.json'}: {key} is {text.get(key)!r}, no count; fetch it again")
    shapes = {name: tensor["shape"] for header in headers for name, tensor in header.items()}
    language = _blocks(shapes, r"(?:model|language_model|transformer)\.(?:layers|h)\.(\d+)\.")
    tower = _blocks(shapes, r"visual\.blocks\.(\d+)\.")
    facts: list[tuple[str, Any, int]] = []
    if language:
        facts.append(("num_hidden_layers", text["num_hidden_layers"], language))
    if tower and "depth" in vision:
        facts.append(("vision_config.depth", vision["depth"], tower))
    for name, shape in shapes.items():
        if name.endswith("embed_tokens.weight") and len(shape) == 2 and "visual" not in name:
            facts += [("vocab_size", text["vocab_size"], shape[0]), ("hidden_size", text["hidden_size"], shape[1])]
        # Quantised matrices are packed into other shapes.
        if quantised is None and name.endswith(".0.mlp.down_proj.weight") and len(shape) == 2 and "visual" not in name:
            facts.append(("intermediate_size", text.get("intermediate_size", shape[1]), shape[1]))
    for key, stated, found in facts:
        if stated != found:
            raise CheckpointError(
                f"{folder}: config.json states {key} {stated!r}, the weights have {found}, so they are not those of "
                "this config.json; fetch the checkpoint again"
            )


def _blocks(names: Iterable[str], pattern: str) -> int:
    """How many numbered blocks the names of weights speak of."""
    compiled = re.compile(rf"(?:^|\.){pattern}")
    return len({found[1] for name in names if "mtp." not in name and (found := compiled.search(name))})


__all__ = [
    "EMBEDDED",
    "EMBEDDED_FOLDER",
    "CheckpointDescription",
    "describe_checkpoint",
    "estimate_memory",
    "fingerprint",
    "read_chat_template",
    "read_header",
    "read_json",
    "require_utf8",
    "weight_files",
]
