"""`qwenvl demo`: the main job on a synthetic slide, held against the truth that was planted in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workflows.commands.shared.guard import guarded
from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from qwenvl.request import Request
    from workflows.review.compare import TruthAgreement
    from workflows.run.slide import RunResult

TUMOR_QUESTION = "Is there tumor in this image?"


@guarded
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of slide, runs and exports.")] = Path("demo-run"),
    seed: Annotated[int, typer.Option(min=0, help="Another slide.")] = 7,
    model: Annotated[str, typer.Option("-m", "--model", help="'embedded', a folder, or a hub name.")] = "embedded",
) -> None:
    """Write a synthetic slide, find its nuclei, map its tumor, and compare with the truth."""
    from workflows.export.geojson import export_geojson
    from workflows.run.options import load_engine, recommended_request
    from wsi.synthetic import make_demo_slide

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"slide-{seed}.svs"
    if not path.exists():
        typer.echo(f"Writing a synthetic slide: {path}")
        make_demo_slide(path, seed)
    truth = path.with_suffix(".truth.geojson")
    options = RunOptions(model=model)
    engine, recommended = load_engine(options)

    typer.echo("Finding nuclei")
    request = recommended_request(options, recommended, task="detect", labels=("nucleus",))
    boxes = _run(path, request, engine, options, out / "nuclei")
    exported = out / "nuclei.geojson"
    export_geojson(boxes.folder, exported, overwrite=True)

    typer.echo("Mapping tumor")
    request = recommended_request(options, recommended, task="score", prompt=TUMOR_QUESTION)
    heatmap = _run(path, request, engine, options, out / "tumor")

    _print(boxes, heatmap, _agreement(boxes, truth), _tumor_auroc(heatmap, path), exported)


def _run(slide: Path, request: Request, engine: Engine, options: RunOptions, out: Path) -> RunResult:
    """Run, or go on; a demonstration of an earlier version or of another model is set aside."""
    from workflows.commands.shared.run import run_request
    from workflows.errors import RunMismatchError

    try:
        return run_request(slide, request, engine, options, out)
    except RunMismatchError:
        return run_request(slide, request, engine, replace(options, overwrite=True), out)


def _agreement(run: RunResult, truth: Path) -> TruthAgreement:
    from workflows.review.compare import compare_boxes, read_truth_boxes, run_boxes

    boxes, labels = run_boxes(run.folder)
    true, true_labels = read_truth_boxes(truth)
    return compare_boxes(boxes, labels, true, true_labels)["all"]


def _tumor_auroc(run: RunResult, slide: Path) -> float:
    """AUROC of the tile scores; a tile is positive where planted tumor covers at least a quarter of it."""
    import numpy as np
    from PIL import Image

    from qwenvl.scoring.agreement import auroc
    from workflows.store.run_store import RunStore
    from wsi.synthetic import REGIONS

    regions = np.asarray(Image.open(slide.with_suffix(".regions.png")))
    scores, planted = [], []
    with RunStore.open(run.folder) as store:
        down = store.manifest.slide.width / regions.shape[1]
        tiles = store.tiles()
        for stored in store.iter_answers():
            if (score := stored.answer.scores.get("yes")) is None:
                continue
            tile = tiles[np.searchsorted(tiles["tile"], stored.tile)]
            x, y, w, h = (round(float(tile[name]) / down) for name in ("x0", "y0", "width0", "height0"))
            scores.append(score)
            planted.append((regions[y : y + h, x : x + w] == REGIONS.index("tumor")).mean() >= 0.25)
    return auroc(np.asarray(scores, float), np.asarray(planted, bool))


def _print(boxes: RunResult, heatmap: RunResult, agreement: TruthAgreement, area: float, exported: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"\nNuclei: {agreement.predicted} boxes for {agreement.true} planted nuclei, "
        f"precision {agreement.precision:.2f}, recall {agreement.recall:.2f}, F1 {agreement.f1:.2f} at IoU 0.5"
    )
    console.print(f"Tumor heatmap: AUROC {area:.3f} against the planted region\n")
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("overview with boxes", str(boxes.folder / "overview.png"))
    table.add_row("report", str(boxes.folder / "report.json"))
    table.add_row("GeoJSON for QuPath", str(exported))
    table.add_row("tumor heatmap", str(heatmap.folder / "overview.png"))
    table.add_row("its report", str(heatmap.folder / "report.json"))
    console.print(table)
    console.print("\nThe embedded model is for trying things out. It is not for diagnosis.")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(rich_help_panel="Set-up")(demo)
