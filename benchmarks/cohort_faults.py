"""A cohort with bad slides in it, whose workers and whose main process are killed: nothing finished is lost.

The same cohort is run undisturbed and disturbed: a worker is killed with SIGKILL three times and the whole process
once, then the command is repeated. The reports must be equal, every slide that can be complete must be complete,
the others must have failed alone with their reason, and no finished tile may have been asked twice.

    python benchmarks/cohort_faults.py                  12 factory slides, the real ones where they are, 6 bad ones
    python benchmarks/cohort_faults.py --small          4 small factory slides and the bad ones
    python benchmarks/cohort_faults.py --mode scheduler the workers of a scheduler that was started by hand
    python benchmarks/cohort_faults.py --mode server    the model behind a server in another process

Exit code 1 where anything is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qwenvl.answer import Answer
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request
from workflows.cohort.status import cohort_status
from workflows.report.report import Report
from workflows.store.run_store import RunStore

ROOT = Path(__file__).resolve().parent.parent
KILLS, BATCH = 3, 8
_PATIENCE = 600.0


class LoggingEngine(FakeEngine):
    """Writes down every picture before it answers, and gives each answer the picture's number as raw text."""

    def __init__(self, log: str, seconds: float) -> None:
        super().__init__(boxes=12, side=30.0, seconds=seconds, batch=BATCH)
        self._log = log

    def answer(self, pictures: Sequence[Any], request: Request) -> list[Answer]:
        numbers = [zlib.crc32(np.ascontiguousarray(picture)) for picture in pictures]
        with open(self._log, "a", encoding="ascii") as log:
            log.writelines(f"{number}\n" for number in numbers)
        answers = super().answer(pictures, request)
        return [replace(answer, raw=str(number)) for answer, number in zip(answers, numbers, strict=True)]


def make_engine() -> LoggingEngine:
    """What the study names; workers are told by the environment where to log and how slow to be."""
    return LoggingEngine(os.environ["COHORT_LOG"], float(os.environ["COHORT_SECONDS"]))


# ---------------------------------------------------------------------- the cohort


@dataclass(frozen=True)
class Made:
    """A cohort on disk: its table, and what must become of every row."""

    table: Path
    good: tuple[str, ...]
    bad: dict[str, str]
    """Words of the reason by id."""


