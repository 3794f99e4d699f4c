"""What a training leaves behind while it goes on: folder, states, curves, progress."""
