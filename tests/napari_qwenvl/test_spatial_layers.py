"""A spatial prediction in the viewer: spots where they were measured, unknown ones apart, boxes around regions."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("anndata", reason="needs the extra 'science'")
import anndata

from napari_qwenvl.layers.science.spatial import SPATIAL, get_spatial_reader, read_spatial
from workflows.errors import SpatialError
from workflows.store.provenance import slide_facts
from wsi import open_slide
from wsi.synthetic import Scene, write_slide

PLACES = np.array([[40.0, 60.0], [80.0, 60.0], [120.0, 60.0], [40.0, 100.0]])


@pytest.fixture
def prediction(tmp_path):
    write_slide(tmp_path / "slide.svs", Scene(192, 160, seed=2), mpp=0.5, downsamples=(1,))
    folder = tmp_path / "slide.spatial"
    folder.mkdir()
    table = anndata.AnnData(obs=pd.DataFrame(index=list("abcd")))
    table.obsm["spatial"] = PLACES
    columns = {"CD74": [0.1, 0.9, np.nan, 0.4], "ERBB2": [0.5, 0.6, 0.7, 0.8]}
    table.obsm["predicted"] = pd.DataFrame(columns, index=table.obs_names)
    table.obsm["measured"] = pd.DataFrame({"CD74": [1.0, 4.0, 2.0, 3.0]}, index=table.obs_names)
    table.uns["qwenvl"] = {"pitch_px0": 40.0}
    table.write_h5ad(folder / "predictions.h5ad")
    with open_slide(tmp_path / "slide.svs") as slide:
        record = {"slide": slide_facts(slide).model_dump(mode="json")}
    (folder / "prediction.json").write_text(json.dumps(record))
    ring = [[20, 40], [100, 40], [100, 80], [20, 80], [20, 40]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "high CD74"}},
    }
    (folder / "regions.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return folder


def test_spots_lie_in_um_over_their_slide_and_unknown_ones_are_apart(prediction):
    from napari.components import ViewerModel
    from napari.layers import Layer

    assert get_spatial_reader(str(prediction)) is read_spatial
    assert get_spatial_reader(str(prediction / "predictions.h5ad")) is read_spatial
    viewer = ViewerModel()
    for data in read_spatial(str(prediction)):
        viewer.add_layer(Layer.create(*data))
    assert [layer.name for layer in viewer.layers] == [
        "slide",
        "CD74, probability of high",
        "CD74, measured",
        "ERBB2, probability of high",
        "no answer: 1 spots",
        "regions: high CD74",
    ]
    spots = viewer.layers["CD74, probability of high"]
    assert [layer.name for layer in viewer.layers if layer.visible] == [
        "slide",
        "CD74, probability of high",
        "no answer: 1 spots",
        "regions: high CD74",
    ]
    np.testing.assert_array_equal(spots.features["value"], [0.1, 0.9, 0.4])
    assert list(spots.features["spot"]) == ["a", "b", "d"]
    # The first spot: level-0 px (40, 60) from the corner of px 0, whose centre is the origin, at 0.5 um.
    np.testing.assert_allclose(spots.data_to_world(spots.data[0]), [(60 - 0.5) * 0.5, (40 - 0.5) * 0.5])
    assert spots.units == viewer.layers["slide"].units
    assert spots.metadata[SPATIAL] == {"gene": "CD74", "kind": "predicted"}
    assert spots.face_color[1].tolist() != spots.face_color[0].tolist()
    np.testing.assert_array_equal(viewer.layers["no answer: 1 spots"].data, [[60.0, 120.0]])
    box = viewer.layers["regions: high CD74"].data[0]
    assert (box.min(axis=0).tolist(), box.max(axis=0).tolist()) == ([40, 20], [80, 100])


def test_a_prediction_whose_slide_moved_is_shown_without_it(prediction, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("napari.utils.notifications.show_warning", said.append)
    (prediction.parent / "slide.svs").unlink()
    layers = read_spatial(str(prediction))
    assert "without their slide" in said[0]
    assert [kind for _, _, kind in layers] == ["points"] * 4 + ["shapes"]


def test_other_files_are_left_to_others(prediction, tmp_path):
    assert get_spatial_reader(str(tmp_path)) is None
    assert get_spatial_reader([str(prediction)]) is None
    (prediction / "predictions.h5ad").write_bytes(b"broken")
    with pytest.raises(SpatialError, match="cannot be read as AnnData"):
        read_spatial(str(prediction))
