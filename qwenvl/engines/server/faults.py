"""What it means that a question got no answer: whose fault it is, whether it is asked again, what the user can do.

One table, by HTTP status (RFC 9110) and by the words that servers use for a quota that is used up.
"""

from __future__ import annotations

import re
from enum import Enum


class Case(Enum):
    """A kind of failure.

    Attributes
    ----------
    code : str
        For programs; see `ServerError.code`.
    again : bool
        Asking again may help.
    item : bool
        It may be the fault of the item alone. It is if the server answers the same question about plain gray.
    words, remedy : str
        What happened, and what to do.
    """

    AWAY = (
        "away",
        True,
        False,
        "The server cannot be reached",
        "Check that the server runs and the URL is right, then repeat",
    )
    BUSY = "busy", True, False, "The server is overloaded", "Repeat later, or with a lower --concurrency"
    QUOTA = "quota", False, False, "The quota of this key is used up", "Repeat when there is some again"
    KEY = "key", False, False, "The server does not accept the key", "Set QWENVL_API_KEY and repeat"
    MODEL = "model", False, False, "The server has no such model, or not at this URL", "Check -m and --server"
    SETTING = "setting", False, False, "The server does not take a setting of this request", "Leave it out"
    FAILS = "fails", True, True, "The server fails, whatever the picture", "See its log, then repeat"
    REFUSED = "refused", False, True, "The server refuses, whatever the picture", "Change the request"

    def __init__(self, code: str, again: bool, item: bool, words: str, remedy: str) -> None:
        self.code, self.again, self.item, self.words, self.remedy = code, again, item, words, remedy


_BY_STATUS = {
    401: Case.KEY,
    402: Case.QUOTA,
    403: Case.KEY,
    404: Case.MODEL,
    405: Case.MODEL,
    408: Case.FAILS,
    410: Case.MODEL,
    425: Case.BUSY,
    429: Case.BUSY,
    502: Case.BUSY,
    503: Case.BUSY,
    504: Case.BUSY,
    529: Case.BUSY,
}
# OpenAI: insufficient_quota, billing_hard_limit_reached; DashScope: Arrearage; others write sentences.
_QUOTA = re.compile(
    r"insufficient[ _](?:quota|balance|credits?|funds)|billing[ _](?:hard[ _]limit|not[ _]active)|plan and billing"
    r"|arrear|credit balance|out of credits|余额不足|欠费",
    re.IGNORECASE,
)


def case_of(status: int, words: str, *, wait: bool = False) -> Case:
    """The kind of a failure.

    Parameters
    ----------
    status : int
        HTTP status; 0 where a reply is an error without one, or cannot be read.
    words : str
        All that the server said.
    wait : bool
        It said when to come back, so that nothing is used up for good.
    """
    if not (wait and status == 429) and _QUOTA.search(words):
        return Case.QUOTA
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 300 <= status < 400:
        return Case.MODEL
    return Case.REFUSED if 400 <= status < 500 else Case.FAILS


class ServerFault(Exception):
    """One question got no answer.

    Attributes
    ----------
    case : Case
    status : int
        HTTP status, 0 where there was none.
    """

    def __init__(self, reason: str, case: Case, status: int = 0) -> None:
        super().__init__(reason)
        self.case, self.status = case, status


__all__ = ["Case", "ServerFault", "case_of"]
