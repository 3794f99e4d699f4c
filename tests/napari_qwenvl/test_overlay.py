"""The overlay on a viewer without Qt: places, filters, picking, levels of detail, editing."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari", reason="the viewer is tested where napari is installed")

from napari.components import ViewerModel

from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from workflows.review.reviewed import State
from wsi import Plane

MPP = 0.25


@pytest.fixture
def viewer():
    model = ViewerModel()
    model.canvas.size = (400, 600)
    return model


@pytest.fixture
def overlay(viewer):
    made = Overlay(viewer, um_per_px=MPP)
    made.labels = ["tumor", "stroma"]
    boxes = [[100, 100, 140, 160], [110, 110, 120, 120], [1000, 800, 1040, 830], [300, 300, 300, 300]]
    made.replace(Objects.of(boxes, [0, 1, 0, 1], point=[False, False, False, True], score=[0.9, 0.2, np.nan, 0.6]))
    look(viewer, 130, 130, zoom=8)
    return made


def look(viewer, x0, y0, zoom):
    """Bring level-0 px (x0, y0) to the middle of the canvas."""
    viewer.scene.camera.zoom = zoom
    viewer.scene.camera.center = (0, (y0 - 0.5) * MPP, (x0 - 0.5) * MPP)


def drawn_at(overlay, x0, y0):
    """RGBA of the picture at a place in level-0 px, through the layer's own transform."""
    y, x = overlay.layer.world_to_data(((y0 - 0.5) * MPP, (x0 - 0.5) * MPP))
    return overlay.layer.data[round(y), round(x)]


def test_outlines_lie_where_the_boxes_are(overlay):
    assert overlay.detail == "outlines"
    for x0, y0 in ((100, 130), (140, 130), (120.5, 100), (120.5, 160)):
        assert tuple(drawn_at(overlay, x0, y0)) == (*overlay.colours["tumor"], 255)
    assert drawn_at(overlay, 130, 140)[3] == 0
    assert overlay.layer.units[0] == "micrometer"


def test_both_scales_and_no_scale_put_boxes_on_the_same_px_of_the_slide(viewer):
    slide = np.zeros((200, 300, 3), np.uint8)
    for um_per_px in ((0.5, 0.25), None):
        overlay = Overlay(viewer, um_per_px=um_per_px)
        image = viewer.add_image(slide, rgb=True, **overlay.frame.options())
        overlay.replace(Objects.of([[120, 60, 180, 100]]))
        viewer.scene.camera.zoom = 8
        viewer.scene.camera.center = (0, *image.data_to_world((79.5, 149.5)))
        # Level-0 (120, 80) is the corner between px 119 and 120, that is image coordinate 119.5.
        place = overlay.layer.world_to_data(image.data_to_world((79.5, 119.5)))
        assert overlay.layer.data[round(place[0]), round(place[1])][3] == 255
        inside = overlay.layer.world_to_data(image.data_to_world((79.5, 149.5)))
        assert overlay.layer.data[round(inside[0]), round(inside[1])][3] == 0
        overlay.close()
        viewer.layers.clear()


def test_filters_hide_rows_and_unknown_scores_stay(overlay):
    cases = [
        ({}, [0, 1, 2, 3]),
        ({"labels": {"tumor"}}, [0, 2]),
        ({"labels": set()}, []),
        ({"min_score": 0.5}, [0, 2, 3]),
        ({"labels": {"stroma"}, "min_score": 0.5}, [3]),
        ({"states": {int(State.ACCEPTED)}}, []),
    ]
    for wanted, rows in cases:
        overlay.set_filter(**wanted)
        assert overlay.visible().tolist() == rows, wanted
    overlay.set_filter(labels={"stroma"})
    assert drawn_at(overlay, 100, 130)[3] == 0
    overlay.append(Objects.of([[0, 0, 9, 9], [1, 1, 9, 9]], [0, 1]))
    assert overlay.visible().tolist() == [1, 3, 5]
    overlay.update(5, label=0)
    assert overlay.visible().tolist() == [1, 3]


def test_a_place_hits_the_smallest_box_around_it_and_points_within_reach(overlay):
    def hit(x0, y0):
        return overlay.hit((y0 - 0.5) * MPP, (x0 - 0.5) * MPP)

    assert hit(130, 150) == 0
    assert hit(115, 115) == 1
    assert hit(160, 130) is None
    assert hit(302, 299) == 3
    overlay.set_filter(labels={"tumor"})
    assert hit(115, 115) == 0
    assert hit(302, 299) is None
    look(overlay.viewer, 500, 500, zoom=0.05)
    overlay.set_filter()
    assert hit(1100, 820) == 2, "a box smaller than some px of the canvas is met beside it"


