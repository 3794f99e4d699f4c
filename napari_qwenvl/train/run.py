"""Second page of the Train panel: recipe by memory, Train, Cancel, Go on, live curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_qwenvl._widgets import Folded, while_alive
from napari_qwenvl.ask.cost import in_words
from napari_qwenvl.process.running import in_background, running_of
from napari_qwenvl.train.curves import CurveView
from napari_qwenvl.train.labels import LabelsPage
from napari_qwenvl.train.process import Training, training_of
from napari_qwenvl.train.recipe import (
    RECIPE,
    RUN,
    Fields,
    clean_name,
    free_name,
    tile_of,
    trainings_folder,
    write_training,
)
from napari_qwenvl.train.sources import RunSource
from wsi.limits import LimitError, limit_of

if TYPE_CHECKING:
    from napari import Viewer

    from finetune.presets import RecipeChoice
    from napari_qwenvl.train.sources import Source

_WAIT_MS = 300


class RunPage(QWidget):
    """Starts, watches and stops a training."""

    told = Signal(str, str)
    opened = Signal(object)
    """The folder of a training that is shown now: a Path."""

    def __init__(self, viewer: Viewer, labels: LabelsPage) -> None:
        super().__init__()
        self.viewer, self.labels = viewer, labels
        self.running = running_of(viewer)
        self.training: Training = training_of(viewer)
        self.found: list[RecipeChoice] = []
        self.folder: Path | None = None
        """Of the training that is under way or was opened."""
        self._steps = 1
        self._starting = False
        self._ticket = 0
        self._build()
        self._wait = QTimer(self)
        self._wait.setSingleShot(True)
        self._wait.setInterval(_WAIT_MS)
        self._wait.timeout.connect(self.look_for_memory)
        labels.base = self.base
        labels.changed.connect(self._on_labels)
        self.model.currentTextChanged.connect(lambda _: self._wait.start())
        training = self.training
        training.changed.connect(self.show_state)
        training.stepped.connect(lambda _: self.show_state())
        training.measured.connect(self._on_measured)
        training.stopped.connect(self._on_stopped)
        training.failed.connect(self._on_failed)
        training.finished.connect(self._on_finished)
        if training.busy and training.recipe is not None:
            self.show_training(training.recipe.parent)
        self._wait.start()
        self.show_state()

    def _build(self) -> None:
        from qwenvl.checkpoints.catalogue import KNOWN_MODELS

        self.name = QLineEdit()
        self.name.setPlaceholderText("adapter-1")
        self.model = QComboBox()
        self.model.setEditable(True)
        self.model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.model.setMinimumContentsLength(12)
        self.model.addItems(["embedded", *(model.name for model in KNOWN_MODELS)])
        self.preset = QComboBox()
        self.preset.currentIndexChanged.connect(lambda _: self._show_preset())
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.steps = QSpinBox()
        self.steps.setRange(1, 100_000)
        self.steps.setSingleStep(50)
        self.steps.setValue(300)
        self.rate = QDoubleSpinBox()
        self.rate.setDecimals(6)
        self.rate.setRange(0, 1)
        self.rate.setSingleStep(1e-4)
        self.rate.setSpecialValueText("that of the preset")
        self.replay = QSpinBox()
        self.replay.setRange(0, 90)
        self.replay.setValue(15)
        self.replay.setSuffix(" % of what is taught")
        self.replay.setToolTip("Older skills that are practised along, so that they are not forgotten")
        self.limit = QDoubleSpinBox()
        self.limit.setRange(0, 100)
        self.limit.setValue(2)
        self.limit.setSuffix(" points")
        self.limit.setToolTip("An adapter that loses more of an older skill is marked wherever it appears")
        self.measured = QSpinBox()
        self.measured.setRange(1, 10_000)
        self.measured.setValue(40)
        self.device = QComboBox()
        self.device.setEditable(True)
        self.device.addItems(["auto", "cpu", "cuda", "mps"])
        more = QWidget()
        form = QFormLayout(more)
        form.setContentsMargins(12, 0, 0, 6)
        for title, widget in (
            ("Learning rate", self.rate),
            ("Replay", self.replay),
            ("May forget", self.limit),
            ("Held-out tiles", self.measured),
            ("Device", self.device),
        ):
            form.addRow(title, widget)
        self.start = QPushButton("Train")
        self.cancel = QPushButton("Cancel")
        self.open = QPushButton("Open training...")
        self.start.clicked.connect(self.on_start)
        self.cancel.clicked.connect(self.training.cancel)
        self.open.clicked.connect(self.on_open)
        self.bar = QProgressBar()
        self.stage = QLabel()
        self.stage.setWordWrap(True)
        self.curves = CurveView()
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows: tuple[tuple[str, QWidget], ...] = (
            ("Name", self.name),
            ("Model", self.model),
            ("Preset", self.preset),
            ("", self.about),
            ("Steps", self.steps),
        )
        for title, each in rows:
            form.addRow(title, each)
        self.about.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.about.setMinimumHeight(50)
        line = QHBoxLayout()
        for button in (self.start, self.cancel, self.open):
            line.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.addLayout(form)
        layout.addWidget(Folded("Learning rate, replay, measuring", more))
        layout.addLayout(line)
        layout.addWidget(self.bar)
        layout.addWidget(self.stage)
        layout.addWidget(self.curves, 1)
        layout.addStretch()

    # ------------------------------------------------------------------ recipe

    def base(self) -> str:
        """The model that is trained."""
        return self.model.currentText().strip() or "embedded"

    def look_for_memory(self) -> None:
        """See what fits into the memory there is, on another thread, and choose the most thorough preset."""
        self._ticket += 1
        ticket = self._ticket

        def show(found: tuple[list[RecipeChoice], str]) -> None:
            if ticket == self._ticket:
                self._take_choices(*found)

        in_background(_choices, self.base(), _tile_size(self.labels), then=show, failed=self._no_choices)

    @while_alive
    def _no_choices(self, error: Exception) -> None:
        self.found = []
        self.preset.clear()
        self.about.setText(str(error))
        self.show_state()

    @while_alive
    def _take_choices(self, found: list[RecipeChoice], where: str) -> None:
        from finetune.presets import chosen

        wanted = self.preset.currentText().split(":")[0] if self.found else None
        names = [each.preset.name for each in found]
        self.found, self._where = found, where
        self.preset.blockSignals(True)
        self.preset.clear()
        for each in found:
            amount = "" if each.memory is None else f": {amount_of(each.memory)}"
            self.preset.addItem(f"{each.preset.name}{amount}{'' if each.fits else ' (too large)'}")
        best = names.index(wanted) if wanted in names else found.index(chosen(found))
        self.preset.setCurrentIndex(best)
        self.preset.blockSignals(False)
        self._show_preset()

    def _show_preset(self) -> None:
        place = self.preset.currentIndex()
        if not 0 <= place < len(self.found):
            return
        each = self.found[place]
        self.replay.setValue(round(100 * each.preset.replay))
        fits = "" if each.fits else f"<br><b>More than is free of {self._where}.</b>"
        self.about.setText(f"{each.preset.about}; on {self._where}{fits}")
        self.show_state()

    def fields(self) -> Fields:
        """What the page asks for."""
        return Fields(
            name=clean_name(self.name.text()) or self._free(),
            base=self.base(),
            preset=self.found[self.preset.currentIndex()].preset,
            steps=self.steps.value(),
            learning_rate=self.rate.value() or None,
            replay=self.replay.value() / 100,
            limit=self.limit.value(),
            measured=self.measured.value(),
            device=self.device.currentText().strip() or "auto",
            left_out=tuple(self.labels.left_out),
        )

    def _place(self) -> Path | None:
        """Where trainings go: beside the first slide's runs."""
        dataset = self.labels.gathered.dataset
        return None if dataset is None else trainings_folder(Path(dataset.slides[0].path))

    def _free(self) -> str:
        place = self._place()
        return "adapter-1" if place is None else free_name(place, clean_name(self.name.text()) or "adapter")

    # ------------------------------------------------------------------ start and stop

    def on_start(self) -> None:
        """Begin, or go on with the training that is shown where it was stopped."""
        import importlib.util

        if self.training.busy or self._starting:
            return
        self.told.emit("", "")
        if importlib.util.find_spec("peft") is None:
            self.told.emit(
                "error", "Training needs peft, which is not installed: pip install 'napari-qwenvl[finetune]'"
            )
            return
        if self.resumable():
            assert self.folder is not None
            self._launch(self.folder / RECIPE)
            return
        gathered, place = self.labels.gathered, self._place()
        if gathered.problems or gathered.dataset is None or place is None or not self.found:
            words = gathered.problems or (self.about.text(),)
            self.told.emit("error", words[0])
            return
        fields = self.fields()
        folder = place / fields.name
        if folder.exists():
            self.told.emit("error", f"There is a training called {fields.name} already. Give this one another name.")
            return
        sources = list(self.labels.sources)
        self._starting = True
        self.show_state()
        in_background(
            _write, fields, sources, folder, self.labels.choices(), then=self._launch, failed=self._not_written
        )

    @while_alive
    def _not_written(self, error: Exception) -> None:
        self._starting = False
        self.told.emit("error", str(error))
        self.show_state()

    @while_alive
    def _launch(self, recipe: Path) -> None:
        """Start the process; the memory of the model that was kept warm for asking is freed first."""
        self._starting = False
        worker = self.running.worker
        if worker.busy:
            self.told.emit("error", "A run is under way. Let it end or cancel it, then train: both need the memory.")
            self.folder = recipe.parent
            self.show_state()
            return
        worker.unload()
        try:
            self.training.start(recipe)
        except (OSError, LimitError) as error:
            self.told.emit("error", f"The training cannot be started: {limit_of(error) or error}")
            return
        self.show_training(recipe.parent)

    def resumable(self) -> bool:
        """Whether the shown training was begun and not finished, and the name field does not ask for another."""
        if self.folder is None or not (self.folder / RECIPE).is_file():
            return False
        other = clean_name(self.name.text())
        return not (self.folder / RUN / "adapter").is_dir() and other in ("", self.folder.name)

    def on_open(self) -> None:
        """Show a training that was made earlier; one that was stopped can go on."""
        place = self._place()
        folder = QFileDialog.getExistingDirectory(self, "Open a training", "" if place is None else str(place))
        if folder:
            self.open_training(Path(folder))

    def open_training(self, folder: Path) -> None:
        """Show a training; its folder or that of its run may be named."""
        folder = folder.parent if not (folder / RECIPE).is_file() and folder.name == RUN else folder
        if not (folder / RECIPE).is_file():
            self.told.emit("error", f"{folder.name} is no training of this panel ({RECIPE} is missing).")
            return
        self.told.emit("", "")
        self.show_training(folder)
        if self.resumable():
            self.told.emit("note", f"{folder.name} was stopped before its end. Press Go on.")

    def show_training(self, folder: Path) -> None:
        """Show the curves of a training, and its result where it has one."""
        from finetune.config import FinetuneConfig
        from finetune.errors import RecipeError

        self.folder = folder
        try:
            self._steps = FinetuneConfig.load(folder / RECIPE).train.steps
        except RecipeError as error:
            self.told.emit("error", str(error))
            return
        done = (folder / RUN / "adapter").is_dir()
        self.name.setText("" if done else folder.name)
        self.curves.follow(folder / RUN, self._steps)
        if not self.training.busy:
            self.curves.rest()
        self.opened.emit(folder)
        self.show_state()

    # ------------------------------------------------------------------ what happens

    @while_alive
    def _on_labels(self) -> None:
        self._wait.start()
        self.show_state()

    @while_alive
    def _on_measured(self, metric: str, value: float) -> None:
        self.curves.metric_name, self.curves.base = metric, value
        self.curves.update()

    @while_alive
    def _on_stopped(self) -> None:
        self.curves.rest()
        self.told.emit("note", "Stopped. The state is saved: Go on takes it up with the very same steps.")

    @while_alive
    def _on_failed(self, words: str) -> None:
        self.curves.rest()
        self.told.emit("error", words)

    @while_alive
    def _on_finished(self, _: Mapping[str, object]) -> None:
        self.curves.rest()
        self.name.setText("")  # the next one gets a name of its own
        if self.folder is not None:
            self.opened.emit(self.folder)

    @while_alive
    def show_state(self) -> None:
        """Bring buttons, bar and words up to date."""
        training = self.training
        busy = training.busy or self._starting
        ready = bool(self.found) and self.labels.gathered.dataset is not None and not self.labels.gathered.problems
        again = self.resumable()
        self.start.setText("Go on" if again and not busy else "Train")
        self.start.setEnabled(not busy and (ready or again))
        self.cancel.setEnabled(training.busy and not training.asked_to_stop)
        self.open.setEnabled(not busy)
        for widget in (self.model, self.preset, self.steps):
            widget.setEnabled(not busy)
        self.name.setEnabled(not busy)
        self.name.setPlaceholderText(self._free())
        step = training.step
        done = 0 if self.folder is None else (self.curves.loss[-1][0] if self.curves.loss else 0)
        if step is not None and training.recipe is not None and training.recipe.parent == self.folder:
            done = max(done, int(step["step"]))
        if busy and step is None:
            self.bar.setRange(0, 0)
        else:
            self.bar.setRange(0, self._steps)
            self.bar.setValue(min(done, self._steps))
            self.bar.setFormat(f"step {done:,} of {self._steps:,}" if self.folder is not None else "")
        words = training.stage
        if training.busy and step is not None and step["step"] < step["steps"] and not training.asked_to_stop:
            best = "" if step["best"] is None else f" · best {step['metric']} {step['best']:.3f}"
            words = f"{words} · loss {step['loss']:.2f} · {in_words(step['seconds_left'])} to go{best}"
        self.stage.setText(words if training.busy else ("Reading the labels..." if self._starting else ""))


def amount_of(size: int) -> str:
    """Bytes as people say them."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"


def _tile_size(labels: LabelsPage) -> int:
    from workflows.errors import WorkflowError

    runs = [source for source in labels.sources if isinstance(source, RunSource)]
    try:
        return tile_of(runs[:1], labels.base())[0].size
    except (WorkflowError, OSError):
        return 448


def _choices(base: str, tile_size: int) -> tuple[list[RecipeChoice], str]:
    from finetune.presets import choices, free_memory

    free, where = free_memory()
    words = where if free is None else f"{where}, {amount_of(free)} free"
    return choices(base, tile_size, free), words


def _write(fields: Fields, sources: list[Source], folder: Path, choices: dict[str, Any]) -> Path:
    tile, limits = tile_of(sources, fields.base)
    return write_training(fields, sources, tile, limits, folder, **choices)


__all__ = ["RunPage", "amount_of"]
