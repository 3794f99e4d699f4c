"""What the plugin loads when napari finds it, and that everything else does without napari and Qt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = yaml.safe_load((ROOT / "napari_qwenvl" / "napari.yaml").read_text())["contributions"]
MODULES = sorted({command["python_name"].partition(":")[0] for command in MANIFEST["commands"]})
ABSENT = "napari,npe2,qtpy,PyQt5,PyQt6,PySide6,vispy,magicgui,superqt"
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
"""


def run(code: str, *arguments: str) -> str:
    """Standard output of Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_command_of_the_manifest_loads_a_model_library():
    pytest.importorskip("napari", reason="the viewer is tested where napari is installed")
    heavy = {"torch", "transformers", "peft", "accelerate"}
    assert run(f"import sys, {', '.join(MODULES)}; print(*sorted({heavy!r} & set(sys.modules)))").split() == []


def test_a_run_needs_neither_napari_nor_qt(tmp_path):
    code = BLOCK + (
        "from pathlib import Path\n"
        "from qwenvl.engines.fake import FakeEngine\n"
        "from qwenvl.request import Request\n"
        "from workflows import export_geojson, run_slide\n"
        "from wsi.synthetic import Scene, write_slide\n"
        "out = Path(sys.argv[2])\n"
        "write_slide(out / 'slide.svs', Scene(60, 60, seed=1), mpp=0.25, downsamples=(1,), truth=False)\n"
        "request = Request(task='detect', labels=('cell',), tile_size=224, mpp=0.25)\n"
        "run_slide(out / 'slide.svs', request, FakeEngine(5), out / 'run', mask='all')\n"
        "print(export_geojson(out / 'run', out / 'cells.geojson'))\n"
    )
    assert int(run(code, ABSENT, str(tmp_path))) > 0


def test_reading_a_slide_needs_no_napari(tmp_path):
    code = BLOCK + (
        "from napari_qwenvl.read.readers import get_slide_reader\n"
        "from wsi.synthetic import Scene, write_slide\n"
        "path = sys.argv[2] + '/slide.svs'\n"
        "write_slide(path, Scene(60, 60, seed=1), mpp=0.25, downsamples=(1,), truth=False)\n"
        "[(levels, options, kind)] = get_slide_reader(path)(path)\n"
        "print(levels[0].shape, kind)\n"
    )
    assert run(code, ABSENT, str(tmp_path)) == "(240, 240, 3) image\n"
