"""Papers with known truth: HTML, typeset to PDF, with the page and box of every value known from the typesetting."""

from recipes.papers.content import SCHEMA, Content, make_content
from recipes.papers.papers import MadePaper, make_papers

__all__ = ["SCHEMA", "Content", "MadePaper", "make_content", "make_papers"]
