"""What several tests of documents need: an oracle behind a server, and small PDFs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwenvl.engines.remote import RemoteEngine
from recipes.papers.oracle import Faults, Oracle, serve
from workflows.science.papers.evaluate import RecordEvaluation, evaluate_paper, read_truth
from workflows.science.papers.pages.document import open_document
from workflows.science.papers.reading import PaperResult, ReadSettings, read_paper
from workflows.science.papers.schema import RecordSchema


def schema_of(folder: Path) -> RecordSchema:
    return RecordSchema.read(folder / "schema.json", ("gene", "method"))


@contextmanager
def oracle_engine(folder: Path, **faults: Any) -> Iterator[tuple[Oracle, RemoteEngine]]:
    """An oracle of the paper in a folder, and an engine that asks it."""
    oracle = Oracle(read_truth(folder / "paper-001.truth.json"), Faults(**faults))
    with serve(oracle) as url:
        engine = RemoteEngine(url)
        try:
            yield oracle, engine
        finally:
            engine.close()


def read_made(
    folder: Path, out: Path, settings: ReadSettings | None = None, **faults: Any
) -> tuple[Oracle, PaperResult, RecordEvaluation]:
    """Read the paper of a folder through an oracle with faults, and compare it with its truth."""
    settings = settings or ReadSettings(window=2)
    with oracle_engine(folder, **faults) as (oracle, engine), open_document(folder / "paper-001.pdf") as document:
        result = read_paper(document, schema_of(folder), engine, out, settings)
    return oracle, result, evaluate_paper(result.paper, oracle.truth)


def small_pdf(path: Path, *lines: tuple[float, float, str], **settings: Any) -> Path:
    """A PDF of one page with lines of text at x, baseline y (pt from the top left) in Times of 10 pt."""
    from fpdf import FPDF

    pdf = FPDF(unit="pt", format=(400, 300))
    pdf.set_auto_page_break(False)
    if "password" in settings:
        pdf.set_encryption("owner", user_password=settings["password"])
    pdf.add_page()
    pdf.set_font("Times", size=10)
    pdf.set_text_color(*settings.get("colour", (0, 0, 0)))
    for x, y, text in lines:
        pdf.text(x, y, text)
    for box in settings.get("boxes", ()):
        pdf.rect(*box)
    for rule in settings.get("rules", ()):
        pdf.line(*rule)
    pdf.output(str(path))
    return path
