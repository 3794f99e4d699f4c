"""Workflows of single fields, all on the same runner and journal."""
