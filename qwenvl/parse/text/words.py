"""Answers in words: refusals, clear negatives, classes, yes and no."""

from __future__ import annotations

import re

from qwenvl.parse.boxes.labels import canonical, mentioned

READ = 4000
"""Characters of prose that are looked at."""

_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)|we are) "
    r"(?:(?:really |very |so )?sorry|unable to|not able to|not (?:qualified|permitted|allowed))\b"
    r"|\b(?:i|we) (?:apologi[sz]e|can ?not|can't|could not|couldn't|won't|will not|must decline|decline to)\b"
    r"(?! (?:see|find|detect|spot|observe|identify|locate) any\b)"
    r"|\bas an? (?:ai|artificial|large language|language model)\b"
    r"|\b(?:i|we) (?:do not|don't) have the (?:ability|capability)\b"
    r"|\bnot (?:appropriate|possible) for me to\b"
    r"|抱歉|对不起|无法(?:提供|回答|识别|判断|协助|完成|分析)|不能提供|作为(?:一个)?(?:ai|人工智能)",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:but|however|except|although|though|unless|apart|only|some|several|few|many|at least|not sure|unsure"
    r"|unclear|uncertain|rule out|exclude|difficult|hard to|possible|possibly|may|might|could be|would|likely"
    r"|cannot (?:be )?(?:rule|exclud|determin|tell|confirm|assess)\w*|perhaps|suspicious|blurr?y|blurred"
    r"|resolution|quality|too (?:low|small|dark)|one|two|three|four|five|six|seven|eight|nine|ten|more than"
    r"|fewer|less than|because|since|due to|no longer|no doubt|if|otherwise|elsewhere"
    r"|outside|while|whereas|rather|instead|probably|presumably|apparently|seemingly|hardly|barely|scarcely|almost"
    r"|nearly|doubt|(?:not|un)\s?true|false|wrong|incorrect|not no"
    r"|left|right|upper|lower|top|bottom)\b"
    r"|\b(?<!this )(?:half|quadrant|corner|cent(?:er|re)|middle|part|portion|edge|border|margin|periphery)\b"
    r"|[1-9]|但|不过|然而|可能|不确定|除了|无法|不是没|并非|几乎|大概|也许|或许|似乎|好像"
    r"|左|右|上半|下半|上方|下方|上部|下部|部分|角落|边缘|中央|中心",
    re.IGNORECASE,
)
_PARTICIPLE = r"(?:found|present|detected|identified|observed|seen|visible)"
_SUCH = (
    r"(?:objects?|instances?|matches|match|targets?|items?|detections?|examples?"
    r"|such (?:objects?|structures?|cells?|features?))"
)
_THINGS = r"(?:objects?|classes|cells|structures|labels|categories|kinds|items)"
_WHICH = (
    r"(?:that|which) (?:(?:would |could )?(?:fits?|match|matches|corresponds? to|meets?|satisfy|satisfies)"
    r"|are|is|can be|were)\b[^,;.]{0,60}"
    r"|(?:fitting|matching|corresponding to|meeting|satisfying)\b[^,;.]{0,60}"
)
_GENERIC = re.compile(
    rf"(?:(?:there (?:are|is|were|was|appear to be|seem to be|exists?|isn't|aren't)|there's"
    rf"|i (?:see|found|find|detected|can see|could find|was able to find|could not find|cannot find"
    rf"|can't find|did not find|do not see|don't see|didn't find|could not detect"
    rf"|cannot see|can't see|did not detect|couldn't find)"
    rf"|(?:the|this) (?:image|tile|picture|photo|slide|patch|region|field|view) (?:contains|shows|has|does not contain"
    rf"|doesn't contain|does not show)|(?:we|the model) (?:found|detected|did not find)) )?"
    rf"(?:(?:none|(?:not|not any|any|no|zero|0)"
    rf" (?:visible |detectable |relevant |requested |target "
    rf"|identifiable |matching |such )?{_SUCH})"
    rf"(?: (?:of|from) (?:these|those|them|the)"
    rf"(?: (?:requested|listed|given|specified|target))?(?: (?:{_THINGS}|kind|sort|class|type))?)?"
    rf"(?: (?:{_WHICH}))?"
    rf"(?: (?:(?:is|are|was|were|can be|could be|have been) )?{_PARTICIPLE})?"
    r"|nothing(?: of (?:the|this) (?:kind|sort|requested (?:kind|class(?:es)?)))?"
    r"(?: (?:(?:is|was|has been|can be|could be) )?(?:found|detected|identified|to (?:report|detect|box|mark)))?"
    r"|no (?:detections?|boxes|bounding boxes|annotations?|findings?))"
    r"(?: (?:in|on|within|at|here|to)\b[^,;]{0,60})?"
    r"|(?:(?:在)?(?:图中|图像中|图片中|该图中|此图中|这张图中|图像里|图片里)[,，]?(?:里|中)?)?"
    r"(?:并?没有|无|未|未能|未发现|未检测到|没有发现|没有检测到|没有找到|未找到|未见|不存在|找不到|看不到)(?:任何|符合(?:条件|要求|描述)的"
    r"|满足(?:条件|要求)的|匹配的|相关的|可见的|所述|上述|此类|这类|这样的)*(?:目标|对象|物体|结构|东西|内容|实例|检测结果)?"
    r"(?:存在|出现)?",
    re.IGNORECASE,
)
_PREFIXED = re.compile(r"(?:(?:no|none|sorry|nope|answer|result|结果|答案|没有)\s*[,:：，]\s*)", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:no (?:evidence|signs?|traces?|indications?) of(?: any)?|there (?:isn't|is not|wasn't|was not) an?"
    r"|no|not any|zero|0(?= )|without(?: any)?|absence of|free of|devoid of|lacks?(?: any)?|neither|nor|none of the)\b"
    r"|\b(?:not|cannot|can't|couldn't|unable to|didn't|don't|doesn't|isn't|aren't|never)\b(?: \w+){0,3}? any\b"
    r"|(?:并?没有|未|未能)(?:找到|发现|检测到|检出|看到|看见|观察到|识别到|见到?)(?:任何)?"
    r"|(?:没有|不存在|找不到|看不到|看不见|无)(?:任何)?",
    re.IGNORECASE,
)
_DENIES = re.compile(r"[\s\"'*#]*+(?:(?:visible|evident|identifiable|discernible)[\s\"'*#]++)?+$", re.IGNORECASE)
"""What may stand between a negation and the label it denies."""
_ENDS = re.compile(
    r"[\"'*]*+(?:\s*+(?:\Z|[.;!,/&。，；、或和])|\s++(?:(?:that|which) (?:match|fit|meet|satisf)\w{0,5}"
    r"|or|and|nor|in|on|within|here|at all|anywhere|of any kind"
    rf"|(?:(?:is|are|was|were|can be|could be) )?{_PARTICIPLE})\b)",
    re.IGNORECASE,
)
"""What may follow a denied label; 'mitosis-free' and 'mitosis count' deny something else."""
_JOINS = re.compile(
    r"[\s,/&\"'*#]*+(?:(?:or|and|nor|no|any|visible|evident|identifiable|discernible)\b[\s,/&\"'*]*+)*+$", re.IGNORECASE
)
_CONJUNCTION = re.compile(r"\b(?:or|and|nor)\b|[/&或和]", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    rf"[\"'*]*+(?:\s*[:=-]\s*(?:none|no|0|zero)\b(?![.,]?[0-9])"
    rf"| (?:is|are|was|were)(?: (?:not {_PARTICIPLE}|absent)\b|n't {_PARTICIPLE}\b))",
    re.IGNORECASE,
)


