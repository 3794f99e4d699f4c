"""Slides to try things out on: a synthetic one made offline, and a real one fetched when asked for."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from napari_qwenvl.read.readers import read_slide
from napari_qwenvl.read.slide_layer import LayerData
from wsi.errors import SlideNotFoundError

CMU_URL = "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs"
CMU_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
_SIDE_PX = 2048
_SEED = 7
_TIMEOUT_S = 20


def cache_folder() -> Path:
    """Where samples are kept: XDG_CACHE_HOME, LOCALAPPDATA or ~/.cache, then napari-qwenvl."""
    default = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or default
    return Path(base) / "napari-qwenvl"


def synthetic_slide() -> list[LayerData]:
    """A synthetic H&E slide of 2048 x 2048 px at 0.25 um with known nuclei; written once, in a few seconds."""
    return read_slide(str(synthetic_path()))


def synthetic_path() -> Path:
    """The synthetic slide's file, made where it is not there yet."""
    from wsi.synthetic import SlideFactory
    from wsi.synthetic.tissue.stain import Scanner

    path = cache_folder() / f"synthetic-he-{_SEED}.svs"
    if not path.exists():
        factory = SlideFactory(_SIDE_PX, _SIDE_PX, scanner=Scanner(), artefacts=())
        factory.write(path, _SEED, overwrite=True)
    return path


def cmu_slide() -> list[LayerData]:
    """CMU-1-Small-Region (CC0): real H&E, 2220 x 2967 px at 0.499 um; fetched once, 1.9 MB.

    Raises
    ------
    SlideNotFoundError
        It is not there yet and cannot be fetched; the message says where to put it by hand.
    """
    return read_slide(str(cmu_path()))


def cmu_path(fetch: Callable[[str], bytes] | None = None) -> Path:
    """The file of CMU-1-Small-Region, fetched where it is not there yet. Raises SlideNotFoundError."""
    path = cache_folder() / CMU_URL.rpartition("/")[2]
    if path.exists():
        return path
    try:
        content = (fetch or _download)(CMU_URL)
    except OSError as error:
        raise SlideNotFoundError(
            f"CMU-1-Small-Region cannot be fetched ({error}). Without a network, use the synthetic slide, or "
            f"download {CMU_URL} elsewhere and put it at {path}."
        ) from error
    if hashlib.sha256(content).hexdigest() != CMU_SHA256:
        raise SlideNotFoundError(
            f"What came from {CMU_URL} is not the slide that was expected (its SHA-256 differs), and was not kept."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
    return path


def _download(url: str) -> bytes:
    from urllib.request import urlopen

    with urlopen(url, timeout=_TIMEOUT_S) as answer:
        content: bytes = answer.read()
    return content
