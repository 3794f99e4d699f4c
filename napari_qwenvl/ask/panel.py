"""The Ask panel: what to look for, with which model, where; what it will cost; Run, Cancel, resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
from qtpy.compat import isalive
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_qwenvl._widgets import while_alive
from napari_qwenvl.ask.cost import Cost, cost_of, in_words
from napari_qwenvl.ask.fields import TASKS, AskFields
from napari_qwenvl.ask.plan import AskPlan, PanelQuestion, model_fields, recommended_of, runs_folder
from napari_qwenvl.process.running import in_background
from napari_qwenvl.read.slide_layer import slide_of
from napari_qwenvl.results.run_reading import NotPossibleError
from qwenvl.answer import Status

if TYPE_CHECKING:
    from qtpy.QtGui import QCloseEvent

    from wsi.slide import Slide

_WAIT_MS = 350


class AskPanel(AskFields):
    """Asks a model about the slide that is shown. One object of this class per viewer."""

    planned = Signal()
    """Tiles, time and memory of what the fields say are known, or why not."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer)
        self.plan: AskPlan | None = None
        self.cost: Cost | None = None
        self._pace: dict[str, float] = {}
        self._masks: tuple[str, dict[str, object]] = ("", {})
        self._ticket = 0
        self._wait = QTimer(self)
        self._wait.setSingleShot(True)
        self._wait.setInterval(_WAIT_MS)
        self._wait.timeout.connect(self.make_plan)
        self._connect()
        self._on_task()
        self._show_state()

    def _connect(self) -> None:
        self.task.currentTextChanged.connect(self._on_task)
        for edit in (self.labels, self.prompt, self.schema):
            edit.textChanged.connect(self.plan_soon)
        self.model.currentTextChanged.connect(self.plan_soon)
        self.scope.idToggled.connect(self.plan_soon)
        self.advanced.changed.connect(self.plan_soon)
        self.advanced.mpp_given.connect(self.on_mpp)
        self.run.clicked.connect(self.on_run)
        self.cancel.clicked.connect(self.running.worker.cancel)
        self.load.clicked.connect(self.on_load)
        self.adapter.adapting.changed.connect(self.on_adapter)
        self.adapter.failed.connect(lambda words: self.message.show_words("error", words))
        self.copy_command.clicked.connect(lambda: self._copy("command"))
        self.copy_python.clicked.connect(lambda: self._copy("python"))
        self.open.clicked.connect(self.on_open)
        self.go_on.clicked.connect(self.on_go_on)
        self.running.session.opened.connect(self._show_state)
        self.running.session.grown.connect(self._show_state)
        self.running.changed.connect(self._show_state)
        self.running.said.connect(self.message.show_words)
        self.running.worker.paced.connect(self._on_pace)
        self.running.worker.ready.connect(self._on_ready)
        camera = self.viewer.scene.camera.events
        self._sources = [
            camera.center,
            camera.zoom,
            self.viewer.layers.events.inserted,
            self.viewer.layers.events.removed,
            self.viewer.layers.selection.events.active,
        ]
        for source in self._sources:
            source.connect(self._on_viewer)

    def closeEvent(self, event: QCloseEvent | None) -> None:
        """Stop listening to the viewer."""
        for source in self._sources:
            source.disconnect(self._on_viewer)
        self._sources = []
        super().closeEvent(event)

    # ------------------------------------------------------------------ plan

    def plan_soon(self, *_: object) -> None:
        """Plan again once the fields have come to rest."""
        self._wait.start()

    def make_plan(self) -> None:
        """Read the fields, count tiles in the background, and say what a run would cost."""
        from pydantic import ValidationError

        from wsi.errors import SlideError

        self._ticket += 1
        self.plan = self.cost = None
        self._wait.stop()
        try:
            slide = slide_of(self.running.session.slide_layer())
            assert slide is not None
            runs = runs_folder(slide.path)
            question = self.question(self._mask(slide, runs))
            plan = AskPlan.of(slide.path.absolute(), question, self._recommended(question), runs=runs)
            plan = replace(plan, fingerprint=slide.fingerprint)
            if plan.request.mpp is not None:
                slide.require_mpp()
        except ValidationError as error:
            self._not_planned("; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors()))
            return
        except (NotPossibleError, SlideError, ValueError, OSError) as error:
            self._not_planned(_in_panel(str(error)))
            return
        self.plan = plan
        self.slide_name.setText(slide.path.name + (f", {slide.mpp:.3g} um/px" if slide.mpp else ", scale unknown"))
        self.estimate.setText("Counting tiles...")
        if self._masks[0] != slide.fingerprint:
            self._masks = (slide.fingerprint, {})
        ticket, masks = self._ticket, self._masks[1]

        def show(found: Cost | str) -> None:
            if ticket != self._ticket or not isalive(self):
                return
            if isinstance(found, str):
                self._not_planned(_in_panel(found))
            else:
                self.cost = found
                self._show_cost()
                self._show_state()
                self.planned.emit()

        # A checkpoint whose files cannot be made sense of is said here, too; the viewer stays as it is.
        in_background(
            _cost, slide, plan, masks, then=show, failed=lambda error: show(f"{type(error).__name__}: {error}")
        )
        self._show_state()

    def _recommended(self, question: PanelQuestion) -> dict[str, object]:
        loaded, wanted = self.running.worker.model, model_fields(question.options)
        same = loaded is not None and all(loaded["asked"].get(key) == wanted[key] for key in ("model", "adapter"))
        if loaded is not None and same:
            return dict(loaded["recommended"])
        if question.options.server is not None:
            return {}
        return dict(recommended_of(question.options.model, question.options.adapter) or {})

    def _not_planned(self, words: str) -> None:
        self.plan = self.cost = None
        self.estimate.setText(words)
        try:
            slide = slide_of(self.running.session.slide_layer())
        except NotPossibleError:
            slide = None
        self.slide_name.setText("none" if slide is None else slide.path.name)
        self._show_state()
        self.planned.emit()

    def _show_cost(self) -> None:
        if self.plan is None or self.cost is None:
            return
        tiles = self.cost.tiles
        seconds = self._pace.get(self._pace_key(self.plan))
        model = self.running.worker.model
        time = (
            f"about {in_words(seconds * tiles)}"
            if seconds is not None
            else ("time: measured once the model is loaded" if model is None else "measuring time...")
        )
        memory = self.cost.memory
        amount = "" if memory is None else f" · {_amount(memory)} of memory"
        self.estimate.setText(f"{tiles:,} {'tile' if tiles == 1 else 'tiles'} · {time}{amount}")
        if seconds is None and model is not None and not self.running.busy and self.cost.probes:
            self.running.worker.probe(
                self._pace_key(self.plan),
                {
                    "slide": str(self.plan.slide),
                    "model": model_fields(self.plan.question.options),
                    "request": self.plan.request.model_dump(mode="json"),
                    "tiles": self.cost.probes,
                },
            )

    def _pace_key(self, plan: AskPlan) -> str:
        options = plan.question.options
        return f"{options.model} {options.adapter} {options.server} {plan.request.hash}"

    # ------------------------------------------------------------------ events

    def _on_task(self) -> None:
        self.show_rows()
        self.plan_soon()

    @while_alive
    def _on_viewer(self, *_: object) -> None:
        if not self.running.busy:
            self.plan_soon()

    def _on_pace(self, key: str, seconds: float) -> None:
        self._pace[key] = seconds
        self._show_cost()

    def _on_ready(self, _: Mapping[str, object]) -> None:
        self.plan_soon()

    def on_load(self) -> None:
        """Load the model in the background, or unload the one that is loaded."""
        if self.running.worker.model is not None:
            self.running.worker.unload()
            return
        try:
            options = self.question().options
        except (NotPossibleError, ValueError) as error:
            if not isinstance(error, NotPossibleError):
                self.message.show_words("error", str(error))
                return
            options = self._options("auto")
        self.message.show_words("", "")
        self.running.worker.load(model_fields(options))

    @while_alive
    def on_adapter(self) -> None:
        """Ask what the chosen adapter was taught, of the model it belongs to; without one, everything stays."""
        card = self.adapter.adapting.card
        if card is not None:
            self.model.setCurrentText(card.base)
            task = str(card.request.get("task", "detect"))
            self.task.setCurrentText(next(name for name, each in TASKS.items() if each == task))
            self.labels.setText(", ".join(card.labels))
        self.plan_soon()

    def on_mpp(self, mpp: float) -> None:
        """Give the slide the scale that the user states."""
        from napari_qwenvl.read.slide_layer import set_mpp

        try:
            layer = self.running.session.slide_layer()
            set_mpp(layer, mpp)
        except (NotPossibleError, ValueError) as error:
            self.message.show_words("error", str(error))
            return
        self.viewer.reset_view()
        self.message.show_words("done", f"{layer.name} is now shown at {mpp:g} um per px, as you say.")
        self.plan_soon()

    def on_run(self) -> None:
        """Start, or go on."""
        self.make_plan()
        if self.plan is None:
            self.message.show_words("error", self.estimate.text())
            return
        self.message.show_words("", "")
        # Whether the batches are small is decided by the field, which is known; tiles are still being counted.
        few = 48 if self.scope.checkedId() != 2 else 10_000
        self.running.start(self.plan, few if self.cost is None else self.cost.tiles)
        self._show_state()

    def on_open(self) -> None:
        """Open a run folder."""
        folder = QFileDialog.getExistingDirectory(self, "Open the folder of a run")
        if folder:
            self.message.show_words("", "")
            self.running.open_run(Path(folder))

    def on_go_on(self) -> None:
        """Go on with the run that is shown, whoever began it."""
        session = self.running.session
        if session.folder is None or session.manifest is None or self.running.busy:
            return
        server = self.advanced.server.text().strip() or None
        try:
            slide = slide_of(session.slide_layer())
            if slide is None or slide.fingerprint != session.manifest.slide.fingerprint:
                raise ValueError(f"Choose the layer of {session.manifest.slide.name} first: the run is of that slide.")
            plan = AskPlan.of_run(session.folder, session.manifest, slide.path.absolute(), server)
        except (NotPossibleError, ValueError) as error:
            self.message.show_words("error", str(error))
            return
        self.message.show_words("", "")
        self.running.start(plan, session.tiles_in_all())

    def _copy(self, form: str) -> None:
        if self._wait.isActive() or self.plan is None:
            self.make_plan()
        if self.plan is None:
            self.message.show_words("error", self.estimate.text())
            return
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(self.plan.command() if form == "command" else self.plan.python())
        words = "command line" if form == "command" else "Python script"
        self.message.show_words("done", f"Copied: the {words} that makes this very run.")

    @while_alive
    def _show_state(self) -> None:
        running, worker = self.running, self.running.worker
        busy = running.busy
        session = running.session
        answered, failed = sum(session.statuses.values()), session.statuses.get(Status.FAILED, 0)
        unfinished = answered < session.tiles_in_all() or failed > 0
        begun = self.plan is not None and (self.plan.out / "run.sqlite").exists() and not busy
        done = begun and self.plan is not None and self.plan.out == session.folder and not unfinished
        self.run.setEnabled(not busy and not done and self.plan is not None)
        self.run.setText("All answered" if done else "Go on" if begun else "Run")
        self.run.setToolTip("Every tile has its answer. Ask something else, or elsewhere." if done else "")
        self.cancel.setEnabled(busy)
        if running.loading is not None:
            self.state.setText(f"loading {running.loading}...")
        elif worker.model is not None:
            info = worker.model["info"]
            warning = f"; {info['warning']}" if info["warning"] else ""
            self.state.setText(f"{info['family']} on {info['device']}, {info['dtype']}{warning}")
        else:
            self.state.setText("not loaded; Run loads it")
        self.load.setText("Unload" if worker.model is not None else "Load")
        self.load.setEnabled(not busy and running.loading is None)
        self.go_on.setEnabled(not busy and unfinished)
        progress = running.progress
        if busy and progress is None:
            self.bar.setRange(0, 0)
        elif progress is not None:
            self.bar.setRange(0, max(1, progress["total"]))
            self.bar.setValue(progress["done"])
            missed = f", {progress['failed']} failed" if progress["failed"] else ""
            left = f", {in_words(progress['eta'])} to go" if busy and progress["eta"] else ""
            self.bar.setFormat(f"{progress['done']:,} of {progress['total']:,} tiles{missed}{left}")
        else:
            self.bar.setRange(0, 1)
            self.bar.setValue(0)
            self.bar.setFormat("")


def _cost(slide: Slide, plan: AskPlan, masks: dict[str, Any]) -> Cost | str:
    """The cost, or why there is none."""
    from qwenvl.errors import QwenVLError
    from wsi.errors import SlideError

    try:
        return cost_of(slide, plan.request, plan.question.options, masks)
    except (SlideError, QwenVLError, OSError) as error:
        return str(error)


def _in_panel(words: str) -> str:
    """An error in the words of this panel instead of those of the command line."""
    if "does not state its pixel size" in words or "--slide-mpp" in words:
        return (
            "The slide does not state its pixel size. Give it under 'Scale, tiles, decoding' (um per px of the slide), "
            "or set the scale to the slide's own pixels."
        )
    return words


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"
