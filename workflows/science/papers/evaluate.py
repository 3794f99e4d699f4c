"""Records against the truth: found, right, and placed right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, JsonValue

from workflows.errors import RunNotFoundError
from workflows.science.papers.pages.page import Box, iou
from workflows.science.papers.paper import Paper, RecordFacts, ValueFacts
from workflows.science.papers.values.merging import alike
from workflows.science.papers.values.placing import Anchor
from workflows.store.provenance import Facts

LEAST_IOU = 0.5


class TruthValue(Facts):
    """A value, and where it is printed: page and boxes in pt, each place as good as the others."""

    value: JsonValue
    places: list[tuple[int, tuple[Box, ...]]]


class TruthRecord(Facts):
    """A record by property."""

    values: dict[str, TruthValue]


class RecordTruth(Facts):
    """What a paper says."""

    key: tuple[str, ...]
    records: tuple[TruthRecord, ...]


class RecordEvaluation(Facts):
    """How records compare with the truth. A share is null where there is nothing to share."""

    truth_records: int
    records: int
    recall: float | None = Field(description="True records of which one was read with every value right.")
    precision: float | None = Field(description="Records that were read, of which every value is right.")
    key_recall: float | None = Field(description="True records whose key was read, whatever else.")
    contradicting: int = Field(description="Records that are marked as contradicting another one.")
    unmarked_wrong: int = Field(
        description="Records with a wrong value of which every value is anchored and that contradict none: wrong, and "
        "nothing says so."
    )
    values: int = Field(description="Values of records that are in the truth by key.")
    value_accuracy: float | None = Field(description="Of these, values that are right.")
    anchors: dict[str, int] = Field(description="Values of all records by anchor.")
    anchor_recall: float | None = Field(description="Right values that are anchored.")
    anchor_precision: float | None = Field(
        description="Anchored values whose box lies where the truth has that value of that property (IoU 0.5 or more)."
    )
    anchor_iou: float | None = Field(description="Mean IoU of right, anchored values with their nearest true place.")
    page_accuracy: float | None = Field(description="Right, anchored values on a page where they are printed.")

    def lines(self) -> Iterator[str]:
        """The numbers for people."""

        def share(value: float | None) -> str:
            return "-" if value is None else f"{value:.3f}"

        yield f"records: {self.records} read, {self.truth_records} true"
        yield f"recall {share(self.recall)}, precision {share(self.precision)}, by key {share(self.key_recall)}"
        yield f"value accuracy {share(self.value_accuracy)} of {self.values}"
        yield (
            f"anchors: recall {share(self.anchor_recall)}, precision {share(self.anchor_precision)}, "
            f"mean IoU {share(self.anchor_iou)}, page {share(self.page_accuracy)}"
        )
        yield "values " + ", ".join(f"{name} {count}" for name, count in self.anchors.items())
        yield f"{self.contradicting} marked as contradicting, {self.unmarked_wrong} wrong without a mark"


def read_truth(path: Path | str) -> RecordTruth:
    """Read a truth file of the factory; RunNotFoundError where there is none."""
    path = Path(path)
    if not path.is_file():
        raise RunNotFoundError(f"{path} is not there")
    return RecordTruth.model_validate_json(path.read_text(encoding="utf-8"))


def evaluate_paper(paper: Paper, truth: RecordTruth) -> RecordEvaluation:
    """Compare the records of a paper with its truth; records are matched by the truth's key."""
    by_key = [(_key(record, truth.key), record) for record in truth.records]
    found: set[int] = set()
    named: set[int] = set()
    right_records = wrong_silent = values = right = anchored_right = 0
    placed = on_page = claimed = 0
    known = _known(truth)
    overlaps: list[float] = []
    for record in paper.records:
        key = {name: record.values.get(name) for name in truth.key}
        matches = [n for n, (other, _) in enumerate(by_key) if all(alike(key[k], other[k]) for k in truth.key)]
        true = by_key[matches[0]][1] if matches else None
        named.update(matches[:1])
        judged = [_judge(record, name, true) for name in paper.properties]
        whole = true is not None and all(correct for correct, _, _ in judged)
        right_records += whole
        if whole:
            found.add(matches[0])
        silent = not record.contradicts and all(f.anchor is Anchor.ANCHORED for f in record.fields.values())
        wrong_silent += not whole and silent
        for name, (correct, fact, best) in zip(paper.properties, judged, strict=True):
            is_anchored = fact is not None and fact.anchor is Anchor.ANCHORED
            claimed += is_anchored
            placed += is_anchored and fact is not None and _stands(fact, known.get(name, []))
            if true is not None:
                values += 1
                right += correct
            if is_anchored and correct and best is not None:
                anchored_right += 1
                overlaps.append(best[1])
                on_page += best[0]
    return RecordEvaluation(
        truth_records=len(truth.records),
        records=len(paper.records),
        recall=_share(len(found), len(truth.records)),
        precision=_share(right_records, len(paper.records)),
        key_recall=_share(len(named), len(truth.records)),
        contradicting=sum(bool(record.contradicts) for record in paper.records),
        unmarked_wrong=wrong_silent,
        values=values,
        value_accuracy=_share(right, values),
        anchors=paper.anchors,
        anchor_recall=_share(anchored_right, right),
        anchor_precision=_share(placed, claimed),
        anchor_iou=_share(sum(overlaps), len(overlaps)),
        page_accuracy=_share(on_page, anchored_right),
    )


def _key(record: TruthRecord, key: tuple[str, ...]) -> dict[str, JsonValue]:
    return {name: record.values[name].value if name in record.values else None for name in key}


def _judge(
    record: RecordFacts, name: str, true: TruthRecord | None
) -> tuple[bool, ValueFacts | None, tuple[bool, float] | None]:
    """Whether a value is right, its facts, and whether its page is right with its best IoU."""
    fact = record.fields.get(name)
    expected = None if true is None else true.values.get(name)
    if expected is None:
        return fact is None and true is not None, fact, None
    if fact is None or not alike(fact.value, expected.value):
        return False, fact, None
    overlaps = [_overlap(fact, boxes) for page, boxes in expected.places if page == fact.page]
    return True, fact, (bool(overlaps), max(overlaps, default=0.0))


def _overlap(fact: ValueFacts, boxes: tuple[Box, ...]) -> float:
    """IoU of the boxes of a value with those of its truth, line by line."""
    found = sum(max((iou(box, other) for other in boxes), default=0.0) for box in fact.boxes_pt)
    return found / max(len(fact.boxes_pt), len(boxes), 1)


def _known(truth: RecordTruth) -> dict[str, list[TruthValue]]:
    found: dict[str, list[TruthValue]] = {}
    for record in truth.records:
        for name, value in record.values.items():
            found.setdefault(name, []).append(value)
    return found


def _stands(fact: ValueFacts, known: list[TruthValue]) -> bool:
    """Whether the truth has this value at this place, whatever record it belongs to."""
    return any(
        alike(fact.value, value.value)
        and any(page == fact.page and _overlap(fact, boxes) >= LEAST_IOU for page, boxes in value.places)
        for value in known
    )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
