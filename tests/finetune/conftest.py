"""Shared by the tests of fine-tuning: pictures with planted cells, datasets of them, tiny checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from voc_cells import write_cells

from finetune.dataset.build import BuildOptions, build_dataset, split_dataset
from finetune.dataset.samples import Dataset


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of floats do not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten pictures with thirty boxes of two classes, split; nobody may change it."""
    root = tmp_path_factory.mktemp("cells")
    source = write_cells(root / "voc", 10)
    dataset = build_dataset("cells", [(source / "annotations", source / "images")], BuildOptions())
    return split_dataset(dataset, validation=0.3, seed=1).save(root / "cells.dataset")
