"""A large slide shared out: every part has a journal of its own, and one writer merges them.

SQLite has one writer, so workers never write to the journal of the slide together. Each range of tiles gets a
journal below `<run>/parts`; merging takes each one over in a single transaction that also notes its name, and
removes it afterwards. So a process killed anywhere leaves either the part or its answers in the slide's journal,
and what is left over is merged before the slide is looked at again.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwenvl.engines.base import Engine
from qwenvl.request import Request
from workflows.cohort.folder import BatchFolder, CalledOff
from workflows.cohort.workers.ticket import SlideOutcome, SlidePart, Ticket
from workflows.errors import RunMismatchError, SlideMismatchError
from workflows.run.quality import Inspector
from workflows.store.folder import JOURNAL
from workflows.store.run_store import RunStore
from wsi.slide import Slide

if TYPE_CHECKING:
    from workflows.run.slide import Progress


def share_out(
    ticket: Ticket, request: Request, slide: Slide, out: Path, begin: Callable[[], object]
) -> tuple[SlidePart, ...]:
    """Ranges of open tiles to hand to several workers; none where the slide is small enough for one.

    `begin` makes the journal of the run without asking a tile.
    """
    if not ticket.part_tiles or not _can_be_shared(request):
        return ()
    # What cannot be larger than the whole slide in tiles needs no look at its tissue.
    scale = 1.0 if request.mpp is None or slide.mpp is None else slide.mpp / request.mpp
    step = request.tile_size - request.overlap
    if slide.width * slide.height * scale**2 / step**2 < ticket.part_tiles / 2:
        return ()
    begin()
    with RunStore.open(out) as store:
        open_tiles = np.setdiff1d(store.tiles()["tile"], store.finished())
    if len(open_tiles) <= ticket.part_tiles:
        return ()
    number = -(-len(open_tiles) // ticket.part_tiles)
    call = uuid.uuid4().hex[:8]
    return tuple(
        SlidePart(f"{call}-{int(chunk[0])}-{int(chunk[-1]) + 1}", int(chunk[0]), int(chunk[-1]) + 1)
        for chunk in np.array_split(open_tiles, number)
    )


def ask_part(
    ticket: Ticket, folder: BatchFolder, engine: Engine, cancel: CalledOff, progress: Callable[[Progress], None]
) -> SlideOutcome:
    """Ask the tiles of a part that neither the slide's journal nor the part's own holds."""
    from workflows.inputs.opening import find_mask
    from workflows.inputs.reopening import reopen
    from workflows.inputs.watched import confirm_unchanged
    from workflows.run.tiles import run_tiles

    part = ticket.part
    assert part is not None
    with RunStore.open(folder.run(ticket.id)) as whole:
        manifest, tiles = whole.manifest, whole.tiles()
        mine = (tiles["tile"] >= part.first) & (tiles["tile"] < part.stop)
        rows = tiles[mine & ~np.isin(tiles["tile"], whole.finished())]
    if engine.info.fingerprint != manifest.model.fingerprint:
        raise RunMismatchError(
            f"This worker's model {engine.info.model} ({engine.info.fingerprint}) is not the one that the run was "
            f"begun with ({manifest.model.fingerprint}). Give all workers the same checkpoint."
        )
    found = reopen(manifest.slide, folder.run(ticket.id))
    if (slide := found.slide) is None:
        raise SlideMismatchError(f"{found.note} The run was begun on it.")
    with found, RunStore.create(folder.part(ticket.id, part.name), manifest, rows) as store:
        mask, _ = find_mask(manifest.mask.source, slide, manifest.mask.frame)
        inspector = Inspector.of(manifest.quality, slide, mask)
        done = run_tiles(store, slide, engine, mask, inspector=inspector, progress=progress, cancel=cancel)
        confirm_unchanged(slide.watch, store)
        return SlideOutcome(ticket.id, "stopped" if done.cancelled else "part", asked=done.answers)


def merge_parts_of(out: Path) -> int:
    """Take the answers of all parts into the slide's journal and remove the parts; how many there were.

    Raises
    ------
    RunLockedError
        A part or the slide is still being written to.
    StoreError
    """
    parts = sorted(path.parent for path in (out / "parts").glob(f"*/{JOURNAL}"))
    if parts:
        with RunStore.open(out, readonly=False) as store:
            for part in parts:
                with RunStore.open(part, readonly=False):
                    store.absorb(part / JOURNAL, part.name)
                shutil.rmtree(part)
    if (out / "parts").is_dir():
        shutil.rmtree(out / "parts")
    return len(parts)


def _can_be_shared(request: Request) -> bool:
    """A cascade decides over the whole slide what is asked, and so does a token budget."""
    return request.where is None and request.token_budget is None
