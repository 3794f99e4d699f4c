"""AnnData written while its rows come, without ever holding them all: into HDF5 or Zarr.

The layout is that of AnnData's on-disk format (https://anndata.readthedocs.io/en/stable/fileformat-prose.html):
encoding versions 0.1.0 (anndata, dict) and 0.2.0 (dataframe, array, string-array, categorical, string).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import h5py
    import zarr
    from numpy.typing import DTypeLike

_CHUNK = 65_536


class GrowingArray:
    """A one- or two-dimensional array in an HDF5 or Zarr group that rows are appended to.

    Parameters
    ----------
    group : h5py.Group or zarr.Group
    name : str
    dtype : dtype, or str for words
    width : int, optional
        Columns of a two-dimensional array.
    """

    def __init__(self, group: Any, name: str, dtype: DTypeLike, width: int | None = None) -> None:
        shape = (0,) if width is None else (0, width)
        chunks = (_CHUNK,) if width is None else (_CHUNK, max(1, width))
        words = dtype is str
        if _is_hdf5(group):
            import h5py

            kind = h5py.string_dtype() if words else np.dtype(dtype)
            self._array = group.create_dataset(
                name,
                shape,
                maxshape=(None, *shape[1:]),
                chunks=chunks,
                dtype=kind,
                compression=None if words else "gzip",
                compression_opts=None if words else 1,
            )
        else:
            self._array = group.create_array(name, shape=shape, chunks=chunks, dtype=str if words else np.dtype(dtype))
        encode(self._array, "string-array" if words else "array", "0.2.0")
        self._words, self._rows = words, 0
        self._held: list[NDArray[np.generic]] = []
        self._holds = 0

    def append(self, rows: Any) -> None:
        """Add rows; they are written a whole chunk at a time."""
        part = np.asarray(rows, dtype=object if self._words else None)
        self._held.append(part)
        self._holds += len(part)
        if self._holds >= _CHUNK:
            held = np.concatenate(self._held)
            whole = len(held) // _CHUNK * _CHUNK
            self._write(held[:whole])
            self._held, self._holds = [held[whole:]], len(held) - whole

    def finish(self) -> None:
        """Write what is left."""
        if self._holds:
            self._write(np.concatenate(self._held))
            self._held, self._holds = [], 0

    def _write(self, rows: NDArray[np.generic]) -> None:
        end = self._rows + len(rows)
        self._array.resize((end, *self._array.shape[1:]))
        self._array[self._rows : end] = rows
        self._rows = end


class GrowingAnnData:
    """One AnnData table, appended to batch by batch.

    Parameters
    ----------
    group : h5py.File, h5py.Group or zarr.Group
        Empty; becomes the AnnData.
    categories : mapping of str to sequence of str
        Words that the codes of a categorical column of obs stand for.
    obsm : mapping of str to int
        Width of every array of obsm.
    var : sequence of str
        Columns of X; without any, there is no X.
    """

    def __init__(
        self,
        group: h5py.Group | zarr.Group,
        *,
        categories: Mapping[str, Sequence[str]],
        obsm: Mapping[str, int],
        var: Sequence[str] = (),
    ) -> None:
        self.group = group
        encode(group, "anndata", "0.1.0")
        for name in ("layers", "varm", "obsp", "varp"):
            encode(group.create_group(name), "dict", "0.1.0")
        self._obs = group.create_group("obs")
        self._index = GrowingArray(self._obs, "_index", str)
        self._columns: dict[str, GrowingArray] = {}
        self._categories = dict(categories)
        places = group.create_group("obsm")
        encode(places, "dict", "0.1.0")
        self._obsm = {name: GrowingArray(places, name, np.float64, width) for name, width in obsm.items()}
        self._x = GrowingArray(group, "X", np.float32, len(var)) if var else None
        frame = group.create_group("var")
        _frame(frame, [])
        put(frame, "_index", list(var))
        self.rows = 0

    def append(self, index: Sequence[str], obs: Mapping[str, Any], obsm: Mapping[str, Any], x: Any = None) -> None:
        """Add rows; every batch names the same columns."""
        if not self._columns:
            for name, column in obs.items():
                self._columns[name] = self._new_column(name, column)
        self._index.append(index)
        for name, column in obs.items():
            self._columns[name].append(column)
        for name, rows in obsm.items():
            self._obsm[name].append(rows)
        if self._x is not None:
            self._x.append(np.asarray(x, np.float32))
        self.rows += len(index)

    def _new_column(self, name: str, column: object) -> GrowingArray:
        known = self._categories.get(name)
        if known is None:
            kind = np.asarray(column).dtype
            words = kind.kind in "OUT" or (isinstance(column, list) and not column)
            return GrowingArray(self._obs, name, str if words else kind)
        group = self._obs.create_group(name)
        encode(group, "categorical", "0.2.0")
        group.attrs["ordered"] = False
        put(group, "categories", list(known))
        return GrowingArray(group, "codes", np.int32 if len(known) > 127 else np.int8)

    def finish(self, uns: Mapping[str, object]) -> None:
        """Write what is left, and `uns`: nested mappings of words, numbers and lists of them."""
        for array in (self._index, *self._columns.values(), *self._obsm.values(), self._x):
            if array is not None:
                array.finish()
        _frame(self._obs, list(self._columns))
        put(self.group, "uns", uns)


def put(group: h5py.Group | zarr.Group, name: str, value: object) -> None:
    """Write a small value: a mapping, a word, a number, or a list of words or numbers."""
    if isinstance(value, Mapping):
        inner = group.create_group(name)
        encode(inner, "dict", "0.1.0")
        for key, item in value.items():
            put(inner, str(key).replace("/", "|"), item)
    elif isinstance(value, list | tuple | np.ndarray):
        words = len(value) == 0 or isinstance(value[0], str)
        array = GrowingArray(group, name, str if words else np.asarray(value).dtype, _width(value))
        array.append(value)
        array.finish()
    elif isinstance(value, str):
        _scalar(group, name, value, "string")
    else:
        _scalar(group, name, value, "numeric-scalar")


def encode(node: Any, kind: str, version: str) -> None:
    """Say what a group or array is, in the attributes AnnData reads."""
    node.attrs["encoding-type"] = kind
    node.attrs["encoding-version"] = version


def _scalar(group: h5py.Group | zarr.Group, name: str, value: Any, kind: str) -> None:
    if _is_hdf5(group):
        group[name] = value
        node = group[name]
    else:
        kept: Any = str if isinstance(value, str) else np.asarray(value).dtype
        node = group.create_array(name, shape=(), dtype=kept)
        node[...] = value
    encode(node, kind, "0.2.0")


def _frame(group: Any, columns: list[str]) -> None:
    encode(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    if _is_hdf5(group):
        import h5py

        empty = np.zeros(0, np.float64)
        group.attrs["column-order"] = np.array(columns, h5py.string_dtype()) if columns else empty
    else:
        group.attrs["column-order"] = columns


def _width(value: Any) -> int | None:
    shape = np.shape(value)
    return shape[1] if len(shape) == 2 else None


def _is_hdf5(group: h5py.Group | zarr.Group) -> bool:
    return type(group).__module__.startswith("h5py")
