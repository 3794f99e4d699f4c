"""The pictures of docs/science/papers.md, from a made paper and an oracle with planted faults.

python docs/science_pictures_papers.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from qwenvl.engines.remote import RemoteEngine
from recipes.papers import make_papers
from recipes.papers.oracle import Faults, Oracle, serve
from workflows.science.papers.evaluate import read_truth
from workflows.science.papers.pages.document import open_document
from workflows.science.papers.pages.drawing import layout_picture, page_picture, write_picture
from workflows.science.papers.reading import ReadSettings, read_paper
from workflows.science.papers.schema import RecordSchema

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Write both pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "papers"
        make_papers(folder, 1, pages=3, seed=41, injected=True)
        pdf = folder / "paper-001.pdf"
        oracle = Oracle(read_truth(folder / "paper-001.truth.json"), Faults(typo=0.25, contradicted=0.1))
        with serve(oracle) as url, open_document(pdf) as document:
            engine = RemoteEngine(url)
            schema = RecordSchema.read(folder / "schema.json", ("gene", "method"))
            paper = read_paper(document, schema, engine, Path(name) / "run", ReadSettings()).paper
            engine.close()
            page = document.page(1)
            write_picture(IMAGES / "science-papers-layout.png", layout_picture(page)[:1450])
            write_picture(IMAGES / "science-papers.png", page_picture(page, paper)[:1450])


if __name__ == "__main__":
    main()
