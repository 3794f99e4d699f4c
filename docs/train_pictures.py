"""Make the pictures of docs/viewer/train.md: `xvfb-run -a -s "-screen 0 1400x900x24" python docs/train_pictures.py`.

From review to a better adapter, with the real panels and the embedded model: slides of the factory carry cells full of
brown pigment, which the model has never seen. It is asked for them, a reviewer (who knows where they were planted)
corrects two slides and a held-out one, and an adapter is trained on that. Prints what was measured. `--work FOLDER`
keeps slides, runs and training, and goes on from them; `--steps N` trains longer or shorter. Some ten minutes on two
cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))
from viewer_pictures import SIZE, pump, shot, wait

from workflows.review.reviewed import reviewed_objects

LABEL = "pigment"
SIDE, TILE, MPP = 1536, 256, 0.25
FIELD = (256, 256, 1280, 1280)
"""What is asked of every slide, level-0 px; the tiles that cover it are reviewed."""
HELD_OUT_TILES = 20
TEACHING, MEASURING, NEW = ("case-1", "case-2"), "case-3", "case-4"


def make_slide(path: Path, seed: int) -> NDArray[np.float64]:
    """A factory slide with pigmented cells; where they are, level-0 px."""
    import tifffile

    from wsi.synthetic import Scene
    from wsi.synthetic.tissue.pigment import plant_pigment

    truth = path.with_suffix(".npy")
    if path.exists() and truth.exists():
        return np.load(truth)
    scene = Scene(SIDE * MPP, SIDE * MPP, seed=seed, artefacts=())
    picture = scene.render(0, 0, SIDE, SIDE, MPP)
    boxes = []
    for number, (y, x) in enumerate(np.ndindex(SIDE // TILE, SIDE // TILE)):
        part = np.s_[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
        planted = plant_pigment(np.ascontiguousarray(picture[part]), seed * 1000 + number, mpp=MPP)
        picture[part] = planted.image
        boxes.append(planted.boxes + np.array([x, y, x, y]) * TILE)
    found = np.concatenate(boxes)
    tifffile.imwrite(
        path,
        picture,
        tile=(256, 256),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": 90},
        resolution=(1e4 / MPP, 1e4 / MPP),
        resolutionunit="CENTIMETER",
    )
    np.save(truth, found)
    return np.asarray(found)


def inside(boxes: NDArray[np.float64], rect: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Boxes whose centre lies in a rectangle."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return boxes[(x >= rect[0]) & (x < rect[2]) & (y >= rect[1]) & (y < rect[3])]


def ask(slide: Path, run: Path, engine: Any) -> Path:
    """Ask the embedded model for pigment in the field of a slide, as the Ask panel does."""
    from napari_qwenvl.ask.plan import rectangle_of, write_regions
    from qwenvl.request import Generation, Request
    from workflows.run.slide import run_slide

    mask = write_regions(run.parent, [rectangle_of(FIELD)], (SIDE, SIDE))
    request = Request(
        task="detect",
        labels=(LABEL,),
        tile_size=TILE,
        overlap=64,
        mpp=MPP,
        max_objects=40,
        generation=Generation(max_new_tokens=320),
    )
    run_slide(slide, request, engine, run, mask=str(mask), overview=False)
    return run


def review(run: Path, truth: NDArray[np.float64]) -> tuple[int, int, int]:
    """Decide about all in the tiles of a run as somebody does who knows the truth: accepted, rejected, drawn."""
    from finetune.evaluation.metrics import iou_matrix
    from workflows.review.decisions import Action, Change, Reviews, Verdict, new_object_name, object_name
    from workflows.store.run_store import RunStore

    with RunStore.open(run) as store, Reviews.open(run) as reviews:
        state = reviewed_objects(store).state
        if state.any():
            return int((state == 1).sum()), int((state == 2).sum()), int((state == 3).sum())
        found, tiles = reviewed_objects(store), store.tiles()
        field = [tiles[f"core_{edge}"] for edge in ("x0", "y0", "x1", "y1")]
        truth = inside(truth, (field[0].min(), field[1].min(), field[2].max(), field[3].max()))
        overlaps = iou_matrix(found.box, truth) if len(found) else np.zeros((0, len(truth)))
        hit = np.zeros(len(truth), bool)
        changes, accepted = [], 0
        for row in np.argsort(-overlaps.max(axis=1, initial=0)).tolist():
            best = int(overlaps[row].argmax())
            right = overlaps[row, best] >= 0.5 and not hit[best]
            hit[best] |= right
            accepted += right
            key = int(found.key[row])
            tile, item = key >> 20, key & 0xFFFFF
            box = tuple(found.box[row].tolist())
            label = found.labels[found.label[row]]
            action, verdict = (Action.ACCEPT, Verdict.ACCEPTED) if right else (Action.REJECT, Verdict.REJECTED)
            name = object_name(store.manifest, tile, item)
            changes.append(Change(action, name, verdict, label, box, False, tile, item, label, box))
        drawn = [tuple(box) for box in truth[~hit].tolist()]
        changes += [Change(Action.ADD, new_object_name(), Verdict.EDITED, LABEL, box) for box in drawn]
        reviews.decide(changes)
    return accepted, len(found) - accepted, len(drawn)


def prepare(work: Path) -> dict[str, Path]:
    """Slides, first answers of the model, and their reviews; the run folders by case."""
    from qwenvl import LocalEngine

    engine = LocalEngine.load("embedded")
    runs = {}
    for number, case in enumerate((*TEACHING, MEASURING, NEW), 1):
        slide = work / f"{case}.tiff"
        truth = make_slide(slide, 100 + number)
        if case == NEW:
            continue
        run = work / f"{case}.qwenvl" / f"{case}.run"
        run.parent.mkdir(exist_ok=True)
        if not (run / "run.sqlite").exists():
            ask(slide, run, engine)
        accepted, rejected, drawn = review(run, truth)
        print(f"{case}: {accepted} accepted, {rejected} rejected, {drawn} drawn", flush=True)
        runs[case] = run
    return runs


def train_headless(work: Path, steps: int, replay: float | None) -> Path:
    """The same training without a window, to try a recipe; the folder of the training."""
    import subprocess

    from finetune.presets import SMALL
    from napari_qwenvl.train.gather import HELD_OUT, TRAIN
    from napari_qwenvl.train.recipe import Fields, tile_of, write_training
    from napari_qwenvl.train.sources import RunSource

    runs = prepare(work)
    sources = [RunSource(run) for run in runs.values()]
    tile, limits = tile_of(sources, "embedded")
    fields = Fields(LABEL, "embedded", SMALL[0], steps=steps, measured=HELD_OUT_TILES, replay=replay)
    parts = {case: HELD_OUT if case == MEASURING else TRAIN for case in runs}
    folder = work / f"try-{steps}-{'preset' if replay is None else replay}"
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        write_training(fields, sources, tile, limits, folder, searched=True, parts=parts)
    subprocess.run([sys.executable, "-m", "qwenvl", "finetune", str(recipe)], check=True)
    return folder


def main(work: Path, steps: int, replay: float | None) -> None:
    """Review, train, look, use."""
    import napari

    from napari_qwenvl.ask.panel import AskPanel
    from napari_qwenvl.results.panel import ResultsPanel
    from napari_qwenvl.train.gather import HELD_OUT
    from napari_qwenvl.train.panel import TrainPanel
    from napari_qwenvl.train.sources import RunSource

    runs = prepare(work)
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    window = viewer.window._qt_window
    window.resize(*SIZE)
    viewer.open(work / f"{TEACHING[0]}.tiff", plugin="napari-qwenvl")
    viewer.canvas.overlays.scale_bar.visible = True
    panels = {"Ask Qwen-VL": AskPanel(viewer), "Results": ResultsPanel(viewer), "Train": TrainPanel(viewer)}
    docks = {
        name: viewer.window.add_dock_widget(panel, name=name, area="right", tabify=bool(number))
        for number, (name, panel) in enumerate(panels.items())
    }
    asking, results, panel = panels.values()
    assert isinstance(asking, AskPanel)
    assert isinstance(results, ResultsPanel)
    assert isinstance(panel, TrainPanel)
    session = asking.running.session

    def front(name: str) -> None:
        pump(0.2)
        docks[name].raise_()
        window.resize(*SIZE)
        pump(0.5)

    session.open_run(runs[TEACHING[0]])
    wait(lambda: session.overlay is not None and len(session.overlay) > 0)
    wait(lambda: results.model.rowCount() > 0)
    front("Results")
    viewer.reset_view()
    viewer.scene.camera.zoom *= 1.5
    results.states.setCurrentText("edited")
    shot(viewer, "train-review")

    front("Train")
    for run in runs.values():
        panel.labels.add_source(RunSource(run))
    panel.labels.searched.setChecked(True)
    wait(lambda: len(panel.labels.gathered.rows) == 3)
    panel.labels.parts = {case: HELD_OUT if case == MEASURING else "train" for case in runs}
    panel.labels.gather()
    pump(2)
    shot(viewer, "train-labels")

    panel.tabs.setCurrentWidget(panel.run)
    panel.run.steps.setValue(steps)
    panel.run.measured.setValue(HELD_OUT_TILES)
    wait(lambda: panel.run.preset.count() > 0)
    if replay is not None:
        panel.run.replay.setValue(round(100 * replay))
    wait(panel.run.start.isEnabled)
    done = work / f"{TEACHING[0]}.qwenvl" / "trainings" / LABEL
    if not (done / "run" / "adapter").is_dir():
        if done.is_dir():
            panel.run.open_training(done)  # it was stopped: the same button goes on
        else:
            panel.run.name.setText(LABEL)
        began = time.monotonic()
        panel.run.start.click()
        wait(lambda: panel.training.step is not None and panel.training.step["step"] > 0.7 * steps, 3600)
        shot(viewer, "train-curves")
        wait(lambda: not panel.training.busy, 3600)
        print(f"training and measuring: {(time.monotonic() - began) / 60:.1f} minutes")
    panel.run.open_training(done)
    panel.tabs.setCurrentWidget(panel.result)
    panel.result.compare.click()
    pump(0.5)
    shot(viewer, "train-result")
    print_result(panel)

    panel.result.use.click()
    panel.result._dock.close()
    session.close_run()
    viewer.layers.clear()
    viewer.open(work / f"{NEW}.tiff", plugin="napari-qwenvl")
    viewer.reset_view()
    front("Ask Qwen-VL")
    asking.make_plan()
    wait(lambda: asking.plan is not None and asking.cost is not None)
    asking.run.click()
    wait(lambda: asking.running.busy)
    wait(lambda: not asking.running.busy)
    wait(lambda: session.overlay is not None and len(session.overlay) > 0)
    pump(2)
    shot(viewer, "train-use")
    print_new(session, np.load(work / f"{NEW}.npy"))

    front("Train")
    panel.tabs.setCurrentWidget(panel.queue)
    panel.queue.refresh()
    wait(lambda: panel.queue.table.rowCount() > 0)
    panel.queue.on_next()
    pump(1)
    shot(viewer, "train-next")
    asking.running.close()
    viewer.close()


def print_result(panel: Any) -> None:
    """What was measured, as it stands in the adapter's card."""
    facts = panel.result.card.facts
    for name in ("base", "adapter"):
        found = facts["metrics"][name]
        print(f"{name}: " + ", ".join(f"{key} {found[key]}" for key in ("f1", "precision", "recall", "ap", "tiles")))
    print(f"interval of F1: {facts['metrics']['adapter']['f1_interval']}; forgetting: {facts['forgetting']}")


def print_new(session: Any, truth: NDArray[np.float64]) -> None:
    """F1 on the slide that nobody has reviewed."""
    from finetune.evaluation.metrics import iou_matrix

    found = session.overlay.objects.box
    overlaps = iou_matrix(found, truth)
    hits = 0
    while overlaps.size and overlaps.max() >= 0.5:
        row, column = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        overlaps[row, :], overlaps[:, column] = 0, 0
        hits += 1
    print(f"{NEW}: {len(found)} found, {len(truth)} planted, F1 {2 * hits / (len(found) + len(truth)):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--replay", type=float, help="share, in place of that of the preset; without a window")
    parser.add_argument("--no-window", action="store_true", help="train and measure only, without pictures")
    options = parser.parse_args()
    place = options.work or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    os.environ["NAPARI_CONFIG"] = str(place / "napari.yaml")
    os.environ.setdefault("QWENVL_REVIEWER", "reviewer")
    if options.no_window:
        train_headless(place, options.steps, options.replay)
    else:
        main(place, options.steps, options.replay)
    sys.exit(0)
