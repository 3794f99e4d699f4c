"""Checkpoints that are quantised already: which method, what they compute in, and what they need. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from qwenvl.errors import CheckpointError

_PACKAGES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "fp8": (("accelerate", "accelerate"),),
    "fbgemm_fp8": (("fbgemm_gpu", "fbgemm-gpu"), ("accelerate", "accelerate")),
    "awq": (("gptqmodel", "gptqmodel"), ("accelerate", "accelerate")),
    "gptq": (("optimum", "optimum"), ("gptqmodel", "gptqmodel")),
    "compressed-tensors": (("compressed_tensors", "compressed-tensors"),),
    "bitsandbytes": (("bitsandbytes", "bitsandbytes"), ("accelerate", "accelerate")),
    "auto-round": (("auto_round", "auto-round"),),
    "torchao": (("torchao", "torchao"),),
    "hqq": (("hqq", "hqq"),),
    "quanto": (("optimum.quanto", "optimum-quanto"),),
    "mxfp4": (("kernels", "kernels"), ("triton", "triton")),
}
"""Modules to import and packages to install of each method, as transformers 5 asks for them."""

_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class QuantisedWeights:
    """How the weights of a checkpoint were quantised by its maker.

    Attributes
    ----------
    method : str
        As `config.json` states it, such as 'fp8', 'awq', 'gptq', 'compressed-tensors' or 'bitsandbytes'.
    bits : int or None
        Per weight, where stated.
    """

    method: str
    bits: int | None = None

    def __str__(self) -> str:
        return self.method if self.bits is None else f"{self.method}, {self.bits} bits"

    @property
    def missing_packages(self) -> list[str]:
        """Names of the packages that loading needs and that are not installed."""
        return [package for module, package in _PACKAGES.get(self.method, ()) if not _is_there(module)]

    def require_backend(self, where: str) -> None:
        """Raise CheckpointError where a package that loading needs is not installed."""
        missing = self.missing_packages
        if missing:
            raise CheckpointError(
                f"{where}: its weights are quantised ({self}), which needs {' and '.join(missing)}: "
                f"pip install {' '.join(missing)}. Or serve it (qwenvl serve) and connect, or take the model that is "
                "not quantised"
            )


def quantised_weights(config: Mapping[str, Any], where: str) -> QuantisedWeights | None:
    """What a `config.json` says about quantised weights; None where it says nothing.

    Raises
    ------
    CheckpointError
        It says something that cannot be understood.
    """
    text = config.get("text_config")
    stated = None
    for part in (config, text if isinstance(text, Mapping) else {}):
        stated = stated or part.get("quantization_config") or part.get("compression_config")
    if not stated:
        return None
    method = stated.get("quant_method") if isinstance(stated, Mapping) else None
    if method is None and isinstance(stated, Mapping):
        four, eight = stated.get("load_in_4bit"), stated.get("load_in_8bit")
        method = "bitsandbytes" if four or eight else None
    if not isinstance(method, str):
        raise CheckpointError(f"{where}: config.json has a quantization_config without quant_method; fetch it again")
    method = method.lower().replace("compressed_tensors", "compressed-tensors")
    method = "bitsandbytes" if method.startswith("bitsandbytes") else method
    bits = stated.get("bits", stated.get("w_bit"))
    if method == "bitsandbytes":
        bits = 4 if stated.get("load_in_4bit") else 8
    elif method == "fp8":
        bits = 8
    elif method == "compressed-tensors":
        bits = _bits_of_groups(stated.get("config_groups"))
    return QuantisedWeights(method, bits if type(bits) is int else None)


def _bits_of_groups(groups: object) -> int | None:
    """Bits of the weights of the first group of compressed-tensors."""
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and type(weights.get("num_bits")) is int:
            return int(weights["num_bits"])
    return None


def compute_dtype(config: Mapping[str, object]) -> str:
    """The number type that a quantised model computes in, from its `config.json`: 'bfloat16' where it says none."""
    text = config.get("text_config")
    parts = [config, text if isinstance(text, Mapping) else {}]
    stated = [part.get(key) for part in parts for key in ("dtype", "torch_dtype")]
    quantisation = config.get("quantization_config")
    if isinstance(quantisation, Mapping):
        stated.append(quantisation.get("bnb_4bit_compute_dtype"))
    for name in stated:
        if str(name).removeprefix("torch.") in _DTYPES:
            return str(name).removeprefix("torch.")
    return "bfloat16"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
