"""Given questions and answers, in this project's and other tools' forms."""
