"""Slides as napari layers: lazy, at the right scale, pixel for pixel."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_qwenvl.read import pyramid as pyramid_module
from napari_qwenvl.read import scale
from napari_qwenvl.read.pyramid import PIECE, SlidePyramid, hatched
from napari_qwenvl.read.readers import get_slide_reader, read_slide
from napari_qwenvl.read.slide_layer import open_for_viewing, slide_of
from napari_qwenvl.read.slow_pieces import being_read
from wsi import Plane, Rendering, open_slide
from wsi.errors import UnsupportedSlideError
from wsi.synthetic import Scene, write_slide


@pytest.fixture(scope="module")
def svs(tmp_path_factory):
    """1600 x 1280 px at 0.25 um in JPEG tiles, with a second level at 1/4."""
    path = tmp_path_factory.mktemp("slides") / "small.svs"
    pixels = cv2.resize(np.random.default_rng(5).integers(0, 255, (80, 100, 3), np.uint8), (1600, 1280))
    with tifffile.TiffWriter(path) as tif:
        for level, factor in enumerate((1, 4)):
            tif.write(
                pixels[::factor, ::factor],
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                description=f"Aperio Image Library\r\n1600x1280 level {level}|MPP = 0.25",
                metadata=None,
            )
    return path


@pytest.fixture(autouse=True)
def _nothing_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "settings_folder", lambda: tmp_path / "settings")


def test_a_slide_becomes_one_lazy_layer_in_um(svs):
    reader = get_slide_reader(str(svs))
    assert reader is not None
    [(levels, options, kind)] = reader(str(svs))
    assert kind == "image"
    assert [level.shape for level in levels] == [(1280, 1600, 3), (640, 800, 3), (320, 400, 3)]
    assert options["name"] == "small"
    assert options["scale"] == (0.25, 0.25)
    assert options["units"] == ("um", "um")
    with open_slide(svs) as slide:
        whole = slide.read(0, 0, 1600, 1280)
        middle = slide.read_scaled(0, 0, 1600, 1280, (800, 640))
        coarse = slide.read(0, 0, 400, 320, 1)
    assert np.array_equal(levels[0][100:300, 50:80], whole[100:300, 50:80])
    assert np.array_equal(levels[0][500:9999, -700:, 1], whole[500:, -700:, 1])
    assert np.array_equal(levels[0][5, 7], whole[5, 7])
    assert np.array_equal(levels[0][-5, 7, 2], whole[-5, 7, 2])
    assert np.array_equal(levels[0][::7, ::5], whole[::7, ::5])
    assert np.array_equal(levels[0][100:900][20:700, 4][..., 0], whole[120:800, 4, 0])
    assert levels[0][10:10, :].shape == (0, 1600, 3)
    assert np.array_equal(np.asarray(levels[1]), middle)
    assert np.array_equal(np.asarray(levels[2]), coarse)
    with pytest.raises(IndexError):
        levels[0][1280]


def test_only_pieces_in_view_are_read_and_each_once(svs):
    pyramid = SlidePyramid(open_for_viewing(svs))
    view = pyramid.views()[0]
    lazily = view[300:900, 700:1100]
    assert pyramid.pieces_read == 0
    np.asarray(lazily)
    assert pyramid.pieces_read == 4
    np.asarray(view[310:890, 710:1000])
    assert pyramid.pieces_read == 4
    np.asarray(view[300:900, 700:1600])
    assert pyramid.pieces_read == 6


def test_levels_are_added_between_and_below_those_of_the_file(tmp_path):
    path = tmp_path / "flat.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (3000, 5000, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb")
    levels = SlidePyramid(open_for_viewing(path)).levels
    assert [(level.width, level.height) for level in levels] == [(5000, 3000), (2500, 1500), (1250, 750), (625, 375)]
    assert [level.stored for level in levels] == [0, None, None, None]


def test_a_slide_without_levels_is_read_behind_the_viewers_back(tmp_path, monkeypatch):
    monkeypatch.setattr(pyramid_module, "_SLOW_PX", 1_000_000)
    path = tmp_path / "flat.tif"
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8), (5003, 3001))
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb")
    expected = [np.asarray(view) for view in SlidePyramid(open_for_viewing(path)).views()]
    ready = threading.Event()
    levels = SlidePyramid(open_for_viewing(path), ready.set).views()
    assert np.array_equal(levels[0][:600, :600], expected[0][:600, :600]), "what is quick comes at once"
    assert np.array_equal(np.asarray(levels[-1]), being_read(*levels[-1].shape[:2]))
    assert ready.wait(60)
    for level, wanted in zip(levels[-2:], expected[-2:], strict=True):
        np.asarray(level)
        deadline = time.monotonic() + 60
        while np.abs(np.asarray(level).astype(int) - wanted).max() > 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_stacks_have_sliders_and_every_plane_its_own_pixels(tmp_path):
    path = tmp_path / "stack.ome.tif"
    planes = np.random.default_rng(1).integers(0, 4000, (2, 3, 2, 40, 50)).astype(np.uint16)
    tifffile.imwrite(path, planes, metadata={"axes": "TZCYX"}, photometric="minisblack")
    [(levels, options, _)] = read_slide(str(path))
    assert levels[0].shape == (2, 3, 40, 50, 3)
    assert options["axis_labels"] == ("t", "z", "y", "x")
    assert options["units"] == ("pixel",) * 4
    rendering = Rendering.parse(options["metadata"]["qwenvl_slide"]["options"]["rendering"])
    for t, z in ((0, 0), (1, 2), (0, 1)):
        with open_slide(path, plane=Plane(t=t, z=z), rendering=rendering) as slide:
            expected = slide.read(0, 0, 50, 40)
        assert np.array_equal(levels[0][t, z], expected)
    assert np.array_equal(np.asarray(levels[0][:, 1, 5:9])[1, 3], np.asarray(levels[0])[1, 1, 8])


def test_pieces_that_cannot_be_read_are_hatched_and_named(real_data):
    slide = open_for_viewing(real_data / "slides" / "tiny_unreadable_tile.svs")
    pyramid, said = SlidePyramid(slide), []
    pyramid.on_unreadable = said.append
    pixels = np.asarray(pyramid.views()[0])
    assert np.array_equal(pixels, hatched(*pixels.shape[:2]))
    assert len(said) == 1
    assert len(pyramid.unreadable) == 1


def test_plain_pictures_and_other_files_are_left_to_napari(tmp_path):
    picture = tmp_path / "small.tif"
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(picture)
    text = tmp_path / "text.tif"
    text.write_text("no slide")
    assert get_slide_reader(str(picture)) is None
    assert get_slide_reader(str(text)) is None
    assert get_slide_reader(str(tmp_path)) is None
    assert get_slide_reader(str(tmp_path / "missing.svs")) is None
    assert get_slide_reader([str(picture)]) is None


def test_a_slide_that_cannot_be_opened_says_why(tmp_path):
    broken = tmp_path / "broken.svs"
    broken.write_text("no slide")
    reader = get_slide_reader(str(broken))
    assert reader is not None
    with pytest.raises(UnsupportedSlideError, match=r"broken\.svs"):
        reader(str(broken))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_opens_from_its_folder(tmp_path, version):
    path = tmp_path / "slide.ome.zarr"
    write_slide(path, Scene(60, 50, seed=2), mpp=0.5, downsamples=(1, 2), ngff_version=version, truth=False)
    reader = get_slide_reader(str(path))
    assert reader is not None
    [(levels, options, _)] = reader(str(path))
    assert options["name"] == "slide"
    assert options["scale"] == (0.5, 0.5)
    with open_slide(path) as slide:
        assert np.array_equal(np.asarray(levels[0]), slide.read(0, 0, slide.width, slide.height))


def test_an_unknown_scale_is_never_guessed_and_an_answer_is_remembered(tmp_path):
    path = tmp_path / "gray.tif"
    tifffile.imwrite(path, np.zeros((4200, 300), np.uint8), tile=(256, 256))
    [(levels, options, _)] = read_slide(str(path))
    assert options["units"] == ("pixel", "pixel")
    assert options["scale"] == (1, 1)
    assert options["metadata"]["qwenvl_slide"]["mpp_source"] == "unknown"
    scale.remember(levels[0].pyramid.slide.fingerprint, 0.4)
    [(_, options, _)] = read_slide(str(path))
    assert options["scale"] == (0.4, 0.4)
    assert options["units"] == ("um", "um")
    assert options["metadata"]["qwenvl_slide"]["mpp_source"] == "user"


def test_the_slide_behind_a_layer_is_found_again(svs):
    layers = pytest.importorskip("napari.layers", reason="needs napari")
    [(levels, options, _)] = read_slide(str(svs))
    layer = layers.Image(levels, **options)
    assert slide_of(layer) is levels[0].pyramid.slide
    assert slide_of(layers.Image(np.zeros((9, 9)))) is None
    assert PIECE in levels[0].chunks


def test_errors_reach_the_user(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.svs"):
        read_slide(str(tmp_path / "missing.svs"))
