"""Pages of a document: image, printed words, tables and figures, windows."""
