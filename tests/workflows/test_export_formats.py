"""Planted objects come out of every format at the right place, read by the library that format belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_helpers import MemorySlide, request_of
from test_report import Scripted

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Task
from workflows.errors import ExportError, ExportExistsError, RunNotFoundError
from workflows.export import (
    export_anndata,
    export_coco,
    export_geojson,
    export_heatmap,
    export_labels,
    export_objects_csv,
    export_objects_parquet,
    export_spatialdata,
    export_tiles_parquet,
)
from workflows.export.omezarr import _known_mean
from workflows.review.decisions import Action, Change, Reviews, Verdict, new_object_name, object_name
from workflows.review.reviewed import reviewed_objects
from workflows.run.slide import run_slide
from workflows.store.run_store import RunStore

MPP = 0.5
PLANTED = {
    # label: (box in level-0 px, score)
    "tumour": ((10.0, 20.0, 50.0, 60.0), 0.75),
    "a/b <i>": ((230.0, 40.0, 250.0, 70.0), None),
    "lymphocyte": ((320.0, 330.0, 332.0, 340.0), 0.25),
}


def tile_object(label: str, corner: tuple[int, int]) -> TileObject:
    (x0, y0, x1, y1), score = PLANTED[label]
    x, y = corner
    return TileObject(label, box=(x0 - x, y0 - y, x1 - x, y1 - y), score=score, attributes={"why": "dark"})


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Three boxes in three of four tiles; the fourth tile failed."""
    answers = [
        Answer(Status.OK, (tile_object("tumour", (0, 0)),)),
        Answer(Status.OK, (tile_object("a/b <i>", (200, 0)),)),
        Answer.failure("no pixels"),
        Answer(Status.OK, (tile_object("lymphocyte", (200, 200)),)),
    ]
    request = request_of(Task.DETECT, tile_size=200, overlap=0, mpp=None)
    run_slide(MemorySlide(400, 400, MPP), request, Scripted(*answers), tmp_path / "run", mask="all", overview=False)
    return tmp_path / "run"


@pytest.fixture
def points(tmp_path: Path) -> Path:
    found = (TileObject("mitosis", point=(30, 40), score=0.5),)
    answers = [Answer(Status.OK, found), *[Answer(Status.EMPTY)] * 3]
    request = request_of(Task.POINT, tile_size=200, overlap=0, mpp=None)
    run_slide(MemorySlide(400, 400, MPP), request, Scripted(*answers), tmp_path / "p", mask="all", overview=False)
    return tmp_path / "p"


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    request = request_of(Task.DETECT, tile_size=200, overlap=0, mpp=None)
    engine = Scripted(*[Answer(Status.EMPTY)] * 4)
    run_slide(MemorySlide(400, 400, None), request, engine, tmp_path / "n", mask="all", overview=False)
    return tmp_path / "n"


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    answers = [
        Answer(Status.OK, text="tumour", scores={"tumour": 0.7, "stroma": 0.2, "necrosis": 0.1}),
        Answer(Status.OK, text="stroma", scores={"tumour": 0.1, "stroma": 0.9, "necrosis": 0.0}),
        Answer.failure("no pixels"),
        Answer(Status.REFUSED, text="no"),
    ]
    request = request_of(Task.CLASSIFY, tile_size=200, overlap=0, mpp=None)
    run_slide(MemorySlide(400, 400, MPP), request, Scripted(*answers), tmp_path / "c", mask="all", overview=False)
    return tmp_path / "c"


def ids_of(run: Path) -> set[str]:
    export_geojson(run, run.parent / "ids.geojson", overwrite=True)
    return {feature["id"] for feature in json.loads((run.parent / "ids.geojson").read_text())["features"]}


# ---------------------------------------------------------------------- Parquet


