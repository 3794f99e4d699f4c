"""Outlines drawn elsewhere, and the frames of their coordinates."""
