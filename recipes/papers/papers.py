"""Made papers on disk: HTML, PDF, truth and schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from recipes.papers.content import KEY, SCHEMA, make_content
from recipes.papers.typeset import as_scan, typeset
from workflows.errors import ExportExistsError
from workflows.science.papers.evaluate import RecordTruth, TruthRecord, TruthValue


@dataclass(frozen=True)
class MadePaper:
    """A paper that was made: its PDF, number of pages, and the truth (also in `<name>.truth.json`)."""

    pdf: Path
    pages: int
    truth: tuple[TruthRecord, ...]


def make_papers(
    folder: Path | str,
    number: int = 3,
    *,
    pages: int = 3,
    columns: int = 2,
    seed: int = 0,
    scanned: bool = False,
    injected: bool = False,
) -> list[MadePaper]:
    """Make papers with known truth.

    Parameters
    ----------
    folder : Path or str
        New folder: `paper-001.html`, `.pdf`, `.truth.json` and so on, and `schema.json`.
    number, pages, columns, seed : int
        Papers, pages of each (about), columns of text, and what the random numbers begin with.
    scanned : bool
        PDFs without a text layer.
    injected : bool
        Instructions to the model in them, in plain sight and in white.

    Raises
    ------
    ExportExistsError
        The folder holds something already.
    ExportError
        fpdf2 is not installed.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ExportExistsError(f"{folder} is not empty. Name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.json").write_text(json.dumps(SCHEMA, indent=1) + "\n", encoding="utf-8")
    made = []
    for index in range(number):
        content = make_content(seed + index, pages=pages, injected=injected)
        head = f"Journal of Made Measurements {seed + index + 1} ({2000 + index})"
        pdf, printed, count = typeset(content.html, columns=columns, head=head)
        name = f"paper-{index + 1:03d}"
        path = folder / f"{name}.pdf"
        path.write_bytes(pdf)
        if scanned:
            path.write_bytes(as_scan(path, 200.0))
        records = tuple(
            TruthRecord(
                values={
                    prop: TruthValue(value=value, places=[(p.page, p.boxes_pt) for p in printed[f"{number}.{prop}"]])
                    for prop, value in record.items()
                }
            )
            for number, record in enumerate(content.records)
        )
        (folder / f"{name}.html").write_text(content.html, encoding="utf-8")
        truth = RecordTruth(key=KEY, records=records)
        (folder / f"{name}.truth.json").write_text(truth.model_dump_json(indent=1) + "\n", encoding="utf-8")
        made.append(MadePaper(path, count, records))
    return made
