"""Byte order of OME-Zarr chunks, in the two ways in which releases of zarr name it."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec
from zarr.storage import LocalStore

from wsi.readers.ngff.chunks import chunks_of
from wsi.readers.ngff.limits import GuardedStore


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("as_word", [False, True])
def test_byte_order_named_by_an_enum_or_a_word(tmp_path: Path, order: str, as_word: bool) -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(3, 4),
        chunks=(3, 4),
        dtype="uint16",
        compressors=None,
        serializer=BytesCodec(endian=order),
    )
    array[:] = values
    codec = array.async_array.codec_pipeline.array_bytes_codec
    named = getattr(codec.endian, "value", codec.endian)
    assert named == order
    if as_word:
        object.__setattr__(codec, "endian", named)  # as zarr 3.4 has it; the codec is frozen

    reader = chunks_of(array, "", GuardedStore(LocalStore(tmp_path / "a.zarr", read_only=True)))
    assert reader is not None
    np.testing.assert_array_equal(reader.read((slice(0, 3), slice(0, 4))), values)
