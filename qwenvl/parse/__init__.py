"""From a model's text to an `Answer`: every grammar Qwen models write, damaged or not, never an exception."""

from qwenvl.parse.answers import parse_answer
from qwenvl.parse.boxes.objects import ParsedObjects, parse_objects

__all__ = ["ParsedObjects", "parse_answer", "parse_objects"]
