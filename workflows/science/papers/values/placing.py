"""Where each value of a record stands: found among the printed words, or only claimed by the model, or neither."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from workflows.science.papers.pages.page import Box, Page, TextLayer, inside, middle
from workflows.science.papers.values.finding import Finder, How, PagePlace
from workflows.science.papers.values.numbers import as_number

Leaf = tuple[str, object]
"""A value of a record with its path: 'gene', 'interval.low', 'genes[0]'."""


class Anchor(StrEnum):
    """How far the place of a value can be trusted."""

    ANCHORED = "anchored"
    """Printed there: found among the words of the page, beside the record's other values where it is a number."""
    MODEL = "model"
    """Box from the model only: there are no words to look it up in (a scan, a picture within the page)."""
    ELSEWHERE = "elsewhere"
    """A number or short text that is printed on the page, but not beside the record's other values, or beside hardly
    any while a word that names the record is not printed: not proved."""
    MISSING = "missing"
    """Not found on the page."""
    ABSENT = "absent"
    """No value: the model wrote null."""


@dataclass(frozen=True, slots=True)
class FoundText:
    """The place of one value.

    Attributes
    ----------
    anchor : Anchor
    page : int or None
        Where it stands, or was looked for.
    boxes_pt : tuple of Box
        Of the print, or of the model's claim where `anchor` is 'model'.
    how : How or None
    occurrences : int
        Places on that page that hold the same value.
    beside : bool
        It stands with the record's other values: in their table row or column, its caption, or their paragraph.
    model_box_pt : Box or None
        What the model claimed, whatever was found.
    """

    anchor: Anchor
    page: int | None = None
    boxes_pt: tuple[Box, ...] = ()
    how: How | None = None
    occurrences: int = 0
    beside: bool = False
    model_box_pt: Box | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """The places of a record's values by path; `page` is where most of them stand."""

    page: int | None
    fields: Mapping[str, FoundText]
    notes: tuple[str, ...] = ()


_ROW, _COLUMN, _CAPTION, _LINE, _BLOCK = range(5)
_WORTH = {_ROW: 1.0, _LINE: 1.0, _COLUMN: 0.9, _BLOCK: 0.7, _CAPTION: 0.4}
_ON_PAGE = 0.1
_CLAIMED = 0.5
_SEEDS = 60
_SLACK = 8.0
"""pt that a model's box may be off before it counts as another place."""


def place_record(
    finders: Mapping[int, Finder],
    leaves: Sequence[Leaf],
    said: int | None,
    record_box_pt: Box | None = None,
    boxes_pt: Mapping[str, Box] | None = None,
    key: Collection[str] = (),
) -> Placed:
    """Find the values of a record on the pages that the model saw.

    Parameters
    ----------
    finders : mapping
        By page number.
    leaves : sequence of Leaf
    said : int or None
        Page that the model named.
    record_box_pt : Box, optional
        Where it says the record stands, on that page.
    boxes_pt : mapping, optional
        Where it says each value stands, by path.
    key : collection of str, optional
        Properties that tell records apart. Where one of them is not printed, the record's numbers prove each other, all
        of them together, or are not proved.

    Notes
    -----
    The page named counts, unless another one holds more of the values side by side; then the record is noted with
    'page-corrected'. A number, or a text of one or two letters, counts as anchored only beside other values of its
    record, since those stand on every page; and a number of a caption or of a table's head proves none of the rows.
    Words may also stand elsewhere on the page, or on the page before or after.
    """
    notes: list[str] = []
    claims = _Claims(record_box_pt, boxes_pt or {})
    if said not in finders:
        notes += ["page-unknown"]
        said, claims = None, _Claims(None, {})
    tried = {number: _on_page(finder, leaves, claims if number == said else None) for number, finder in finders.items()}
    chosen = said
    best = tried[said][0] if said is not None else 0.0
    for number in sorted(tried, key=lambda n: abs(n - (said or 0))):
        if tried[number][0] > best + (0.5 if chosen == said and said is not None else 0.0):
            chosen, best = number, tried[number][0]
    if chosen != said and said is not None:
        notes.append(f"page-corrected:{said}")
    if chosen is None:
        fields = {path: FoundText(Anchor.ABSENT if value is None else Anchor.MISSING) for path, value in leaves}
        return Placed(None, fields, tuple(notes))
    found = dict(tried[chosen][1])
    page = finders[chosen].page
    for path, value in leaves:
        each = found[path]
        claim = claims.of(path) if chosen == said else None
        if each.anchor is Anchor.MISSING and isinstance(value, str):
            each = _next_page(finders, chosen, value) or each
        if each.anchor is Anchor.MISSING and claim is not None and _unlettered(page, claim):
            each = FoundText(Anchor.MODEL, chosen, (claim,))
        if each.anchor is Anchor.MISSING:
            each = replace(each, page=chosen)
        found[path] = replace(each, model_box_pt=claim if each.page == chosen else None)
    numbers = [path for path, value in leaves if as_number(value) is not None]
    nameless = any(found[path].anchor is Anchor.MISSING for path, value in leaves if _tells(path, value, key))
    together = len(numbers) > 1 and all(found[path].anchor is Anchor.ANCHORED for path in numbers)
    if nameless and not together:
        for path in numbers:
            if found[path].anchor is Anchor.ANCHORED:
                found[path] = replace(found[path], anchor=Anchor.ELSEWHERE, beside=False)
    return Placed(chosen, found, tuple(notes))


