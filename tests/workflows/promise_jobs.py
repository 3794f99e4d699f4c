"""Every workflow that asks, small: what `test_runner_promises` runs, kills and repeats, and what it compares.

As a program it runs each job undisturbed and then once for every moment it is killed in, each in a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path += [str(Path(__file__).parent), *(str(Path(__file__).parent / name) for name in ("documents", "timelapse"))]

from film_helpers import spots_film, write_stack
from run_helpers import MemorySlide, request_of

from qwenvl.answer import Answer, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request, Task
from qwenvl.subject import as_subject
from workflows.report.report import Report
from workflows.run.journal import Journal
from workflows.run.slide import run_slide

DIED = 77
MOMENTS = ("first batch", "commit", "report", "writing", "end")
"""Before the first batch; between answers and their commit; between the last commit and the report; while the report
is put in place; after everything."""


class PromiseEngine(FakeEngine):
    """Answers every task from the pixels, writes down what it was asked, and does what it is told to before."""

    def __init__(self, log: Path, trouble: Callable[[list[int]], None] = lambda marks: None) -> None:
        super().__init__(boxes=3, batch=4)
        self.info = replace(self.info, family="Qwen3-VL", device="server")
        self.log, self.trouble = log, trouble

    def answer_many(self, pictures: Sequence[Any], requests: Sequence[Request]) -> list[list[Answer]]:
        marks = [mark_of(picture, request) for request in requests for picture in pictures]
        self.trouble(marks)
        with self.log.open("a") as log:
            log.writelines(f"{mark}\n" for mark in marks)
        return [super(PromiseEngine, self).answer(pictures, request) for request in requests]

    def answer(self, pictures: Sequence[Any], request: Request) -> list[Answer]:
        return self.answer_many(pictures, [request])[0]

    def _answer(self, subject: Any, request: Request) -> Answer:
        answer = super()._answer(subject, request)
        answer = replace(answer, raw=answer.raw + "." * 5000)  # more than a page of the journal
        if request.task is not Task.EXTRACT or request.output_schema is None:
            return answer
        if request.output_schema["type"] == "array":
            return replace(answer, value=[])
        names = request.output_schema["properties"]
        value = {name: {"text": str(zlib.crc32(subject.pictures[0].pixels) % 90), "unit": None} for name in names}
        return replace(answer, value=value, objects=tuple(TileObject(n, box=(1, 2, 9, 8), score=0.5) for n in names))


def mark_of(picture: Any, request: Request) -> int:
    """What tells a question from others."""
    code = zlib.crc32(request.hash.encode())
    for each in as_subject(picture, 0).pictures:
        code = zlib.crc32(np.ascontiguousarray(each.pixels), code)
    return code


@dataclass(frozen=True)
class Job:
    """A workflow on small inputs.

    Attributes
    ----------
    run : callable
        Of the folder of the inputs, the output folder and an engine.
    result : callable
        What the report in an output folder says, without times.
    report : str
        Name of the file that is put in place last.
    load : (str, str) or None
        Module and name of what reads an item, to plant a fault in.
    journals : str
        Pattern of the journals in the output folder.
    """

    run: Callable[[Path, Path, FakeEngine], object]
    result: Callable[[Path], Any]
    report: str
    load: tuple[str, str] | None
    journals: str = "run.sqlite"


def without(document: Any, *names: str) -> Any:
    """A JSON value without some keys, wherever they are."""
    if isinstance(document, dict):
        return {key: without(value, *names) for key, value in document.items() if key not in names}
    return [without(each, *names) for each in document] if isinstance(document, list) else document


def _json(name: str) -> Callable[[Path], Any]:
    return lambda out: without(json.loads((out / name).read_text()), "created", "seconds", "command")


# ---------------------------------------------------------------------- the workflows


def slide(inputs: Path, out: Path, engine: FakeEngine) -> None:
    run_slide(MemorySlide(700, 500), request_of(Task.DETECT), engine, out, mask="all", overview=False)


def spots(inputs: Path, out: Path, engine: FakeEngine) -> None:
    from workflows.science.spatial.job import PredictionSettings, predict_section
    from workflows.science.spatial.sections.genes import parse_targets
    from workflows.science.spatial.sections.listing import SectionEntry

    entry = SectionEntry(None, inputs / "section.png", "s", pitch_um=130.0, slide_mpp=1.0)
    settings = PredictionSettings(mpp=2.0, tile_size=96)
    predict_section(entry, parse_targets(["DARK1", "LIGHT1"]), engine, out, settings)


def frames(inputs: Path, out: Path, engine: FakeEngine) -> None:
    from workflows.science.timelapse.run import ask_frames, choose_frames
    from workflows.science.timelapse.stack import open_stack

    stack = open_stack(inputs / "film.ome.tif", interval="1min")
    request = Request(task="detect", labels=("spot",), tile_size=96, overlap=0)
    ask_frames(stack, engine, request, choose_frames(stack, engine, side=96, budget=None), out)


def photographs(inputs: Path, out: Path, engine: FakeEngine) -> None:
    from workflows.science.instruments import Asking, Sheet, read_photographs

    regions = {"mass": {"region": [0, 0, 32, 48]}, "level": {"region": [32, 0, 64, 48]}}
    read_photographs([inputs / "photographs"], Asking(Sheet.of({"fields": regions})), engine, out)


def pages(inputs: Path, out: Path, engine: FakeEngine) -> None:
    from workflows.science.papers.pages.document import open_document
    from workflows.science.papers.reading import ReadSettings, read_paper
    from workflows.science.papers.schema import RecordSchema

    schema = RecordSchema.read(inputs / "schema.json", ("gene",))
    with open_document(inputs / "paper.pdf") as document:
        read_paper(document, schema, engine, out, ReadSettings(window=1, overlap=0, dpi=36))


def pairs(inputs: Path, out: Path, engine: FakeEngine) -> None:
    from dataclasses import asdict

    from workflows.science.judge import JudgedItem, compare, open_judging
    from workflows.science.judge.report import JudgeReport, write_judging
    from workflows.store.provenance import model_facts

    asked = [(JudgedItem(str(n), f"q{n}", f"a{n}"), JudgedItem(str(n), f"q{n}", f"b{n}")) for n in range(5)]
    with open_judging(out, {"kind": "pair"}, engine) as store:
        results, verdicts = compare(engine, asked, store)
        report = JudgeReport(kind="pair", sources=(), model=model_facts(engine.info), pair=results)
        write_judging(out, report, [asdict(each) for each in verdicts])


_TILE = ("workflows.run.tiles", "read_tile")
JOBS = {
    "slide": Job(slide, lambda out: Report.read(out).result(), "report.json", _TILE),
    "spots": Job(spots, _json("prediction.json"), "prediction.json", _TILE, "answers/*/run.sqlite"),
    "frames": Job(frames, _json("timelapse.json"), "timelapse.json", _TILE),
    "photographs": Job(
        photographs,
        _json("instruments.json"),
        "instruments.json",
        ("workflows.science.instruments.reading", "load_photograph"),
    ),
    "pages": Job(pages, _json("records.json"), "records.json", ("workflows.science.papers.pages.document", "page")),
    "pairs": Job(pairs, _json("judge.json"), "judge.json", None),
}


def write_inputs(inputs: Path) -> None:
    """Files that the jobs are about."""
    from fpdf import FPDF

    rng = np.random.default_rng(0)
    inputs.mkdir()
    section = np.full((600, 600, 3), 244, np.uint8)
    section[60:540, 60:540] = np.array([150, 90, 170]) - rng.integers(0, 50, (480, 480, 1))
    Image.fromarray(section).save(inputs / "section.png")
    film = spots_film(6)
    film[:, 0, 0] = np.arange(6)[:, None]  # no frame is another
    write_stack(inputs / "film.ome.tif", film)
    (inputs / "photographs").mkdir()
    for n in range(6):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(inputs / "photographs" / f"{n}.png")
    pdf = FPDF(unit="pt", format=(240, 180))
    pdf.set_font("Times", size=10)
    for n in range(6):
        pdf.add_page()
        pdf.text(40, 40 + 10 * n, f"TP{n} was {n}")
    pdf.output(str(inputs / "paper.pdf"))
    fields = {"gene": {"type": "string"}, "n": {"type": "integer"}}
    (inputs / "schema.json").write_text(json.dumps({"type": "object", "properties": fields, "required": ["gene"]}))


# ---------------------------------------------------------------------- killed


def plant(moment: str, job: Job, puts: int) -> None:
    """Let this process die in a moment of its work."""
    put, rename, count = Journal.put, Path.replace, [0]

    def die(*_: object) -> None:
        os._exit(DIED)

    def dying_put(self: Any, *arguments: Any) -> None:
        count[0] += 1
        if moment == "commit" and count[0] == 2:
            die()
        put(self, *arguments)
        if moment == "report" and count[0] == puts:
            die()

    def dying_rename(self: Path, target: Any) -> Any:
        if moment == "writing" and Path(target).name == job.report:
            die()
        return rename(self, target)

    Journal.put, Path.replace = dying_put, dying_rename  # type: ignore[method-assign, assignment]
    if moment == "first batch":
        PromiseEngine.answer_many = die  # type: ignore[method-assign, assignment]


def in_a_process(work: Callable[[], None]) -> int:
    """Exit status of a process that does some work."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def no_maps(*_: object, **__: object) -> None:
    """In place of drawing: slow, and nothing is asked for it."""


