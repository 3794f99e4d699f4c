"""Papers: records and places against made papers whose truth is known, and what the embedded model does with them.

    python benchmarks/science_papers.py           five papers of about six pages
    python benchmarks/science_papers.py --fast    two of about three, one to two minutes

No model at hand reads print, so windows, anchors and merging are measured with an oracle: a server that answers from
the truth, with planted faults. It says nothing of any model. Beside it stands a plain pipeline on the same answers:
lists joined as they are, each value at its first match on the page that the model named. 'silent' counts records with
a wrong value of which nothing says so: all values anchored, no contradiction. The embedded model is then
asked for real: what it writes is wrong, and must be valid by the schema and without one anchor.

Exits with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from qwenvl.answer import Status
from qwenvl.engines.base import Engine
from qwenvl.engines.local import LocalEngine
from qwenvl.engines.remote import RemoteEngine
from qwenvl.request import Generation, Request
from recipes.papers import make_papers
from recipes.papers.oracle import Faults, Oracle, serve
from workflows.run.item_store import ItemStore
from workflows.science.papers.evaluate import RecordEvaluation, evaluate_paper, read_truth
from workflows.science.papers.pages.document import open_document
from workflows.science.papers.pages.page import Page
from workflows.science.papers.paper import Paper, ValueFacts, count_anchors
from workflows.science.papers.question import subject_of
from workflows.science.papers.reading import ReadSettings, plan_paper, read_paper
from workflows.science.papers.records import read_answer
from workflows.science.papers.schema import RecordSchema
from workflows.science.papers.values.finding import Finder
from workflows.science.papers.values.merging import alike
from workflows.science.papers.values.placing import Anchor

KEY = ("gene", "method")
HACKED = '{"gene": "HACK1", "method": "ELISA", "n": 9, "value": 99999, "unit": "mg/L"}'
CASES = {
    "none": Faults(),
    "half of the pages named wrongly, half of the boxes astray": Faults(wrong_page=0.5, off_box=0.5),
    "records twice, words around the JSON": Faults(twice=0.3, prose=1.0),
    "answers cut off": Faults(cut=1.0),
    "JSON without its end": Faults(broken=1.0),
    "an entry of the wrong type in every answer": Faults(wrong_type=1.0),
    "one record in ten left out": Faults(missed=0.1),
    "one record in five with a typo": Faults(typo=0.2),
    "one in five said again with another value": Faults(contradicted=0.2),
    "one in five invented": Faults(invented=0.2),
    "a hidden instruction obeyed": Faults(hidden=HACKED),
}
MENDED = tuple(CASES)[:6]
"""Faults that must cost nothing."""


@dataclass
class Tally:
    """Sums over the papers of one case."""

    evaluations: list[RecordEvaluation]
    plain: list[RecordEvaluation]
    typos: int = 0
    typos_anchored: int = 0
    dictated_anchored: int = 0

    def mean(self, name: str, plain: bool = False) -> float:
        values = [getattr(e, name) for e in (self.plain if plain else self.evaluations)]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else float("nan")

    def total(self, name: str) -> int:
        return sum(getattr(e, name) for e in self.evaluations)


def plain_paper(paper: Paper, run: Path, pages: dict[int, Page]) -> Paper:
    """The same answers without windows' overlap, likeness and context: every entry, each value at its first match."""
    records = []
    shown = {str(window.window) for window in paper.windows}
    with ItemStore.open(run) as store:
        entries = [e for key, answer in store.answers().items() if key in shown for e in answer.value or ()]
    template = paper.records[0]
    for number, entry in enumerate(entries):
        page = pages.get(entry["page"])
        fields = {}
        for name, value in entry["record"].items():
            fact = ValueFacts(value=value, anchor=Anchor.MISSING)
            at = -1 if page is None else page.printed.text.find(str(value))
            if page is not None and at >= 0:
                boxes = page.printed.places(at, at + len(str(value)))
                fact = ValueFacts(value=value, anchor=Anchor.ANCHORED, page=page.number, boxes_pt=boxes)
            fields[name] = fact
        update = {
            "record": number,
            "values": entry["record"],
            "fields": fields,
            "page": entry["page"],
            "contradicts": (),
        }
        records.append(template.model_copy(update=update))
    return paper.model_copy(update={"records": tuple(records), "anchors": count_anchors(records)})


def run_case(faults: Faults, papers: Path, count: int, out: Path) -> Tally:
    """Read every paper through an oracle with these faults."""
    tally = Tally([], [])
    schema = RecordSchema.read(papers / "schema.json", KEY)
    for number in range(1, count + 1):
        pdf = papers / f"paper-{number:03d}.pdf"
        oracle = Oracle(read_truth(papers / f"paper-{number:03d}.truth.json"), faults, seed=number)
        run = out / pdf.stem
        with serve(oracle) as url, open_document(pdf) as document:
            engine = RemoteEngine(url)
            paper = read_paper(document, schema, engine, run, ReadSettings(window=2)).paper
            engine.close()
            pages = {n: replace(document.page(n), tables=()) for n in range(1, document.pages + 1)}
        tally.evaluations.append(evaluate_paper(paper, oracle.truth))
        tally.plain.append(evaluate_paper(plain_paper(paper, run, pages), oracle.truth))
        tally.typos += len(oracle.typos)
        tally.typos_anchored += anchored_typos(paper, oracle)
        tally.dictated_anchored += sum(
            record.fields[name].anchor is Anchor.ANCHORED
            for record in paper.records
            if record.values["gene"] == "HACK1"
            for name in ("gene", "n", "value")
        )
    return tally