def test_parquet_objects(planted: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert export_objects_parquet(planted, tmp_path / "x.parquet") == 3
    frame = pandas.read_parquet(tmp_path / "x.parquet").set_index("label")
    assert set(frame["id"]) == ids_of(planted)
    for label, (box, score) in PLANTED.items():
        row = frame.loc[label]
        assert row[["x_min_px", "y_min_px", "x_max_px", "y_max_px"]].tolist() == list(box)
        assert row[["x_min_um", "y_max_um"]].tolist() == [box[0] * MPP, box[3] * MPP]
        assert row["area_um2"] == (box[2] - box[0]) * (box[3] - box[1]) * MPP**2
        assert (pandas.isna(row["score"]) and score is None) or row["score"] == score
        assert json.loads(row["attributes"]) == {"why": "dark"}
        assert row["review"] == "unreviewed"
    import pyarrow.parquet as pq

    facts = json.loads(pq.read_schema(tmp_path / "x.parquet").metadata[b"qwenvl"])
    assert (facts["mpp_x"], facts["slide"]) == (MPP, "memory-400x400-0.svs")


def test_parquet_tiles_and_empty_runs(scored: Path, nothing: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert export_tiles_parquet(scored, tmp_path / "t.parquet") == 4
    frame = pandas.read_parquet(tmp_path / "t.parquet")
    assert frame["status"].tolist() == ["ok", "ok", "failed", "refused"]
    assert frame["tumour"].tolist()[:2] == [0.7, 0.1]
    assert frame["tumour"].isna().tolist() == [False, False, True, True]
    assert frame["error"].tolist()[2] == "no pixels"
    assert export_objects_parquet(nothing, tmp_path / "n.parquet") == 0
    empty = pandas.read_parquet(tmp_path / "n.parquet")
    assert len(empty) == 0
    assert {"id", "label", "score", "x_min_px"} <= set(empty.columns)
    assert "x_min_um" not in empty.columns
    assert export_objects_csv(nothing, tmp_path / "n.csv") == 0
    assert (tmp_path / "n.csv").read_text().startswith("id,instance,tile,item,label")


# ---------------------------------------------------------------------- AnnData


def read_anndata(path: Path):
    anndata = pytest.importorskip("anndata")
    return anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)


@pytest.mark.parametrize("name", ["x.h5ad", "x.zarr"])
def test_anndata_objects(name: str, planted: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    assert export_anndata(planted, tmp_path / name) == 3
    table = read_anndata(tmp_path / name)
    assert set(table.obs_names) == ids_of(planted)
    assert table.uns["spatial_unit"] == "um"
    assert table.obs["label"].dtype == "category"
    labels = list(table.obs["label"])
    assert sorted(labels) == sorted(PLANTED)
    for row, label in enumerate(labels):
        (x0, y0, x1, y1), score = PLANTED[label]
        assert table.obsm["spatial"][row].tolist() == [(x0 + x1) / 2 * MPP, (y0 + y1) / 2 * MPP]
        assert table.obsm["spatial_px"][row].tolist() == [(x0 + x1) / 2, (y0 + y1) / 2]
        assert table.obs["score"].iloc[row] == pytest.approx(np.nan if score is None else score, nan_ok=True)
        assert table.obs["area_px2"].iloc[row] == (x1 - x0) * (y1 - y0)
    assert json.loads(table.uns["qwenvl"]["request"])["task"] == "detect"


@pytest.mark.parametrize("name", ["x.h5ad", "x.zarr"])
def test_anndata_tiles_and_empty_runs(name: str, scored: Path, nothing: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    assert export_anndata(scored, tmp_path / name, tiles=True) == 4
    table = read_anndata(tmp_path / name)
    assert list(table.var_names) == ["tumour", "stroma", "necrosis"]
    assert table.X[:2] == pytest.approx(np.array([[0.7, 0.2, 0.1], [0.1, 0.9, 0.0]], np.float32))
    assert np.isnan(table.X[2:]).all(), "a failed tile has no probability"
    assert list(table.obs["status"]) == ["ok", "ok", "failed", "refused"]
    assert table.obsm["spatial"][3].tolist() == [300 * MPP, 300 * MPP]
    export_anndata(nothing, tmp_path / f"n{name}")
    table = read_anndata(tmp_path / f"n{name}")
    assert table.n_obs == 0
    assert "label" in table.obs
    assert table.uns["spatial_unit"] == "px"


@pytest.mark.filterwarnings("default")
def test_scanpy_and_squidpy_use_it(detect, tmp_path: Path) -> None:
    scanpy = pytest.importorskip("scanpy")
    run_slide(MemorySlide(), detect, FakeEngine(boxes=8), tmp_path / "run", mask="all", overview=False)
    export_anndata(tmp_path / "run", tmp_path / "x.h5ad")
    table = read_anndata(tmp_path / "x.h5ad")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = scanpy.pl.embedding(table, basis="spatial", color="label", show=False)
    drawn = np.concatenate([part.get_offsets() for part in axes.collections])
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, table.obsm["spatial"].tolist()))
    squidpy = pytest.importorskip("squidpy")
    squidpy.gr.spatial_neighbors(table, coord_type="generic", n_neighs=4)
    squidpy.gr.nhood_enrichment(table, cluster_key="label", n_perms=10, show_progress_bar=False)
    assert table.uns["label_nhood_enrichment"]["zscore"].shape == (2, 2)


# ---------------------------------------------------------------------- SpatialData


@pytest.mark.filterwarnings("default")
def test_spatialdata_reads_shapes_tables_and_transformations(planted: Path, tmp_path: Path) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.transformations import get_transformation

    assert export_spatialdata(planted, tmp_path / "x.zarr") == 4 + 3
    found = spatialdata.read_zarr(tmp_path / "x.zarr")
    assert set(found.shapes) == {"tiles", "objects"}
    assert {"px", "um", "global"} <= set(found.coordinate_systems)
    shapes, table = found.shapes["objects"], found.tables["object_table"]
    assert shapes["label"].tolist() == list(table.obs["label"])
    assert shapes.index.tolist() == list(table.obs["instance"]) == [1, 2, 3]
    for label, shape in zip(shapes["label"], shapes.geometry, strict=True):
        assert shape.bounds == PLANTED[label][0]
        assert shape.is_valid
    scale = get_transformation(shapes, "um").to_affine_matrix(("x", "y"), ("x", "y"))
    assert scale == pytest.approx(np.diag([MPP, MPP, 1]))
    joined = spatialdata.join_spatialelement_table(
        sdata=found, spatial_element_names="objects", table_name="object_table", how="inner"
    )[1]
    assert joined.n_obs == 3
    part = spatialdata.bounding_box_query(
        found, axes=("x", "y"), min_coordinate=[0, 0], max_coordinate=[50, 50], target_coordinate_system="um"
    )
    assert part.shapes["objects"]["label"].tolist() == ["tumour"]
    assert list(found.tables["tile_table"].obs["status"]) == ["ok", "ok", "failed", "ok"]


@pytest.mark.filterwarnings("default")
def test_spatialdata_points_empty_runs_and_the_picture(points: Path, nothing: Path, tmp_path: Path, svs) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.transformations import get_transformation

    export_spatialdata(points, tmp_path / "p.zarr")
    shapes = spatialdata.read_zarr(tmp_path / "p.zarr").shapes["objects"]
    assert (shapes.geometry.iloc[0].x, shapes.geometry.iloc[0].y) == (30, 40)
    export_spatialdata(nothing, tmp_path / "n.zarr")
    empty = spatialdata.read_zarr(tmp_path / "n.zarr")
    assert (set(empty.shapes), set(empty.tables)) == ({"tiles"}, {"tile_table"})
    assert "um" not in empty.coordinate_systems
    export_spatialdata(svs, tmp_path / "s.zarr")
    picture = spatialdata.read_zarr(tmp_path / "s.zarr").images["overview"]
    assert picture.shape == (3, 256, 256)
    matrix = get_transformation(picture, "um").to_affine_matrix(("x", "y"), ("x", "y"))
    assert matrix == pytest.approx(np.diag([0.25, 0.25, 1]))


@pytest.fixture
def svs(tmp_path: Path) -> Path:
    """A run on a slide that is a file."""
    from wsi.synthetic import Scene, write_slide

    write_slide(tmp_path / "small.svs", Scene(64, 64, seed=3), mpp=0.25, downsamples=(1,))
    request = request_of(Task.DETECT, tile_size=128, overlap=0, mpp=None)
    run_slide(tmp_path / "small.svs", request, FakeEngine(boxes=3), tmp_path / "svs", mask="all", overview=False)
    return tmp_path / "svs"


def test_spatialdata_layout_without_the_library(planted: Path, tmp_path: Path) -> None:
    """What the library reads is there in every environment: geometry as WKB, ids, coordinate systems."""
    pq = pytest.importorskip("pyarrow.parquet")
    shapely = pytest.importorskip("shapely")
    export_spatialdata(planted, tmp_path / "x.zarr", picture=False)
    path = tmp_path / "x.zarr" / "shapes" / "objects" / "shapes.parquet"
    table = pq.read_table(path)
    assert json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]["geometry_types"] == ["Polygon"]
    boxes = {
        label: shapely.from_wkb(wkb).bounds
        for label, wkb in zip(table["label"].to_pylist(), table["geometry"].to_pylist(), strict=True)
    }
    assert boxes == {label: box for label, (box, _) in PLANTED.items()}
    attributes = json.loads((tmp_path / "x.zarr" / "shapes" / "objects" / "zarr.json").read_text())["attributes"]
    systems = {of["output"]["name"]: of["scale"] for of in attributes["coordinateTransformations"]}
    assert systems == {"px": [1, 1], "um": [MPP, MPP], "global": [MPP, MPP]}


