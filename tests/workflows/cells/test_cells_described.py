"""Sentences and back, the table, search, samples, gene ranks, and the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cell_slides import draw, write_slide
from typer.testing import CliRunner

from qwenvl.checkpoints.testing import tiny_checkpoint
from workflows.commands import app
from workflows.errors import CellsError, ExportExistsError
from workflows.science.cells import (
    CellSearch,
    CropSize,
    LabelImage,
    Vocabulary,
    cells_of_labels,
    cells_of_run,
    fit_ranks,
    gene_sentences,
    read_crop,
    read_gene_sentences,
    read_sentence,
    read_table,
    write_samples,
    write_sentences,
)
from workflows.science.cells.words.sentences import UNSAID

pytest.importorskip("anndata", reason="tables of cells need anndata")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A slide, its labels' classes, and its table."""
    folder = tmp_path_factory.mktemp("cells")
    picture, labels, kinds = draw()
    slide = write_slide(folder, picture)
    tifffile.imwrite(folder / "labels.tif", labels.astype(np.uint16))
    table = cells_of_labels(slide, LabelImage(slide.path, labels, 1.0))
    table.write(folder / "cells.h5ad")
    yield slide, kinds[1:], table, folder
    slide.close()


def test_sentences_say_what_was_planted(made):
    """Discs 9.3 um across are round and dark, ellipses elongated and pale."""
    _, kinds, table, _ = made
    discs = [said for said, kind in zip(table.sentences, kinds, strict=True) if kind == 1]
    ellipses = [said for said, kind in zip(table.sentences, kinds, strict=True) if kind == 2]
    assert all(said.startswith("Medium-sized, round nucleus, 9.") for said in discs)
    assert all(" elongated nucleus, 13." in said or " elongated nucleus, 14.0" in said for said in ellipses)
    assert sum("dark stain" in said for said in discs) > 0.6 * len(discs)
    assert not any("dark stain" in said for said in ellipses)


def test_a_sentence_is_read_back_as_it_was_written(made):
    *_, table, _ = made
    words = table.vocabulary
    codes = words.codes(table.names, table.values)
    diameter = table.values[:, table.names.index(words.diameter)]
    for row in range(0, len(table), 17):
        said = read_sentence(words, table.sentences[row])
        assert said.codes == tuple(codes[row])
        assert said.diameter == pytest.approx(diameter[row], abs=0.051)


@pytest.mark.parametrize(
    ("text", "codes", "diameter"),
    [
        ("round, dark stain", (UNSAID, 0, UNSAID, 2, UNSAID), None),
        ("LARGE. Irregular outline", (2, UNSAID, 0, UNSAID, UNSAID), None),
        ("12.5 um across", (UNSAID,) * 5, 12.5),
        ("medium-sized, medium stain", (1, UNSAID, UNSAID, 1, UNSAID), None),
        ("dark", None, "says nothing"),
        ("round, oval", None, "two things about shape"),
        ("round, 12 px across", None, "size in px"),
        ("a purple monster", None, "says nothing"),
    ],
)
def test_parts_of_a_sentence(made, text, codes, diameter):
    words = made[2].vocabulary
    if codes is None:
        with pytest.raises(CellsError, match=diameter):
            read_sentence(words, text)
    else:
        said = read_sentence(words, text)
        assert (said.codes, said.diameter) == (codes, diameter)


def test_words_of_another_table_mean_the_same(made):
    *_, table, _ = made
    again = Vocabulary.from_json(table.vocabulary.to_json())
    assert again == table.vocabulary
    half = table.values[::2]
    assert write_sentences(again, table.names, half) == list(table.sentences[::2])
    with pytest.raises(CellsError, match="another stain"):
        again.codes(("area_px2",), half[:, :1])


def test_the_table_is_read_as_it_was_written(made):
    slide, _, table, folder = made
    read = read_table(folder / "cells.h5ad")
    assert read.keys == list(table.keys)
    assert read.sentences == list(table.sentences)
    np.testing.assert_array_equal(read.values, table.values)
    np.testing.assert_array_equal(read.centre0, table.centre0)
    np.testing.assert_array_equal(read.box0, table.box0)
    assert read.vocabulary == table.vocabulary
    assert read.facts["slide_fingerprint"] == slide.fingerprint
    assert read.facts["mpp"] == 0.5
    with pytest.raises(ExportExistsError):
        table.write(folder / "cells.h5ad")
    with pytest.raises(CellsError, match="no table of cells"):
        read_table(folder / "labels.tif")


def test_a_zarr_holds_the_same(made, tmp_path):
    _, _, table, _ = made
    table.write(tmp_path / "cells.zarr")
    read = read_table(tmp_path / "cells.zarr")
    assert (read.keys, read.sentences) == (list(table.keys), list(table.sentences))
    np.testing.assert_array_equal(read.values, table.values)


