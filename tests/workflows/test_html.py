"""The HTML report: what a model wrote stays text, nothing is fetched, and a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from run_helpers import MemorySlide, request_of
from test_report import Scripted

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Task
from workflows.errors import ExportExistsError
from workflows.report.html import CohortSlide, write_cohort_report, write_slide_report
from workflows.report.html._numbers import ratio
from workflows.run.slide import run_slide

EVIL = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="session")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from wsi.synthetic import Scene, write_slide

    path = tmp_path_factory.mktemp("html") / "a <b> slide.svs"
    write_slide(path, Scene(96, 72, seed=3), mpp=0.25, downsamples=(1,))
    return path


@pytest.fixture
def run(slide_file: Path, tmp_path: Path) -> Path:
    """Boxes of two classes on a slide that is a file; some answers failed, one label is an attack."""
    request = request_of(Task.DETECT, tile_size=128, overlap=0, mpp=None, labels=("tumour", "lymphocyte"))
    answers = []
    for tile in range(9):
        found = (
            TileObject("tumour", box=(10, 10, 40, 40 + tile), score=0.9 - tile / 100, attributes={"grade": EVIL}),
            TileObject("lymphocyte", box=(60, 70, 80, 90)),
        )
        answers.append(Answer(Status.OK, found))
    answers[2] = Answer.failure(f"unreadable {EVIL}")
    answers[4] = Answer(Status.OK, (TileObject("</style><script>x</script>"[:80], box=(5, 5, 50, 50), score=0.5),))
    run_slide(slide_file, request, Scripted(*answers), tmp_path / "run", mask="all", command=f"qwenvl {EVIL}")
    return tmp_path / "run"


class Page(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_model_text_stays_text_and_nothing_is_fetched(run: Path) -> None:
    page = Page(write_slide_report(run))
    assert EVIL in page.words, "what the model wrote is shown as it is"
    assert not page.all("script")
    assert not [of for _, of in page.tags if any(name.startswith("on") for name in of)]
    assert not [of for _, of in page.tags if "style" in of]
    for attributes in page.all("img"):
        assert (attributes["src"] or "").startswith("data:image/")
    for attributes in page.all("a"):
        assert (attributes["href"] or "").startswith("#")
    policy = next(of["content"] for of in page.all("meta") if of.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in re.sub(r"http-equiv", "", (run / "report.html").read_text(encoding="utf-8").split("<body")[0])


def test_the_report_says_what_happened(run: Path) -> None:
    words = Page(write_slide_report(run)).words
    words = " ".join(words.split())
    for part in (
        "a <b> slide.svs",
        "not complete",
        "1 failed",
        "tumour",
        "lymphocyte",
        "score 0.90",
        "score 0.83",
        "the model gives no scores",
        "failed",
        "unknown, not negative",
        "qwenvl repeat",
        "sha256:",
    ):
        assert part in words, part
    assert str((run / "report.json").absolute()) in words.replace("'", "")


def test_it_is_accessible(run: Path) -> None:
    page = Page(write_slide_report(run))
    assert page.all("html")[0]["lang"] == "en"
    assert all(of.get("alt") for of in page.all("img"))
    assert all(of.get("scope") in ("col", "row") for of in page.all("th"))
    labelled = {of["for"] for of in page.all("label")}
    assert {of["id"] for of in page.all("input")} == labelled != set()
    ids = [of["id"] for _, of in page.tags if of.get("id")]
    assert len(ids) == len(set(ids))
    assert len(page.all("h1")) == 1


def test_the_scale_bar_is_as_long_as_it_says(run: Path) -> None:
    """It lies in the coordinates of the picture, so that it shrinks and prints with it."""
    text = write_slide_report(run).read_text(encoding="utf-8")
    width, height = map(int, re.search(r'<svg class="over" viewBox="0 0 (\d+) (\d+)"', text).groups())  # type: ignore[union-attr]
    length = float(re.search(r'id="scale-bar"[^>]* width="([\d.]+)"', text)[1])  # type: ignore[index]
    said = int(re.search(r'aria-label="Scale bar, (\d+) µm"', text)[1])  # type: ignore[index]
    assert (width, height) == (384, 288)
    assert length * 0.25 == pytest.approx(said, rel=0.001), "0.25 um/px, the picture is the slide's own size"
    assert 5 < said < 0.25 * width / 4


@pytest.mark.parametrize("task", list(Task))
def test_every_task_has_a_report(task: Task, slide_file: Path, tmp_path: Path) -> None:
    request = request_of(task, tile_size=128, overlap=0, mpp=None)
    run_slide(slide_file, request, FakeEngine(boxes=4), tmp_path / "run", mask="all", overview=False, limit=7)
    page = Page(write_slide_report(tmp_path / "run"))
    assert "not asked yet" in page.words
    assert len(page.all("img")) > 5


def test_without_slide_scale_or_objects(tmp_path: Path) -> None:
    request = request_of(Task.DETECT, tile_size=200, overlap=0, mpp=None)
    engine = Scripted(*[Answer(Status.EMPTY)] * 4)
    run_slide(MemorySlide(400, 400, None), request, engine, tmp_path / "run", mask="all")
    page = Page(write_slide_report(tmp_path / "run"))
    assert "was not found" in page.words
    assert "no densities" in page.words
    assert len(page.all("img")) == 1, "the picture the run drew stands in"


def test_numbers_are_those_of_the_report(run: Path, detect, tmp_path: Path) -> None:
    from workflows.export import RunObjects
    from workflows.report.html._numbers import object_numbers
    from workflows.report.report import Report
    from workflows.store.run_store import RunStore

    run_slide(MemorySlide(), detect, FakeEngine(boxes=6), tmp_path / "other", mask="auto", overview=False)
    for folder in (run, tmp_path / "other"):
        with RunStore.open(folder) as store:
            numbers = object_numbers(store, RunObjects(store))
        results = Report.read(folder).results
        assert [(of.label, of.count) for of in numbers.rows] == [(of.label, of.count) for of in results.labels]  # type: ignore[union-attr]
        for row, of in zip(numbers.rows, results.labels, strict=True):  # type: ignore[union-attr]
            assert row.per_mm2 == pytest.approx(of.per_mm2)
            assert row.mean_score == pytest.approx(of.mean_score)


def test_the_interval_covers_the_density_it_should() -> None:
    """Of many slides with the same density, about 95 % of the intervals hold it, also where objects cluster."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        areas = rng.uniform(0.5, 1.5, 200)
        counts = rng.poisson(4.0 * areas * rng.gamma(2.0, 0.5, 200))
        value, interval = ratio(counts.astype(float), areas)
        assert interval is not None
        assert interval[0] <= value <= interval[1]
        held += interval[0] <= 4.0 <= interval[1]
    assert 0.92 <= held / 400 <= 0.98
    assert ratio(np.ones(5), np.ones(5)) == (1.0, None), "too few tiles to say"


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(ExportExistsError):
        write_slide_report(run, tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert write_slide_report(run) == write_slide_report(run) == run / "report.html"


def test_cohort(run: Path, tmp_path: Path) -> None:
    write_slide_report(run)
    slides = [
        CohortSlide("S 1", run, state="complete", group="case", metadata={"age": "61"}),
        CohortSlide("S 2", run, group="case"),
        CohortSlide(f"S {EVIL}", None, state="refused", reason=f"no such file {EVIL}", group="control"),
    ]
    path = write_cohort_report(slides, tmp_path / "cohort.html", title=f"Study {EVIL}")
    page = Page(path)
    assert not page.all("script")
    assert EVIL in page.words
    assert "1 of 3 slides complete" in " ".join(page.words.split())
    links = [of["href"] for of in page.all("a")]
    assert "run/report.html" in links
    assert "#slide-3" in links
    assert all(of.get("alt") for of in page.all("img"))
    assert all(of.get("scope") in ("col", "row") for of in page.all("th"))


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium to open the report in")
    return found


def browse(chromium: str, path: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--log-level=0",
            f"--user-data-dir={folder / 'profile'}",
            *flags,
            path.absolute().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slide", "cohort"])
def test_chromium_shows_it_without_complaint(kind: str, run: Path, tmp_path: Path, chromium: str) -> None:
    from PIL import Image

    path = write_slide_report(run)
    if kind == "cohort":
        path = write_cohort_report([CohortSlide("a", run), CohortSlide("b", run)], tmp_path / "cohort.html")
    shot = tmp_path / "shot.png"
    done = browse(chromium, path, tmp_path, f"--screenshot={shot}", "--window-size=1200,1600")
    assert shot.is_file(), done.stderr[-2000:]
    assert console(done) == [], "no error, and nothing that the policy had to stop"
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (1600, 1200, 3)
    assert len(np.unique(pixels[::4, ::4].reshape(-1, 3), axis=0)) > 200, "text and pictures, not a blank page"


@pytest.mark.slow
def test_the_policy_stops_what_escaping_would_let_through(run: Path, tmp_path: Path, chromium: str) -> None:
    """Were an attack ever to come through unescaped, the page still runs and fetches nothing; and the check sees it."""
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        attack = f'<script>document.title="owned"</script><img src="{url}/leak"><link rel=stylesheet href="{url}/css">'
        text = write_slide_report(run).read_text(encoding="utf-8")
        planted, bare = tmp_path / "planted.html", tmp_path / "bare.html"
        planted.write_text(text.replace("<main", attack + "<main"), encoding="utf-8")
        done = browse(chromium, planted, tmp_path, "--dump-dom")
        assert "<title>owned" not in done.stdout
        assert "<h1>" in done.stdout
        assert asked == []
        assert console(done) != [], "a blocked request shows in the console, so an empty console means something"
        bare.write_text(f"<main></main>{attack}", encoding="utf-8")
        done = browse(chromium, bare, tmp_path, "--dump-dom")
        assert "<title>owned" in done.stdout
        assert asked, "without the policy the attack works: the check can fail"
    finally:
        server.shutdown()
        server.server_close()


def test_templates_come_with_the_package() -> None:
    code = (
        "from importlib.resources import files; "
        "print(sorted(p.name for p in (files('workflows.report.html') / 'templates').iterdir()))"
    )
    names = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert json.loads(names.replace("'", '"')) == [
        "base.html.j2",
        "cohort.html.j2",
        "numbers.j2",
        "slide.html.j2",
        "style.css",
    ]
