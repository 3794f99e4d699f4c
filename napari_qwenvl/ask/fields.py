"""The fields of the Ask panel, and the question they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QRadioButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_qwenvl._widgets import Folded, Message, drawn_polygons, scrolled
from napari_qwenvl.ask.adapter_row import AdapterRow
from napari_qwenvl.ask.advanced import Advanced
from napari_qwenvl.ask.plan import LABELLED, PanelQuestion, rectangle_of, write_regions
from napari_qwenvl.process.running import running_of
from napari_qwenvl.read.frame import Frame, visible_field
from napari_qwenvl.read.slide_layer import slide_of
from napari_qwenvl.results.run_reading import NotPossibleError
from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from wsi.slide import Slide

TASKS = {
    "Find objects (boxes)": "detect",
    "Mark objects (points)": "point",
    "Count objects": "count",
    "Sort tiles into classes": "classify",
    "Score a yes/no question": "score",
    "Describe in words": "describe",
    "Ask in words": "ask",
    "Fill in a form (JSON Schema)": "extract",
}
_EXAMPLES = {"detect": "nucleus", "point": "mitosis", "count": "nucleus", "classify": "tumor, stroma, necrosis"}
_QUESTIONS = {
    "score": "Is there tumor?",
    "ask": "Which tissue is this?",
    "describe": "Your own words (optional)",
    "extract": "Your own words (optional)",
}


class AskFields(QWidget):
    """What the user fills in, without what happens then."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.running = running_of(viewer)
        self._build()

    # ------------------------------------------------------------------ widgets

    def _build(self) -> None:
        self.task = QComboBox()
        self.task.addItems(list(TASKS))
        self.labels = QLineEdit("nucleus")
        self.labels.setToolTip("What to find, separated by commas")
        self.prompt = QLineEdit()
        self.schema = QLineEdit()
        self.schema.setPlaceholderText("File with a JSON Schema")
        self.model = QComboBox()
        self.model.setEditable(True)
        self.model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.model.setMinimumContentsLength(12)
        self.model.addItems(_models())
        self.model.setToolTip("'embedded', a folder, or a name on the Hugging Face hub")
        self.load = QPushButton("Load")
        self.state = QLabel("not loaded")
        self.state.setWordWrap(True)
        self.adapter = AdapterRow(self.viewer)
        self.scope = QButtonGroup(self)
        scopes = QHBoxLayout()
        for number, (name, tip) in enumerate(
            [
                ("Visible field", "What the viewer shows now"),
                ("Regions", "Areas of the active Shapes layer: the selected ones, else all"),
                ("Slide", "All tissue of the slide"),
            ]
        ):
            button = QRadioButton(name)
            button.setToolTip(tip)
            self.scope.addButton(button, number)
            scopes.addWidget(button)
        self.scope.buttons()[0].setChecked(True)
        self.advanced = Advanced()
        self.slide_name = QLabel()
        self.slide_name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.estimate = QLabel()
        self.estimate.setWordWrap(True)
        self.run = QPushButton("Run")
        self.cancel = QPushButton("Cancel")
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.message = Message()
        self.copy_command = QPushButton("Copy as command")
        self.copy_python = QPushButton("Copy as Python")
        self.open = QPushButton("Open run...")
        self.go_on = QPushButton("Go on with the open run")
        self.go_on.setToolTip("Asks about its tiles that have no answer yet or failed")
        inside = QWidget()
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Slide", self.slide_name)
        form.addRow("Task", self.task)
        form.addRow("Labels", self.labels)
        form.addRow("PanelQuestion", self.prompt)
        form.addRow("Schema", self.schema)
        form.addRow("Model", _row(self.model, self.load, stretch=0))
        form.addRow("", self.state)
        form.addRow("Adapter", self.adapter)
        form.addRow("Where", scopes)
        self._form = form
        layout = QVBoxLayout(inside)
        layout.addLayout(form)
        layout.addWidget(Folded("Scale, tiles, decoding", self.advanced))
        layout.addWidget(self.estimate)
        layout.addWidget(_row(self.run, self.cancel))
        layout.addWidget(self.bar)
        layout.addWidget(self.message)
        layout.addStretch()
        layout.addWidget(_row(self.copy_command, self.copy_python))
        layout.addWidget(_row(self.open, self.go_on))
        scrolled(inside, self)

    # ------------------------------------------------------------------ what the fields say

    @property
    def task_name(self) -> str:
        """The task in the word of the command line."""
        return TASKS[self.task.currentText()]

    def question(self, mask: str = "auto") -> PanelQuestion:
        """The fields as a question."""
        labels = tuple(label.strip() for label in self.labels.text().split(",") if label.strip())
        schema = self.schema.text().strip()
        task = self.task_name
        options = self._options(mask)
        return PanelQuestion(
            task,
            labels if task in LABELLED else (),
            self.prompt.text().strip() or None,
            Path(schema).expanduser() if task == "extract" and schema else None,
            self._with_slide(options),
        )

    def _options(self, mask: str) -> RunOptions:
        model = self.model.currentText().strip() or "embedded"
        options = self.advanced.options(model=model, mask=mask, adapter=self.adapter.folder)
        if options.server is not None and options.adapter is not None:
            raise ValueError("A server loads its own adapters. Take the adapter off, or leave the server out.")
        return options

    def _with_slide(self, options: RunOptions) -> RunOptions:
        """The options with how the shown slide was opened: scale, plane, rendering, series, colour."""
        from dataclasses import replace

        slide = slide_of(self.running.session.slide_layer())
        assert slide is not None
        chosen = slide.options
        plane = _shown_plane(self.running.session.slide_layer(), self.viewer) or chosen.get("plane")
        return replace(
            options,
            slide_mpp=slide.mpp if slide.mpp_source == "user" else None,
            plane=plane,
            rendering=chosen.get("rendering"),
            series=int(chosen["series"]) if "series" in chosen else None,
            colour=chosen.get("colour"),
        )

    def _mask(self, slide: Slide, runs: Path) -> str:
        """Where to ask, as `--mask` takes it."""
        scope = self.scope.checkedId()
        if scope == 2:
            return self.advanced.tissue.currentText()
        frame = Frame.of(slide.mpp_xy)
        if scope == 0:
            polygons = [rectangle_of(visible_field(self.viewer, frame))]
        else:
            layer = self.viewer.layers.selection.active
            if layer is None or layer._type_string != "shapes":
                raise NotPossibleError("Draw regions in a Shapes layer and keep it active, then choose Regions again.")
            polygons = drawn_polygons(layer, frame)
            if not polygons:
                raise NotPossibleError(f"'{layer.name}' holds no area. Draw a rectangle, ellipse or polygon.")
        return str(write_regions(runs, polygons, (slide.width, slide.height), slide.qupath_bounds))

    def show_rows(self) -> None:
        """Show the fields that the task needs."""
        task = self.task_name
        self._form.setRowVisible(self.labels, task in LABELLED)
        self._form.setRowVisible(self.prompt, task in _QUESTIONS)
        self._form.setRowVisible(self.schema, task == "extract")
        self.labels.setPlaceholderText(_EXAMPLES.get(task, ""))
        self.prompt.setPlaceholderText(_QUESTIONS.get(task, ""))


def _shown_plane(layer: Layer, viewer: Viewer) -> str | None:
    from napari_qwenvl.read.slide_layer import plane_of

    plane = plane_of(layer, viewer)
    return None if plane is None else str(plane)


def _models() -> list[str]:
    from qwenvl.checkpoints.catalogue import KNOWN_MODELS

    return ["embedded", *(model.name for model in KNOWN_MODELS)]


def _row(*widgets: QWidget, stretch: int | None = None) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for number, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if stretch is None or number == stretch else 0)
    return row
