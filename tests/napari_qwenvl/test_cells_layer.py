"""A table of cells in the viewer: points in place, and the sentence where the pointer is."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("anndata", reason="needs the extra 'science'")
from napari.layers import Layer

from napari_qwenvl.layers.science import cells as shown
from napari_qwenvl.layers.science.cells import cell_layer, get_cells_reader
from workflows.science.cells import CellTable, Vocabulary, write_sentences
from workflows.science.cells.measure.measuring import feature_names
from workflows.science.cells.measure.stains import STAINS


def _table(scale: dict[str, float]) -> CellTable:
    names = feature_names(STAINS["he"], "um" if scale else "px")
    values = np.random.default_rng(0).uniform(1, 12, (4, len(names))).astype(np.float32)
    words = Vocabulary.of(names, values)
    centre0 = np.array([[50.0, 20.0], [150.0, 20.0], [50.0, 220.0], [90.0, 90.0]])
    return CellTable(
        keys=list("abcd"),
        names=names,
        values=values,
        centre0=centre0,
        box0=np.concatenate([centre0 - 10, centre0 + 10], axis=1),
        label=np.array([0, 1, 0, 1]),
        labels=("tumor", "stroma"),
        score=np.full(4, np.nan),
        vocabulary=words,
        sentences=write_sentences(words, names, values),
        facts={"slide": "s.svs", "slide_fingerprint": "sha256:1", **scale},
    )


@pytest.mark.parametrize("scale", [{}, {"mpp_x": 0.5, "mpp_y": 0.25}])
def test_the_pointer_finds_the_sentence_of_its_cell(tmp_path, scale):
    table = _table(scale)
    table.write(tmp_path / "cells.h5ad")
    reader = get_cells_reader(str(tmp_path / "cells.h5ad"))
    assert reader is not None
    layer = Layer.create(*reader(str(tmp_path / "cells.h5ad"))[0])
    x, y = scale.get("mpp_x", 1.0), scale.get("mpp_y", 1.0)
    for row in range(4):
        column, line = table.centre0[row]
        said = layer.get_status(((line - 0.5) * y, (column - 0.5) * x), world=True)["value"]
        assert table.sentences[row] in said
        assert f"key: {table.keys[row]}" in said
    assert layer.size[0] == 20


def test_large_tables_say_how_many_are_drawn(monkeypatch):
    monkeypatch.setattr(shown, "MOST", 2)
    points, options, _ = cell_layer(_table({}))
    assert len(points) == 2
    assert "2 of 4" in options["name"]


def test_other_tables_are_left_to_others(tmp_path):
    import anndata

    anndata.AnnData(np.zeros((2, 2))).write_h5ad(tmp_path / "other.h5ad")
    (tmp_path / "broken.h5ad").write_text("no")
    for name in ("other.h5ad", "broken.h5ad", "missing.h5ad", "cells.csv"):
        assert get_cells_reader(str(tmp_path / name)) is None
