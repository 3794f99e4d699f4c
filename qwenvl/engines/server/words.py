"""What a server wrote, as it may be shown: the key hidden however it is spelt, plain text, bounded."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
from urllib.parse import quote

LONGEST = 500
"""Characters of a server's words that are shown."""

_RUN = 8  # characters of a key in a row that are hidden wherever they stand
_SEEN = 65_536
_TAGS = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[/!a-z][^<>]*>", re.DOTALL | re.IGNORECASE)


def hider(key: str | None) -> Callable[[str], str]:
    """A function that puts *** for a key: whole or in part, in any case, escaped, in base64 or hexadecimal."""
    if not key:
        return lambda text: text
    signs = [
        "(?:"
        + "|".join(
            (
                re.escape(sign),
                f"%(?i:{ord(sign):02x})",
                f"&#0*{ord(sign)};",
                f"&#[xX]0*(?i:{ord(sign):x});",
                rf"\\u00(?i:{ord(sign):02x})",
                rf"\\x(?i:{ord(sign):02x})",
                rf"\\{re.escape(sign)}",
                re.escape(html.escape(sign)),
            )
        )
        + ")"
        for sign in key
    ]
    whole = re.compile("".join(signs), re.IGNORECASE)
    coded = [key, quote(key, safe=""), json.dumps(key)[1:-1], html.escape(key), key.encode().hex(), key[::-1]]
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * shift + key.encode()).decode().rstrip("=")
            coded.append(text[(0, 2, 3)[shift] : -1])
    runs = {_lower(text[at : at + _RUN]) for text in coded for at in range(len(text) - _RUN + 1)}

    def hide(text: str) -> str:
        text = whole.sub("***", text)
        marked, lower = bytearray(len(text)), _lower(text)
        for at in range(len(text) - _RUN + 1):
            if lower[at : at + _RUN] in runs:
                marked[at : at + _RUN] = b"\1" * _RUN
        if not any(marked):
            return text
        shown = "".join("\0" if mark else sign for mark, sign in zip(marked, text, strict=True))
        return re.sub("\0+", "***", shown)

    return hide


def _lower(text: str) -> str:
    """`text` in lower case, sign by sign, so that places stay."""
    return text.lower() if text.isascii() else "".join(sign.lower()[:1] for sign in text)


def plain(text: str) -> str:
    """A server's text without tags, control characters, halves of characters and long runs of blanks."""
    if re.match(r"\s*<(?:!doctype|html|head|body|\?xml|center|h1|p)\b", text, re.IGNORECASE):
        text = html.unescape(_TAGS.sub(" ", text))
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(text.split())


def words(data: bytes, hide: Callable[[str], str], otherwise: str = "") -> str:
    """What a server says in a body of any kind: the message of its JSON, the text of its page."""
    text = data[:_SEEN].decode("utf-8", "replace")
    try:
        body: object = json.loads(text.removeprefix("data:"))
    except (ValueError, RecursionError):
        said = text
    else:
        said = said_in(body)
    # Hidden before it is cut, so that no part of the key is left; and again, where blanks parted it.
    return hide(plain(hide(said)))[:LONGEST] or otherwise


def said_in(body: object) -> str:
    """The message within an error's JSON, wherever an API puts it."""
    for _ in range(3):
        if not isinstance(body, dict):
            break
        body = next((body[key] for key in ("error", "message", "detail") if body.get(key)), str(body))
    return str(body)
