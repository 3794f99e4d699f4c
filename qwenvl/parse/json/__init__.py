"""JSON as language models write it, strict or damaged."""
