"""Loss and measurements over the steps of a training, drawn as they come."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import QPointF, QRectF, Qt, QTimer
from qtpy.QtGui import QColor, QFontMetrics, QPainter, QPainterPath, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

Points = list[tuple[int, float]]
_REFRESH_MS = 500
_LOSS, _METRIC, _BASE = QColor("#4f9dff"), QColor("#4ac26b"), QColor("#c08a30")
_SMOOTH = 0.85
_LOGARITHMIC = 10
"""A loss that spans more than this factor is drawn on a logarithmic axis."""


def read_points(path: Path) -> dict[str, Points]:
    """Curves of a file of `step,name,value` rows, by name; a row that is just being written is left out."""
    found: dict[str, Points] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                try:
                    found.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
                except (TypeError, ValueError):
                    continue
    except FileNotFoundError:
        return {}
    return found


def smoothed(points: Points, weight: float = _SMOOTH) -> Points:
    """Running mean in which each value counts `weight` less than the next."""
    found: Points = []
    total = count = 0.0
    for step, value in points:
        total, count = weight * total + value, weight * count + 1
        found.append((step, total / count))
    return found


class CurveView(QWidget):
    """Two plots side by side: the loss of each step, and a metric of held-out tiles beside that of the base."""

    def __init__(self) -> None:
        super().__init__()
        self.loss: Points = []
        self.scores: Points = []
        self.metric_name = "f1"
        self.base: float | None = None
        self.steps = 1
        self._folder: Path | None = None
        self._seen: tuple[float, float] = (-1, -1)
        self.setMinimumHeight(150)
        self.setMaximumHeight(260)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._timer = QTimer(self)
        self._timer.setInterval(_REFRESH_MS)
        self._timer.timeout.connect(self.refresh)

    def follow(self, folder: Path | None, steps: int = 1) -> None:
        """Show the curves that a run writes into its folder."""
        self._folder, self.steps, self._seen = folder, max(1, steps), (-1, -1)
        self.loss, self.scores, self.base = [], [], None
        self._timer.start()
        self.refresh()
        self.update()

    def rest(self) -> None:
        """The run has ended: take in what was written last."""
        self._timer.stop()
        self.refresh()

    def refresh(self) -> None:
        """Read what was written since."""
        if self._folder is None:
            return
        files = self._folder / "training.csv", self._folder / "validation.csv"
        seen = _changed(files[0]), _changed(files[1])
        if seen == self._seen:
            return
        self._seen = seen
        self.loss = read_points(files[0]).get("loss", [])
        measured = read_points(files[1])
        self.scores = measured.get(self.metric_name, [])
        self.update()

    def paintEvent(self, event: object) -> None:
        """Draw both plots."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        width, gap = self.width(), 10
        half = (width - gap) / 2
        self._plot(painter, QRectF(0, 0, half, self.height()), "loss", self.loss, _LOSS, smooth=True)
        name = {"f1": "F1 on held-out tiles"}.get(self.metric_name, f"{self.metric_name}, held out")
        self._plot(painter, QRectF(half + gap, 0, half, self.height()), name, self.scores, _METRIC, level=self.base)
        painter.end()

    def _plot(
        self,
        painter: QPainter,
        area: QRectF,
        title: str,
        points: Points,
        colour: QColor,
        *,
        smooth: bool = False,
        level: float | None = None,
    ) -> None:
        text = self.palette().windowText().color()
        faint = QColor(text)
        faint.setAlpha(60)
        font = painter.font()
        font.setPointSizeF(8.5)
        painter.setFont(font)
        metrics = QFontMetrics(font)
        line = metrics.height()
        painter.setPen(text)
        values = [value for _, value in points] + ([level] if level is not None else [])
        if not smooth:
            low, high = 0.0, 1.0 if not values or max(values) <= 1 else max(values)
        else:
            low, high = (min(values), max(values)) if values else (0.0, 1.0)
            low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        # A loss that falls by powers of ten would be a corner and a flat line.
        scale = math.log if smooth and low > 0 and high > _LOGARITHMIC * low else float
        painter.drawText(
            area.adjusted(2, 0, 0, 0), int(Qt.AlignmentFlag.AlignLeft), f"{title} (log)" if scale is math.log else title
        )
        left = max(metrics.horizontalAdvance(_short(edge)) for edge in (low, high)) + 6
        plot = area.adjusted(left, line + 4, -4, -line - 4)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(plot)
        painter.setPen(text)
        right = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        painter.drawText(QRectF(area.left(), plot.top() - line / 2, left - 4, line), right, _short(high))
        painter.drawText(QRectF(area.left(), plot.bottom() - line / 2, left - 4, line), right, _short(low))
        last = max(self.steps, points[-1][0] if points else 1)
        painter.drawText(
            QRectF(plot.left(), plot.bottom() + 2, plot.width(), line), int(Qt.AlignmentFlag.AlignRight), f"step {last}"
        )

        def place(step: float, value: float) -> QPointF:
            return QPointF(
                plot.left() + plot.width() * step / last,
                plot.bottom() - plot.height() * (scale(value) - scale(low)) / (scale(high) - scale(low)),
            )

        if level is not None:
            painter.setPen(QPen(_BASE, 1.4, Qt.PenStyle.DashLine))
            painter.drawLine(place(0, level), place(last, level))
            words = f"base {level:.2f}"
            painter.drawText(place(last, level) - QPointF(metrics.horizontalAdvance(words) + 4, 3), words)
        if not points:
            painter.setPen(faint)
            painter.drawText(plot, int(Qt.AlignmentFlag.AlignCenter), "not yet")
            return
        if smooth:
            pale = QColor(colour)
            pale.setAlpha(90)
            _draw(painter, [place(*each) for each in _thinned(points, plot.width())], QPen(pale, 1))
            _draw(painter, [place(*each) for each in _thinned(smoothed(points), plot.width())], QPen(colour, 2))
        else:
            places = [place(*each) for each in points]
            _draw(painter, places, QPen(colour, 2))
            painter.setBrush(colour)
            for each in places:
                painter.drawEllipse(each, 3, 3)
            painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(colour)
        painter.drawText(
            area.adjusted(0, 0, -4, 0),
            int(Qt.AlignmentFlag.AlignRight),
            _short((smoothed(points) if smooth else points)[-1][1]),
        )


def _changed(path: Path) -> float:
    try:
        stat = path.stat()
    except OSError:
        return -1
    return stat.st_mtime_ns + stat.st_size


def _thinned(points: Points, width: float) -> Points:
    """At most two points per px."""
    step = max(1, int(len(points) / max(1.0, 2 * width)))
    return [*points[::step], points[-1]]


def _draw(painter: QPainter, places: Sequence[QPointF], pen: QPen) -> None:
    path = QPainterPath(places[0])
    for each in places[1:]:
        path.lineTo(each)
    painter.setPen(pen)
    painter.drawPath(path)


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


__all__ = ["CurveView", "read_points", "smoothed"]
