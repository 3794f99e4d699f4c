"""The timeline: frames, changes, scores, ranges and tracks over one axis of time or depth, as one picture."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from workflows.science.timelapse.report import TIMELINE, TRACKS, TimelapseReport
from workflows.science.timelapse.stack import Stack
from workflows.store.folder import replace_whole

_WIDTH, _MARGIN, _RIGHT = 1400, 110, 30
_THUMBS = 9
_INK, _SOFT, _BAND = (40, 40, 46), (150, 150, 158), (232, 160, 40)
_SCORE, _CHANGE = (46, 94, 170), (120, 120, 128)
_TRACKS = ((46, 94, 170), (200, 82, 60), (64, 140, 84), (140, 84, 160), (190, 140, 30), (60, 150, 160))
_MOST_LINES = 40


def write_timeline(folder: Path, report: TimelapseReport, stack: Stack) -> Path:
    """Draw `timeline.png` into a folder.

    Parameters
    ----------
    folder : Path
        Of a 'qwenvl timelapse' command; its tracks.csv is drawn where there is one.
    report : TimelapseReport
    stack : Stack
        Whose frames are shown small.
    """
    picture = _draw(folder, report, stack)
    path = folder / TIMELINE
    replace_whole(path, lambda partial: picture.save(partial, format="PNG"))
    return path


def _draw(folder: Path, report: TimelapseReport, stack: Stack) -> Image.Image:
    places, unit = _readable(report)
    low, high = places[0], places[-1]

    def x_of(place: float) -> float:
        return _MARGIN + (place - low) / (high - low) * (_WIDTH - _MARGIN - _RIGHT)

    tracks = _read_tracks(folder / TRACKS) if report.tracks is not None else {}
    shown = _spread(report.sampling.frames, _THUMBS)
    thumb_width = (_WIDTH - _MARGIN - _RIGHT) // max(len(shown), 5) - 6
    thumb_height = round(thumb_width * stack.slide.height / stack.slide.width)
    curves = [("change", _CHANGE, _changes(report, places))] if report.sampling.changes else []
    if any(frame.score is not None for frame in report.frames):
        points = [(places[f.frame], f.score) for f in report.frames if f.score is not None]
        curves.append(("P(yes)", _SCORE, points))
    if any(frame.objects is not None for frame in report.frames):
        curves.append(("objects", _SCORE, [(places[f.frame], float(f.objects or 0)) for f in report.frames]))
    lines = min(len(tracks), _MOST_LINES)
    asks = report.kind != "track"
    height = 64 + thumb_height + 60 + 96 * len(curves) + (44 if asks else 0) + (30 + 9 * lines if lines else 0) + 60
    image = Image.new("RGB", (_WIDTH, height), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    _text(draw, (_MARGIN, 12), _title(report), 19)
    _text(draw, (_MARGIN, 38), _facts(report, stack), 14, _SOFT)
    y = 64
    step = (_WIDTH - _MARGIN - _RIGHT) / max(len(shown), 5)
    for place, frame in enumerate(shown):
        left = round(_MARGIN + place * step)
        image.paste(Image.fromarray(stack.picture(frame, (thumb_width, thumb_height))), (left, y))
        at = x_of(places[frame])
        draw.line([(left + thumb_width / 2, y + thumb_height), (at, y + thumb_height + 30)], fill=_SOFT)
        _text(draw, (left + 3, y + 3), f"{places[frame]:.4g}", 13, (255, 255, 255), shade=(0, 0, 0))
    y += thumb_height + 30
    for frame in report.sampling.frames:
        draw.line([(x_of(places[frame]), y), (x_of(places[frame]), y + 10)], fill=_INK)
    _text(draw, (8, y - 4), "frames shown", 13, _SOFT)
    y += 30
    top = y
    for name, colour, points in curves:
        _curve(draw, name, colour, points, x_of, y, report.threshold if name == "P(yes)" else None)
        y += 96
    if asks:
        _text(draw, (8, y + 8), "answer", 13, _SOFT)
        for each in report.ranges:
            a, b = x_of(places[each.first]), x_of(places[each.last])
            draw.rectangle([a - 3, y + 4, b + 3, y + 26], fill=_BAND)
        if not report.ranges:
            _text(draw, (_MARGIN, y + 7), _no_range(report), 14, _SOFT)
        y += 44
    if lines:
        _text(draw, (8, y), f"{len(tracks)} tracks", 13, _SOFT)
        _track_lines(draw, tracks, report, places, x_of, y)
        y += 30 + 9 * lines
    _axis(draw, low, high, unit, x_of, top, y)
    return image


def _readable(report: TimelapseReport) -> tuple[list[float], str]:
    """Places of all frames in a unit whose numbers are short."""
    values = list(report.stack.places)
    if report.stack.unit == "um":
        return values, "um"
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if values[-1] >= 3 * size:
            return [round(value / size, 4) for value in values], unit
    return values, "s"


def _title(report: TimelapseReport) -> str:
    words = report.request.prompt or f"{report.request.task}: {', '.join(report.request.labels)}"
    words = words.split(" Name every range")[0]
    return words if len(words) < 110 else words[:107] + "..."


def _facts(report: TimelapseReport, stack: Stack) -> str:
    shown = f"{len(report.sampling.frames)} of {len(stack)} frames ({report.sampling.how})"
    told = "times" if report.stack.axis == "t" else "depths"
    how = "at once" if report.by == "film" else "one by one"
    name, source, model = stack.slide.path.name, report.stack.source, report.model.model
    return f"{name}: {shown}, {told} from the {source}, {model}, asked {how}"


def _no_range(report: TimelapseReport) -> str:
    if report.kind == "when":
        return "no range" if report.complete else "not known: the answer is not complete"
    answer = report.answer
    said = "" if answer is None else answer.text or str(answer.value or answer.error or "")
    return said if len(said) < 150 else said[:147] + "..."


def _spread(frames: Sequence[int], most: int) -> list[int]:
    if len(frames) <= most:
        return list(frames)
    return [frames[round(k * (len(frames) - 1) / (most - 1))] for k in range(most)]


def _changes(report: TimelapseReport, places: Sequence[float]) -> list[tuple[float, float]]:
    return [(places[k + 1], value) for k, value in enumerate(report.sampling.changes)]


def _curve(
    draw: ImageDraw.ImageDraw,
    name: str,
    colour: tuple[int, int, int],
    points: Sequence[tuple[float, float]],
    x_of: Callable[[float], float],
    top: int,
    threshold: float | None,
) -> None:
    most = 1.0 if name == "P(yes)" else max(max(value for _, value in points), 1e-9)
    base, scale = top + 78, 72 / most
    draw.line([(_MARGIN, base), (_WIDTH - _RIGHT, base)], fill=(224, 224, 228))
    _text(draw, (8, top + 30), name, 13, colour)
    _text(draw, (_MARGIN - 42, top), f"{most:.3g}", 12, _SOFT)
    _text(draw, (_MARGIN - 42, base - 12), "0", 12, _SOFT)
    if threshold is not None:
        level = base - threshold * scale
        for dash in range(_MARGIN, _WIDTH - _RIGHT, 12):
            draw.line([(dash, level), (dash + 5, level)], fill=_SOFT)
    path = [(x_of(place), base - value * scale) for place, value in points]
    if len(path) > 1:
        draw.line(path, fill=colour, width=2)
    for x, y in path if len(path) <= 80 else []:
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)


def _track_lines(
    draw: ImageDraw.ImageDraw,
    tracks: dict[int, tuple[int, int]],
    report: TimelapseReport,
    places: Sequence[float],
    x_of: Callable[[float], float],
    top: int,
) -> None:
    assert report.tracks is not None
    chosen = sorted(sorted(tracks, key=lambda track: tracks[track][0] - tracks[track][1])[:_MOST_LINES])
    rows = {track: top + 18 + 9 * row for row, track in enumerate(chosen)}
    for track, y in rows.items():
        first, last = tracks[track]
        a, b = x_of(places[first]), x_of(places[last])
        colour = _TRACKS[track % len(_TRACKS)]
        draw.line([(a, y), (max(b, a + 2), y)], fill=colour, width=4)
        mother = report.tracks.parents.get(track)
        if mother in rows:
            draw.line([(x_of(places[tracks[mother][1]]), rows[mother]), (a, y)], fill=_SOFT)


def _axis(
    draw: ImageDraw.ImageDraw, low: float, high: float, unit: str, x_of: Callable[[float], float], top: int, y: int
) -> None:
    draw.line([(_MARGIN, y), (_WIDTH - _RIGHT, y)], fill=_INK)
    for place in _ticks(low, high):
        x = x_of(place)
        draw.line([(x, y), (x, y + 6)], fill=_INK)
        _text(draw, (x - 10, y + 9), f"{place:g}", 13)
    _text(draw, (8, y + 9), unit, 13)


def _ticks(low: float, high: float) -> list[float]:
    span = high - low
    size = 10.0 ** len(str(int(span))) if span >= 1 else 1.0
    while span / size < 4:
        size /= 2 if str(size).lstrip("0.")[:1] != "5" else 2.5
    first = -(-low // size)
    return [round((first + k) * size, 6) for k in range(int(span / size) + 1) if (first + k) * size <= high + 1e-9]


def _read_tracks(path: Path) -> dict[int, tuple[int, int]]:
    """First and last frame of every track."""
    spans: dict[int, tuple[int, int]] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                track, frame = int(row["track"]), int(row["frame"])
                first, last = spans.get(track, (frame, frame))
                spans[track] = (min(first, frame), max(last, frame))
    return spans


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    words: str,
    size: int,
    colour: tuple[int, int, int] = _INK,
    *,
    shade: tuple[int, int, int] | None = None,
) -> None:
    font = ImageFont.load_default(size)
    edge = 0 if shade is None else 2
    draw.text(at, words, fill=colour, font=font, stroke_width=edge, stroke_fill=shade)