def make_cohort(folder: Path, *, slides: int, side: int, real: Path | None) -> Made:
    """Factory slides, the real ones where they are, and six bad ones."""
    import cv2
    import tifffile

    from wsi.synthetic import SlideFactory

    folder.mkdir(parents=True)
    factory = SlideFactory(width_px=side, height_px=side)
    rows, good = [], []
    for seed in range(slides):
        path = folder / f"factory-{seed:02d}.svs"
        factory.write(path, seed, downsamples=(1, 4), truth=False)
        rows.append((path.name, path.stem, "", "", "ab"[seed % 2]))
        good.append(path.stem)
    for name, mpp in (("CMU-1-Small-Region.svs", ""), ("her2st_C2_pyramid_jpeg.tif", "0.68")) if real else ():
        assert real is not None
        rows.append((str(real / "slides" / name), name.partition(".")[0], mpp, "", "real"))
        good.append(name.partition(".")[0])
    first = folder / "factory-00.svs"
    (folder / "truncated.svs").write_bytes(first.read_bytes()[: first.stat().st_size // 3])
    noise = np.random.default_rng(0).integers(90, 200, (600, 600, 3), np.uint8)
    cv2.imwrite(str(folder / "no-scale.png"), noise)
    tifffile.imwrite(
        folder / "glass.tif",
        np.full((768, 768, 3), 244, np.uint8),
        tile=(256, 256),
        photometric="rgb",
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )
    (folder / "mask.geojson").write_text('{"type": "FeatureCollection", "features": [')
    rows += [
        ("nowhere.svs", "missing", "", "", "bad"),
        ("truncated.svs", "truncated", "", "", "bad"),
        ("factory-01.svs", "Twin", "", "", "bad"),
        ("factory-02.svs", "twin", "", "", "bad"),
        ("no-scale.png", "no-scale", "", "", "bad"),
        ("glass.tif", "glass", "0.5", "", "bad"),
        ("factory-03.svs", "bad-mask", "", "mask.geojson", "bad"),
    ]
    table = folder / "cohort.csv"
    text = ["slide,id,mpp,mask,group,patient"]
    text += [",".join((*row, f"P{number}")) for number, row in enumerate(rows)]
    table.write_text("\n".join(text) + "\n")
    bad = {
        "missing": "does not exist",
        "truncated": "",
        "Twin": "shared by rows",
        "twin": "shared by rows",
        "no-scale": "pixel size",
        "glass": "No tissue",
        "bad-mask": "mask.geojson",
    }
    return Made(table, tuple(good), bad)


def study(folder: Path, mode: str, address: str | None, part_tiles: int) -> Path:
    """The study's file."""
    request = {"task": "detect", "labels": ["nucleus", "mitosis"], "mpp": 0.5, "tile_size": 224, "overlap": 32}
    if mode == "small":
        request |= {"tile_size": 96, "overlap": 16}
    model: dict[str, Any] = {"engine": "cohort_faults:make_engine"}
    if address is not None and address.startswith("http"):
        model = {"server": address, "name": "Qwen3-VL-stub", "concurrency": 4}
    cluster: dict[str, Any] = {"workers": 2, "part_tiles": part_tiles, "losses": KILLS + 1}
    if address is not None and address.startswith("tcp"):
        cluster["scheduler"] = address
    path = folder / f"study-{mode}.yaml"
    path.write_text(json.dumps({"request": request, "model": model, "cluster": cluster}))
    return path


# ---------------------------------------------------------------------- running and killing


@dataclass
class Batch:
    """A `qwenvl batch` in a process of its own."""

    table: Path
    study: Path
    out: Path
    environment: dict[str, str]

    def start(self) -> subprocess.Popen[bytes]:
        """Begin, or go on."""
        given = [str(self.table), "-c", str(self.study), "--allow-code", "-o", str(self.out)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "qwenvl", "batch", *given],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.out.with_suffix(".log")

    def run(self) -> int:
        """Run to the end; the exit code."""
        return self.start().wait(3600)

    def done(self) -> int:
        """Tiles with an answer, as the journals have it."""
        try:
            return sum(each.done for each in cohort_status(self.out)[1])
        except (FileNotFoundError, ValueError):
            return 0

    def finished(self) -> set[str]:
        """Numbers of the pictures with a stored answer, the parts' journals included."""
        found: set[str] = set()
        for journal in self.out.glob("**/run.sqlite"):
            try:
                with RunStore.open(journal.parent) as store:
                    found |= {each.answer.raw for each in store.iter_answers(raw=True)}
            except FileNotFoundError:
                continue
        return found


def workers_below(pid: int) -> list[int]:
    """Process ids of the dask workers that a process started."""
    import psutil

    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def wait_for(what: Callable[[], bool], words: str) -> None:
    """Wait until something is so."""
    until = time.monotonic() + _PATIENCE
    while not what():
        if time.monotonic() > until:
            raise SystemExit(f"waited {_PATIENCE:.0f} s in vain: {words}")
        time.sleep(0.02)


@dataclass
class Kill:
    """What was stored, and how many pictures had been asked about, when something was killed."""

    what: str
    stored: set[str]
    asked: int


def disturb(batch: Batch, log: Path, below: int | None, total: int, chance: random.Random) -> list[Kill]:
    """Run, killing a worker three times and the main process once; then repeat until it ends by itself."""
    kills: list[Kill] = []

    def note(what: str) -> None:
        asked = len(log.read_text().split()) if log.exists() else 0
        kills.append(Kill(what, batch.finished(), asked))
        print(f"  killed {what} after {len(kills[-1].stored)} of about {total} tiles", flush=True)

    process = batch.start()
    for number in range(KILLS):
        goal = total * (number + 1) // (KILLS + 3)
        wait_for(lambda goal=goal: batch.done() >= goal or process.poll() is not None, f"{goal} tiles")
        time.sleep(chance.uniform(0, 0.2))
        if process.poll() is not None:
            raise SystemExit("the batch ended before a worker could be killed; make it slower")
        wait_for(lambda: bool(workers_below(below or process.pid)), "a worker")
        os.kill(chance.choice(workers_below(below or process.pid)), signal.SIGKILL)
        note("a worker")
    goal = total * (KILLS + 1) // (KILLS + 3)
    wait_for(lambda: batch.done() >= goal or process.poll() is not None, f"{goal} tiles")
    if process.poll() is not None:
        raise SystemExit("the batch ended before it could be killed; make it slower")
    process.kill()
    process.wait()
    time.sleep(0.3)  # a worker notices within this time that nobody is left
    note("the main process")
    code = batch.run()
    if code != 3:
        raise SystemExit(f"the repeated command ended with {code}, not 3; see {batch.log}")
    return kills


# ---------------------------------------------------------------------- what must be so


def compare(made: Made, calm: Path, killed: Path) -> list[str]:
    """What is not as it must be."""
    wrong = []
    for folder in (calm, killed):
        stages = {each.row.id: each for each in cohort_status(folder)[1]}
        wrong += [
            f"{folder.name}: {id} is {stages[id].stage}: {stages[id].reason}"
            for id in made.good
            if stages[id].stage != "complete"
        ]
        for id, words in made.bad.items():
            if stages[id].stage not in ("refused", "failed") or words not in stages[id].reason:
                wrong.append(f"{folder.name}: {id} is {stages[id].stage} because {stages[id].reason!r}, not {words!r}")
    for id in made.good:
        if Report.read(calm / id).result() != Report.read(killed / id).result():
            wrong.append(f"{id}: the report differs from that of the undisturbed run")
        with RunStore.open(killed / id) as store:
            if store.attempts() != len(store.tiles()):
                wrong.append(f"{id}: {store.attempts()} answers are stored for {len(store.tiles())} tiles")
        if (killed / id / "parts").exists():
            wrong.append(f"{id}: parts are left over")
    return wrong


def asked_twice(kills: Sequence[Kill], log: Path, tiles: int, unique: Counter[str]) -> list[str]:
    """Pictures that were asked about although their answer was stored, by the engine's own log."""
    asked = log.read_text().split()
    wrong = []
    for kill in kills:
        again = {number for number in asked[kill.asked :] if number in kill.stored and unique[number] == 1}
        if again:
            wrong.append(f"{len(again)} stored tiles were asked again after {kill.what} was killed")
    most = tiles + 2 * BATCH * len(kills)
    if len(asked) > most:
        wrong.append(f"{len(asked)} pictures asked for {tiles} tiles: more than the {most} that kills can cost")
    print(f"  {len(asked)} pictures asked for {tiles} tiles, {len(kills)} kills")
    return wrong


def pictures_of(folder: Path, ids: Sequence[str]) -> Counter[str]:
    """How many tiles show each picture."""
    found: Counter[str] = Counter()
    for id in ids:
        with RunStore.open(folder / id) as store:
            found.update(each.answer.raw for each in store.iter_answers(raw=True))
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start_scheduler(stack: ExitStack, environment: dict[str, str]) -> tuple[str, int]:
    """`dask scheduler` and `dask worker` as one starts them by hand; the address, and the worker's process."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    begin = [sys.executable, "-m", "dask"]
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    workers = ["worker", address, "--nworkers", "2", "--nthreads", "1", "--resources", "model=1", "--no-dashboard"]
    started = 0
    for words in (scheduler, workers):
        process = subprocess.Popen(
            [*begin, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        started = process.pid
    return address, started


def start_server(stack: ExitStack) -> tuple[str, Any]:
    """The chat-completions server of the tests, with a stub behind it."""
    sys.path.insert(0, str(ROOT / "tests" / "qwenvl"))
    from server import STUB, ServerProcess

    server = ServerProcess({STUB: None})
    stack.callback(server.stop)
    return server.url, server


def check(mode: str, *, small: bool, folder: Path, seed: int = 7) -> list[str]:
    """Run all of it; what is not as it must be."""
    data = Path(os.environ.get("QWENVL_TEST_DATA", ROOT.parent / "shared" / "data"))
    real = None if small or not (data / "slides").is_dir() else data
    made = make_cohort(folder / "slides", slides=4 if small else 12, side=768 if small else 1536, real=real)
    path = f"{ROOT / 'benchmarks'}{os.pathsep}{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COHORT_SECONDS": "0"}
    with ExitStack() as stack:
        address, below, server = None, None, None
        calm_log, log = folder / "calm.asked", folder / "killed.asked"
        slow = environment | {"COHORT_LOG": str(log), "COHORT_SECONDS": "0.03" if small else "0.01"}
        if mode == "server":
            address, server = start_server(stack)
        part_tiles = 40 if small else 400
        plan = study(folder, "small" if small else "large", address, part_tiles)
        calm = Batch(made.table, plan, folder / "calm", environment | {"COHORT_LOG": str(calm_log)})
        begun = time.monotonic()
        if (code := calm.run()) != 3:
            return [f"the undisturbed run ended with {code}, not 3; see {calm.log}"]
        total = calm.done()
        print(f"{mode}: undisturbed in {time.monotonic() - begun:.0f} s, {total} tiles", flush=True)
        if mode == "scheduler":
            address, below = start_scheduler(stack, slow)
            plan = study(folder, "small" if small else "large", address, part_tiles)
        if server is not None:
            server.control(slow=0.15 if small else 0.03)
        killed = Batch(made.table, plan, folder / "killed", slow)
        kills = disturb(killed, log, below, total, random.Random(seed))
        wrong = compare(made, calm.out, killed.out)
        if server is not None:
            asked = len(server.stats()["asked"])
            print(f"  {asked} questions to the server for {total} tiles, {len(kills)} kills")
            # A worker had a whole call of 4 questions per connection under way.
            if asked > total + len(kills) * 2 * 4 * 4:
                wrong.append(f"{asked} questions for {total} tiles")
        else:
            wrong += asked_twice(kills, log, total, pictures_of(killed.out, made.good))
        before = log.stat().st_size if log.exists() else 0
        if killed.run() != 3 or (log.exists() and log.stat().st_size != before):
            wrong.append("a third call did not leave everything as it was")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one mode and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small cohort, about half a minute")
    parser.add_argument("--mode", choices=("local", "scheduler", "server"), default="local")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        wrong = check(given.mode, small=given.small, folder=folder)
    for words in wrong:
        print(f"WRONG  {words}")
    print("as it must be" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
