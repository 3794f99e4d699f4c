"""The language model's decoding step for small models on a CPU.

There a step of transformers spends most of its time around the arithmetic: it joins the whole cache anew for every
token and makes some hundred small calls. This one writes into a cache of fixed size and makes a few. It computes what
`Qwen3VLTextModel`, `Qwen2VLTextModel` and `Qwen2_5_VLTextModel` (transformers 5.23) compute for one new token per row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenvl.decoding.onednn_linear import LARGEST, PackedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KNOWN = ("Qwen3VLTextDecoderLayer", "Qwen2VLDecoderLayer", "Qwen2_5_VLDecoderLayer")
_NEW = 256  # tokens that a fresh cache has room for; it grows where an answer is longer


class LightLanguage:
    """The weights of a language model, arranged for `LightSteps`; made once per model.

    Parameters
    ----------
    model : transformers model
        One that `unfit` finds no fault with, and that is not changed afterwards.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        language = model.model.language_model
        self.layers = [_Layer(layer) for layer in language.layers]
        self.embedding: Tensor = language.embed_tokens.weight
        self.norm: tuple[Tensor, float] = _norm(language.norm)
        self.head = PackedLinear(model.get_output_embeddings().weight)
        self._rotary = language.rotary_emb

    @staticmethod
    def unfit(model: PreTrainedModel) -> str | None:
        """Why a model keeps transformers' own step; None where it may take this one."""
        language = model.model.language_model
        kinds = {type(layer).__name__ for layer in language.layers.modules() if isinstance(layer, nn.Linear)}
        if kinds != {"Linear"}:
            return f"weights of {', '.join(sorted(kinds))}"
        if any(hasattr(module, "base_layer") for module in language.layers.modules()):
            return "an adapter that is not merged"
        names = {type(layer).__name__ for layer in language.layers}
        if not names <= set(_KNOWN):
            return f"layers of {', '.join(sorted(names))}"
        if any(kind != "full_attention" for kind in getattr(language.config, "layer_types", None) or ()):
            return "sliding windows"
        if any(type(layer.mlp.act_fn).__name__ not in ("SiLU", "SiLUActivation") for layer in language.layers):
            return "an activation other than SiLU"
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            return "a bias on the output"
        if sum(parameter.numel() for parameter in language.parameters()) > LARGEST:
            return f"more than {LARGEST:,} weights"
        return None

    def turns(self, count: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine (count, head size) of the text positions from 0 on."""
        positions = torch.arange(count).expand(3, 1, count)
        cos, sin = self._rotary(self.embedding[:1], positions)
        # Older families give one table per axis; for text all three are the same.
        return cos.reshape(-1, count, cos.shape[-1])[0], sin.reshape(-1, count, sin.shape[-1])[0]


class _Layer:
    """One layer: products that share an input are one product."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.size: int = attention.head_dim
        self.heads = attention.q_proj.out_features // self.size
        self.key_heads = attention.k_proj.out_features // self.size
        self.scale: float = attention.scaling
        self.before, self.between = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self.inputs = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.output = _joined(attention.o_proj)
        self.gates, self.down = _joined(mlp.gate_proj, mlp.up_proj), _joined(mlp.down_proj)
        self.head_norm: tuple[Tensor, float] | None = None
        if hasattr(attention, "q_norm"):
            weights = [
                norm.weight.detach().expand(count, -1)
                for norm, count in ((attention.q_norm, self.heads), (attention.k_norm, self.key_heads))
            ]
            self.head_norm = (torch.cat(weights), _norm(attention.q_norm)[1])


class LightSteps:
    """The steps of one batch; see `qwenvl.decoding.decode.Steps`.

    Parameters
    ----------
    language : LightLanguage
    cache : transformers DynamicCache
        Of the prompts; it is copied.
    attention_mask : int64 Tensor (rows, length) or None
    next_position : int64 Tensor (rows,)
    """

    def __init__(
        self, language: LightLanguage, cache: Any, attention_mask: Tensor | None, next_position: Tensor
    ) -> None:
        self._language = language
        self._length: int = cache.get_seq_length()
        self._position = next_position
        keys = [layer.keys for layer in cache.layers]
        values = [layer.values for layer in cache.layers]
        self._keys = [_room(old, _NEW) for old in keys]
        self._values = [_room(old, _NEW) for old in values]
        self._turns = language.turns(int(next_position.max()) + _NEW)
        self._bias: Tensor | None = None
        if attention_mask is not None:
            self._bias = F.pad((attention_mask == 0).float() * torch.finfo(torch.float32).min, (0, _NEW))

    def read(self, tokens: Tensor) -> Tensor:
        """Read one token per row, int64 (rows,); float32 logits (rows, vocabulary) after it."""
        language, at = self._language, self._length
        rows = len(tokens)
        if at == self._keys[0].shape[2]:
            self._grow()
        cos, sin = (table[self._position][:, None] for table in self._turns)
        bias = None if self._bias is None else self._bias[:rows, None, None, : at + 1]
        x = language.embedding[tokens]
        for layer, keys, values in zip(language.layers, self._keys, self._values, strict=True):
            size, heads, turned = layer.size, layer.heads, layer.heads + layer.key_heads
            parts = layer.inputs(_normed(x, layer.before)).view(rows, -1, size)
            places = parts[:, :turned]
            if layer.head_norm is not None:
                places = F.rms_norm(places, (size,), None, layer.head_norm[1]) * layer.head_norm[0]
            places = places * cos + torch.cat((-places[..., size // 2 :], places[..., : size // 2]), -1) * sin
            keys[:rows, :, at] = places[:, heads:]
            values[:rows, :, at] = parts[:, turned:]
            # The heads that share a key stand together, so they are the rows of one product.
            query = places[:, :heads].reshape(rows, layer.key_heads, -1, size) * layer.scale
            weights = query @ keys[:rows, :, : at + 1].transpose(2, 3)
            if bias is not None:
                weights = weights + bias
            mixed = weights.softmax(-1) @ values[:rows, :, : at + 1]
            x = x + layer.output(mixed.reshape(rows, -1))
            gate, up = layer.gates(_normed(x, layer.between)).chunk(2, -1)
            x = x + layer.down(F.silu(gate) * up)
        self._length += 1
        self._position = self._position + 1
        return language.head(_normed(x, language.norm))

    def back(self, row: int, count: int) -> None:
        """Forget the last tokens that were read in one row: they are never looked at again."""
        if self._bias is None:
            self._bias = torch.zeros(len(self._position), self._keys[0].shape[2])
        self._bias[row, self._length - count : self._length] = torch.finfo(torch.float32).min
        self._position = self._position.clone()
        self._position[row] -= count

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, given in rising order."""
        for tables in (self._keys, self._values):
            for table in tables:
                # Rows only move up, each into a place that has been read before.
                for to, row in enumerate(rows.tolist()):
                    if to != row:
                        table[to, :, : self._length] = table[row, :, : self._length]
        self._position = self._position[rows]
        if self._bias is not None:
            self._bias = self._bias[rows]

    def _grow(self) -> None:
        more = self._length
        self._keys = [_room(old, more) for old in self._keys]
        self._values = [_room(old, more) for old in self._values]
        self._turns = self._language.turns(int(self._position.max()) + more)
        if self._bias is not None:
            self._bias = F.pad(self._bias, (0, more))


def _room(old: Tensor, more: int) -> Tensor:
    """A table (rows, heads, length + more, size) that begins with `old`."""
    rows, heads, length, size = old.shape
    table = torch.empty(rows, heads, length + more, size)
    table[:, :, :length] = old
    return table


def _joined(*layers: Any) -> PackedLinear:
    biases = [layer.bias for layer in layers]
    bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
    return PackedLinear(torch.cat([layer.weight.detach() for layer in layers]), bias)


def _norm(module: Any) -> tuple[Tensor, float]:
    return module.weight.detach(), float(module.variance_epsilon)


def _normed(x: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm[0], norm[1])
