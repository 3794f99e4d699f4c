"""The decoding step as a compiled graph: a cache of fixed size, fixed shapes, one launch per token on a GPU.

A step of eager transformers spends most of its time between its kernels. With fixed shapes torch.compile can fuse it,
and on CUDA replay it as one graph (mode 'reduce-overhead'). Rows that have ended stay in place, because to drop them
would be another shape. Where a model or this machine cannot do it, transformers' own step is taken, with the reason.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qwenvl.decoding.decode import Prefilled, TransformersSteps, cache_word

_SHAPES = 64  # shapes that may be compiled in one process
_ROOM = 256  # lengths are rounded up to multiples of it, so that few shapes are compiled


class CompiledStep:
    """The compiled step of one model, and the caches it works on; made once per engine.

    Parameters
    ----------
    model : transformers model
    backend : str
        Of torch.compile; 'inductor' on a GPU replays CUDA graphs.

    Attributes
    ----------
    reason : str or None
        Why transformers' own step is taken; None while the compiled one works.
    """

    def __init__(self, model: Any, backend: str = "inductor") -> None:
        self.model = model
        self._caches: dict[tuple[int, int], Any] = {}
        self._word = cache_word()
        self.reason = _unfit(model)
        # Without fullgraph, a part that cannot be compiled would run as it is, and nobody would know.
        options: dict[str, Any] = {"backend": backend, "fullgraph": True}
        settings: Any = torch._dynamo.config
        settings.recompile_limit = max(settings.recompile_limit, _SHAPES)
        if backend == "inductor" and model.device.type == "cuda":
            options["mode"] = "reduce-overhead"
        self._step = torch.compile(self._plain, dynamic=False, **options)
        if self.reason is None:
            self._try()

    def steps(self, state: Prefilled, new_tokens: int) -> CompiledSteps | TransformersSteps:
        """The steps of a prefilled batch; those of transformers where the compiled one does not work."""
        return (
            TransformersSteps(self.model, state) if self.reason is not None else CompiledSteps(self, state, new_tokens)
        )

    def run(self, cache: object, tokens: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """Logits (rows, vocabulary) after one token per row."""
        if tokens.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        # The graph's own output is overwritten by the next step.
        logits: Tensor = self._step(cache, tokens, positions, bias).clone()
        return logits

    def cache(self, rows: int, length: int, state: Prefilled) -> Any:
        """A cache of fixed size that holds what the state's cache does."""
        from transformers import StaticCache

        old = state.cache
        key = (rows, length)
        if key not in self._caches:
            self._caches.clear()
            self._caches[key] = StaticCache(self.model.config.text_config, max_cache_len=length)
        cache = self._caches[key]
        for new, layer in zip(cache.layers, old.layers, strict=True):
            count, known = layer.keys.shape[0], layer.keys.shape[2]
            if not new.is_initialized:
                like = [part.new_zeros(rows, *part.shape[1:]) for part in (layer.keys, layer.values)]
                new.lazy_initialization(*like)
            new.keys[:count, :, :known].copy_(layer.keys)
            new.values[:count, :, :known].copy_(layer.values)
            new.cumulative_length.fill_(known)
        return cache

    def _plain(self, cache: object, tokens: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        model = self.model
        rows = len(tokens)
        hidden = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(tokens[:, None]),
            position_ids=positions[:, None].expand(3, rows, 1),
            attention_mask=bias,
            use_cache=True,
            **{self._word: cache},
        ).last_hidden_state
        logits: Tensor = model.get_output_embeddings()(hidden[:, -1])
        return logits.float()

    @torch.inference_mode()
    def _try(self) -> None:
        """Compile with two rows and a prompt of one token, and compare with the eager step."""
        model = self.model
        tokens = torch.zeros(2, 1, dtype=torch.int64, device=model.get_input_embeddings().weight.device)
        first = model.model.language_model(inputs_embeds=model.get_input_embeddings()(tokens), use_cache=True)
        state = Prefilled(getattr(first, self._word), None, tokens[:, 0] + 1, first.last_hidden_state[:, 0])
        ours = CompiledSteps(self, state, 1).read(tokens[:, 0])
        if self.reason is not None:
            return
        theirs = TransformersSteps(model, state).read(tokens[:, 0])
        exact = model.dtype == torch.float32
        if not torch.allclose(ours, theirs, rtol=1e-3 if exact else 0.1, atol=1e-3 if exact else 0.5):
            self.reason = "it computes otherwise"


class CompiledSteps:
    """The steps of one batch; see `qwenvl.decoding.decode.Steps`.

    Parameters
    ----------
    step : CompiledStep
    state : Prefilled
        Left as it was, unless the first step cannot be compiled; transformers' own steps then go on with it.
    new_tokens : int
        Most tokens that are read.
    """

    def __init__(self, step: CompiledStep, state: Prefilled, new_tokens: int) -> None:
        self._step = step
        self._state: Prefilled | None = state
        self._instead: TransformersSteps | None = None
        known = state.cache.get_seq_length()
        count = len(state.next_position)
        rows = 1 << (count - 1).bit_length()
        length = -(-(known + new_tokens) // _ROOM) * _ROOM
        device = state.logits.device
        self._cache = step.cache(rows, length, state)
        self._at = known
        self._positions = torch.zeros(rows, dtype=torch.int64, device=device)
        self._positions[:count] = state.next_position
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        dtype = step.model.dtype
        self._bias = torch.full((rows, 1, 1, length), torch.finfo(dtype).min, dtype=dtype, device=device)
        self._bias[:count, ..., :known] = 0
        if state.attention_mask is not None:
            self._bias[:count, 0, 0, :known].masked_fill_(state.attention_mask == 0, torch.finfo(dtype).min)
        self._rows = torch.arange(count, device=device)

    def read(self, tokens: Tensor) -> Tensor:
        """Read one token per row, int64 (rows,); float32 logits (rows, vocabulary) after it."""
        if self._instead is not None:
            return self._instead.read(tokens)
        self._bias[..., self._at] = 0
        self._tokens[self._rows] = tokens
        try:
            logits = self._step.run(self._cache, self._tokens, self._positions, self._bias)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise what they like; whatever it is, the eager step works
            if self._state is None:
                raise
            self._step.reason = _told(error)
            self._instead = TransformersSteps(self._step.model, self._state)
            if len(self._rows) < len(self._state.next_position):
                self._instead.keep(self._rows)
            return self._instead.read(tokens)
        self._state = None
        self._at += 1
        self._positions += 1
        return logits[self._rows]

    def back(self, row: int, count: int) -> None:
        """Forget the last tokens that were read in one row: they are never looked at again."""
        if self._instead is not None:
            self._instead.back(row, count)
            return
        place = self._rows[row]
        self._bias[place, ..., self._at - count : self._at] = torch.finfo(self._bias.dtype).min
        self._positions[place] -= count

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these; the others are computed on and not looked at."""
        self._rows = self._rows[rows]
        if self._instead is not None:
            self._instead.keep(rows)


def _told(error: Exception) -> str:
    """The kind of an error and its first two lines; the compiler's own first line says only which part failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()][:2]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"


def _unfit(model: Any) -> str | None:
    kinds = getattr(model.config.text_config, "layer_types", None) or ()
    if any(kind != "full_attention" for kind in kinds):
        return f"layers of {', '.join(sorted(set(kinds)))}"
    if hasattr(model.config.text_config, "num_experts"):
        return "a mixture of experts"
    return None
