"""The results panel over runs of a stand-in engine: rows, filters, words, keys of the review."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from panel_helpers import DETECT, make_run, make_slide, open_whole
from qtpy.QtCore import Qt, QUrl

from napari_qwenvl.results.choosing import rows_inside
from napari_qwenvl.results.panel import ResultsPanel
from qwenvl.request import Request
from workflows.errors import StoreError

LONG_MS = 120_000


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return make_slide(tmp_path_factory.mktemp("slide"))


@pytest.fixture
def panel_of(qtbot):
    """A panel that shows a run in a viewer without a window: the panel needs none."""
    made = []

    def show(folder):
        viewer = ViewerModel()
        panel = ResultsPanel(viewer)
        qtbot.addWidget(panel)
        made.append((viewer, panel))
        open_whole(panel.session, folder, qtbot)
        panel.refresh()
        return panel

    yield show
    while made:
        _, panel = made.pop()
        panel.running.close()
        panel.close()


@pytest.fixture
def panel(panel_of, slide, tmp_path):
    return panel_of(make_run(slide, tmp_path / "run"))


def column(panel, number):
    return [panel.model.index(i, number).data() for i in range(panel.model.rowCount())]


def test_the_table_sorts_by_every_column(panel):
    objects = panel.session.overlay.objects
    assert panel.model.rowCount() == len(objects)
    assert panel.model.rows.tolist() == list(range(len(objects)))
    expected = {
        0: [panel.session.overlay.labels[code] for code in objects.label],
        1: objects.score,
        3: objects.box[:, 0] + objects.box[:, 2],
        4: objects.box[:, 1] + objects.box[:, 3],
        5: np.prod(objects.box[:, 2:] - objects.box[:, :2], axis=1),
    }
    for number, values in expected.items():
        for order in (Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder):
            panel.table.sortByColumn(number, order)
            shown = [values[row] for row in panel.model.rows]
            assert shown == sorted(values, reverse=order == Qt.SortOrder.DescendingOrder)
    assert column(panel, 1)[0] == f"{objects.score[panel.model.rows[0]]:.2f}"


def test_filters_change_slide_and_table_alike(panel, qtbot):
    overlay = panel.session.overlay
    panel.labels.item(0).setCheckState(Qt.CheckState.Unchecked)
    qtbot.waitUntil(lambda: set(column(panel, 0)) == {"lymphocyte"}, timeout=LONG_MS)
    assert np.array_equal(np.sort(panel.model.rows), overlay.visible())
    panel.labels.item(0).setCheckState(Qt.CheckState.Checked)
    panel.score.setValue(60)
    qtbot.waitUntil(lambda: set(column(panel, 1)) == {"0.80"}, timeout=LONG_MS)
    panel.score.setValue(0)
    panel.session.deciding.reject([2])
    panel.states.setCurrentText("rejected")
    qtbot.waitUntil(lambda: panel.model.rows.tolist() == [2], timeout=LONG_MS)
    assert column(panel, 2) == ["rejected"]


def test_a_row_leads_to_its_box_and_a_box_to_its_row(panel):
    overlay, camera = panel.session.overlay, panel.viewer.scene.camera
    panel.table.sortByColumn(1, Qt.SortOrder.DescendingOrder)
    panel.table.selectRow(3)
    row = int(panel.model.rows[3])
    box = overlay.objects.box[row]
    assert overlay.selected == row
    assert camera.center[-2:] == pytest.approx(overlay.frame.to_world((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    before = camera.center
    overlay.select(5, move_camera=False)
    overlay.picked.emit(5)
    assert [int(panel.model.rows[i.row()]) for i in panel.table.selectionModel().selectedRows()] == [5]
    assert camera.center == before


def test_objects_are_moved_drawn_and_deleted_with_the_mouse_tools(panel, qtbot):
    session, overlay = panel.session, panel.session.overlay
    panel.table.selectRow(1)
    before = overlay.objects.box[1].copy()
    panel.review.edit()
    overlay.edited.emit(1, before + 4)
    assert overlay.objects.box[1].tolist() == (before + 4).tolist()
    panel.review.edit()
    panel.review.label.setCurrentText("vessel")
    panel.review.draw()
    corners = np.array([[30, 20], [30, 60], [80, 60], [80, 20]], float)
    panel.viewer.layers["draw objects"].add(corners, shape_type="rectangle")
    assert overlay.objects.box[-1].tolist() == [20, 30, 60, 80]
    assert overlay.labels[overlay.objects.label[-1]] == "vessel"
    panel.review.draw()
    assert "draw objects" not in panel.viewer.layers
    session.deciding.undo()
    assert overlay.objects.box[1].tolist() == (before + 4).tolist()
    session.deciding.undo()
    assert overlay.objects.box[1].tolist() == before.tolist()


def test_words_lead_to_their_place_and_light_up_what_they_name(panel_of, slide, tmp_path):
    panel = panel_of(make_run(slide, tmp_path / "run"))
    overlay, session = panel.session.overlay, panel.session
    from napari_qwenvl.results.run_reading import AnswerTexts

    box = overlay.objects.box[0]
    rect = (box[0] - 200, box[1] - 200, box[2] + 200, box[3] + 200)
    session.said = [AnswerTexts(rect, "ok", "Many tumors & a <b>lymphocyte</b>; no vessel.", 0)]
    panel.refresh()
    panel.words.table.selectRow(0)
    text = panel.words.text.toHtml()
    assert "label:tumor" in text
    assert "label:lymphocyte" in text
    assert "label:vessel" not in text
    assert "<b>lymphocyte" not in panel.words.marked_up(session.said[0])
    lit = []
    overlay.highlight = lit.append
    panel.words.light_up(QUrl("label:tumor"))
    assert np.array_equal(lit[-1], rows_inside(overlay, rect, ["tumor"]))
    assert len(lit[-1]) > 0
    panel.words.light_up(QUrl())
    assert len(lit[-1]) == 0


def test_failed_tiles_are_listed_as_failed(panel_of, slide, tmp_path):
    request = Request(**DETECT.model_dump() | {"task": "ask", "labels": (), "prompt": "What is it?"})
    panel = panel_of(make_run(slide, tmp_path / "run", request, fail=(2,)))
    rows = [[panel.words.model.index(i, c).data() for c in range(3)] for i in range(panel.words.model.rowCount())]
    assert ["2", "failed", "planted fault"] in rows
    assert "1 failed" in panel.summary.text()
    assert "failed: 1 of" in " ".join(layer.name for layer in panel.viewer.layers)


def test_faults_are_said_in_the_panel_and_change_nothing(panel, qtbot, tmp_path):
    before = panel.session.overlay
    panel.running.open_run(tmp_path)
    qtbot.waitUntil(lambda: "holds no run" in panel.message.text(), timeout=LONG_MS)
    assert panel.session.overlay is before
    bad = tmp_path / "bad.geojson"
    bad.write_text("[]")
    panel._tell(lambda: panel.session.read_corrections(bad))
    assert "holds no object" in panel.message.text()
    before.select(None)
    panel.table.clearSelection()
    panel.review.accept()
    assert "Choose an object first" in panel.message.text()


@pytest.mark.parametrize("fault", ["locked", "readonly", "full"])
def test_a_review_that_cannot_be_saved_says_so_and_is_saved_later(panel, monkeypatch, fault):
    from workflows.review.decisions import Reviews

    words = {"locked": "database is locked", "readonly": "readonly database", "full": "disk is full"}[fault]

    def fails(self, *_, **__):
        raise StoreError(f"run.sqlite cannot be used: {words}. Check that the folder is readable and writable.")

    overlay, review = panel.session.overlay, panel.review
    told = []
    review.told.connect(lambda kind, text: told.append((kind, text)))
    before = len(overlay)
    review.draw()
    layer = review._drawing
    with monkeypatch.context() as patch:
        patch.setattr(Reviews, "_write", fails)
        layer.add(np.array([[10.0, 10.0], [10.0, 30.0], [30.0, 30.0], [30.0, 10.0]]), shape_type="rectangle")
        assert layer.nshapes == 1, "the mark stays"
        review._on_edited(0, [1.0, 2.0, 30.0, 40.0])
        review.undo()
        assert len(overlay) == before
    assert {kind for kind, text in told if words in text} == {"error"}
    assert sum(words in text for _, text in told) >= 2
    layer.add(np.array([[50.0, 50.0], [50.0, 70.0], [70.0, 70.0], [70.0, 50.0]]), shape_type="rectangle")
    assert layer.nshapes == 0
    assert len(overlay) == before + 2
    assert overlay.objects.box[0].tolist() == [1.0, 2.0, 30.0, 40.0], "what waited is saved with it"
    review.draw()
