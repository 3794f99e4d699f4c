"""Small matters of wording."""


def plural(number: int, noun: str) -> str:
    """'1 tile', '2,000 tiles'."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