def _property(path: str) -> str:
    """The property of a record that a path lies in: 'genes' of 'genes[0]'."""
    return path.partition(".")[0].partition("[")[0]


def _tells(path: str, value: object, key: Collection[str]) -> bool:
    """Whether a value is a word that tells its record from others."""
    return _property(path) in key and isinstance(value, str) and as_number(value) is None and _telling(value)


@dataclass(frozen=True, slots=True)
class _Claims:
    """The model's boxes in pt of the page that it named."""

    record: Box | None
    values: Mapping[str, Box]

    def of(self, path: str) -> Box | None:
        return self.values.get(path) or self.values.get(_property(path)) or self.record

    def agrees(self, path: str, place: PagePlace) -> bool:
        box = self.of(path)
        if box is None:
            return False
        wide = (box[0] - _SLACK, box[1] - _SLACK, box[2] + _SLACK, box[3] + _SLACK)
        return inside(place.box_pt, wide)


def _on_page(finder: Finder, leaves: Sequence[Leaf], claims: _Claims | None) -> tuple[float, dict[str, FoundText]]:
    """How well a record fits a page, and where its values stand there."""
    page = finder.page
    places = {path: finder.find(value) for path, value in leaves if not isinstance(value, bool | None)}
    numbers = {path for path, value in leaves if as_number(value) is not None}
    known = {path: found for path, found in places.items() if found}
    sites = {path: [_Site.of(page, place) for place in found] for path, found in known.items()}
    texts = [path for path in sites if path not in numbers]
    best: tuple[float, _Site | None, str, bool] = (0.0, None, "", False)
    for path in texts or list(sites):
        for seed in sites[path][:_SEEDS]:
            along = _orientation(seed, path, sites, numbers)
            worth = 1.0 if path in texts else _ON_PAGE
            for other, candidates in sites.items():
                if other == path:
                    continue
                kinds = [k for c in candidates if (k := _relation(seed, c, along)) is not None]
                if other in numbers:
                    kinds = [kind for kind in kinds if kind != _CAPTION]
                if kinds:
                    worth += max(_WORTH[kind] for kind in kinds)
                elif other not in numbers:
                    worth += _ON_PAGE
            if claims is not None and claims.agrees(path, seed.place):
                worth += _CLAIMED
            if worth > best[0]:
                best = worth, seed, path, along
    return best[0], _settle(page, leaves, places, sites, numbers, *best[1:], claims)