def straight(text: str) -> str:
    """`text` with typewriter quotes."""
    return text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')


def is_refusal(text: str) -> bool:
    """True where the text's opening declines to answer."""
    return _REFUSAL.search(straight(text[:300])) is not None


def hedges(text: str, labels: tuple[str, ...]) -> bool:
    """True where a text weakens or contradicts a 'none': doubts, contrasts, counts. Digits in labels are none."""
    plain = straight(text[:READ])
    for start, end, _ in reversed(mentioned(plain, labels)):
        plain = f"{plain[:start]}#{plain[end:]}"
    return _HEDGE.search(plain) is not None


def is_negative(text: str, labels: tuple[str, ...]) -> bool:
    """True for prose that clearly says there is nothing of what was asked for.

    Every requested label must be denied, or the whole answer must be a general 'none'. Prose that is long,
    hedges, contrasts, counts, or denies something else is no clear negative.
    """
    if len(text) > 600:
        return False
    plain = " ".join(straight(text).split()).strip("*_`\"' .!。！")
    if not plain or len(plain) > 400 or any(bracket in plain for bracket in "[]{}<>"):
        return False
    named = mentioned(plain, labels)
    if hedges(plain, labels):
        return False
    if not named:
        prefix = _PREFIXED.match(plain)
        return any(_is_generic(part) for part in ([plain, plain[prefix.end() :]] if prefix else [plain]))
    denied: set[str] = set()
    reach = 0
    joins = pending = False
    for start, end, label in named:
        before = plain[reach:start]
        # Two negations before one label may cancel out.
        negations = list(_NEGATION.finditer(before))
        negated = len(negations) == 1 and _DENIES.match(before, negations[0].end()) is not None
        joined = joins and _JOINS.match(before) is not None
        if pending and not joined:
            return False
        if (negated or joined) and _ENDS.match(plain, end):
            # 'No a, b or c' is one list: a comma carries the denial on only to a conjunction that comes.
            conjunction = joined and _CONJUNCTION.search(before) is not None
            joins, pending = not conjunction, joined and not conjunction
        elif not negations and _DENIED_AFTER.match(plain, end):
            joins = pending = False
        else:
            return False
        denied.add(label)
        reach = end
    return denied == set(labels) and not pending


