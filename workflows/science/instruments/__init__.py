"""Values off photographs of instruments: a sheet of fields in, values with unit, box and status out."""

from workflows.science.instruments.asking import VALUES, Form
from workflows.science.instruments.reading import Asking, ReadResult, read_photographs
from workflows.science.instruments.report import InstrumentReport
from workflows.science.instruments.truth import ReadingTruth
from workflows.science.instruments.values.sheet import FieldSpec, Sheet
from workflows.science.instruments.values.values import Reading, ValueStatus

__all__ = [
    "VALUES",
    "Asking",
    "FieldSpec",
    "Form",
    "InstrumentReport",
    "ReadResult",
    "Reading",
    "Sheet",
    "ReadingTruth",
    "ValueStatus",
    "read_photographs",
]
