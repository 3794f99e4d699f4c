"""What an OpenAI-compatible server is told, and what it replies."""
