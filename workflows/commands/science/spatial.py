"""`qwenvl spatial`: expression measured on sections, taught to a model, predicted on others, and compared."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qwenvl.interrupt import stop_on_interrupt
from workflows.commands.shared.guard import INCOMPLETE, INTERRUPTED, USAGE, guarded, stop
from workflows.commands.shared.options import takes_model_options
from workflows.commands.shared.progress import asking_bar
from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflows.science.spatial.job import SpatialEvaluation
    from workflows.science.spatial.sections.genes import ExpressionTarget
    from workflows.science.spatial.sections.listing import SectionEntry

group = typer.Typer(
    no_args_is_help=True, help="Spatial transcriptomics: gene expression from H&E, learned and predicted."
)

_SECTION = "Section"
_WHAT = "What is asked"
Counts = Annotated[
    Path | None,
    typer.Argument(
        metavar="SECTION",
        help="Space Ranger 'outs' folder, table of counts (.tsv, .tsv.gz), .h5ad, or SpatialData .zarr.",
        show_default=False,
    ),
]
Image = Annotated[
    Path, typer.Option("-i", "--image", help="The slide that the spots lie on.", rich_help_panel=_SECTION)
]
Spots = Annotated[
    Path | None,
    typer.Option(help="Table of spots (x, y, pixel_x, pixel_y) of a table of counts.", rich_help_panel=_SECTION),
]
Name = Annotated[str | None, typer.Option(help="Name of the section.", rich_help_panel=_SECTION)]
PitchUm = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="um between neighbouring spots, where the files do not tell (200 on ST arrays).",
        rich_help_panel=_SECTION,
    ),
]
BinUm = Annotated[int, typer.Option(help="Bins taken from Visium HD.", rich_help_panel=_SECTION)]
SwapXY = Annotated[bool, typer.Option("--swap-xy", help="Exchange x and y of the spots.", rich_help_panel=_SECTION)]
SlideMpp = Annotated[
    float | None, typer.Option(min=0.001, help="um/px of the slide, where it does not say.", rich_help_panel=_SECTION)
]
Genes = Annotated[
    str | None,
    typer.Option(
        "-g",
        "--genes",
        metavar="A,B,...",
        help="Genes, or signatures as 'T cell=CD3D+CD3E+CD8A'.",
        rich_help_panel=_WHAT,
    ),
]
MostVariable = Annotated[
    int | None, typer.Option(min=1, help="Take the N marker genes that vary most instead.", rich_help_panel=_WHAT)
]
Mpp = Annotated[float, typer.Option(min=0.01, help="um/px of the tile around a spot.", rich_help_panel=_WHAT)]
TileSize = Annotated[int, typer.Option(min=32, help="Side of a tile in px.", rich_help_panel=_WHAT)]
RegionMpp = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        help="um/px of tiles in which regions are located.",
        show_default="six spots across",
        rich_help_panel=_WHAT,
    ),
]
RegionLevel = Annotated[
    str, typer.Option(metavar="median|otsu|q0.75", help="What is high enough for a region.", rich_help_panel=_WHAT)
]
Least = Annotated[int, typer.Option(min=1, help="Fewest spots of a region.", rich_help_panel=_WHAT)]
Rounds = Annotated[int, typer.Option(min=0, help="Rounds of smoothing over neighbours.", rich_help_panel=_WHAT)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@group.command()
@guarded
def show(
    section: Counts,
    image: Image,
    spots: Spots = None,
    name: Name = None,
    genes: Genes = None,
    pitch_um: PitchUm = None,
    bin_um: BinUm = 16,
    swap_xy: SwapXY = False,
    slide_mpp: SlideMpp = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Picture of the genes over the slide, .png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a section holds, and check that its spots lie on the slide."""
    from workflows.export._file import new_path
    from workflows.science.spatial.result import draw_measured
    from workflows.science.spatial.sections.genes import find_genes, most_variable, parse_targets
    from workflows.science.spatial.sections.listing import opened

    entry = _entry(section, image, spots, name, pitch_um, bin_um, swap_xy, slide_mpp)
    with opened(entry) as found:
        facts = found.section.facts() | {"fit": found.fit.facts()}
        chosen = find_genes(found.section, parse_targets(_words(genes))) if genes else ()
        if not chosen:
            chosen = most_variable([found.section], 4, detected=0.1)
        facts["genes shown"] = [str(target) for target in chosen]
        if out is not None:
            with new_path(out, (".png",), overwrite=False) as partial:
                draw_measured(found.section, found.slide, chosen, partial)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    fit = found.fit
    scale = "unknown" if facts["um_per_px"] is None else f"{facts['um_per_px']:.4g} um/px ({facts['um_source']})"
    _rows(
        ("section", f"{facts['name']} ({facts['kind']})"),
        ("spots x genes", f"{facts['spots']:,} x {facts['genes']:,}"),
        ("left out", ", ".join(f"{n:,} {why}" for why, n in facts["dropped"].items()) or "none"),
        ("distance of spots", f"{facts['pitch_px0']:.1f} px"),
        ("scale", scale),
        ("on the slide's tissue", f"{fit.on_tissue:.1%} of the spots"),
        ("varies most" if not genes else "asked for", ", ".join(facts["genes shown"])),
        *((("picture", str(out)),) if out is not None else ()),
    )