def run_calm(job: Job, inputs: Path, folder: Path) -> None:
    """An undisturbed run; how often it stored something, and what it imported."""
    put, count = Journal.put, [0]

    def counting(self: Any, *arguments: Any) -> None:
        count[0] += 1
        put(self, *arguments)

    Journal.put = counting  # type: ignore[method-assign, assignment]
    job.run(inputs, folder / "calm", PromiseEngine(folder / "calm.log"))
    (folder / "puts").write_text(str(count[0]))
    (folder / "modules").write_text("\n".join(sys.modules))


def run_killed(job: Job, inputs: Path, folder: Path, moment: str, puts: int) -> None:
    """A run that dies in a moment."""
    plant(moment, job, puts)
    job.run(inputs, folder / moment, PromiseEngine(folder / f"{moment}.log"))
    os._exit(DIED)


def main(root: Path, names: Sequence[str]) -> None:
    import workflows.science.spatial.job as section

    section.draw_maps = no_maps
    died: dict[str, int] = {}
    for name in names:
        job, inputs, folder = JOBS[name], root / "inputs", root / name
        folder.mkdir()
        died[f"{name} calm"] = in_a_process(partial(run_calm, job, inputs, folder))
        for module in (folder / "modules").read_text().split():  # once, for all processes that follow
            with suppress(ImportError):
                import_module(module)
        puts = int((folder / "puts").read_text())
        for moment in MOMENTS:
            died[f"{name} {moment}"] = in_a_process(partial(run_killed, job, inputs, folder, moment, puts))
    (root / "died.json").write_text(json.dumps(died))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
