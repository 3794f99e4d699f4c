"""Answers in words: refusals, clear negatives, numbers, classes, yes and no."""

from __future__ import annotations

import re

from qwenvl.parse._labels import canonical, mentioned

_READ = 4000
"""Characters of prose that are looked at."""

_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)|we are) (?:(?:really |very |so )?sorry|unable to|not able to|not (?:qualified|permitted|allowed))\b"
    r"|\b(?:i|we) (?:apologi[sz]e|can ?not|can't|could not|couldn't|won't|will not|must decline|decline to)\b"
    r"(?! (?:see|find|detect|spot|observe|identify|locate) any\b)"
    r"|\bas an? (?:ai|artificial|large language|language model)\b|\b(?:i|we) (?:do not|don't) have the (?:ability|capability)\b"
    r"|\bnot (?:appropriate|possible) for me to\b|抱歉|对不起|无法(?:提供|回答|识别|判断|协助|完成|分析)|不能提供|作为(?:一个)?(?:ai|人工智能)",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:but|however|except|although|though|unless|apart|only|some|several|few|many|at least|not sure|unsure|unclear"
    r"|uncertain|cannot (?:be )?(?:rule|exclud|determin|tell|confirm|assess)\w*|rule out|exclude|difficult|hard to|possible"
    r"|possibly|may|might|could be|would|likely|perhaps|suspicious|blurr?y|blurred|resolution|quality|too (?:low|small|dark)"
    r"|one|two|three|four|five|six|seven|eight|nine|ten|more than|fewer|less than|not only|no longer|no doubt|if"
    r"|otherwise|elsewhere|outside|while|whereas|rather|instead)\b|[1-9]|但|不过|然而|可能|不确定|除了|无法",
    re.IGNORECASE,
)
_SUCH = (
    r"(?:such )?(?:objects?|instances?|matches|match|targets?|items?|detections?|examples?|of (?:these|those|them|the)\b"
    r"(?: \w+){0,3}|such (?:objects?|structures?|cells?|features?))"
)
_GENERIC = re.compile(
    rf"^(?:there (?:are|is|were) )?(?:none|nothing|no {_SUCH}|zero {_SUCH}|0 {_SUCH})\b"
    rf"|\b(?:there (?:are|is|were) (?:none|no {_SUCH}|nothing)|none (?:(?:was|were|are|is) )?(?:of \w+ \w+ )?"
    rf"(?:found|present|detected|visible|seen|identified|observed)|nothing (?:\w+ ){{0,2}}(?:found|detected|visible|seen)"
    rf"|(?:does not|doesn't|do not|don't) (?:contain|show|see|find) (?:any )?{_SUCH})"
    r"|^(?:没有|无|未发现|未检测到|没有发现|没有检测到|没有找到|不存在)(?:任何)?(?:目标|对象|物体|此类\w*)?[。.!！]?$",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:no|not any|zero|without(?: any)?|absence of|free of|devoid of|lacks?(?: any)?|neither|nor|any|none of the)\b|没有|未见|未发现|未检测到|无",
    re.IGNORECASE,
)
_NEGATED_VERB = re.compile(
    r"\b(?:not|n't|cannot|can't|couldn't|unable to|didn't|don't|doesn't|isn't|aren't|never)\b"
    r"(?: \w+){0,3}? (?:any|a|an)\b",
    re.IGNORECASE,
)
_JOINS = re.compile(
    r"^[\s,/&\"'*]*(?:(?:or|and|nor|no|any|visible|clear|definite|obvious|apparent|evident|identifiable|discernible)"
    r"[\s,/&\"'*]*)*$",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """True where the text's opening declines to answer."""
    return _REFUSAL.search(_straight(text[:300])) is not None


def is_negative(text: str, labels: tuple[str, ...]) -> bool:
    """True for prose that clearly says there is nothing of what was asked for.

    Every requested label must be negated, or the whole answer must be a general 'none'. Prose that is long, hedges,
    contrasts, counts, or names something else is not a clear negative.
    """
    plain = " ".join(_straight(text).split()).strip("*_`\"' .!。")
    if not plain or len(plain) > 400 or any(bracket in plain for bracket in "[]{}<>"):
        return False
    named = mentioned(plain, labels)
    rest = plain
    for start, end, _ in reversed(named):
        # A label such as 'grade 1' is no count.
        rest = f"{rest[:start]}#{rest[end:]}"
    if _HEDGE.search(rest):
        return False
    if not named:
        return _GENERIC.search(plain) is not None
    negated: set[str] = set()
    reach = -1
    for start, end, label in named:
        before = plain[max(0, start - 60) : start]
        mark = None
        for found in (*_NEGATION.finditer(before), *_NEGATED_VERB.finditer(before)):
            if _JOINS.match(before[found.end() :]) and found[0].casefold() != "any":
                mark = found
        if mark or (reach >= 0 and _JOINS.match(plain[reach:start])):
            negated.add(label)
            reach = end
        else:
            return False
    return negated == set(labels)


_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_VALUES = {word: number for number, word in enumerate(_WORDS)} | {"none": 0, "no": 0, "single": 1}
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,12})"
_ONE_NUMBER = rf"(?:{_DIGITS}|\b(?:{'|'.join((*_WORDS, 'none', 'no', 'single'))})\b)"
_COUNT = re.compile(rf"(?<![0-9.,\-])({_ONE_NUMBER})(?![0-9]|[.,][0-9]|%)", re.IGNORECASE)
_WHOLE = re.compile(rf"({_ONE_NUMBER})(?:\.0+)?", re.IGNORECASE)
_ANNOUNCED = re.compile(
    rf"\b(?:there (?:are|is|were)|total(?: of| is|:)?|count(?:ed| is|:)?|answer(?: is|:)?|=)\s*(?:about |around |approximately"
    rf" |roughly |exactly |a total of )?[\"'*:]*\s*({_ONE_NUMBER})(?![0-9]|[.,][0-9]|%)",
    re.IGNORECASE,
)
_RANGE = re.compile(rf"{_DIGITS}\s*(?:-|–|to|~)\s*{_DIGITS}|\bbetween\b|\bmore than\b|\bat least\b|\bover\b", re.IGNORECASE)
MAX_COUNT = 1_000_000