@group.command()
@guarded
def samples(
    sections: Annotated[
        Path,
        typer.Argument(
            metavar="SECTIONS.csv",
            help="A row per section: counts, image; and name, spots, patient, split (train, held_out), pitch_um, "
            "swap_xy.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the samples.")],
    genes: Genes = None,
    most_variable: MostVariable = None,
    task: Annotated[
        str, typer.Option(metavar="spots|regions|both", help="Yes/no around spots, or boxes of regions.")
    ] = "both",
    model: Annotated[
        str, typer.Option("-m", "--model", help="Checkpoint whose words and coordinates the answers are in.")
    ] = "embedded",
    threshold: Annotated[
        str, typer.Option(metavar="median|otsu|q0.75", help="From what on a spot is high on its slide.")
    ] = "median",
    margin: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of spots nearest to the threshold that are left out.")
    ] = 0.3,
    region_level: RegionLevel = "q0.75",
    mpp: Mpp = 0.5,
    tile_size: TileSize = 256,
    region_mpp: RegionMpp = None,
    least: Least = 3,
    rounds: Rounds = 1,
    most_spots: Annotated[int | None, typer.Option(min=1, help="At most so many spots of a section.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the spots drawn by --most-spots.")] = 0,
    split_by: Annotated[
        str, typer.Option(metavar="patient|section", help="What must not be on both sides of the split.")
    ] = "patient",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Set samples found there aside.")] = False,
) -> None:
    """Write tiles with questions and measured answers, for `qwenvl finetune`."""
    from qwenvl.checkpoints.checkpoint_metadata import describe_checkpoint
    from qwenvl.checkpoints.loading import find_checkpoint
    from qwenvl.writing import Writer
    from workflows.science.spatial.regions import ExpressionLevel
    from workflows.science.spatial.samples import CONVERSATIONS, HELD_OUT_FILE, SampleSettings, write_samples
    from workflows.science.spatial.sections.listing import TRAIN, read_sections

    tasks: dict[str, tuple[Literal["spots", "regions"], ...]] = {
        "spots": ("spots",),
        "regions": ("regions",),
        "both": ("spots", "regions"),
    }
    if task not in tasks or split_by not in ("patient", "section"):
        stop("--task is spots, regions or both, and --split-by patient or section.", USAGE)
    entries = read_sections(sections)
    targets = _targets(genes, most_variable, [entry for entry in entries if entry.split == TRAIN])
    settings = SampleSettings(
        level=ExpressionLevel(threshold),
        margin=margin,
        region_level=ExpressionLevel(region_level),
        least=least,
        rounds=rounds,
        tasks=tasks[task],
        mpp=mpp,
        tile_size=tile_size,
        region_mpp=region_mpp,
        most_spots=most_spots,
        seed=seed,
        split_by="patient" if split_by == "patient" else "section",
    )
    description = describe_checkpoint(find_checkpoint(model), name=model)
    facts = write_samples(
        entries,
        targets,
        out,
        Writer.of(description),
        description.processor,
        settings,
        overwrite=overwrite,
        command=_command(),
        progress=lambda text: typer.echo(text, err=True),
    )
    _rows(
        ("genes", ", ".join(facts["targets"])),
        *(
            (
                s["name"],
                f"{s['split']}: {s['counts']['tiles']:,} tiles, {s['counts']['yes']:,} yes, "
                f"{s['counts']['no']:,} no, {s['counts']['boxes']:,} boxes, {s['counts']['empty']:,} without a region",
            )
            for s in facts["sections"]
        ),
        ("to learn from", str(out / CONVERSATIONS)),
        *((("held out", str(out / HELD_OUT_FILE)),) if facts["rows"]["held_out"] else ()),
    )
    for note in facts["notes"]:
        typer.secho(f"note: {note}", fg=typer.colors.YELLOW)


