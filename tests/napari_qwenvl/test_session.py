"""A viewer's work on a run, without Qt: open, follow, review, close, and find all of it again."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from panel_helpers import DETECT, make_run, make_slide

from napari_qwenvl.process.session import Session, session_of
from napari_qwenvl.read.frame import look_at
from napari_qwenvl.read.slide_layer import layer_data, open_for_viewing
from napari_qwenvl.results.choosing import next_row
from napari_qwenvl.results.run_reading import NotPossibleError
from qwenvl.answer import Status
from qwenvl.request import Request
from workflows.errors import RunNotFoundError
from workflows.review.decisions import Action, Reviews, Verdict
from workflows.review.reviewed import State, reviewed_objects
from workflows.store.run_store import RunStore


@pytest.fixture
def slide(tmp_path):
    return make_slide(tmp_path)


@pytest.fixture
def viewer(slide):
    model = ViewerModel()
    add_slide(model, slide)
    return model


def add_slide(viewer, path):
    data, options, _ = layer_data(open_for_viewing(path))
    return viewer.add_image(data, **options)


@pytest.fixture
def session(viewer, slide, tmp_path):
    made = Session(viewer)
    made.open_run(make_run(slide, tmp_path / "run"))
    yield made
    made.close_run()


def test_an_opened_run_shows_its_merged_objects_over_its_slide(session):
    with RunStore.open(session.folder) as store:
        expected = reviewed_objects(store)
    objects = session.overlay.objects
    assert np.array_equal(np.sort(objects.key), np.sort(expected.key))
    assert len(objects) > 6
    assert session.overlay.labels == ["tumor", "lymphocyte"]
    assert session.overlay.frame.step_x == 0.25
    assert session.asks_for_objects
    assert [layer.name for layer in session.viewer.layers].count("tissue") == 1


def test_a_run_that_goes_on_elsewhere_is_followed_answer_by_answer(viewer, slide, tmp_path):
    folder = make_run(slide, tmp_path / "run", limit=2)
    session, seen = Session(viewer), []
    session.open_run(folder)
    session.grown.connect(lambda: seen.append(len(session.overlay)))
    before = len(session.overlay)
    assert not took(session)
    make_run(slide, folder)
    while took(session):
        pass
    assert seen[-1] > before
    assert sum(session.statuses.values()) == session.tiles_in_all()
    raw = {tuple(row) for row in session.overlay.objects.box.tolist()}
    session.reload()
    merged = {tuple(row) for row in session.overlay.objects.box.tolist()}
    assert len(merged ^ raw) <= len(merged) // 4, "what is shown while a run goes on is nearly the merged result"


def test_a_run_of_another_slide_is_refused_with_words(viewer, tmp_path):
    other = make_slide(tmp_path, "other.svs", seed=9)
    folder = make_run(other, tmp_path / "run")
    other.rename(tmp_path / "moved.svs")
    session = Session(viewer)
    with pytest.raises(NotPossibleError, match=r"run of other\.svs .* shows tissue\.svs, another slide"):
        session.open_run(folder)
    assert session.overlay is None
    add_slide(viewer, tmp_path / "moved.svs")
    session.open_run(folder)
    assert len(session.overlay) > 0


def test_a_folder_without_a_run_leaves_the_open_one_alone(session, tmp_path):
    with pytest.raises(RunNotFoundError, match="holds no run"):
        session.open_run(tmp_path)
    assert len(session.overlay) > 0


def test_which_layer_is_asked_about(tmp_path, slide):
    viewer = ViewerModel()
    session = session_of(viewer)
    assert session_of(viewer) is session
    with pytest.raises(NotPossibleError, match="Open a slide first"):
        session.slide_layer()
    viewer.add_image(np.zeros((8, 8)), name="gray")
    with pytest.raises(NotPossibleError, match="'gray' is not a slide"):
        session.slide_layer()
    layer = add_slide(viewer, slide)
    viewer.layers.selection.active = viewer.layers["gray"]
    assert session.slide_layer() is layer


def test_decisions_show_at_once_and_are_there_after_reopening(session, tmp_path):
    deciding, overlay, folder = session.deciding, session.overlay, session.folder
    before = overlay.objects.box.copy()
    deciding.accept([0, 1])
    deciding.reject([2])
    deciding.relabel([3], "plasma cell")
    deciding.reshape(4, before[4] + 5)
    deciding.add([10, 10, 30, 40], "vessel")
    assert overlay.objects.state[:5].tolist() == [1, 1, 2, 3, 3]
    assert overlay.labels[-2:] == ["plasma cell", "vessel"]
    shown = state_of(session)
    session.close_run()
    with pytest.raises(AttributeError):
        session.overlay.objects  # noqa: B018
    session.open_run(folder)
    assert state_of(session) == shown
    assert session.deciding.last_decision(0).who


def took(session):
    """Whether anything came since the last look."""
    found = []
    session.poll(found.append)
    return found == [True]


def state_of(session):
    o = session.overlay.objects
    return {
        (int(k), session.overlay.labels[c], tuple(np.round(b, 6).tolist()), int(s))
        for k, c, b, s in zip(o.key, o.label, o.box, o.state, strict=True)
    }


def test_undo_goes_back_to_the_start_and_redo_to_the_end(session):
    deciding, overlay = session.deciding, session.overlay
    start = state_of(session)
    steps = [
        lambda: deciding.accept([0]),
        lambda: deciding.reject([0, 1]),
        lambda: deciding.relabel([1], "x"),
        lambda: deciding.reshape(0, [1, 2, 30, 40]),
        lambda: deciding.add([5, 5, 9, 9], "y"),
        lambda: deciding.clear([0]),
    ]
    states = [start]
    for step in steps:
        step()
        states.append(state_of(session))
    for expected in reversed(states[:-1]):
        deciding.undo()
        assert state_of(session) == expected
    assert deciding.undo() == []
    assert not deciding.can_undo
    for expected in states[1:]:
        deciding.redo()
        assert state_of(session) == expected
    assert not deciding.can_redo
    assert overlay.objects.state[0] == State.UNREVIEWED


def test_what_another_reviewer_decides_appears(session):
    with Reviews.open(session.folder, "grace") as other:
        mine = session.deciding
        mine.accept([0])
        change = mine.last_decision(0).change
        other.refresh()
        other.decide([change.__class__(**{s: getattr(change, s) for s in change.__slots__} | {"label": "theirs"})])
    session.poll()
    assert session.overlay.labels[session.overlay.objects.label[0]] == "theirs"
    assert mine.last_decision(0).who == "grace"


def test_reviewing_while_the_run_goes_on_keeps_every_decision(viewer, slide, tmp_path):
    folder = make_run(slide, tmp_path / "run", limit=2)
    session = Session(viewer)
    session.open_run(folder)
    session.deciding.reject(range(len(session.overlay)))
    rejected = session.overlay.objects.box.copy()
    make_run(slide, folder)
    while took(session):
        pass
    session.reload()
    objects = session.overlay.objects
    for box in rejected:
        near = np.abs(objects.box - box).max(axis=1) < 20
        assert (objects.state[near] == State.REJECTED).all()
    assert (objects.state == State.UNREVIEWED).any()


def test_an_object_with_two_opinions_is_settled_by_the_next_decision(session):
    deciding, overlay = session.deciding, session.overlay
    deciding.accept([0])
    change = deciding.last_decision(0).change
    fields = {s: getattr(change, s) for s in change.__slots__}
    other = change.__class__(
        **fields | {"object": "0" * 8, "item": 999, "verdict": Verdict.REJECTED, "action": Action.REJECT}
    )
    with Reviews.open(session.folder, "grace") as grace:
        grace.decide([other])
    session.reload()
    row = overlay.row_of((change.tile << 20) | change.item)
    assert overlay.objects.state[row] == State.UNREVIEWED
    assert session.deciding.conflicts
    session.deciding.accept([row])
    session.reload()
    assert overlay.objects.state[row] == State.ACCEPTED
    assert not session.deciding.conflicts


def test_words_and_failed_tiles_are_listed_with_their_place(viewer, slide, tmp_path):
    request = Request(**DETECT.model_dump() | {"task": "ask", "labels": (), "prompt": "What is it?"})
    session = Session(viewer)
    session.open_run(make_run(slide, tmp_path / "run", request, fail=(1,)))
    assert not session.asks_for_objects
    assert len(session.said) == session.tiles_in_all()
    failed = [said for said in session.said if said.failed]
    assert [said.words for said in failed] == ["planted fault"]
    assert session.statuses[Status.FAILED] == 1
    x0, y0, x1, y1 = failed[0].rect
    look_at(session.viewer, session.overlay.frame, failed[0].rect)
    y, x = session.viewer.scene.camera.center[-2:]
    assert (y, x) == pytest.approx(session.overlay.frame.to_world((x0 + x1) / 2, (y0 + y1) / 2))


def test_what_to_look_at_next(session):
    overlay = session.overlay
    assert next_row(session.overlay) == 0
    overlay.select(0)
    assert next_row(session.overlay) == 1
    assert next_row(session.overlay, back=True) == len(overlay) - 1
    session.deciding.accept([1])
    assert next_row(session.overlay) == 2
    row = next_row(session.overlay, uncertain=True)
    assert abs(overlay.objects.score[row] - 0.5) == np.abs(overlay.objects.score - 0.5).min()
    overlay.set_filter(labels={"lymphocyte"})
    assert overlay.labels[overlay.objects.label[next_row(session.overlay)]] == "lymphocyte"
    session.deciding.reject(np.arange(len(overlay)))
    assert next_row(session.overlay) is None


class Late:
    """A background whose work is done when the test says so, in any order."""

    def __init__(self):
        self.waiting = []

    def __call__(self, work, *args, then, failed):
        self.waiting.append(lambda: then(work(*args)))

    def done(self, number=0):
        self.waiting.pop(number)()


def test_reading_that_is_overtaken_shows_nothing_twice_and_stops_nothing(viewer, slide, tmp_path):
    folder, late = make_run(slide, tmp_path / "run", limit=2), Late()
    session = Session(viewer, late)
    session.open_run(folder)
    while late.waiting:
        late.done()
    make_run(slide, folder)
    before, came = len(session.overlay), []
    session.poll(came.append)
    session.poll(came.append)
    assert len(late.waiting) == 1, "one look at a time"
    session.reload()
    late.done(1)
    everything = len(session.overlay)
    assert everything > before
    late.done()
    assert len(session.overlay) == everything, "what the overtaken look brings is there already"
    assert came == []
    session.poll(came.append)
    late.done()
    assert came == [False]
    session.open_run(folder)
    session.close_run()
    late.done()
    assert session.folder is None, "a run that was closed before it was read stays closed"


def test_whenever_the_viewer_polls_a_run_that_opens_is_read_once_and_shown_whole(viewer, slide, tmp_path):
    late, steps, shown = Late(), [], []
    session = Session(viewer, late, steps.append)
    session.shown.connect(lambda: shown.append(len(session.overlay)))
    session.open_run(make_run(slide, tmp_path / "run", fail=(1,)))
    late.done()
    while steps:
        session.poll()
        assert len(late.waiting) == (session.overlay is not None), "a run that is held is being read"
        steps.pop(0)()
    assert shown == []
    session.reload()
    late.done(1)
    while steps:
        steps.pop(0)()
    late.done()
    assert not steps, "what was overtaken shows nothing"
    assert shown == [len(session.overlay)]
    assert shown[0] > 6
    assert any(layer.name.startswith("failed: 1 of") for layer in viewer.layers)


def test_a_decision_made_while_the_run_is_read_stays(viewer, slide, tmp_path):
    late = Late()
    session = Session(viewer, late)
    session.open_run(make_run(slide, tmp_path / "run"))
    while late.waiting:
        late.done()

    def read_now(work, *args, then, failed):
        found = work(*args)
        late.waiting.append(lambda: then(found))

    session._background = read_now
    session.reload()
    session.deciding.reject([3])
    late.done()
    assert session.overlay.objects.state[3] == State.REJECTED
    session.reload()
    session.deciding.undo()
    late.done()
    assert session.overlay.objects.state[3] == State.UNREVIEWED
