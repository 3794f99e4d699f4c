"""Samples come from the cache or say why not; nothing is fetched unless asked."""

from __future__ import annotations

import pytest

from napari_qwenvl.read import sample
from wsi.errors import SlideNotFoundError
from wsi.synthetic import SlideFactory


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_synthetic_slide_is_written_once(monkeypatch):
    monkeypatch.setattr(sample, "_SIDE_PX", 256)
    [(levels, options, kind)] = sample.synthetic_slide()
    assert kind == "image"
    assert levels[0].shape == (256, 256, 3)
    assert options["scale"] == (0.25, 0.25)
    monkeypatch.setattr(SlideFactory, "write", None)
    sample.synthetic_slide()


def test_without_a_network_the_message_says_what_to_do(tmp_path):
    def offline(url):
        raise OSError("no route to host")

    with pytest.raises(SlideNotFoundError, match=r"no route.*synthetic slide.*put it at .*CMU-1"):
        sample.cmu_path(offline)
    with pytest.raises(SlideNotFoundError, match="not the slide"):
        sample.cmu_path(lambda url: b"an error page")
    assert list((tmp_path).rglob("*.svs*")) == []


def test_what_was_fetched_is_kept(real_data):
    content = (real_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    path = sample.cmu_path(lambda url: content)
    assert path.read_bytes() == content
    [(levels, options, _)] = sample.cmu_slide()
    assert levels[0].shape == (2967, 2220, 3)
    assert options["scale"] == (0.499, 0.499)
