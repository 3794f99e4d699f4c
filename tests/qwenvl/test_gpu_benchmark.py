"""The benchmark for CUDA devices: its geometries are those of the published models, and every step runs on a CPU."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu(benchmark_script: Callable[[str], Any]) -> Any:
    return benchmark_script("gpu")


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen3-VL-2B", 2.127), ("Qwen3-VL-4B", 4.438), ("Qwen3-VL-8B", 8.767), ("Qwen2.5-VL-7B", 8.292)],
)
def test_geometries_have_the_published_number_of_parameters(gpu: Any, name: str, billions: float) -> None:
    import transformers

    from qwenvl.families import get_family

    geometry = gpu.GEOMETRIES[name]
    architecture = getattr(transformers, get_family(geometry.family).architecture)
    config = architecture.config_class(
        text_config={**geometry.text, "tie_word_embeddings": geometry.tied},
        vision_config=geometry.vision,
        tie_word_embeddings=geometry.tied,
    )
    with torch.device("meta"):
        model = architecture(config)
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, rel=1e-3)


def test_every_step_runs_without_a_gpu() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--selfcheck"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("both sides write the same tokens in float32") == 2
    assert "no bar counts" in done.stdout
    assert "bar:" not in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs a CUDA device" in done.stdout
