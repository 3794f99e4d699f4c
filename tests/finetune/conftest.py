"""Shared by the tests of fine-tuning: pictures with planted cells, datasets of them, tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune.build import BuildOptions, build_dataset, split_dataset
from finetune.samples import Dataset
from qwenvl.testing import tiny_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of floats do not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny checkpoint by family name, built once. Nobody may change it."""
    root = tmp_path_factory.mktemp("tiny")

    def build(family: str) -> Path:
        folder = root / family
        return folder if folder.is_dir() else tiny_checkpoint(family, folder)

    return build


def write_cells(folder: Path, number: int, *, size: tuple[int, int] = (160, 128), seed: int = 0) -> Path:
    """A VOC folder of `number` pictures, each with three disks of class 'dark' or 'light' at known boxes."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    width, height = size
    for n in range(number):
        rng = np.random.default_rng([seed, n])
        picture = np.full((height, width, 3), 235, np.uint8) - rng.integers(
            0, 9, (height, width, 3), np.uint8
        )
        objects = []
        for k, (cx, cy) in enumerate(((35, 35), (110, 45), (70, 95))):
            radius = int(rng.integers(10, 17))
            dark = (n + k) % 2 == 0
            cv2.circle(picture, (cx, cy), radius, (120, 40, 90) if dark else (230, 150, 180), -1)
            name = "dark" if dark else "light"
            corners = (cx - radius + 1, cy - radius + 1, cx + radius + 1, cy + radius + 1)
            tags = "".join(
                f"<{key}>{value}</{key}>"
                for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
            )
            objects.append(f"<object><name>{name}</name><bndbox>{tags}</bndbox></object>")
        cv2.imwrite(str(folder / "images" / f"p{n:02}.png"), picture[..., ::-1])
        (folder / "annotations" / f"p{n:02}.xml").write_text(
            f"<annotation><filename>p{n:02}.png</filename><size><width>{width}</width><height>{height}</height></size>"
            + "".join(objects) + "</annotation>"
        )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten pictures with thirty boxes of two classes, split; nobody may change it."""
    root = tmp_path_factory.mktemp("cells")
    source = write_cells(root / "voc", 10)
    dataset = build_dataset("cells", [(source / "annotations", source / "images")], BuildOptions())
    return split_dataset(dataset, validation=0.3, seed=1).save(root / "cells.dataset")
