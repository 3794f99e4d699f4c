"""Answers in words: yes and no, classes, counts, refusals."""
