import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl.errors import PictureError
from qwenvl.families import FAMILIES
from qwenvl.images.geometry import CoordinateSpace, PictureFrame, smart_resize

SIDES = st.integers(1, 3000)


def test_known_places() -> None:
    frame = PictureFrame(1000, 700, 1008, 700)
    assert frame.resized
    # Qwen2.5-VL writes px of the resized picture, Qwen3-VL thousandths of the original.
    absolute = frame.to_tile([[504, 350, 1008, 700]], CoordinateSpace.ABSOLUTE_RESIZED)
    np.testing.assert_array_equal(absolute, [[500, 350, 1000, 700]])
    relative = frame.to_tile([[500, 100]], CoordinateSpace.RELATIVE_1000)
    np.testing.assert_array_equal(relative, [[500, 70]])
    assert frame.extent(CoordinateSpace.ABSOLUTE_RESIZED) == (1008, 700)
    assert frame.extent(CoordinateSpace.RELATIVE_1000) == (1000, 1000)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(FAMILIES)),
    SIDES,
    SIDES,
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
)
def test_round_trip_of_every_family(name: str, width: int, height: int, shares: list[tuple[float, float]]) -> None:
    family = FAMILIES[name]
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(PictureError):
            smart_resize(height, width, factor=family.factor, min_pixels=1, max_pixels=10**9)
        return
    frame = family.frame(width, height)
    places = np.array(shares) * (width, height)
    model = frame.to_model(places, family.space)
    assert (model >= 0).all()
    assert (model <= np.array(frame.extent(family.space)) * (1 + 1e-12)).all()
    np.testing.assert_allclose(frame.to_tile(model, family.space), places, rtol=1e-12, atol=1e-9)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_a_tile_of_whole_tokens_is_not_moved(columns: int, rows: int) -> None:
    frame = PictureFrame.same(columns * 28, rows * 28)
    assert not frame.resized
    corners = np.array([[3, 5, columns * 28, rows * 28]], float)
    np.testing.assert_array_equal(frame.to_tile(corners, CoordinateSpace.ABSOLUTE_RESIZED), corners)


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from([(28, 3136, 12_845_056), (32, 65_536, 16_777_216), (28, 3136, 200_704)]))
def test_smart_resize_equals_transformers(height: int, width: int, rule: tuple[int, int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

    factor, low, high = rule
    try:
        expected = theirs(height, width, factor, low, high)
    except ValueError:
        with pytest.raises(PictureError, match="200 times"):
            smart_resize(height, width, factor=factor, min_pixels=low, max_pixels=high)
    else:
        assert smart_resize(height, width, factor=factor, min_pixels=low, max_pixels=high) == expected


@pytest.mark.parametrize(
    ("height", "width", "factor", "expected"),
    [
        (1024, 1024, 32, (1024, 1024)),
        (1024, 1024, 28, (1036, 1036)),
        (70, 98, 28, (56, 112)),  # 2.5 and 3.5 tokens: halves go to the even number
        (1000, 1000, 32, (992, 992)),  # 31.25 tokens
        (20, 4000, 28, (28, 4508)),  # the published rule: too large, and yet scaled up
    ],
)
def test_smart_resize_by_hand(height: int, width: int, factor: int, expected: tuple[int, int]) -> None:
    most = 102_400 if height == 20 else 12_845_056
    assert smart_resize(height, width, factor=factor, min_pixels=3136, max_pixels=most) == expected


def test_bad_frames() -> None:
    with pytest.raises(ValueError, match="at least 1 px"):
        PictureFrame(0, 10, 28, 28)
    with pytest.raises(ValueError, match="last axis"):
        PictureFrame.same(10, 10).to_tile([1.0, 2.0, 3.0], CoordinateSpace.RELATIVE_1000)
    with pytest.raises(PictureError, match="empty"):
        smart_resize(0, 10, factor=28, min_pixels=1, max_pixels=10)
