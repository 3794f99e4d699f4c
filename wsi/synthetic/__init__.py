"""Slides with planted truth: labelled tiles, whole scenes, and pyramids written to disk."""

from wsi.synthetic.factory import Field, sample_field
from wsi.synthetic.nuclei import CLASSES
from wsi.synthetic.stain import Scanner
from wsi.synthetic.tissue import ARTEFACTS, REGIONS

__all__ = ["ARTEFACTS", "CLASSES", "REGIONS", "Field", "Scanner", "sample_field"]
