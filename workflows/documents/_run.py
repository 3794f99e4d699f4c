"""A document's run in a run folder: what it is, and how its journal is begun."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from qwenvl.engines.base import Engine
from workflows.documents.document import Document
from workflows.documents.question import Question
from workflows.documents.windows import Window
from workflows.provenance import (
    GridFacts,
    Manifest,
    MaskFacts,
    SlideFacts,
    model_facts,
    software_versions,
    utc_now,
)

LIBRARIES = ("napari-qwenvl", "numpy", "opencv-python-headless", "pypdfium2", "xgrammar")


def manifest_of(
    document: Document,
    pages: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    windows: Sequence[Window],
    question: Question,
    engine: Engine,
    *,
    overlap: int,
    command: str | None,
) -> Manifest:
    """The manifest of a run whose slide is a document, with one column per page and windows for tiles.

    Parameters
    ----------
    document, pages, windows, question, engine
    sizes : sequence of tuple of int
        Width and height in px of each page's picture.
    overlap : int
        Pages that neighbouring windows share.
    command : str or None
    """
    plan: dict[str, Any] = {
        "pages": list(pages), "sizes": [list(size) for size in sizes],
        "windows": [[w.index, w.first, w.count] for w in windows],
        "context": question.context, "key": list(question.schema.key), "schema": dict(question.schema.schema),
    }  # fmt: skip
    text = json.dumps(plan, sort_keys=True)
    widest = max((w.count for w in windows), default=0)
    return Manifest(
        request=question.request,
        request_hash=question.request.hash,
        slide=SlideFacts(
            name=document.path.name, path=str(document.path.absolute()), fingerprint=document.fingerprint,
            reader=document.kind, options={}, width=document.pages, height=1, levels=(), mpp_x=None, mpp_y=None,
            mpp_source="unknown",
        ),
        model=model_facts(engine.info),
        grid=GridFacts(
            tiles=len(windows), columns=len(windows), rows=1, tile_size=widest, overlap=overlap, mpp=None,
            side0=(widest, 1), step0=(max(1, widest - overlap), 1), upsampling=1.0, tissue_coverage=1.0,
            hash=f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}",
        ),
        mask=MaskFacts(
            source=",".join(map(str, pages)), origin="pages", details={}, tissue_px0=float(len(pages)),
            tissue_mm2=None, tissue_fraction=len(pages) / document.pages,
        ),
        versions=software_versions(LIBRARIES),
        command=command,
        created=utc_now(),
    )  # fmt: skip