def test_selecting_moves_the_camera_and_marks_on_every_level_of_detail(overlay):
    overlay.select(2)
    center = overlay.viewer.scene.camera.center
    assert center[-2:] == pytest.approx(((815 - 0.5) * MPP, (1020 - 0.5) * MPP))
    assert 40 * MPP * overlay.viewer.scene.camera.zoom > 24
    assert tuple(drawn_at(overlay, 1000, 815)) == (255, 255, 255, 255)
    zoom = overlay.viewer.scene.camera.zoom
    overlay.select(0, move_camera=False)
    assert overlay.viewer.scene.camera.center == center
    overlay.select(None)
    assert overlay.selected is None
    overlay.select(0)
    assert overlay.viewer.scene.camera.zoom == zoom, "an object that can be seen keeps the zoom"
    with pytest.raises(IndexError, match="0 to 3"):
        overlay.select(4)


def test_named_objects_light_up(overlay):
    before = overlay.layer.data.copy()
    overlay.highlight([0])
    lit = (overlay.layer.data != before).any(axis=2)
    assert lit.any()
    overlay.highlight([])
    assert np.array_equal(overlay.layer.data, before)


def test_review_states_look_different(overlay):
    look(overlay.viewer, 120, 130, zoom=8)
    pictures = set()
    for state in State:
        overlay.update([0, 1], state=int(state))
        pictures.add(overlay.layer.data.tobytes())
    assert len(pictures) == len(State)
    overlay.update(0, state=int(State.REJECTED))
    red, green, blue, alpha = drawn_at(overlay, 100, 130)
    assert red == green == blue
    assert alpha > 0


def test_many_objects_become_density_and_outlines_again_when_looked_at_closely(viewer):
    overlay = Overlay(viewer, um_per_px=MPP)
    overlay.labels = ["nucleus"]
    corners = np.random.default_rng(0).uniform(0, 20_000, (60_000, 2))
    overlay.replace(Objects.of(np.c_[corners, corners + 30]))
    look(viewer, 10_000, 10_000, zoom=0.05)
    assert overlay.detail == "density"
    place = int(np.argmin(np.abs(corners - 10_000).sum(axis=1)))
    assert drawn_at(overlay, *(corners[place] + 15))[3] > 0
    look(viewer, *corners[place], zoom=8)
    assert overlay.detail == "outlines"
    assert set(overlay.in_field()) == {
        row
        for row, (x, y) in enumerate(corners)
        if abs(x + 15 - corners[place, 0]) <= 150 + 15 and abs(y + 15 - corners[place, 1]) <= 100 + 15
    }
    look(viewer, 90_000, 90_000, zoom=8)
    assert overlay.detail == "nothing"


def test_objects_come_go_and_change(overlay):
    told = []
    overlay.changed.connect(lambda: told.append(len(overlay)))
    overlay.append(Objects.of([[5, 5, 9, 9]], 1, key=77))
    assert overlay.row_of(77) == 4
    overlay.update([4], box=[[6, 6, 9, 12]], state=int(State.EDITED))
    assert overlay.objects.box[4].tolist() == [6, 6, 9, 12]
    assert overlay.objects.state[4] == State.EDITED
    overlay.remove([0, 2])
    assert overlay.objects.key.tolist() == [1, 3, 77]
    assert overlay.visible().tolist() == [0, 1, 2]
    assert overlay.row_of(0) is None
    assert told == [5, 5, 3]
    with pytest.raises(KeyError, match="colour"):
        overlay.update(0, colour=3)
    with pytest.raises(ValueError, match="read-only"):
        overlay.objects.state[0] = 1


@pytest.mark.parametrize(
    ("boxes", "words"),
    [([[0, 0, np.nan, 1]], "finite"), ([[5, 0, 1, 1]], "before it begins"), ([[0, 0, 1, 1]], "shape")],
)
def test_objects_that_make_no_sense_are_refused(boxes, words):
    with pytest.raises(ValueError, match=words):
        Objects.of(boxes, label=[0] * (2 if words == "shape" else 1))


def test_new_labels_get_codes_and_keep_their_colours(overlay):
    tumor = overlay.colours["tumor"]
    assert overlay.codes_of(["stroma", "mitosis", "tumor"]).tolist() == [1, 2, 0]
    assert overlay.labels == ["tumor", "stroma", "mitosis"]
    assert overlay.colours["tumor"] == tumor
    assert len(set(overlay.colours.values())) == 3
    overlay.set_colour("tumor", (1, 2, 3))
    assert tuple(drawn_at(overlay, 100, 130)) == (1, 2, 3, 255)