@group.command()
@takes_model_options
@guarded
def predict(
    image: Image,
    section: Counts = None,
    genes: Genes = None,
    spots: Spots = None,
    name: Name = None,
    pitch_um: PitchUm = None,
    bin_um: BinUm = 16,
    swap_xy: SwapXY = False,
    slide_mpp: SlideMpp = None,
    mpp: Mpp = 0.5,
    tile_size: TileSize = 256,
    region_mpp: RegionMpp = None,
    region_level: RegionLevel = "q0.75",
    least: Least = 3,
    rounds: Rounds = 1,
    locate: Annotated[
        bool, typer.Option("--locate", help="Ask the model for boxes of regions too, tile by tile.")
    ] = False,
    *,
    run: RunOptions,
) -> None:
    """Ask where genes are high: AnnData, boxes and maps. Without SECTION, at places laid over the tissue."""
    from workflows.run.options import load_engine
    from workflows.science.spatial.job import PredictionSettings, predict_section
    from workflows.science.spatial.sections.genes import parse_targets
    from workflows.science.spatial.sections.listing import opened

    if not genes:
        stop("Name the genes that the adapter was taught: -g ERBB2,CD74.", USAGE)
    targets = parse_targets(_words(genes))
    entry = _entry(section, image, spots, name, pitch_um, bin_um, swap_xy, slide_mpp)
    out = run.out or image.with_name(f"{name or image.stem}.spatial")
    settings = PredictionSettings(mpp, tile_size, region_mpp, region_level, least, rounds, locate)
    if run.dry_run:
        with opened(entry) as found:
            typer.echo(f"{found.section.counts.n_obs:,} spots x {len(targets)} questions, into {out}")
        return
    engine, _ = load_engine(run)
    with stop_on_interrupt() as cancel, asking_bar(image.name, "spots") as show:
        result = predict_section(
            entry,
            targets,
            engine,
            out,
            settings,
            overwrite=run.overwrite,
            cancel=cancel,
            command=_command(),
            progress=show,
        )
    facts = result.facts
    _rows(
        ("section", f"{facts['section']['name']}: {facts['section']['spots']:,} spots"),
        ("model", str(facts["model"]["model"]) + (f" + {run.adapter}" if run.adapter else "")),
        ("answers", ", ".join(f"{n:,} {status}" for status, n in facts["statuses"].items())),
        ("regions", ", ".join(f"{n} high {gene}" for gene, n in facts["boxes"].items())),
        *((kind, str(out / file)) for kind, file in _written(out)),
    )
    if facts["model"]["warning"]:
        typer.secho(f"note: model: {facts['model']['warning']}", fg=typer.colors.YELLOW)
    if result.cancelled:
        raise typer.Exit(INTERRUPTED)
    if not result.complete:
        raise typer.Exit(INCOMPLETE)