# ---------------------------------------------------------------------- OME-Zarr


@pytest.mark.filterwarnings("default")
def test_labels_lie_where_the_objects_are(planted: Path, tmp_path: Path) -> None:
    pytest.importorskip("ome_zarr")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    assert export_labels(planted, tmp_path / "x.zarr") == 3
    nodes = {node.zarr.basename(): node for node in Reader(parse_url(tmp_path / "x.zarr"))()}
    classes, objects = np.asarray(nodes["classes"].data[0]), np.asarray(nodes["objects"].data[0])
    assert classes.shape == objects.shape == (400, 400)
    with RunStore.open(planted) as store:
        labels = store.labels
    expected = np.zeros((400, 400), int)
    for label, ((x0, y0, x1, y1), _) in PLANTED.items():
        expected[int(y0) : int(y1), int(x0) : int(x1)] = labels.index(label) + 1
    assert np.array_equal(classes, expected)
    assert set(np.unique(objects)) == {0, 1, 2, 3}
    assert np.array_equal(objects > 0, expected > 0)
    meta = nodes["classes"].metadata
    assert meta["properties"][labels.index("a/b <i>") + 1]["class"] == "a/b <i>"
    assert meta["axes"][0]["unit"] == "micrometer"
    first, second = meta["coordinateTransformations"][:2]
    assert first[0]["scale"] == [MPP, MPP]
    assert second[0]["scale"] == [2 * MPP, 2 * MPP]
    assert second[1]["translation"] == [MPP / 2, MPP / 2]
    coarse = np.asarray(nodes["classes"].data[1])
    assert coarse.shape == (200, 200)
    assert np.array_equal(coarse, expected.reshape(200, 2, 200, 2).max(axis=(1, 3)))


