"""Ask about here: outline a place, ask in words, see what the answer points at, ask on."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QUrl
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from napari_qwenvl._widgets import Message, drawn_polygons, style_links, while_alive
from napari_qwenvl.ask.asked import Region, RegionQuestion, ask_command, keep, kept, turns_before
from napari_qwenvl.ask.plan import recommended_of, runs_folder
from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.process.running import running_of
from napari_qwenvl.read.frame import Frame, look_at
from napari_qwenvl.read.slide_layer import slide_of
from napari_qwenvl.results.run_reading import NotPossibleError
from workflows.errors import WorkflowError
from workflows.review.decisions import reviewer_name
from workflows.run.options import RunOptions
from workflows.store.provenance import utc_now

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.utils.events import Event

    from wsi.readers.opened import OpenedSlide

_LAYER = "ask here"


class AskHerePanel(QWidget):
    """Questions about one region of the slide, with answers that point at places in it."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.running = running_of(napari_viewer)
        self.asked: list[RegionQuestion] = []
        self.region: Region | None = None
        self.overlay: Overlay | None = None
        self._waiting: tuple[int, dict[str, Any], str, Region, Path] | None = None
        self._shown = -1
        self._layer: Layer | None = None
        self._build()
        worker = self.running.worker
        worker.answered.connect(self._on_answer)
        worker.failed.connect(self._on_failed)
        worker.stopped.connect(self._on_stopped)
        self.running.changed.connect(self._show_state)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self._recall()
        self._show_state()

    def _build(self) -> None:
        self.rectangle = QPushButton("Rectangle")
        self.lasso = QPushButton("Lasso")
        self.rectangle.clicked.connect(lambda: self.draw("add_rectangle"))
        self.lasso.clicked.connect(lambda: self.draw("add_polygon_lasso"))
        self.place = QLabel("Outline a place on the slide first.")
        self.place.setWordWrap(True)
        self.show_outline = QCheckBox("Show my outline to the model")
        self.show_outline.setToolTip(
            "The outline is drawn on the picture, so that a question can speak of it: "
            "'What is inside the yellow line?' "
            "Further shapes inside it are shown in red with numbers."
        )
        self.follow_up = QCheckBox("Follow up what was asked here before")
        self.follow_up.setToolTip(
            "The model sees the last questions about this very place and its answers, so that 'And how many of them?' "
            "has a meaning. Outline a place anew, or untick this, to begin afresh. The embedded model was never taught "
            "conversations: its answers get worse with this."
        )
        self.model = QComboBox()
        self.model.setEditable(True)
        self.model.addItems(["embedded"])
        self.model.currentTextChanged.connect(lambda name: self.follow_up.setChecked(name.strip() != "embedded"))
        self.question = QLineEdit()
        self.question.setPlaceholderText("Your question, for example: Find every nucleus.")
        self.question.returnPressed.connect(self.on_ask)
        self.ask = QPushButton("Ask")
        self.ask.clicked.connect(self.on_ask)
        self.cancel = QPushButton("Cancel")
        self.cancel.clicked.connect(self.running.worker.cancel)
        self.talk = QTextBrowser()
        self.talk.setOpenLinks(False)
        style_links(self.talk)
        self.talk.highlighted.connect(self._on_hover)
        self.talk.anchorClicked.connect(self._on_click)
        self.message = Message()
        self.keep = QPushButton("Keep these boxes as objects")
        self.keep.setToolTip("Adds what the last answer points at to the open run, as objects of yours")
        self.keep.clicked.connect(self.on_keep)
        layout = QVBoxLayout(self)
        for row in (
            (self.rectangle, self.lasso),
            (self.place,),
            (self.show_outline,),
            (self.follow_up,),
            (QLabel("Model"), self.model),
        ):
            line = QHBoxLayout()
            for widget in row:
                line.addWidget(widget, 0 if isinstance(widget, QLabel) and len(row) > 1 else 1)
            layout.addLayout(line)
        layout.addWidget(self.talk, 1)
        layout.addWidget(self.message)
        layout.addWidget(self.question)
        line = QHBoxLayout()
        line.addWidget(self.ask)
        line.addWidget(self.cancel)
        layout.addLayout(line)
        layout.addWidget(self.keep)
        self.setMinimumWidth(330)

    # ------------------------------------------------------------------ the place

    def draw(self, mode: str) -> None:
        """Let the user outline a place."""
        try:
            slide = slide_of(self.running.session.slide_layer())
        except NotPossibleError as error:
            self.message.show_words("error", str(error))
            return
        assert slide is not None
        frame = Frame.of(slide.mpp_xy)
        if self._layer is None:
            width = 2.5 / self.viewer.scene.camera.zoom / frame.step_x
            self._layer = self.viewer.add_shapes(
                None,
                ndim=2,
                name=_LAYER,
                face_color="transparent",
                edge_color="yellow",
                edge_width=width,
                **frame.corner_options(),
            )
            self._layer.events.data.connect(self._on_drawn)
        self.viewer.layers.selection.active = self._layer
        self._layer.mode = mode
        self.message.show_words("", "")

    @while_alive
    def _on_drawn(self, event: Event) -> None:
        layer = self._layer
        if layer is None or str(getattr(event, "action", "")) != "added" or not layer.nshapes:
            return
        layer.selected_data = {layer.nshapes - 1}
        if layer.shape_type[-1] == "polygon":
            self.show_outline.setChecked(True)
        layer.mode = "pan_zoom"
        self.question.setFocus()
        self._say_place()

    def _outlines(self, frame: Frame) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """The outline that is asked about (the largest of those selected, else the last), and what lies inside."""
        shapes = [] if self._layer is None else drawn_polygons(self._layer, frame, selected=False)
        if not shapes:
            raise NotPossibleError("Outline a place first: press Rectangle or Lasso and draw on the slide.")
        spans = [float(np.prod(np.ptp(each, axis=0))) for each in shapes]
        chosen = shapes[-1]
        for each, span in zip(shapes, spans, strict=True):
            low, high = each.min(axis=0), each.max(axis=0)
            centre = chosen.mean(axis=0)
            if span > float(np.prod(np.ptp(chosen, axis=0))) and (centre >= low).all() and (centre <= high).all():
                chosen = each  # the last shape is a mark inside an earlier one
        low, high = chosen.min(axis=0), chosen.max(axis=0)
        inside = [
            each
            for each in shapes
            if each is not chosen and (each.min(axis=0) >= low).all() and (each.max(axis=0) <= high).all()
        ]
        return chosen, inside

    def _say_place(self) -> None:
        try:
            slide = slide_of(self.running.session.slide_layer())
            assert slide is not None
            outline, inside = self._outlines(Frame.of(slide.mpp_xy))
        except NotPossibleError as error:
            self.place.setText(str(error))
            return
        sides = np.ptp(outline, axis=0)
        unit, step = ("um", slide.mpp) if slide.mpp is not None else ("px", 1.0)
        marked = f", {len(inside)} marked inside" if inside else ""
        self.place.setText(f"{sides[0] * step:,.0f} x {sides[1] * step:,.0f} {unit}{marked}")

    @while_alive
    def _on_removed(self, event: Event) -> None:
        if event.value is self._layer:
            self._layer = None
            self._say_place()
        elif self.overlay is not None and event.value is self.overlay.layer:
            self.overlay = None

    # ------------------------------------------------------------------ ask and answer

    def on_ask(self) -> None:
        """Ask the question about the place; further questions keep it."""
        words = self.question.text().strip()
        try:
            slide = slide_of(self.running.session.slide_layer())
            assert slide is not None
            outline, inside = self._outlines(Frame.of(slide.mpp_xy))
            if not words:
                raise NotPossibleError("Write a question first.")
            if self.running.busy:
                raise NotPossibleError("The model is at work. Wait until it is done, or cancel.")
            model = self.model.currentText().strip() or "embedded"
            options = _options(model, slide)
            mpp = self._mpp(model) if slide.mpp is not None else None
            shown = self.show_outline.isChecked()
            region = Region.of(slide, outline, mpp=mpp, show_outline=shown, marked=inside if shown else ())
            turns = turns_before(self.asked, region, model) if self.follow_up.isChecked() else []
            command = ask_command(slide.path.absolute(), region, words, options, mpp, turns)
            command["fingerprint"] = slide.fingerprint
        except (NotPossibleError, ValueError) as error:
            self.message.show_words("error", str(error))
            return
        self.message.show_words("", "")
        self.region = region
        number = self.running.worker.ask(command)
        self._waiting = (number, command, words, region, runs_folder(slide.path))
        self.running.changed.emit()

    def _mpp(self, model: str) -> float | None:
        loaded = self.running.worker.model
        if loaded is not None and loaded["asked"]["model"] == model:
            found = loaded["recommended"].get("mpp")
        else:
            found = (recommended_of(model) or {}).get("mpp")
        return None if found is None else float(found)

    def _on_answer(self, event: dict[str, Any]) -> None:
        if self._waiting is None or event["id"] != self._waiting[0]:
            return
        _, command, words, region, folder = self._waiting
        self._waiting = None
        asked = RegionQuestion(
            words,
            region,
            event["answer"],
            command["model"]["model"],
            command["request"],
            reviewer_name(),
            utc_now(),
            len(command["turns"]),
        )
        try:
            keep(folder, asked)
        except OSError as error:
            self.message.show_words("error", f"The answer is shown but could not be kept: {error}")
        self.asked.append(asked)
        self.question.clear()
        self._write()
        self.show_answer(len(self.asked) - 1, move=False)
        if doubts := event["answer"].get("doubts"):
            self.message.show_words("note", " ".join(doubts))
        self.running.changed.emit()

    def _on_failed(self, event: dict[str, Any]) -> None:
        if self._waiting is not None and event.get("id") == self._waiting[0]:
            self._waiting = None
            self.message.show_words("error", event["message"])

    def _on_stopped(self, number: int) -> None:
        if self._waiting is not None and number == self._waiting[0]:
            self._waiting = None
            self.message.show_words("note", "Stopped.")

    def show_answer(self, number: int, *, move: bool = True) -> None:
        """Show what an answer points at, and its place."""
        asked = self.asked[number]
        self._shown = number
        overlay = self._answers()
        if overlay is None:
            return
        objects = asked.objects
        overlay.replace(
            Objects.of(
                asked.boxes(),
                overlay.codes_of(each["label"] for each in objects),
                point=np.array([each["point"] for each in objects], bool),
                score=np.array([np.nan if each["score"] is None else each["score"] for each in objects], float),
            )
        )
        if move:
            look_at(self.viewer, overlay.frame, asked.region.box)
        self._show_state()

    def _answers(self) -> Overlay | None:
        if self.overlay is None:
            try:
                slide = slide_of(self.running.session.slide_layer())
            except NotPossibleError:
                return None
            assert slide is not None
            active = self.viewer.layers.selection.active
            self.overlay = Overlay(self.viewer, um_per_px=slide.mpp_xy, name="answer")
            if active is not None:
                self.viewer.layers.selection.active = active
        return self.overlay

    def on_keep(self) -> None:
        """Add what the shown answer points at to the open run."""
        session = self.running.session
        if session.deciding is None or session.manifest is None:
            self.message.show_words(
                "error", session.read_only or "Open a run of this slide first; the boxes are then added to it."
            )
            return
        asked = self.asked[self._shown]
        try:
            session.deciding.add_all([(each["box"], each["label"], each["point"]) for each in asked.objects])
        except (WorkflowError, OSError) as error:
            self.message.show_words("error", f"Not saved: {error} The boxes stay here; press again to try once more.")
            return
        self.message.show_words("done", f"{len(asked.objects)} objects added to {session.manifest.slide.name}'s run.")

    # ------------------------------------------------------------------ the talk

    def _recall(self) -> None:
        """Show what was asked about this slide before."""
        try:
            slide = slide_of(self.running.session.slide_layer())
        except NotPossibleError:
            return
        assert slide is not None
        self.asked = kept(runs_folder(slide.path))
        self._write()

    def _write(self) -> None:
        parts = []
        for number, asked in enumerate(self.asked):
            labels = sorted({each["label"] for each in asked.objects}, key=len, reverse=True)
            words = html.escape(asked.words)
            if labels:
                names = "|".join(re.escape(html.escape(label)) for label in labels)
                words = re.sub(
                    rf"(?i)\b({names})(s?)\b",
                    lambda m: f'<a href="label:{number}:{m[1]}">{m[0]}</a>',  # noqa: B023
                    words,
                )
            thought = asked.answer.get("reasoning")
            thinking = f"<p style='color:gray'>{html.escape(thought)}</p>" if thought else ""
            parts.append(
                f'<p><a href="place:{number}">●</a> <b>{html.escape(asked.question)}</b></p>{thinking}<p>{words}</p>'
            )
        self.talk.setHtml("".join(parts))
        bar: Any = self.talk.verticalScrollBar()
        bar.setValue(bar.maximum())

    def _on_hover(self, url: QUrl) -> None:
        """Light up the boxes that the words under the mouse name."""
        kind, _, rest = url.toString().partition(":")
        number, _, label = rest.partition(":")
        if kind != "label":
            if self.overlay is not None:
                self.overlay.highlight([])
            return
        if int(number) != self._shown:
            self.show_answer(int(number), move=False)
        if self.overlay is not None:
            codes = [code for code, each in enumerate(self.overlay.labels) if each.lower() == label.lower()]
            self.overlay.highlight(np.flatnonzero(np.isin(self.overlay.objects.label, codes)))

    def _on_click(self, url: QUrl) -> None:
        _, _, rest = url.toString().partition(":")
        self.show_answer(int(rest.partition(":")[0]))

    @while_alive
    def _show_state(self) -> None:
        busy = self.running.busy
        ours = self._waiting is not None
        self.ask.setEnabled(not busy)
        self.ask.setText("Asking..." if ours else "Ask")
        self.cancel.setEnabled(ours)
        shown = 0 <= self._shown < len(self.asked)
        self.keep.setEnabled(shown and bool(self.asked[self._shown].objects))


def _options(model: str, slide: OpenedSlide) -> RunOptions:
    chosen = slide.options
    return RunOptions(
        model=model,
        slide_mpp=slide.mpp if slide.mpp_source == "user" else None,
        plane=chosen.get("plane"),
        rendering=chosen.get("rendering"),
        series=int(chosen["series"]) if "series" in chosen else None,
        colour=chosen.get("colour"),
    )
