"""TIFF: layout, samples, codecs."""
