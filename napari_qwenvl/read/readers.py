"""What napari calls when something is opened: slides, OME-Zarr and stacks, and run folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_qwenvl.read.slide_layer import LayerData, layer_data, open_for_viewing
from wsi.errors import SlideError

if TYPE_CHECKING:
    from wsi import OpenedSlide

Reader = Callable[[str], list[LayerData]]
_PLAIN = 4096
"""A picture without levels, planes or scale and no larger than this is left to napari."""
_SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".dcm", ".ome.tif", ".ome.tiff", ".ome.zarr.zip")


def get_slide_reader(path: str | Sequence[str]) -> Reader | None:
    """npe2 reader: None where napari itself does as well (plain pictures), or no slide reader knows the file."""
    if not isinstance(path, str):
        return None
    try:
        with open_for_viewing(path) as slide:
            return None if _is_plain(slide) else read_slide
    except (SlideError, OSError):
        # Who opens an .svs wants to know why it does not open; a .tif may be for another reader.
        return read_slide if Path(path).is_file() and path.lower().endswith(_SLIDES) else None


def _is_plain(slide: OpenedSlide) -> bool:
    layout = slide.layout
    several = len(slide.levels) > 1 or layout.times > 1 or layout.depths > 1 or layout.channels not in (1, 3)
    return (
        not several
        and slide.reader in ("tiff", "plain")
        and slide.mpp is None
        and max(slide.width, slide.height) <= _PLAIN
    )


def read_slide(path: str) -> list[LayerData]:
    """One multiscale image layer, in um where the scale is known.

    A slide that does not state its scale is asked for once, where somebody can answer; without an answer its
    layer stays in px.

    Raises
    ------
    SlideError
        The file cannot be opened; the message says what to do.
    """
    slide = open_for_viewing(path)
    if slide.mpp is None:
        from napari_qwenvl.read.scale import ask_mpp

        answer = ask_mpp(slide)
        if answer is not None:
            slide.close()
            slide = open_for_viewing(path, mpp=answer)
    return [layer_data(slide)]


def get_run_reader(path: str | Sequence[str]) -> Reader | None:
    """npe2 reader of run folders and their journal; one of a time-lapse has a reader of its own."""
    from workflows.science.timelapse.report import NAME
    from workflows.store.folder import JOURNAL

    if not isinstance(path, str):
        return None
    folder = Path(path).parent if Path(path).name == JOURNAL else Path(path)
    return read_run if (folder / JOURNAL).is_file() and not (folder / NAME).exists() else None


def read_run(path: str) -> list[LayerData]:
    """Slide, tissue, heatmap and tiles without an answer; the objects follow as an overlay in the open viewer.

    Raises
    ------
    RunNotFoundError, StoreError
    """
    from napari_qwenvl.layers.run_layers import read_layers

    return read_layers(path)