def test_labels_across_blocks_are_those_of_one_picture(detect, tmp_path: Path, monkeypatch) -> None:
    import zarr

    run_slide(MemorySlide(), detect, FakeEngine(boxes=30), tmp_path / "run", mask="all", overview=False)
    whole, blocks = tmp_path / "whole.zarr", tmp_path / "blocks.zarr"
    export_labels(tmp_path / "run", whole)
    monkeypatch.setattr("workflows.export.omezarr._SIDE", 64)
    export_labels(tmp_path / "run", blocks)
    for name in ("objects", "classes"):
        for level in ("0", "1"):
            expected = zarr.open_array(whole / "labels" / name / level, mode="r")[:]
            found = zarr.open_array(blocks / "labels" / name / level, mode="r")[:]
            assert (expected > 0).mean() > 0.1
            if name == "classes" or level == "0":
                # Where objects overlap, the later one is on top in both.
                assert np.array_equal(expected > 0, found > 0)
                assert (expected == found).mean() > 0.999


def test_points_become_discs(points: Path, tmp_path: Path) -> None:
    import zarr

    export_labels(points, tmp_path / "x.zarr")
    labels = zarr.open_array(tmp_path / "x.zarr" / "labels" / "objects" / "0", mode="r")[:]
    rows, columns = np.nonzero(labels)
    assert (rows.mean(), columns.mean()) == (40, 30)
    assert 20 < len(rows) < 50
    export_labels(points, tmp_path / "y.zarr", downsample=4)
    assert zarr.open_array(tmp_path / "y.zarr" / "labels" / "objects" / "0", mode="r").shape == (100, 100)


def test_labels_carry_the_slide_as_their_image(svs: Path, tmp_path: Path) -> None:
    import zarr

    export_labels(svs, tmp_path / "x.zarr")
    root = zarr.open_group(tmp_path / "x.zarr", mode="r")
    picture = root["0"][:]
    assert picture.shape == (3, 256, 256)
    assert picture.std() > 3


