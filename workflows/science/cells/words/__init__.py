"""Cells in words: sentences, their vocabulary, gene names."""
