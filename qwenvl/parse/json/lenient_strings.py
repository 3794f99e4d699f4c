"""Keys and quoted strings as language models write them: where one ends when its quotes do not say."""

from __future__ import annotations

import json
import re

STRAIGHT = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | str.maketrans(
    "\u201c\u201d\u201e\u2033\u2018\u2019\u201a`", "\"\"\"\"''''"
)
"""Full-width and typographic characters to their ASCII form, one to one, so that positions stay."""


def straightened(text: str) -> str:
    """`text` with ASCII quotes and punctuation; the same object where it has no other."""
    return text if text.isascii() and "`" not in text else text.translate(STRAIGHT)


_KEY = re.compile(r"[\"']?\s*+([^\W\d][\w \-]{0,48}?)\\?[\"']?\s*+[:=]")
_QUOTE = {quote: re.compile(rf"[^{quote}\\]*+(?:\\.[^{quote}\\]*+)*+{quote}", re.DOTALL) for quote in ("'", '"')}
_NEXT_KEY = r"[\"']?\s*+[^\W\d][\w \-]{0,48}\\?[\"']?\s*+[:=]"
_ENDS_VALUE = re.compile(rf"\s*+(?:[}}\])]|\Z|[,;、]\s*+(?:[{{}}\[\]]|\Z|//|\.\.\.|{_NEXT_KEY})|[{{\[]|//|{_NEXT_KEY})")
_ENDS_ITEM = re.compile(r"\s*+(?:[,;、\]}):{\[\"']|\Z)")
_STRAY = re.compile(r"[^\s,;、:\[\](){}\"']++")
_RUN = re.compile(r"[\w \-]++")
_COLON = re.compile(r"\s*+:")
_SWALLOWED = re.compile(r"[}\]]\s*+,?\s*+[{\[]|\}\s*+\Z|[}\]][ \t]*+\n")


def read_key(text: str, original: str, position: int) -> tuple[str | None, int, list[str]]:
    """The key at `position` of an object and the place of its value.

    Returns
    -------
    tuple
        The key (None where what stands there is none and was passed over), where to go on, codes.
    """
    match = _KEY.match(text, position)
    if match:
        straight = text[position] == '"' == original[position] and '"' in original[match.end(1) : match.end()]
        codes = [] if straight else ["quotes"]
        if ":" not in original[match.end(1) : match.end()]:
            codes.append("punctuation")
        return original[match.start(1) : match.end(1)].strip(), match.end(), codes
    if text[position] in "\"'":
        end = _QUOTE[text[position]].match(text, position + 1)
        if not end:
            return None, len(text), ["quotes"]
        key = plain(original[position + 1 : end.end() - 1])
        colon = _COLON.match(text, end.end())
        if colon:
            return key, colon.end(), []
        # A key without a colon speaks where a bracket follows; otherwise it is a stray word.
        follows = text[end.end() : end.end() + 8].lstrip()[:1]
        return (key if follows in ("[", "(", "{") and follows else None), end.end(), ["syntax"]
    word, run = _STRAY.match(text, position), _RUN.match(text, position)
    code = "ellipsis" if text.startswith(("...", "…"), position) else "syntax"
    # Of a long run of words only the last could be a key.
    return None, max(position + 1, word.end() if word else 0, run.end() - 49 if run else 0), [code]


def read_quoted(text: str, original: str, position: int, *, in_list: bool) -> tuple[str | None, int, list[str]]:
    """The string whose opening quote stands at `position`, with any unescaped quotes inside it.

    A quote ends the string where what follows could follow a string: a bracket, a comma and a key, a key.

    Returns
    -------
    tuple
        The string (None where the text ends first), where to go on, codes.
    """
    quote = text[position]
    codes = [] if original[position] == '"' else ["quotes"]
    ends = _ENDS_ITEM if in_list else _ENDS_VALUE
    scan, inner = position + 1, -1
    while True:
        found = _QUOTE[quote].match(text, scan)
        if not found:
            return None, len(text), codes
        end = found.end() - 1
        if inner >= 0 and not in_list and _COLON.match(text, end + 1):
            # This quote ends the next key, so the string before it lacks its own closing quote.
            swallowed = _SWALLOWED.search(text, position + 1, inner)
            stop = swallowed.start() if swallowed else inner
            return plain(original[position + 1 : stop]).strip(" \t\r\n,"), stop, [*codes, "quotes"]
        if ends.match(text, end + 1):
            break
        scan, inner = end + 1, end
    swallowed = _SWALLOWED.search(text, position + 1, end)
    if swallowed or inner >= 0:
        codes.append("quotes")
    if swallowed:
        return plain(original[position + 1 : swallowed.start()]).strip(), swallowed.start(), codes
    return plain(original[position + 1 : end]), end + 1, codes


def plain(written: str) -> str:
    """The characters of a string's inside; escapes JSON does not know lose their backslash."""
    if "\\" not in written:
        return written
    try:
        return str(json.loads(f'"{written}"', strict=False))
    except ValueError:
        return re.sub(r"\\(.)", r"\1", written, flags=re.DOTALL)
