"""Papers: PDF pages to records by a user's schema, every value with its page and box, and how far it is proved.

with open_document("paper.pdf") as document:
    result = read_paper(document, RecordSchema.read("schema.json"), engine, "paper.run")
"""

from workflows.science.papers.pages.document import (
    Document,
    DocumentError,
    PageError,
    PasswordError,
    PictureRule,
    open_document,
)
from workflows.science.papers.pages.page import Page, TextLayer
from workflows.science.papers.paper import Paper, RecordFacts, ValueFacts
from workflows.science.papers.reading import PaperResult, ReadSettings, plan_paper, read_paper
from workflows.science.papers.schema import Boxes, RecordSchema, SchemaNotUsableError
from workflows.science.papers.values.placing import Anchor

__all__ = [
    "Anchor",
    "Boxes",
    "Document",
    "DocumentError",
    "Page",
    "PageError",
    "Paper",
    "PaperResult",
    "PasswordError",
    "PictureRule",
    "ReadSettings",
    "RecordFacts",
    "RecordSchema",
    "SchemaNotUsableError",
    "TextLayer",
    "ValueFacts",
    "open_document",
    "plan_paper",
    "read_paper",
]