def test_editable_rows_are_shapes_and_their_changes_are_told(overlay):
    edits, gone, drawn = [], [], []
    overlay.edited.connect(lambda row, box: edits.append((row, box.tolist())))
    overlay.deleted.connect(lambda rows: gone.append(rows.tolist()))
    overlay.added.connect(lambda box: drawn.append(box.tolist()))
    shapes = overlay.editable([1, 3])
    assert drawn_at(overlay, 110, 115)[3] == 0, "the shape stands in place of the drawn outline"
    corner = shapes.data_to_world(shapes.data[0][0])
    assert corner == pytest.approx(((110 - 0.5) * MPP, (110 - 0.5) * MPP))
    moved = [each.copy() for each in shapes.data]
    moved[0] += (4, 7)
    moved[1] += (1, 2)
    shapes.data = moved
    assert edits == [(1, [117, 114, 127, 124]), (3, [302, 301, 302, 301])]
    shapes.add(np.array([[10, 20], [10, 40], [30, 40], [30, 20]]), shape_type="rectangle")
    assert drawn == [[20, 10, 40, 30]]
    shapes.selected_data = {0}
    shapes.remove_selected()
    assert gone == [[1]]
    assert len(edits) == 2
    overlay.editable([])
    assert [layer.name for layer in overlay.viewer.layers] == ["objects"]
    assert drawn_at(overlay, 110, 115)[3] == 255


def test_undo_moves_the_editable_shape_back_without_telling(overlay):
    edits = []
    overlay.edited.connect(lambda row, box: edits.append(row))
    shapes = overlay.editable([1])
    overlay.update(1, box=[[200, 200, 220, 230]])
    assert np.asarray(shapes.data[0]).min(axis=0).tolist() == [200, 200]
    assert edits == []


def test_removing_the_layer_closes_the_overlay(overlay):
    overlay.viewer.layers.remove(overlay.layer)
    assert overlay.closed
    look(overlay.viewer, 0, 0, zoom=1)
    overlay.append(Objects.of([[0, 0, 5, 5]]))


class Press:
    """A mouse press at a place in level-0 px, as napari tells it."""

    def __init__(self, x0, y0, button=1):
        self.position, self.pos = ((y0 - 0.5) * MPP, (x0 - 0.5) * MPP), np.zeros(2)
        self.button, self.type, self.modifiers = button, "mouse_press", ()


@pytest.mark.parametrize(
    ("button", "dragged", "mode", "picked"),
    [(1, 0, "pan_zoom", [1]), (1, 30, "pan_zoom", []), (2, 0, "pan_zoom", []), (1, 0, "add_rectangle", [])],
)
def test_a_click_picks_and_a_drag_or_a_drawing_tool_does_not(overlay, button, dragged, mode, picked):
    shapes = overlay.viewer.add_shapes(None, ndim=2)
    shapes.mode = mode
    found = []
    overlay.picked.connect(found.append)
    callback = overlay.viewer.mouse_drag_callbacks[-1]
    event = Press(115, 115, button)
    steps = callback(overlay.viewer, event)
    next(steps, None)
    if dragged:
        event.type, event.pos = "mouse_move", np.array([0, dragged])
        next(steps, None)
    event.type = "mouse_release"
    next(steps, None)
    assert found == picked


def test_objects_of_one_plane_of_a_stack_show_on_that_plane_alone(viewer):
    viewer.add_image(np.zeros((3, 5, 100, 120), np.uint8), axis_labels=("t", "z", "y", "x"))
    overlay = Overlay(viewer, um_per_px=None, plane=Plane(t=1, z=4))
    overlay.append(Objects.of([[10, 10, 60, 60]]))
    viewer.scene.camera.center = (0, 50, 60)
    for t, z, shown in ((1, 4, True), (1, 3, False), (0, 4, False), (1, 4, True)):
        viewer.dims.current_step = (t, z, 0, 0)
        assert (overlay.detail == "outlines") is shown
        assert (overlay.hit(30, 30) == 0) is shown
        assert len(overlay.in_field()) == shown


def test_objects_without_a_slide_are_brought_into_view_once(viewer):
    overlay = Overlay(viewer, um_per_px=MPP)
    overlay.append(Objects.of([[40_000, 30_000, 40_040, 30_030], [60_000, 35_000, 60_050, 35_020]]))
    assert overlay.in_field().tolist() == [0, 1]
    camera = viewer.scene.camera
    before = camera.center, camera.zoom
    overlay.append(Objects.of([[90_000, 90_000, 90_040, 90_030]]))
    assert (camera.center, camera.zoom) == before
