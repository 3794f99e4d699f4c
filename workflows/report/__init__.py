"""The report of a run: results, summary in words, images and HTML."""
