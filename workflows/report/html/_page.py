"""From a template to one file that needs nothing else: style inside, pictures inside, no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import cv2
import jinja2
import numpy as np
from numpy.typing import NDArray

from workflows.export._file import new_text_file
from workflows.report.images.colours import RGBColour
from wsi.files.names import path_text

_SUFFIXES = (".html", ".htm")


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("workflows.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(
    template: str, facts: Mapping[str, object], colours: Mapping[str, RGBColour], out: Path, *, overwrite: bool
) -> None:
    """Fill a template and write it.

    Everything in `facts` is escaped. The page allows itself pictures it holds and the style it holds, by hash, and
    nothing else (Content Security Policy): no script, no frame, no connection, whatever a model wrote.

    Raises
    ------
    ExportExistsError, ExportError
    """
    with new_text_file(out, _SUFFIXES, overwrite=overwrite) as stream:
        style = _templates().get_template("style.css").render() + _swatches(colours)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        page = _templates().get_template(template)
        stream.write(path_text(page.render(facts, style=style, policy=policy, swatch=list(colours))))


def _swatches(colours: Mapping[str, RGBColour]) -> str:
    """A class of its own for every colour: the policy allows no style attributes."""
    lines = ("\n.c%d{background:#%02x%02x%02x}" % (at, *of) for at, of in enumerate(colours.values()))  # noqa: UP031
    return "".join(lines) + "\n"


def jpeg(picture: NDArray[np.uint8], quality: int = 85) -> str:
    """An RGB picture (h, w, 3) as a data URL."""
    done = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return "data:image/jpeg;base64," + base64.b64encode(done.tobytes()).decode()


def png(picture: NDArray[np.uint8]) -> str:
    """An RGBA picture (h, w, 4) as a data URL."""
    done = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    return "data:image/png;base64," + base64.b64encode(done.tobytes()).decode()
