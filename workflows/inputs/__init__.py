"""The slide as a user asked for it: opened, checked, and said what is missing."""
