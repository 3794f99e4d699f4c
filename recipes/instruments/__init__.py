"""Photographs of instruments with known values, units and boxes, drawn at random."""

from recipes.instruments.camera import STILL, Camera
from recipes.instruments.making import KINDS, TRAINING_SEED, Factory, make_set, truth_of
from recipes.instruments.scene import Character, Scene, Shown

__all__ = [
    "KINDS",
    "STILL",
    "TRAINING_SEED",
    "Camera",
    "Character",
    "Factory",
    "Scene",
    "Shown",
    "make_set",
    "truth_of",
]
