"""A server that answers from the truth, with planted faults: what everything but the model is measured with.

It looks at no pixels. What is measured with it says nothing of any model.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from workflows.science.papers.evaluate import RecordTruth, TruthRecord
from workflows.science.papers.pages.page import Box, union

MODEL = "Qwen3-VL-oracle"
_PAGE = re.compile(r"page (\d+): ")


@dataclass(frozen=True)
class Faults:
    """Shares of records, or of answers, that get a fault.

    Attributes
    ----------
    missed, typo, wrong_page, twice, contradicted, off_box : float
        Of records: left out; a digit or letter changed; another page of the window named; written twice; written again
        with another value; a box at another place.
    invented : float
        Entries that no page holds, as a share of the records.
    broken, prose, cut, wrong_type : float
        Of answers: JSON without its end; within words and a fence; stopped at the limit half-way (while several
        pages are asked about); one entry whose value is no number.
    hidden : str or None
        A record in JSON that is written down too, as if an instruction on the page had been obeyed.
    """

    missed: float = 0.0
    typo: float = 0.0
    wrong_page: float = 0.0
    twice: float = 0.0
    contradicted: float = 0.0
    off_box: float = 0.0
    invented: float = 0.0
    broken: float = 0.0
    prose: float = 0.0
    cut: float = 0.0
    wrong_type: float = 0.0
    hidden: str | None = None


@dataclass
class Oracle:
    """Answers about the pages of one made paper.

    Attributes
    ----------
    truth : RecordTruth
    faults : Faults
    scale : float
        px per pt of the pictures.
    seed : int
        The same question always gets the same answer.
    typos : list of (int, str, value)
        Record, property and wrong value of every typo written.
    asked : list of tuple of int
        Pages of every question.
    """

    truth: RecordTruth
    faults: Faults = field(default_factory=Faults)
    scale: float = 2.0
    seed: int = 0
    typos: list[tuple[int, str, Any]] = field(default_factory=list)
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def answer(self, pages: Sequence[int], sizes: Sequence[tuple[int, int]], schema: dict[str, Any]) -> tuple[str, str]:
        """What is written about pages whose pictures have these sizes in px, and the finish reason."""
        self.asked.append(tuple(pages))
        rng = np.random.default_rng([self.seed, *pages])
        frames = dict(zip(pages, sizes, strict=True))
        wanted = schema["items"]["properties"]
        entries: list[dict[str, Any]] = []
        for number, record in enumerate(self.truth.records):
            page = _page_of(record)
            if page in frames:
                entries += self._entries(number, record, page, frames, wanted, rng)
        for _ in range(round(self.faults.invented * len(entries))):
            made = {"gene": f"XYZ{rng.integers(100, 999)}", "method": "ELISA", "n": 7, "value": 0.123, "unit": "mg/L"}
            entries.append(_entry(made, int(rng.choice(pages)), (100, 100, 200, 120), {}, wanted))
        if self.faults.hidden is not None:
            entries.append(_entry(json.loads(self.faults.hidden), pages[0], (100, 100, 200, 120), {}, wanted))
        return self._written(entries, len(pages), rng)

    def _entries(
        self,
        number: int,
        record: TruthRecord,
        page: int,
        frames: dict[int, tuple[int, int]],
        wanted: dict[str, Any],
        rng: np.random.Generator,
    ) -> list[dict[str, Any]]:
        faults = self.faults
        # Drawn whether needed or not, so that one fault does not move the others.
        missed, typo, wrong, twice, against, off = rng.random(6)
        if missed < faults.missed:
            return []
        values = {name: value.value for name, value in record.values.items()}
        if typo < faults.typo:
            name = str(rng.choice(["gene", "n", "value"]))
            values[name] = _typo(values[name], rng)
            self.typos.append((number, name, values[name]))
        said = page
        if wrong < faults.wrong_page and len(frames) > 1:
            said = int(rng.choice([other for other in frames if other != page]))
        boxes = {name: _model_box(_box_on(record, name, page), frames[page], self.scale) for name in record.values}
        around = union([_flat(box) for name, box in boxes.items() if name != "unit"])
        assert around is not None
        if off < faults.off_box:
            around = (10.0, 960.0, 60.0, 990.0)
            boxes = dict.fromkeys(boxes, (10, 960, 60, 990))
        written = [_entry(values, said, around, boxes, wanted)]
        if twice < faults.twice:
            written.append(written[0])
        if against < faults.contradicted:
            written.append(_entry(values | {"value": _typo(values["value"], rng)}, said, around, boxes, wanted))
        return written

    def _written(self, entries: list[dict[str, Any]], pages: int, rng: np.random.Generator) -> tuple[str, str]:
        faults = self.faults
        broken, prose, cut, wrong_type = rng.random(4)
        if wrong_type < faults.wrong_type and entries:
            entries = [*entries, {**entries[0], "record": {**entries[0]["record"], "value": "about three"}}]
        text = json.dumps(entries, ensure_ascii=False)
        if prose < faults.prose:
            text = f"Here is what I found on the pages:\n```json\n{text}\n```\nLet me know if you need more."
        if cut < faults.cut and pages > 1:
            return text[: len(text) // 2], "length"
        if broken < faults.broken:
            return text.rstrip("`\n").rstrip("]"), "stop"
        return text, "stop"


@contextmanager
def serve(oracle: Oracle) -> Iterator[str]:
    """An OpenAI-compatible server of an oracle, on a free port of this machine; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            parts = [part for message in body["messages"] for part in message["content"]]
            names = [int(m[1]) for p in parts if p["type"] == "text" and (m := _PAGE.fullmatch(p["text"]))]
            sizes = [_png_size(p["image_url"]["url"]) for p in parts if p["type"] == "image_url"]
            schema = body["response_format"]["json_schema"]["schema"]
            text, reason = oracle.answer(names, sizes, schema)
            tokens = sum(w // 32 * (h // 32) for w, h in sizes) + 300
            self._send(
                {
                    "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}],
                    "usage": {"prompt_tokens": tokens, "completion_tokens": len(text) // 3},
                }
            )

        def _send(self, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _page_of(record: TruthRecord) -> int:
    return record.values["value"].places[0][0]


def _box_on(record: TruthRecord, name: str, page: int) -> Box:
    boxes = next((boxes for number, boxes in record.values[name].places if number == page), None)
    box = union(boxes or record.values["value"].places[0][1])
    assert box is not None
    return box


def _model_box(box_pt: Box, size: tuple[int, int], scale: float) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = (round(1000 * value * scale / side) for value, side in zip(box_pt, (*size, *size), strict=True))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _flat(box: Sequence[float]) -> Box:
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def _entry(
    values: dict[str, Any], page: int, around: Sequence[float], boxes: dict[str, Any], wanted: dict[str, Any]
) -> dict[str, Any]:
    entry: dict[str, Any] = {"page": page}
    if "bbox_2d" in wanted:
        entry["bbox_2d"] = [round(v) for v in around]
    entry["record"] = values
    if "boxes" in wanted:
        entry["boxes"] = {name: list(box) for name, box in boxes.items()}
    return entry


def _typo(value: Any, rng: np.random.Generator) -> Any:
    """One digit or letter is another one."""
    text = str(value)
    places = [i for i, sign in enumerate(text) if sign.isdigit() and (i or len(text) == 1)] or [len(text) - 1]
    at = int(rng.choice(places))
    other = str((int(text[at]) + int(rng.integers(1, 9))) % 10) if text[at].isdigit() else "Q"
    changed = text[:at] + other + text[at + 1 :]
    return changed if isinstance(value, str) else type(value)(changed)


def _png_size(url: str) -> tuple[int, int]:
    head = base64.b64decode(url.partition(",")[2][:64])
    width, height = struct.unpack(">II", head[16:24])
    return width, height