@pytest.mark.filterwarnings("default")
def test_heatmap_pyramid(scored: Path, tmp_path: Path) -> None:
    pytest.importorskip("ome_zarr")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    assert export_heatmap(scored, tmp_path / "x.zarr") == 3
    node = next(iter(Reader(parse_url(tmp_path / "x.zarr"))()))
    fine, coarse = (np.asarray(level) for level in node.data)
    assert fine[0] == pytest.approx(np.array([[0.7, 0.1], [np.nan, np.nan]]), nan_ok=True)
    assert coarse[0] == pytest.approx(np.array([[0.4]]))
    assert node.metadata["coordinateTransformations"][0][0]["scale"] == [1, 200 * MPP, 200 * MPP]
    assert node.metadata["coordinateTransformations"][0][1]["translation"] == [0, 199 / 2 * MPP, 199 / 2 * MPP]
    assert node.metadata["channel_names"] == ["tumour", "stroma", "necrosis"]


def test_unknown_cells_never_become_zero() -> None:
    values = np.full((1, 3, 3), np.nan, np.float32)
    values[0, 0, 0] = 1.0
    values[0, 2, 2] = 0.5
    assert _known_mean(values)[0] == pytest.approx(np.array([[np.nan, np.nan], [np.nan, 0.5]]), nan_ok=True)


# ---------------------------------------------------------------------- COCO


