"""Adapters: files, what they change, and back to the base bit for bit."""
