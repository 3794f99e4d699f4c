"""What is learned, token by token, and in which order."""
