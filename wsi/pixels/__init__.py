"""What pixels say without a model: colours, focus, content, resampling."""