def test_scanpy_takes_the_table(made):
    anndata = pytest.importorskip("anndata")
    data = anndata.read_h5ad(made[3] / "cells.h5ad")
    assert data.shape == (len(made[2]), len(made[2].names))
    assert data.obs["label"].dtype.name == "category"
    assert data.uns["spatial_unit"] == "px"
    assert not np.isnan(data.X).any()


def test_like_cells_are_of_the_same_planted_class(made):
    _, kinds, table, _ = made
    search = CellSearch(table)
    for space in ("morphology", "sentence"):
        hits = [(kinds[search.by_cell(row, 10, space).rows] == kinds[row]).mean() for row in range(0, len(table), 9)]
        assert np.mean(hits) > 0.95
    found = search.by_sentence("elongated", 20)
    assert (kinds[found.rows] == 2).all()
    assert (np.diff(found.distances) >= 0).all()
    assert 3 not in search.by_cell(3, 10).rows
    assert len(search.by_cell(3, 10_000).rows) == len(table) - 1
    with pytest.raises(CellsError, match="no embeddings"):
        search.by_cell(0, space="tower")
    with pytest.raises(CellsError, match="no cell is called so"):
        table.row_of("nobody")
    assert table.row_of(f"{table.keys[4]}") == 4


def test_a_crop_shows_its_cell_in_the_middle(made):
    slide, _, table, _ = made
    size = CropSize.of(slide, px=64, um=32)
    for row in (0, 100, len(table) - 1):
        crop, inside = read_crop(slide, table.centre0[row], size)
        assert crop.shape == (64, 64, 3)
        assert inside
        assert crop[28:36, 28:36].mean() < crop[:4, :4].mean() - 30
    corner, inside = read_crop(slide, np.array([2.0, 3.0]), size)
    assert not inside
    np.testing.assert_array_equal(corner[0, 0], slide.read(0, 0, 1, 1)[0, 0])


