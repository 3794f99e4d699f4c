"""Synthetic scenes written as pyramids with their truth."""
