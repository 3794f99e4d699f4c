"""Values off photographs of instruments: a sheet of fields in, values with unit, box and status out."""

from workflows.instruments.asking import VALUES, Form
from workflows.instruments.reading import Asking, ReadResult, read_photographs
from workflows.instruments.report import InstrumentReport
from workflows.instruments.sheet import FieldSpec, Sheet
from workflows.instruments.truth import Truth
from workflows.instruments.values import Reading, ValueStatus

__all__ = [
    "VALUES",
    "Asking",
    "FieldSpec",
    "Form",
    "InstrumentReport",
    "ReadResult",
    "Reading",
    "Sheet",
    "Truth",
    "ValueStatus",
    "read_photographs",
]