def number_in(text: str, labels: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """The count that a text states, and codes.

    A text that is one number (digits, or an English word up to twenty) is taken as it is. Amid prose, a number
    beside each of several labels is added up; otherwise the number after 'there are', 'total' or the like is taken,
    or else the first one. A number that a label contains is none.
    """
    plain = " ".join(_straight(text[:_READ]).split()).strip("*_`\"' .!。")
    whole = _WHOLE.fullmatch(plain)
    if whole:
        return _bounded(whole[1]), ()
    spans = mentioned(plain, labels)
    masked = plain
    for start, end, _ in spans:
        if any(character.isdigit() for character in plain[start:end]):
            masked = masked[:start] + "#" * (end - start) + masked[end:]
    codes = ("prose", "range") if _RANGE.search(masked) else ("prose",)
    if len({label for _, _, label in spans}) > 1:
        beside = [_beside(masked, start, end) for start, end, _ in spans]
        numbers = [number for number in beside if number is not None]
        if len(numbers) == len(spans) == len(labels):
            total = sum(numbers)
            return (total if total <= MAX_COUNT else None), (*codes, "summed")
    match = _ANNOUNCED.search(masked) or _COUNT.search(masked)
    return (_bounded(match[1]), codes) if match else (None, codes)


def _beside(text: str, start: int, end: int) -> int | None:
    before = re.search(rf"({_ONE_NUMBER})\s*(?:[a-z]+\s+)?[\"'*]*$", text[max(0, start - 40) : start], re.IGNORECASE)
    after = re.match(rf"[\"'*]*\s*[:=]\s*[\"'*]*({_ONE_NUMBER})", text[end : end + 30], re.IGNORECASE)
    match = after or before
    return _bounded(match[1]) if match else None


def _bounded(written: str) -> int | None:
    number = _VALUES.get(written.casefold())
    number = int(written.replace(",", "")) if number is None else number
    return number if number <= MAX_COUNT else None


_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|no|non|never|neither|nor|without|isn't|aren't|doesn't|rather than|instead of|excludes?|unlike)"
    r"(?:[\s\-]+(?:a|an|the|any|show|contain|of|likely|consistent with))*|不是|没有|非)[\s\-\"'*]*$",
    re.IGNORECASE,
)


def class_in(text: str, labels: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The one label that a text chooses, and codes; ('ambiguous',) where it names several or negates it."""
    exact = canonical(text[:120], labels) if len(text) <= 120 else None
    if exact:
        return exact, ()
    plain = _straight(text[:_READ])
    spans = mentioned(plain, labels)
    chosen = {label for _, _, label in spans}
    if not chosen:
        return None, ("prose",)
    denied = any(_NOT_BEFORE.search(plain[max(0, start - 40) : start]) for start, _, _ in spans)
    if len(chosen) > 1 or denied:
        return None, ("ambiguous",)
    return chosen.pop(), ("prose",)


_YES_NO = {
    "yes": True, "true": True, "y": True, "是": True, "有": True, "是的": True, "no": False, "false": False,
    "n": False, "否": False, "不是": False, "没有": False, "无": False,
}  # fmt: skip
_FIRST = re.compile(r"[\s\"'*`_({\[]*+(是的|不是|没有|是|有|否|无|[a-z]{1,5}+)(?![^\W_])", re.IGNORECASE)
_FIRST_HAN = re.compile(r"[\s\"'*`_]*+(是的|不是|没有|是|有|否|无)")
_CONCLUDED = re.compile(
    r"\b(?:answer|result|verdict|conclusion)(?: is)?\s*[:=]?\s*[\"'*]*\s*(yes|no)\b", re.IGNORECASE
)


def yes_or_no(text: str) -> tuple[bool | None, tuple[str, ...]]:
    """True for yes, False for no, None where the text is neither; and codes.

    Read from the first word, or from an announced answer ('the answer is: yes').
    """
    plain = _straight(text[:_READ]).strip()
    alone = plain.strip("*_`\"' .!,。").casefold()
    if alone in _YES_NO:
        return _YES_NO[alone], ()
    concluded = {match.casefold() for match in _CONCLUDED.findall(plain)}
    if len(concluded) == 1:
        return _YES_NO[concluded.pop()], ("prose",)
    first = _FIRST.match(plain) or _FIRST_HAN.match(plain)
    word = first[1].casefold() if first else ""
    if not concluded and first and word in _YES_NO and word not in ("y", "n"):
        # 'No mitoses' begins with a determiner, which is still a no; 'Yes and no' is neither.
        after = plain[first.end() : first.end() + 16].casefold()
        if not re.match(r"\W*(?:and|or|/)\W*(?:yes|no)\b", after):
            return _YES_NO[word], ("prose",)
    return None, ("prose",)


def _straight(text: str) -> str:
    return text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
