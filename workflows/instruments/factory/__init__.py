"""Photographs of instruments with known values, units and boxes, drawn at random."""

from workflows.instruments.factory.camera import STILL, Camera
from workflows.instruments.factory.making import KINDS, TRAINING_SEED, Factory, make_set, truth_of
from workflows.instruments.factory.scene import Character, Scene, Shown

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
