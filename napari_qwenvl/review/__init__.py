"""Deciding about objects, by button or key."""
