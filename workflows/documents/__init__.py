"""Papers: PDF pages to records by a user's schema, every value with its page and box, and how far it is proved.

with open_document("paper.pdf") as document:
    result = read_paper(document, RecordSchema.read("schema.json"), engine, "paper.run")
"""

from workflows.documents.document import (
    Document,
    DocumentError,
    PageError,
    PasswordError,
    PictureRule,
    open_document,
)
from workflows.documents.page import Page, TextLayer
from workflows.documents.paper import Paper, RecordFacts, ValueFacts
from workflows.documents.placing import Anchor
from workflows.documents.reading import PaperResult, ReadSettings, plan_paper, read_paper
from workflows.documents.schema import Boxes, RecordSchema, SchemaNotUsableError

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
