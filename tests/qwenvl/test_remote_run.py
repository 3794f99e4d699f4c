"""Slides through a server, and a run that goes on after its server was killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from remote_cases import Connect
from server import STUB, ServerProcess
from typer.testing import CliRunner, Result

from qwenvl.cli import load_commands
from qwenvl.engines.local import LocalEngine
from qwenvl.errors import ServerError
from qwenvl.request import Request, Task
from workflows.report.report import Report
from workflows.run.slide import run_slide
from workflows.store.run_store import RunStore
from wsi.synthetic import Scene, write_slide


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "small.svs"
    write_slide(path, Scene(160, 160, seed=3), mpp=0.25, downsamples=(1, 4))
    return path


SLIDE = Request(task=Task.DETECT, labels=("nucleus",), mpp=0.25, tile_size=64, overlap=16)


def finished_tiles(folder: Path) -> int:
    """How many tiles are finished; none may have failed."""
    with RunStore.open(folder) as store:
        assert not len(store.failed())
        return len(store.finished())


def stored(folder: Path) -> dict[int, str]:
    with RunStore.open(folder) as store:
        return {found.tile: found.answer.raw for found in store.iter_answers(raw=True)}


def test_a_slide_through_a_server(svs: Path, tiny: Callable[[str], Path], connect: Connect, tmp_path: Path) -> None:
    # Words, which both engines write freely.
    request = Request(task=Task.DESCRIBE, mpp=0.5, tile_size=224, overlap=32, generation={"max_new_tokens": 8})
    run_slide(svs, request, LocalEngine.load(tiny("Qwen3-VL")), tmp_path / "local", limit=6, overview=False)
    run_slide(svs, request, connect("Qwen3-VL"), tmp_path / "remote", limit=6, overview=False)
    assert stored(tmp_path / "remote") == stored(tmp_path / "local")
    assert len(set(stored(tmp_path / "remote").values())) > 1
    assert Report.read(tmp_path / "remote").model.model == "Qwen3-VL@127.0.0.1"


def test_a_run_goes_on_after_its_server_was_killed(svs: Path, connect: Connect, tmp_path: Path) -> None:
    process = ServerProcess({STUB: None})
    calm = run_slide(svs, SLIDE, connect(url=process.url, concurrency=4), tmp_path / "calm", overview=False)
    process.control(plan=[None] * 21 + ["die"])
    engine = connect(url=process.url, concurrency=4, attempts=2)
    with pytest.raises(ServerError, match="cannot be reached") as stopped:
        run_slide(svs, SLIDE, engine, tmp_path / "killed", overview=False)
    process.stop()
    assert stopped.value.code == "away"
    finished = finished_tiles(tmp_path / "killed")
    # The batch under way began at 16; of it, what had arrived stays.
    assert 18 <= finished < calm.asked
    again = ServerProcess({STUB: None}, port=process.port)
    try:
        result = run_slide(svs, SLIDE, connect(url=again.url), tmp_path / "killed", overview=False)
        assert result.complete
        assert result.asked == calm.asked - finished, "no finished tile is asked again, none is left out"
        assert len(again.stats()["asked"]) == result.asked
    finally:
        again.stop()
    assert result.report.result() == calm.report.result()


@pytest.mark.parametrize("fault", ["429", "500", "503", "drop", "garbage", "quota", "401", "404", "400"])
def test_a_server_that_begins_to_fail_fails_no_tile(
    fault: str, svs: Path, server: ServerProcess, connect: Connect, tmp_path: Path
) -> None:
    server.control(plan=[None] * 21 + [fault] * 500)
    with pytest.raises(ServerError):
        run_slide(svs, SLIDE, connect(concurrency=4, attempts=2), tmp_path / "run", overview=False)
    finished = finished_tiles(tmp_path / "run")
    assert finished == server.stats()["answered"] == 21
    server.control()
    result = run_slide(svs, SLIDE, connect(), tmp_path / "run", overview=False)
    assert result.complete
    assert result.asked == result.report.tiles.total - finished


def test_a_fresh_run_of_a_server_that_never_answers_leaves_nothing(
    svs: Path, server: ServerProcess, connect: Connect, tmp_path: Path
) -> None:
    engine = connect(attempts=1)
    server.control(plan=["503"] * 100)
    with pytest.raises(ServerError):
        run_slide(svs, SLIDE, engine, tmp_path / "run", overview=False)
    assert not (tmp_path / "run").exists()


def test_a_server_on_the_command_line(svs: Path, server: ServerProcess, connect: Connect, tmp_path: Path) -> None:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(load_commands(), [str(each) for each in arguments])

    grid = ["--mpp", "0.5", "--tile-size", "64", "--overlap", "16", "--limit", "5"]
    there = ["--server", server.url, "-m", STUB, "--concurrency", "2"]
    first = run("detect", svs, *there, *grid, "-o", tmp_path / "first")
    assert first.exit_code == 0, first.output
    assert server.stats()["most"] <= 2
    report = Report.read(tmp_path / "first")
    assert (report.model.model, report.model.family) == (f"{STUB}@127.0.0.1", "Qwen3-VL")
    unclear = run("detect", svs, "--server", server.url, *grid, "-o", tmp_path / "second")
    assert unclear.exit_code == 1
    assert "name one" in unclear.output
    refused = run("repeat", tmp_path / "first", "-o", tmp_path / "again")
    assert refused.exit_code == 2
    assert "--server" in refused.output
    again = run("repeat", tmp_path / "first", "-o", tmp_path / "again", "--server", server.url)
    assert again.exit_code == 0, again.output
    assert stored(tmp_path / "again").items() >= stored(tmp_path / "first").items()
