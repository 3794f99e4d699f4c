"""How much memory a model takes: one estimate for checkpoints that are here and for those that are only known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Estimated memory of a run in bytes."""

    weights: int
    kv_per_tile: int
    """Keys and values of one tile with its prompt and answer."""
    activations: int
    """Working memory of a batch, roughly."""
    batch: int

    @property
    def total(self) -> int:
        """Weights, keys and values of the batch, and activations."""
        return self.weights + self.kv_per_tile * self.batch + self.activations


@dataclass(frozen=True, slots=True)
class ModelWidths:
    """The sizes that memory depends on, as `config.json` states them.

    Attributes
    ----------
    layers : int
        Layers that hold keys and values.
    kv_heads, head_dim : int
    hidden, intermediate : int
        Width of the language model and of its MLP.
    vocabulary : int
    vision : int
        Width of the vision tower.
    merged : int
        Patches that become one visual token.
    patch : int
        Values of a patch.
    """

    layers: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocabulary: int
    vision: int
    merged: int = 4
    patch: int = 1536

    def estimate(
        self, weights: int, visual: int, *, batch: int, prompt_tokens: int, new_tokens: int, size: int
    ) -> MemoryEstimate:
        """Memory of a batch of tiles.

        Parameters
        ----------
        weights : int
            Bytes of the weights.
        visual : int
            Visual tokens of a tile.
        batch : int
            Tiles answered together.
        prompt_tokens, new_tokens : int
            Text tokens of the question and the longest answer.
        size : int
            Bytes of a number.
        """
        prompt = visual + prompt_tokens
        keys_and_values = 2 * self.layers * self.kv_heads * self.head_dim * size
        # One layer at a time: residual, norm, query, key, value, attention output, and the two wide MLP halves.
        reading = prompt * (6 * self.hidden + 2 * self.intermediate) * size
        looking = visual * self.merged * (6 * self.vision * size + 4 * self.patch)
        activations = batch * max(reading, looking) + batch * self.vocabulary * 4
        return MemoryEstimate(weights, keys_and_values * (prompt + new_tokens), activations, batch)
