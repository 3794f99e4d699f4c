"""The folded part of the Ask panel: fields of `RunOptions` that most people leave alone."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QLineEdit, QPushButton, QSpinBox, QWidget

from workflows.run.options import RunOptions

_RECOMMENDED = "recommended"


class Advanced(QWidget):
    """Scale, tiles, decoding, device. Where a field says 'recommended', the checkpoint decides."""

    changed = Signal()
    mpp_given = Signal(float)
    """The user states the scale of the slide, in um per level-0 px."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = QComboBox()
        self.scale.setEditable(True)
        self.scale.addItems([_RECOMMENDED, "0.25", "0.5", "1", "2", "slide's own pixels"])
        self.scale.setToolTip("um per px of the tiles")
        self.tile_size = _number(0, 8192, 32, _RECOMMENDED)
        self.overlap = _number(-1, 4096, 16, _RECOMMENDED)
        self.max_objects = _number(0, 2000, 10, _RECOMMENDED)
        self.max_new_tokens = _number(0, 32768, 64, _RECOMMENDED)
        self.min_tissue = QDoubleSpinBox()
        self.min_tissue.setRange(0, 1)
        self.min_tissue.setSingleStep(0.05)
        self.temperature = QDoubleSpinBox()
        self.temperature.setRange(0, 2)
        self.temperature.setSingleStep(0.1)
        self.temperature.setToolTip("0 always writes the most likely answer")
        self.seed = _number(0, 2**31 - 1, 1, None)
        self.tissue = QComboBox()
        self.tissue.addItems(["auto", "all", "brightfield", "fluorescence"])
        self.tissue.setToolTip("How tissue is found when the whole slide is asked about")
        self.device = QComboBox()
        self.device.setEditable(True)
        self.device.addItems(["auto", "cpu", "cuda", "mps"])
        self.dtype = QComboBox()
        self.dtype.addItems(["auto", "float32", "bfloat16", "float16"])
        self.server = QLineEdit()
        self.server.setPlaceholderText("http://... (OpenAI-compatible), instead of a local model")
        self.slide_mpp = QDoubleSpinBox()
        self.slide_mpp.setRange(0, 100)
        self.slide_mpp.setDecimals(4)
        self.slide_mpp.setSpecialValueText("as the file says")
        self.set_mpp = QPushButton("Set")
        form = QFormLayout(self)
        form.setContentsMargins(12, 0, 0, 6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        for name, widget in (
            ("Scale (um/px)", self.scale),
            ("Tile side (px)", self.tile_size),
            ("Overlap (px)", self.overlap),
            ("Least tissue", self.min_tissue),
            ("Tissue by", self.tissue),
            ("Objects per tile", self.max_objects),
            ("Longest answer", self.max_new_tokens),
            ("Temperature", self.temperature),
            ("Seed", self.seed),
            ("Device", self.device),
            ("Number type", self.dtype),
            ("Server", self.server),
            ("Slide's um/px", self.slide_mpp),
        ):
            form.addRow(name, widget)
        form.addRow("", self.set_mpp)
        self.set_mpp.setText("Use for this slide")
        self.set_mpp.clicked.connect(self._on_mpp)
        for combo in (self.scale, self.tissue, self.device, self.dtype):
            combo.currentTextChanged.connect(self.changed.emit)
        for spin in (
            self.tile_size,
            self.overlap,
            self.max_objects,
            self.max_new_tokens,
            self.min_tissue,
            self.temperature,
            self.seed,
        ):
            spin.valueChanged.connect(self.changed.emit)
        self.server.textChanged.connect(self.changed.emit)

    def options(self, **more: Any) -> RunOptions:
        """The fields as options of a run; ValueError where the scale is not a number."""
        scale = self.scale.currentText().strip()
        native = scale == "slide's own pixels"
        try:
            mpp = None if native or scale in ("", _RECOMMENDED) else float(scale)
        except ValueError:
            raise ValueError(f"The scale '{scale}' is not a number of um per px.") from None
        return RunOptions(
            mpp=mpp,
            native=native,
            tile_size=self.tile_size.value() or None,
            overlap=None if self.overlap.value() < 0 else self.overlap.value(),
            max_objects=self.max_objects.value() or None,
            max_new_tokens=self.max_new_tokens.value() or None,
            min_tissue=round(self.min_tissue.value(), 6),
            temperature=round(self.temperature.value(), 6),
            seed=self.seed.value(),
            device=self.device.currentText().strip() or "auto",
            dtype=self.dtype.currentText(),
            server=self.server.text().strip() or None,
            **more,
        )

    def _on_mpp(self) -> None:
        if self.slide_mpp.value() > 0:
            self.mpp_given.emit(self.slide_mpp.value())


def _number(low: int, high: int, step: int, special: str | None) -> QSpinBox:
    spin = QSpinBox()
    spin.setRange(low, high)
    spin.setSingleStep(step)
    spin.setValue(low if special else 0)
    if special:
        spin.setSpecialValueText(special)
    return spin