@pytest.mark.filterwarnings("default")
def test_coco_of_the_slide(planted: Path, tmp_path: Path, capsys) -> None:
    coco_tools = pytest.importorskip("pycocotools.coco")
    assert export_coco(planted, tmp_path / "x.json") == 3
    coco = coco_tools.COCO(str(tmp_path / "x.json"))
    names = {of["id"]: of["name"] for of in coco.loadCats(coco.getCatIds())}
    [image] = coco.loadImgs(coco.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("memory-400x400-0.svs", 400, 400)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        (x0, y0, x1, y1), score = PLANTED[names[annotation["category_id"]]]
        assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert annotation.get("score") == score
        assert annotation["attributes"] == {"why": "dark"}


@pytest.mark.filterwarnings("default")
def test_coco_of_tiles(svs: Path, tmp_path: Path, capsys) -> None:
    import cv2

    from wsi import open_slide

    coco_tools = pytest.importorskip("pycocotools.coco")
    export_coco(svs, tmp_path / "x.json", tiles=True, pictures=True)
    coco = coco_tools.COCO(str(tmp_path / "x.json"))
    assert len(coco.getImgIds()) == 4
    with open_slide(svs.parent / "small.svs") as slide:
        for image in coco.loadImgs(coco.getImgIds()):
            picture = cv2.imread(str(tmp_path / image["file_name"]))[..., ::-1]
            assert np.array_equal(picture, slide.read(image["x0"], image["y0"], 128, 128))
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
                x, y, width, height = annotation["bbox"]
                assert min(x, y) >= 0
                assert max(x + width, y + height) <= 128.01
    with pytest.raises(ExportError, match="exists already"):
        export_coco(svs, tmp_path / "x.json", tiles=True, pictures=True, overwrite=True)


def test_an_object_across_a_seam_is_in_every_tile_that_shows_it(tmp_path: Path) -> None:
    """With overlapping tiles an object in the overlap is no negative of the other tile."""
    found = (TileObject("cell", box=(150, 50, 190, 90)), TileObject("far", box=(10, 10, 30, 30)))
    answers = [Answer(Status.OK, found), *[Answer(Status.EMPTY)] * 8]
    request = request_of(Task.DETECT, tile_size=200, overlap=80, mpp=None)
    run_slide(MemorySlide(400, 400), request, Scripted(*answers), tmp_path / "run", mask="all", overview=False)
    export_coco(tmp_path / "run", tmp_path / "x.json", tiles=True)
    coco = json.loads((tmp_path / "x.json").read_text())
    corner = {of["id"]: (of["x0"], of["y0"]) for of in coco["images"]}
    names = {of["id"]: of["name"] for of in coco["categories"]}
    shown = {}
    for each in coco["annotations"]:
        x, y = corner[each["image_id"]]
        box = each["bbox"]
        shown.setdefault(names[each["category_id"]], []).append([box[0] + x, box[1] + y, box[2], box[3]])
    assert shown["far"] == [[10, 10, 20, 20]]
    seen = [c for c in corner.values() if c[0] <= 150 and c[0] + 200 >= 190 and c[1] <= 50 and c[1] + 200 >= 90]
    assert len(seen) == 2
    assert shown["cell"] == [[150, 50, 40, 40]] * 2


def test_coco_points_and_wrong_tasks(points: Path, scored: Path, tmp_path: Path) -> None:
    export_coco(points, tmp_path / "x.json")
    coco = json.loads((tmp_path / "x.json").read_text())
    assert coco["annotations"][0]["keypoints"] == [30, 40, 2]
    assert coco["categories"][0]["keypoints"] == ["centre"]
    with pytest.raises(ExportError, match="finds none"):
        export_coco(scored, tmp_path / "y.json")
    with pytest.raises(ExportError, match="only tiles"):
        export_coco(points, tmp_path / "y.json", pictures=True)


# ---------------------------------------------------------------------- reviews and manners


def test_reviews_reach_every_export(planted: Path, tmp_path: Path) -> None:
    with RunStore.open(planted) as store, Reviews.open(planted, "ada") as reviews:
        found = reviewed_objects(store)
        for row in range(len(found)):
            label = found.labels[found.label[row]]
            tile, item, box = int(found.key[row]) >> 20, int(found.key[row]) & 0xFFFFF, tuple(found.box[row])
            verdict, action, now = {
                "tumour": (Verdict.EDITED, Action.RELABEL, "stroma"),
                "lymphocyte": (Verdict.REJECTED, Action.REJECT, label),
            }.get(label, (Verdict.ACCEPTED, Action.ACCEPT, label))
            name = object_name(store.manifest, tile, item)
            reviews.decide([Change(action, name, verdict, now, box, False, tile, item, label, box)])
        drawn = new_object_name()
        reviews.decide([Change(Action.ADD, drawn, Verdict.EDITED, "vessel", (100.0, 100.0, 140.0, 120.0))])
    export_geojson(planted, tmp_path / "x.geojson")
    features = json.loads((tmp_path / "x.geojson").read_text())["features"]
    words = {of["properties"]["classification"]["name"]: of["properties"]["metadata"] for of in features}
    assert {name: of.get("review") for name, of in words.items()} == {
        "stroma": "edited",
        "a/b <i>": "accepted",
        "vessel": "edited",
    }
    assert drawn in {of["id"] for of in features}
    export_objects_csv(planted, tmp_path / "x.csv")
    assert "lymphocyte" not in (tmp_path / "x.csv").read_text()
    assert export_coco(planted, tmp_path / "x.json") == 3
    assert export_labels(planted, tmp_path / "x.zarr") == 3
    pytest.importorskip("h5py")
    export_anndata(planted, tmp_path / "x.h5ad")
    table = read_anndata(tmp_path / "x.h5ad")
    assert sorted(zip(table.obs["label"], table.obs["review"], strict=True)) == [
        ("a/b <i>", "accepted"),
        ("stroma", "edited"),
        ("vessel", "edited"),
    ]


EXPORTS = [
    (export_anndata, "x.zarr"),
    (export_spatialdata, "x.zarr"),
    (export_labels, "x.zarr"),
    (export_heatmap, "x.zarr"),
    (export_coco, "x.json"),
    (export_objects_parquet, "x.parquet"),
]


@pytest.mark.parametrize(("export", "name"), EXPORTS, ids=lambda of: getattr(of, "__name__", of))
def test_nothing_is_overwritten_or_left_half_written(
    export, name: str, planted: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(planted, out / name)
    with pytest.raises(ExportExistsError, match="exists already"):
        export(planted, out / name)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    broken = (
        "workflows.export.omezarr._multiscale" if export is export_heatmap else "workflows.export.objects.iter_merged"
    )
    monkeypatch.setattr(broken, lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(planted, out / name, overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    export(planted, out / name, overwrite=True)
    assert [path.name for path in out.iterdir()] == [name]
    with pytest.raises(ExportError, match="should end in"):
        export(planted, out / "x.txt")
    with pytest.raises(RunNotFoundError):
        export(tmp_path / "nowhere", out / f"y{Path(name).suffix}")


def test_a_folder_with_other_things_is_never_replaced(planted: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.zarr"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    with pytest.raises(ExportExistsError, match="other things"):
        export_labels(planted, mine, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years"


def test_a_missing_library_is_named(planted: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("workflows.export._file.find_spec", lambda name: None)
    with pytest.raises(ExportError, match="pip install pyarrow"):
        export_objects_parquet(planted, tmp_path / "x.parquet")
    with pytest.raises(ExportError, match="spatialdata"):
        export_spatialdata(planted, tmp_path / "x.zarr")
    with pytest.raises(ExportError, match="h5py"):
        export_anndata(planted, tmp_path / "x.h5ad")
    assert not list(tmp_path.glob("x.*"))
