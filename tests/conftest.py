"""What every test shares: real data, where it is present, and calm threads."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# As the command line does: see qwenvl.cli.main.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Mesa and triton each bring an LLVM. The process dies where triton comes second, as it does when a test of the viewer
# runs before the first one that loads a model; the viewer itself loads models in a child process.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real slides and annotations; the test is skipped where it is absent."""
    folder = Path(os.environ.get("QWENVL_TEST_DATA", ROOT.parent / "shared" / "data")).expanduser()
    if not (folder / "slides").is_dir():
        pytest.skip(f"no real data at {folder}; set QWENVL_TEST_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def benchmark_script() -> Callable[[str], Any]:
    """Loads a script of `benchmarks/` by its name, as a module."""

    def load(name: str) -> Any:
        path, module_name = ROOT / "benchmarks" / f"{name}.py", f"benchmark_{name}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
        before = list(sys.path)
        spec.loader.exec_module(module)
        sys.path[:] = before  # scripts take their own folder out
        return module

    return load


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny checkpoint by family name, built once. Nobody may change it."""
    from qwenvl.checkpoints.testing import tiny_checkpoint

    root = tmp_path_factory.mktemp("tiny")

    def build(family: str) -> Path:
        folder = root / family
        return folder if folder.is_dir() else tiny_checkpoint(family, folder)

    return build
