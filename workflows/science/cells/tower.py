"""What the vision tower makes of a cell's crop: one vector per cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workflows.errors import CellsError

if TYPE_CHECKING:
    from qwenvl.checkpoints.loading import Checkpoint

BATCH = 64


def embed(
    checkpoint: Checkpoint, crops: Iterable[NDArray[np.uint8]], report: Callable[[int], None] | None = None
) -> NDArray[np.float32]:
    """Mean of the tower's visual tokens over each crop, float32 (n, d).

    The tokens are those that the language model would read (after the merger). The mean is taken in float32, whatever
    the model's own precision.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a family in transformers.
    crops : iterable of uint8 arrays (height, width, 3)
    report : callable, optional
        Called with the number of crops done.

    Raises
    ------
    CellsError
        The tower gives numbers that are not finite.
    """
    import torch

    from qwenvl.decoding.vision import picture_features
    from qwenvl.images.preprocess import preprocess

    model = checkpoint.model
    source, found, done = iter(crops), [], 0
    with torch.inference_mode():
        while batch := list(islice(source, BATCH)):
            patches = preprocess(batch, checkpoint.processor, device=checkpoint.device, dtype=model.dtype)
            grid = patches.image_grid_thw.to(checkpoint.device)
            tokens = picture_features(model, patches.pixel_values, grid).pooler_output
            found.append(torch.stack([each.float().mean(dim=0) for each in tokens]).cpu().numpy())
            done += len(batch)
            if report is not None:
                report(done)
    if not found:
        raise CellsError("There is no crop to embed: no cell was measured.")
    vectors = np.concatenate(found)
    if not np.isfinite(vectors).all():
        raise CellsError(f"{checkpoint.info.model} gives vectors that are not finite; try --dtype float32.")
    return vectors
