"""Numbers of single cells: outlines, dyes, morphology."""