def _is_generic(plain: str) -> bool:
    """True where every sentence denies that there is anything; 'any objects' denies only after a verb that does."""
    parts = [part.strip(" *_`\"'") for part in re.split(r"[.!。！]+(?:\s+|$)|[。！]", plain) if part.strip(" *_`\"'")]
    return bool(parts) and all(
        _GENERIC.fullmatch(part) is not None
        and (not re.search(r"\bany\b", part, re.IGNORECASE) or re.search(r"\bnot?\b|n't\b|cannot", part, re.IGNORECASE))
        and not _DOUBLE.search(part)
        for part in parts
    )


_DOUBLE = re.compile(r"(?:\bnot|n't|cannot)\b.*\b(?:no|none|nothing|zero)\b", re.IGNORECASE)

_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|no|non|never|neither|nor|without|isn't|aren't|doesn't|rather than|instead of|excludes?|unlike)"
    r"(?:[\s\-]+(?:a|an|the|any|show|contain|of|likely|consistent with)\b)*|不是|没有|非)[\s\-\"'*]*$",
    re.IGNORECASE,
)
_FIRST_CLAUSE = re.compile(r"[^\n.;:,!。；，]{1,120}")


def class_in(text: str, labels: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The one label that a text chooses, and codes; ('ambiguous',) where it names several or denies it.

    Taken from the whole text, from its first clause where that is a label and nothing else, or from the only
    label that the text names.
    """
    exact = canonical(text, labels) if len(text) <= 120 else None
    if exact:
        return exact, ()
    plain = straight(text[:READ])
    clause = _FIRST_CLAUSE.match(plain.lstrip("*_`\"' \n"))
    first = canonical(clause[0], labels) if clause else None
    if first:
        return first, ("prose",)
    spans = mentioned(plain, labels)
    chosen = {label for _, _, label in spans}
    if not chosen:
        return None, ("prose",)
    denied = any(_NOT_BEFORE.search(plain[max(0, start - 40) : start]) for start, _, _ in spans)
    if len(chosen) > 1 or denied:
        return None, ("ambiguous",)
    return chosen.pop(), ("prose",)


_YES_NO = {
    "yes": True,
    "true": True,
    "y": True,
    "是": True,
    "有": True,
    "是的": True,
    "no": False,
    "false": False,
    "n": False,
    "否": False,
    "不是": False,
    "没有": False,
    "无": False,
}
_FIRST_WORD = re.compile(
    r"[\s\"'*`_({\[]*+(?:(yes|no|true|false)(?![^\W_])|(是的|不是|没有|是|有|否|无))", re.IGNORECASE
)
_CONCLUDED = re.compile(
    r"\b(?:answer|result|verdict|conclusion)(?: is)?\s*[:=]?\s*[\"'*]*\s*(yes|no)\b(?! (?:idea|doubt))", re.IGNORECASE
)
_TAKEN_BACK = re.compile(r"\W*(?:and|or|/)\W*(?:yes|no)\b", re.IGNORECASE)
_PLAIN_NO = re.compile(
    r"[*_\"']*(?:\s*\Z|\s*[.,;:!)\n—–-]|\s+(?:there|it|this|the|evidence|signs?|visible|i)\b|\s*[。，])", re.IGNORECASE
)


def yes_or_no(text: str) -> tuple[bool | None, tuple[str, ...]]:
    """True for yes, False for no, None where the text is neither; and codes.

    Read from the whole text, from an announced answer ('the answer is: yes') or from the first word. 'No idea' and
    'yes and no' are neither.
    """
    plain = straight(text[:READ]).strip()
    alone = plain.strip("*_`\"' .!,。").casefold()
    if alone in _YES_NO:
        return _YES_NO[alone], ()
    concluded = {match.casefold() for match in _CONCLUDED.findall(plain)}
    if concluded:
        return (_YES_NO[concluded.pop()] if len(concluded) == 1 else None), ("prose",)
    first = _FIRST_WORD.match(plain)
    if not first or _TAKEN_BACK.match(plain, first.end()):
        return None, ("prose",)
    word = (first[1] or first[2]).casefold()
    if word == "no" and not _PLAIN_NO.match(plain, first.end()):
        return None, ("prose",)
    return _YES_NO[word], ("prose",)
