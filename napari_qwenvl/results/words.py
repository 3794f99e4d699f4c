"""What was said, with its place: text answers and failed tiles; boxes that the words name light up under the mouse."""

from __future__ import annotations

import html
import re
from typing import Any

from qtpy.QtCore import QUrl
from qtpy.QtWidgets import QTextBrowser, QVBoxLayout, QWidget

from napari_qwenvl._widgets import plain_table, style_links
from napari_qwenvl.process.session import Session
from napari_qwenvl.read.frame import look_at
from napari_qwenvl.results.choosing import rows_inside
from napari_qwenvl.results.run_reading import AnswerTexts
from napari_qwenvl.results.tables import SaidModel


class WordsView(QWidget):
    """The words of a session: a table of them, and the chosen ones in full."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.model = SaidModel(session)
        self.table: Any = plain_table(self.model)
        self.table.horizontalHeader().setStretchLastSection(True)
        self.table.selectionModel().currentRowChanged.connect(self._on_row)
        self.text = QTextBrowser()
        self.text.setOpenLinks(False)
        style_links(self.text)
        self.text.setMaximumHeight(150)
        self.text.highlighted.connect(self.light_up)
        self.text.anchorClicked.connect(self.light_up)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addWidget(self.text)

    def refresh(self) -> None:
        """Show what was said since."""
        self.model.refresh()

    def clear(self) -> None:
        """Another run is open: its words are to be chosen first."""
        self.text.clear()

    def _on_row(self, current: Any, _: object = None) -> None:
        said = self.model.said(current.row()) if current.isValid() else None
        overlay = self.session.overlay
        if said is None or overlay is None:
            return
        look_at(self.session.viewer, overlay.frame, said.rect)
        self.text.setHtml(self.marked_up(said))
        overlay.highlight([])

    def marked_up(self, said: AnswerTexts) -> str:
        """The words as HTML in which every class that lies there is a link."""
        overlay = self.session.overlay
        labels = [] if overlay is None else overlay.labels
        present = [label for label in labels if overlay is not None and len(rows_inside(overlay, said.rect, [label]))]

        def linked(text: str) -> str:
            escaped = html.escape(text)
            if not present:
                return escaped
            names = "|".join(re.escape(html.escape(label)) for label in sorted(present, key=len, reverse=True))
            return re.sub(rf"(?i)\b({names})(s?)\b", lambda m: f'<a href="label:{m[1].lower()}">{m[0]}</a>', escaped)

        question = f"<p><i>{html.escape(said.question)}</i></p>" if said.question else ""
        thought = f"<p style='color:gray'>{linked(said.reasoning)}</p>" if said.reasoning else ""
        return f"{question}{thought}<p>{linked(said.words)}</p>"

    def light_up(self, url: QUrl) -> None:
        """Light up the boxes of a class that the words under the mouse name; put the lights out beside them."""
        overlay = self.session.overlay
        if overlay is None:
            return
        said = self.model.said(self.table.currentIndex().row())
        if said is None or url.isEmpty():
            overlay.highlight([])
            return
        wanted = url.toString().removeprefix("label:").lower()
        named = [label for label in overlay.labels if label.lower() == wanted]
        overlay.highlight(rows_inside(overlay, said.rect, named))
