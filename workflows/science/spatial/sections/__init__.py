"""Sections with expression per spot, as the tools of the field write them."""