@group.command()
@guarded
def evaluate(
    prediction: Annotated[Path, typer.Argument(metavar="PREDICTION", help="Folder of `qwenvl spatial predict`.")],
    train: Annotated[
        Path | None,
        typer.Option(metavar="SECTIONS.csv", help="Compare with a ridge regression learned on its training rows."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffled controls.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Hold a prediction against what was measured: correlation, AUROC, boxes; beside ridge and shuffled spots."""
    from workflows.science.spatial.job import evaluate_prediction
    from workflows.science.spatial.sections.listing import TRAIN, read_sections

    entries = [] if train is None else [each for each in read_sections(train) if each.split == TRAIN]
    result = evaluate_prediction(prediction, entries, seed=seed)
    if as_json:
        typer.echo(json.dumps(result.facts(), indent=2))
        return
    print_evaluation(result)


def print_evaluation(result: SpatialEvaluation) -> None:
    """The table of an evaluation: a line per gene for the model, then the means of everything compared."""
    model = result.scores[0]
    typer.echo(f"{result.section}, held out\n")
    typer.echo(f"{'gene':14} {'Pearson':>8} {'Spearman':>9} {'AUROC':>7} {'box F1':>7}")
    for t in model.targets:
        typer.echo(f"{t.name[:14]:14} {t.pearson:8.3f} {t.spearman:9.3f} {t.auroc:7.3f} {t.box_f1:7.2f}")
    typer.echo(f"\n{'mean over genes':16} {'Pearson':>8} {'Spearman':>9} {'AUROC':>7} {'box F1':>7}")
    for score in result.scores:
        values = [score.mean(field) for field in ("pearson", "spearman", "auroc", "box_f1")]
        typer.echo(f"{score.method:16} {values[0]:8.3f} {values[1]:9.3f} {values[2]:7.3f} {values[3]:7.2f}")
    controls = {"model, shuffled": result.shuffled, "ridge, shuffled": result.ridge_shuffled}
    for method, control in controls.items():
        if control is not None:
            typer.echo(f"{method:16} {control.mean:8.3f}   (95th percentile {control.upper:.3f})")
    if result.located:
        known = [f1 for f1 in result.located.values() if f1 == f1]
        mean = sum(known) / len(known) if known else float("nan")
        typer.echo(f"boxes the model drew itself: mean F1 {mean:.2f}")


def _entry(
    counts: Path | None,
    image: Path,
    spots: Path | None,
    name: str | None,
    pitch_um: float | None,
    bin_um: int,
    swap_xy: bool,
    slide_mpp: float | None,
) -> SectionEntry:
    from workflows.science.spatial.sections.listing import SectionEntry

    return SectionEntry(
        counts, image, name, spots, pitch_um=pitch_um, bin_um=bin_um, swap_xy=swap_xy, slide_mpp=slide_mpp
    )


def _targets(genes: str | None, number: int | None, train: Sequence[SectionEntry]) -> tuple[ExpressionTarget, ...]:
    from workflows.science.spatial.sections.genes import most_variable, parse_targets, without_empty
    from workflows.science.spatial.sections.reading import read_section

    if (genes is None) == (number is None):
        stop("Say which genes: --genes ERBB2,CD74 or --most-variable 20.", USAGE)
    if genes is not None:
        return parse_targets(_words(genes))
    assert number is not None
    found = [
        without_empty(read_section(e.counts, name=e.name, spots=e.spots, pitch_um=e.pitch_um, bin_um=e.bin_um))
        for e in train
        if e.counts is not None
    ]
    return most_variable(found, number)


def _words(genes: str) -> list[str]:
    return [word.strip() for word in genes.split(",") if word.strip()]


def _written(out: Path) -> list[tuple[str, str]]:
    from workflows.science.spatial.result import MAPS, REGIONS, TABLE

    kinds = {"table for scanpy": TABLE, "boxes for QuPath": REGIONS, "maps": MAPS}
    return [(kind, file) for kind, file in kinds.items() if (out / file).is_file()]


def _command() -> str:
    return shlex.join(["qwenvl", *sys.argv[1:]])


def _rows(*rows: tuple[str, object]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for kind, text in rows:
        table.add_row(escape(kind), escape(str(text)))
    Console().print(table)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="spatial", rich_help_panel="Science")
