"""Training samples in the character form: every character of a photograph with its box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from qwenvl.answer import TileObject
from qwenvl.images.geometry import PictureFrame
from qwenvl.images.processor import ProcessorSettings
from qwenvl.prompts import build_prompt
from qwenvl.request import Task
from qwenvl.writing import Writer
from recipes.instruments.characters import DISPLAY_UNITS, GLYPHS, NAMES, characters_request
from workflows.science.instruments.errors import TruthError
from workflows.science.instruments.samples import write_turns
from workflows.science.instruments.truth import PhotographTruth


def write_character_samples(folders: Sequence[Path], out: Path, *, writer: Writer, processor: ProcessorSettings) -> int:
    """`workflows.science.instruments.samples.write_samples` in the character form.

    Raises
    ------
    TruthError
        A folder has no truth, a photograph is missing, or values have no boxes of their characters.
    """

    def turns(photograph: PhotographTruth, frame: PictureFrame) -> Iterator[tuple[str, str]]:
        yield build_prompt(characters_request()), characters_answer(photograph, writer, frame)

    return write_turns(folders, out, turns, processor)


def characters_answer(photograph: PhotographTruth, writer: Writer, frame: PictureFrame) -> str:
    """The answer that names every character of a photograph, line by line from left to right."""
    known = {*GLYPHS, *DISPLAY_UNITS}
    objects = []
    for value in photograph.values:
        if not value.characters:
            raise TruthError(
                f"{photograph.name}: {value.field} has no boxes of its characters, which the character form teaches; "
                "use 'qwenvl instruments samples'"
            )
        for text, box in sorted(value.characters, key=lambda one: one[1][0] + one[1][2]):
            label = NAMES.get(text, text)
            if label in known and box[2] > box[0] and box[3] > box[1]:
                objects.append(TileObject(label, box=box))
    return writer.answer(Task.DETECT, objects, frame, as_given=True)
