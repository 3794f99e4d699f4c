"""Images of a run: heatmap, overview, legend, colours."""