def _settle(
    page: Page,
    leaves: Sequence[Leaf],
    places: Mapping[str, tuple[PagePlace, ...]],
    sites: Mapping[str, list[_Site]],
    numbers: set[str],
    seed: _Site | None,
    origin: str,
    along: bool,
    claims: _Claims | None,
) -> dict[str, FoundText]:
    """One place for each value around the seed."""
    found: dict[str, FoundText] = {}
    taken: set[tuple[int, int]] = set()
    weak = numbers | {path for path, value in leaves if isinstance(value, str) and not _telling(value)}
    supported = seed is not None and any(
        _relation(seed, site, along) not in (None, _CAPTION)
        for path, candidates in sites.items()
        if path != origin
        for site in candidates
    )
    alone = sum(value is not None for _, value in leaves) == 1
    order = sorted(leaves, key=lambda leaf: (leaf[0] != origin, len(places.get(leaf[0], ()))))
    for path, value in order:
        if value is None:
            found[path] = FoundText(Anchor.ABSENT)
            continue
        candidates = sites.get(path, [])
        if not candidates:
            found[path] = FoundText(Anchor.MISSING)
            continue
        ranked = []
        for site in candidates:
            kind = _relation(seed, site, along) if seed is not None else None
            own = seed is not None and path == origin and site.place is seed.place
            claimed = claims is not None and claims.agrees(path, site.place)
            worth = 2.0 if own else (0.0 if kind is None else _WORTH[kind])
            proved = own or kind is not None
            if own and not supported and path in weak:
                # A seed that stands on many pages by chance: its neighbours or the model speak for it.
                proved = claimed or (alone and len(candidates) == 1)
            if path in numbers:
                if kind == _CAPTION:  # 'after 5 washes' is no proof of any 5 in the rows
                    proved, worth = own, 0.0
                if (site.place.start, site.place.stop) in taken:
                    continue
            far = 0.0 if seed is None else _apart(seed.place, site.place)
            ranked.append((worth + _CLAIMED * claimed, proved, -far, site))
        if not ranked:
            found[path] = FoundText(Anchor.ELSEWHERE, page.number, occurrences=len(candidates))
            continue
        _, proved, _, site = max(ranked, key=lambda item: item[:3])
        anchor = Anchor.ANCHORED if proved or path not in weak else Anchor.ELSEWHERE
        if anchor is Anchor.ANCHORED:
            taken.add((site.place.start, site.place.stop))
        found[path] = FoundText(
            anchor, page.number, site.place.boxes_pt, site.place.how, len(candidates), beside=proved
        )
    return found


@dataclass(frozen=True, slots=True)
class _Site:
    """A place, and what it belongs to on the page."""

    place: PagePlace
    line: int
    block: int
    table: int | None
    row: int | None
    caption_of: tuple[int, ...]

    @classmethod
    def of(cls, page: Page, place: PagePlace) -> _Site:
        table = page.table_at(place.box_pt)
        row = None if table is None else page.tables[table].row_of(place.box_pt)
        captions = tuple(
            number
            for number, each in enumerate(page.tables)
            if each.caption is not None and inside(place.box_pt, each.caption.box_pt)
        )
        printed = page.printed
        return cls(place, int(printed.lines[place.start]), int(printed.blocks[place.start]), table, row, captions)


def _relation(seed: _Site, other: _Site, along: bool) -> int | None:
    """What a place shares with the seed; None where nothing."""
    if seed.table is not None:
        if other.table == seed.table:
            if along:
                shared = min(seed.place.box_pt[2], other.place.box_pt[2]) - max(
                    seed.place.box_pt[0], other.place.box_pt[0]
                )
                return _COLUMN if shared > 0 else None
            if other.row is not None and other.row == seed.row:
                return _ROW
            return _CAPTION if other.row == 0 else None  # the head: 'Value (mg/L)'
        return _CAPTION if seed.table in other.caption_of else None
    if other.table is not None:
        return None
    if other.line == seed.line:
        return _LINE
    return _BLOCK if other.block == seed.block else None


def _orientation(seed: _Site, path: str, sites: Mapping[str, list[_Site]], numbers: set[str]) -> bool:
    """True where a table holds records as columns rather than rows, seen by the numbers beside the seed."""
    if seed.table is None:
        return False
    counts = []
    for along in (False, True):
        counts.append(
            sum(
                any(_relation(seed, site, along) in (_ROW, _COLUMN) for site in candidates)
                for other, candidates in sites.items()
                if other != path and other in numbers
            )
        )
    return counts[1] > counts[0]


def _telling(text: str) -> bool:
    """Whether a text stands hardly anywhere by chance: three letters or digits, one a letter, at least."""
    return sum(sign.isalnum() for sign in text) >= 3 and any(sign.isalpha() for sign in text)


def _apart(one: PagePlace, other: PagePlace) -> float:
    (x, y), (u, v) = middle(one.box_pt), middle(other.box_pt)
    return abs(x - u) + 3 * abs(y - v)


def _next_page(finders: Mapping[int, Finder], page: int, value: str) -> FoundText | None:
    """Words on the page before or after: the caption or head of a table that goes on."""
    if not _telling(value):
        return None
    for number in (page - 1, page + 1):
        if number in finders and (places := finders[number].find(value)):
            place = places[-1] if number < page else places[0]
            return FoundText(Anchor.ANCHORED, number, place.boxes_pt, place.how, len(places))
    return None


def _unlettered(page: Page, box_pt: Box) -> bool:
    """Whether the words of the page cannot speak for this place: there are none, or it is a picture's print."""
    if page.text_layer is not TextLayer.WORDS:
        return True
    return any(figure.raster and inside(box_pt, figure.box_pt) for figure in page.figures)