def test_samples_are_conversations_and_neighbours_stay_on_one_side(made, tmp_path):
    slide, _, table, _ = made
    written = write_samples(table, slide, tmp_path / "s", held_out=0.25, block0=300)
    assert written.training_rows + written.held_out_rows + written.at_border == len(table)
    row = json.loads(written.training.read_text().splitlines()[0])
    user, assistant = row["messages"]
    assert (tmp_path / "s" / user["content"][0]["image"]).is_file()
    assert "centre of this image" in user["content"][1]["text"]
    assert assistant["content"] in table.sentences

    def blocks(path: Path) -> set[tuple[int, int]]:
        names = [json.loads(line)["messages"][0]["content"][0]["image"] for line in path.read_text().splitlines()]
        return {tuple((table.centre0[int(name[-11:-4])] // 300).astype(int)) for name in names}

    assert blocks(written.held_out)
    assert not blocks(written.training) & blocks(written.held_out)
    with pytest.raises(ExportExistsError):
        write_samples(table, slide, tmp_path / "s")
    with pytest.raises(CellsError, match="none can be held out"):
        write_samples(table, slide, tmp_path / "t", block0=100_000)


def test_samples_are_what_fine_tuning_reads(made, tmp_path):
    formats = pytest.importorskip("finetune.conversations.formats")
    slide, _, table, _ = made
    written = write_samples(table, slide, tmp_path / "s", most=12, block0=300)
    read = formats.read_conversations(written.training)
    assert len(read) == written.training_rows
    assert read[0].sizes == ((64, 64),)


def test_gene_sentences_and_back():
    rng = np.random.default_rng(0)
    genes = [f"GENE{n}" for n in range(200)]
    means = 3000 / np.arange(1, 201) ** 1.1
    counts = rng.poisson(rng.permutation(means)[None, :] * rng.gamma(4, 0.25, (50, 200)))
    sentences = gene_sentences(counts, genes, top=200)
    first = sentences[0].split()
    order = [counts[0, genes.index(name)] for name in first]
    assert order == sorted(order, reverse=True)
    assert len(first) == (counts[0] > 0).sum()
    fit = fit_ranks(counts)
    assert fit.slope < 0
    assert fit.r2 > 0.8
    back = read_gene_sentences(sentences, genes, fit)
    total = counts.sum(1, keepdims=True)
    truth = np.log10(1 + counts / total * 1e4)
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(back.values, truth, strict=True)]) > 0.9
    odd = read_gene_sentences(["GENE3 GENE3 NONSENSE GENE5"], genes, fit)
    assert (odd.unknown, odd.unknown_words, odd.repeated_words) == (("NONSENSE",), 1, 1)
    assert odd.values[0, 3] > odd.values[0, 5] > 0
    assert gene_sentences(np.zeros((1, 200)), genes) == [""]


@pytest.mark.parametrize(
    ("matrix", "genes", "message"),
    [
        ([[1.5, 2]], ["A", "B"], "normalised already"),
        ([[-1, 2]], ["A", "B"], "negative"),
        ([[1, 2]], ["A", "A"], "repeat"),
        ([[1, 2]], ["A"], "2 columns and 1 gene"),
        ([[1, 2]], ["A", "B C"], "one word"),
    ],
)
def test_matrices_that_cannot_be_written(matrix, genes, message):
    with pytest.raises(CellsError, match=message):
        gene_sentences(np.array(matrix), genes)


def test_sentences_of_another_matrix_name_the_nearest():
    fit = fit_ranks(np.array([[5, 3, 1]]))
    with pytest.raises(CellsError, match=r"nearest to 'CD8'.*CD8A"):
        read_gene_sentences(["CD8 CD99"], ["CD8A", "MKI67", "EPCAM"], fit)


def test_the_commands_end_to_end(made, tmp_path, monkeypatch):
    slide, kinds, table, folder = made
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    model = str(tiny_checkpoint("Qwen3-VL", tmp_path / "tiny"))
    name = [str(slide.path), "--slide-mpp", "0.5"]
    measured = ["cells", "measure", *name, "--labels", str(folder / "labels.tif"), "-o"]
    said = run.invoke(app, [*measured, "c.h5ad", "--tower", "-m", model, "--json"])
    assert said.exit_code == 0, said.output
    facts = json.loads(said.output)
    assert facts["cells"] == len(table)
    assert sum(facts["words"]["shape"].values()) == len(table)
    again = run.invoke(app, [*measured, "c.h5ad"])
    assert again.exit_code == 1
    assert "exists already" in again.output
    same = run.invoke(app, [*measured, "d.h5ad", "--words-from", "c.h5ad"])
    assert same.exit_code == 0, same.output
    key = table.keys[9]
    for by in ("morphology", "sentence", "tower"):
        found = run.invoke(app, ["cells", "similar", "c.h5ad", "--cell", key, "--by", by, "-k", "3", "--json"])
        assert found.exit_code == 0, found.output
        assert len(json.loads(found.output)) == 3
    sheet = ["--slide", name[0], "--picture", "sheet.png"]
    found = run.invoke(app, ["cells", "similar", "c.h5ad", "--sentence", "elongated, pale stain", *sheet])
    assert found.exit_code == 0, found.output
    assert Path("sheet.png").stat().st_size > 10_000
    from PIL import Image

    crop, _ = read_crop(slide, table.centre0[9], CropSize.of(slide))
    Image.fromarray(crop).save("crop.png")
    found = run.invoke(app, ["cells", "similar", "c.h5ad", "--crop", "crop.png", "-m", model, "-k", "1", "--json"])
    assert json.loads(found.output)[0]["key"] == key
    other = str(tiny_checkpoint("Qwen3-VL", tmp_path / "other", seed=1))
    found = run.invoke(app, ["cells", "similar", "c.h5ad", "--crop", "crop.png", "-m", other])
    assert found.exit_code == 1
    assert "other weights" in found.output
    nothing = run.invoke(app, ["cells", "measure", name[0], "-o", "x.h5ad"])
    assert nothing.exit_code == 2
    written = run.invoke(app, ["cells", "samples", "c.h5ad", *name, "-o", "s", "--most", "9", "--block", "300"])
    assert written.exit_code == 0, written.output
    assert kinds.max() == 2


def test_cells_of_a_run(made, tmp_path):
    """Boxes of a run are outlined inside; points are counted; another slide is refused."""
    from qwenvl.answer import Answer, Status, TileObject
    from qwenvl.engines.fake import FakeEngine
    from qwenvl.request import Request
    from workflows.run.slide import run_slide

    slide, _, table, _ = made

    class Planted(FakeEngine):
        """Answers with the planted box in the only tile's middle."""

        def answer(self, pictures, request):
            boxes = table.box0[(table.box0 < 640).all(1)]
            objects = tuple(
                TileObject("cell", tuple(box.tolist()), score=0.5) for box in boxes + np.array([-3, -3, 3, 3])
            )
            return [Answer(Status.OK, (*objects, TileObject("spot", point=(20.0, 20.0)))) for _ in pictures]

    request = Request(task="detect", labels=("cell", "spot"), mpp=0.5, tile_size=640, overlap=0)
    run_slide(slide.path, request, Planted(), tmp_path / "run", slide_mpp=0.5, mask="all", limit=1)
    found = cells_of_run(tmp_path / "run", slide)
    expected = (table.box0 < 640).all(1).sum()
    assert len(found) == expected
    assert found.facts["points"] == 1
    assert found.labels[found.label[0]] == "cell"
    assert set(found.score) == {0.5}
    near = np.linalg.norm(found.centre0[:, None] - table.centre0[None], axis=2)
    assert near.min(axis=1).max() < 1.0
    with write_slide(tmp_path, draw(seed=5)[0]) as other, pytest.raises(CellsError, match="another"):
        cells_of_run(tmp_path / "run", other)
