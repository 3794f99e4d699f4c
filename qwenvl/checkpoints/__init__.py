"""Checkpoints: files, metadata, loading, memory, quantization, adapters."""