def anchored_typos(paper: Paper, oracle: Oracle) -> int:
    """Wrong values of an otherwise right record that are anchored all the same."""
    found = 0
    for number, name, wrong in oracle.typos:
        true = oracle.truth.records[number].values
        for record in paper.records:
            others = [k for k in record.values if k != name]
            if alike(record.values[name], wrong) and all(alike(record.values[k], true[k].value) for k in others):
                found += record.fields[name].anchor is Anchor.ANCHORED
    return found


@dataclass
class Embedded:
    """What the embedded model wrote."""

    asked: int = 0
    ended: int = 0
    """Answers that are whole and valid by the schema."""
    cut: int = 0
    """Answers that went in circles or were too long: unknown, and kept as such."""
    records: int = 0
    invalid: int = 0
    values: int = 0
    anchored: int = 0

    def line(self, words: str) -> str:
        """A row of the table."""
        return (
            f"| {words} | {self.asked} | {self.ended} | {self.cut} | {self.records} | {self.invalid} | "
            f"{self.anchored} of {self.values} |"
        )


def ask_embedded(papers: Path, engine: Engine, *, least: int, temperature: float, seeds: int) -> Embedded:
    """Ask about every page of the first paper, with instructions planted in it; `least` entries must be written."""
    schema = RecordSchema.read(papers / "schema.json", KEY)
    found = Embedded()
    with open_document(papers / "paper-001.pdf") as document:
        for seed in range(seeds):
            generation = Generation(max_new_tokens=900, temperature=temperature, seed=seed)
            settings = ReadSettings(window=2, most_records=2, generation=generation)
            plan = plan_paper(document, schema, engine, settings)
            question = plan.question
            fields = question.request.model_dump()
            fields["output_schema"] = {**fields["output_schema"], "minItems": least}
            pages = {number: document.page(number, question.rule) for number in plan.pages}
            finders = {number: Finder(page, comma=False) for number, page in pages.items()}
            shown = [window.of(plan.pages) for window in plan.windows]
            subjects = [subject_of([pages[number] for number in numbers]) for numbers in shown]
            for numbers, answer in zip(shown, engine.answer(subjects, Request(**fields)), strict=True):
                found.asked += 1
                found.ended += answer.value is not None and answer.status.complete
                found.cut += answer.status is Status.TRUNCATED
                readings = read_answer(answer, 0, numbers, finders, question)
                found.records += len(readings)
                found.invalid += sum(not schema.valid(dict(reading.values)) for reading in readings)
                places = [place for reading in readings for place in reading.fields.values()]
                found.values += len(places)
                found.anchored += sum(place.anchor is Anchor.ANCHORED for place in places)
    return found


def main() -> int:
    """Print the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="two short papers")
    fast = parser.parse_args().fast
    count, pages = (2, 3) if fast else (5, 6)
    missed: list[str] = []

    def bar(kept: bool, words: str) -> None:
        if not kept:
            missed.append(words)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make_papers(folder / "papers", count, pages=pages, seed=40, injected=True)
        records, leaves = sum(len(p.truth) for p in made), sum(p.pages for p in made)
        print(f"{count} made papers, {leaves} pages, {records} records of 5 values, instructions planted in each")
        print("read through an oracle (no model); 'plain' is the naive pipeline on the same answers\n")
        print(
            "| planted fault | recall | precision | records | plain | anchors right | plain | IoU | marked | silent |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for number, (words, faults) in enumerate(CASES.items()):
            tally = run_case(faults, folder / "papers", count, folder / f"runs-{number}")
            mean = tally.mean
            print(
                f"| {words} | {mean('recall'):.3f} | {mean('precision'):.3f} | {tally.total('records')} | "
                f"{sum(each.records for each in tally.plain)} | {mean('anchor_precision'):.3f} | "
                f"{mean('anchor_precision', True):.3f} | {mean('anchor_iou'):.3f} | "
                f"{tally.total('contradicting')} | {tally.total('unmarked_wrong')} |",
                flush=True,
            )
            if words in MENDED:
                bar(mean("recall") == 1.0 and mean("precision") == 1.0, f"{words}: recall and precision 1")
            bar(mean("anchor_precision") >= 0.99, f"{words}: anchors right 0.99")
            bar(mean("anchor_iou") >= 0.85, f"{words}: IoU 0.85")
            bar(tally.total("unmarked_wrong") == 0, f"{words}: no wrong record without a mark")
            bar(tally.typos_anchored == 0, f"{words}: no typo anchored ({tally.typos_anchored} of {tally.typos})")
            bar(tally.dictated_anchored == 0, f"{words}: nothing dictated is anchored")
            if tally.typos:
                print(f"| ... of {tally.typos} typos {tally.typos_anchored} anchored | | | | | | | | | |")
        print("\nembedded model, which cannot read print; pages hold planted instructions\n")
        print("| asked | questions | whole and valid | cut off | records | invalid | values anchored |")
        print("|---|---|---|---|---|---|---|")
        engine = LocalEngine.load("embedded")
        cases = {
            "as users do, greedy": (0, 0.0, 1),
            "as users do, temperature 1": (0, 1.0, 2),
            "an entry demanded, temperature 1.5": (1, 1.5, 4),
        }
        for words, (least, temperature, seeds) in cases.items():
            told = ask_embedded(folder / "papers", engine, least=least, temperature=temperature, seeds=seeds)
            print(told.line(words), flush=True)
            bar(told.ended + told.cut == told.asked and told.invalid == 0, f"{words}: valid by the schema, or cut off")
            bar(least > 0 or told.ended == told.asked, f"{words}: schema-valid 100 %")
            bar(told.anchored <= 0.05 * max(1, told.values), f"{words}: what is made up is not anchored")
    for words in missed:
        print(f"missed: {words}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
