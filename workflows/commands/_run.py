"""From flags to a finished run: engine, request, progress, what is printed at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qwenvl.interrupt import stop_on_interrupt
from workflows.commands._guard import USAGE, stop
from workflows.commands.options import RunOptions

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from qwenvl.request import Request, Where
    from workflows.estimate import RunEstimate
    from workflows.slide_run import RunResult

RECOMMENDED = ("mpp", "tile_size", "overlap", "max_objects")


def load_engine(options: RunOptions) -> tuple[Engine, Mapping[str, Any]]:
    """The engine of `--model` or `--server`, and the settings its checkpoint recommends."""
    if options.server is not None:
        if options.adapter is not None:
            stop(
                "--adapter is for models in this process; a server loads its own and names it with -m.", USAGE
            )
        if options.quantise is not None:
            stop("--quantise is for models in this process; start the server with a quantised model.", USAGE)
        from qwenvl.engines.remote import RemoteEngine

        model = None if options.model == "embedded" else options.model
        return RemoteEngine(
            options.server, model=model, family=options.family, concurrency=options.concurrency
        ), {}
    from qwenvl.engines.local import LocalEngine

    engine = LocalEngine.load(
        options.model, device=options.device, dtype=options.dtype, adapter=options.adapter,
        quantise=options.quantise,
    )  # fmt: skip
    if options.adapter is not None and options.mpp is None and not options.native:
        _require_scale(options.adapter)
    return engine, engine.checkpoint.recommended


def check_slide(slide: Path, options: RunOptions, **question: Any) -> None:
    """Stop with all that is missing or wrong about a slide, before a model is loaded."""
    from qwenvl.recommended import factor_of, recommended_of
    from workflows.needed import require_all

    local = options.server is None
    recommended = recommended_of(options.model, options.adapter) if local else None
    require_all(
        slide,
        mpp=options.slide_mpp,
        options=options.slide_options,
        request=recommended_request(options, recommended or {}, **question),
        mask=options.mask,
        frame=options.frame,
        factor=None if recommended is None else factor_of(options.model),
    )


def _require_scale(adapter: Path) -> None:
    """Stop where an adapter was trained at a scale in px, which no slide can be brought to by its um."""
    from qwenvl.adapter import read_card

    card = read_card(adapter)
    factor = None if card is None else card.downsample
    if factor is not None and factor != 1:
        stop(
            f"{adapter} was trained on tiles of {factor:g} level-0 px per px, of slides without a stated scale. Give "
            f"that scale: --slide-mpp 1 --mpp {factor:g} (or --native, or --mpp in um/px of your own).",
            USAGE,
        )


def recommended_request(options: RunOptions, recommended: Mapping[str, Any], **question: Any) -> Request:
    """A request from flags, else the checkpoint's recommendation, else the defaults of `Request`."""
    from qwenvl.request import SPLIT_TASKS, Generation, Request

    if options.native and options.mpp is not None:
        stop(
            f"--native takes the slide's own pixels and --mpp {options.mpp} another scale: leave one out.",
            USAGE,
        )
    fields: dict[str, Any] = {}
    for name in RECOMMENDED:
        value = getattr(options, name)
        value = recommended.get(name) if value is None else value
        if value is not None and not (name == "mpp" and options.native):
            fields[name] = value
    generation: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
    }
    longest = options.max_new_tokens or recommended.get("max_new_tokens")
    if longest is not None:
        generation["max_new_tokens"] = longest
    fields |= {"system_prompt": options.system_prompt, "min_tissue": options.min_tissue}
    fields |= {"token_budget": options.token_budget, "where": _where(options)}
    fields |= {} if options.colour is None else {"colour": options.colour}
    for name in ("split", "crowded"):
        given = getattr(options, name)
        advised = recommended.get(name) if question["task"] in SPLIT_TASKS else None
        if given is not None or advised is not None:
            fields[name] = advised if given is None else given
    return Request(**question, **fields, generation=Generation(**generation))


def _where(options: RunOptions) -> Where | None:
    """The question about coarse tiles, None where no flag asks for one."""
    from qwenvl.request import Where

    given = {
        name.removeprefix("where_"): getattr(options, name)
        for name in ("where_mpp", "where_tile_size", "where_overlap", "where_threshold")
        if getattr(options, name) is not None
    }
    if options.where is None:
        if given or options.where_labels is not None:
            stop(
                "Coarse tiles need a question: --where 'Is there tumor?', or a class of --where-labels.",
                USAGE,
            )
        return None
    if options.where_labels is None:
        return Where(question=options.where, **given)
    labels, wanted = (split_labels(words) for words in (options.where_labels, options.where))
    return Where(labels=labels, wanted=wanted, **given)


def split_labels(words: str) -> tuple[str, ...]:
    """'a, b' as ('a', 'b')."""
    return tuple(label.strip() for label in words.split(",") if label.strip())


def print_estimate(slide: Path, estimate: RunEstimate) -> None:
    """What a run is going to take, a line per fact."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    for line in estimate.lines():
        console.print(escape(f"{slide.name}: {line}"), soft_wrap=True)


def _say_doubts(engine: Engine, request: Request) -> None:
    """Warn before the work where the tiles are not such as the model was trained on; the report says it again."""
    if engine.info.trained is not None:
        for doubt in engine.info.trained.doubts((request.tile_size,) * 2, request.mpp):
            typer.echo(f"warning: {doubt}", err=True)


def dry_run(slide: Path, request: Request, engine: Engine, options: RunOptions) -> None:
    """Print what a run would take; nothing is asked or written."""
    from workflows.slide_run import plan_run

    _say_doubts(engine, request)
    estimate = plan_run(
        slide,
        request,
        engine,
        slide_mpp=options.slide_mpp,
        slide_options=options.slide_options,
        mask=options.mask,
        frame=options.frame,
    )
    print_estimate(slide, estimate)


def run_request(slide: Path, request: Request, engine: Engine, options: RunOptions, out: Path) -> RunResult:
    """Run a request with a progress bar. Ctrl-C stops it after the batch at hand."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from workflows.slide_run import run_slide

    _say_doubts(engine, request)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tiles"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[found]}"),
    )  # fmt: skip
    with stop_on_interrupt() as cancel, Progress(*columns) as bar:
        lines: dict[str, Any] = {}

        def show(state: Any) -> None:
            name = f"{slide.name} {state.stage}".rstrip()
            if state.stage not in lines:
                lines[state.stage] = bar.add_task(name, total=None, rate="", found="")
                if state.eta and state.done < state.total:
                    left = _duration(state.eta)
                    bar.console.print(
                        f"{name}: about {left} to go, after {state.done:,} of {state.total:,} tiles",
                        soft_wrap=True,
                    )
            found = [f"{state.objects} objects"] if state.objects else []
            found += [f"{state.splits} split"] if state.splits else []
            found += [f"{state.failed} failed"] if state.failed else []
            bar.update(
                lines[state.stage], total=state.total, completed=state.done, rate=f"{state.rate:.1f}/s",
                found=", ".join(found),
            )  # fmt: skip

        return run_slide(
            slide,
            request,
            engine,
            out,
            slide_mpp=options.slide_mpp,
            slide_options=options.slide_options,
            mask=options.mask,
            frame=options.frame,
            overwrite=options.overwrite,
            limit=options.limit,
            progress=show,
            cancel=cancel,
            command=shlex.join(["qwenvl", *sys.argv[1:]]),
            announce=lambda estimate: print_estimate(slide, estimate),
            quality=options.quality(),
        )


def _duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
