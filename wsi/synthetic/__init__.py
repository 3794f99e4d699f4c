"""Slides with planted truth: labelled tiles, whole scenes, and pyramids written to disk."""

from wsi.synthetic.factory import SlideFactory, make_demo_slide
from wsi.synthetic.field import Field, sample_field
from wsi.synthetic.film import Film, make_film, write_film
from wsi.synthetic.scene import Scene
from wsi.synthetic.tissue.layout import ARTEFACTS, REGIONS
from wsi.synthetic.tissue.nuclei import CLASSES, Nuclei
from wsi.synthetic.tissue.stain import Scanner
from wsi.synthetic.writing.write import WrittenSlide, write_slide

__all__ = [
    "ARTEFACTS",
    "CLASSES",
    "REGIONS",
    "Field",
    "Film",
    "Nuclei",
    "Scanner",
    "Scene",
    "SlideFactory",
    "WrittenSlide",
    "make_demo_slide",
    "make_film",
    "sample_field",
    "write_film",
    "write_slide",
]
