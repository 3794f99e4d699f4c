"""Decoding: from prompts to tokens, batch by batch."""
