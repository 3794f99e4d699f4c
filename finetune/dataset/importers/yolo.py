"""YOLO text files: one per image, one row per object, the classes in `data.yaml`, `classes.txt` or `obj.names`.

Rows of a box are `class x_centre y_centre width height [confidence]`, of an outline `class x1 y1 x2 y2 x3 y3 ...`, in
shares of the image's width and height (Ultralytics' dataset page, Darknet, LabelImg). Where `data.yaml` states
`kpt_shape`, rows are boxes followed by key points, and the box is read. An empty file says that there is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.dataset.importers.found import FoundLabels, Imported, box_of, ring_of
from finetune.dataset.importers.rows import Rows, name_of, number, short
from finetune.errors import LabelFileError

_CONFIGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES = ("classes.txt", "obj.names", "labels.txt", "predefined_classes.txt")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dng", ".mpo", ".pfm", ".heic")
_ROW = re.compile(r"\d+(\s+[-+0-9.eE]+){4,}\s*", re.ASCII)
_ROUNDED = 1e-3
"""Shares may stick out by this much, from rounding."""
_PARTS = ("train", "val", "valid", "test")


def reads(path: Path) -> bool:
    """Whether this is a YOLO dataset: its folder, its `data.yaml`, a folder of label files, or one of them."""
    if path.is_file():
        if path.suffix.lower() in (".yaml", ".yml"):
            return _is_config(path)
        return path.suffix.lower() == ".txt" and _is_labels(path) and path.name not in _NAMES
    if any(_is_config(path / name) for name in _CONFIGS if (path / name).is_file()):
        return True
    files = [file for file in _label_files(path) if file.stat().st_size][:20]
    return bool(files) and any(_is_labels(file) for file in files)


def read(path: Path) -> Imported:
    """Read a dataset.

    Raises
    ------
    LabelFileError
        No file names the classes, or two contradict each other. A row that cannot be read is refused by itself.
    """
    folder = path if path.is_dir() else path.parent
    files = [path] if path.suffix.lower() == ".txt" and path.is_file() else _label_files(folder)
    if not files:
        raise LabelFileError(f"{path}: no label files (*.txt) in {folder} or its folder labels")
    settings = _settings(path, files)
    rows = Rows()
    sizes: dict[str, tuple[int, int]] = {}
    for file in files:
        picture = _picture(file)
        if picture in sizes:
            rows.refuse(file.name, f"its image {picture} has labels in another file already")
            rows.incomplete.add(picture)
            continue
        sizes[picture] = (0, 0)
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            rows.refuse(str(file), f"cannot be read ({error})")
            rows.incomplete.add(picture)
            continue
        for at, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
            if line.strip():
                where = f"{file.name} line {at}"
                with rows.row(where, picture):
                    rows.found.append(_found(line, settings, picture, where))
    return Imported(
        "yolo",
        tuple(rows.found),
        sizes=sizes,
        whole_pictures=True,
        relative=True,
        refused=tuple(rows.refused),
        incomplete=frozenset(rows.incomplete),
    )


@dataclass(frozen=True, slots=True)
class _YoloSettings:
    names: Mapping[int, str]
    keypoints: bool
    source: str


def _found(line: str, settings: _YoloSettings, picture: str, where: str) -> FoundLabels:
    words = line.split()
    if not re.fullmatch(r"\d{1,9}", words[0], re.ASCII):
        raise ValueError(f"its class {short(words[0])} is no whole number")
    name = settings.names.get(int(words[0]))
    if name is None:
        raise ValueError(f"class {words[0]} is not among those of {settings.source}")
    values = [number(word) for word in words[1:]]
    if settings.keypoints and len(values) > 4:
        values = values[:4]
    if len(values) in (4, 5):
        x, y, width, height = values[:4]
        _require_shares(values)
        if width <= 0 or height <= 0:
            raise ValueError(f"a box of {width:g} x {height:g}")
        return FoundLabels(picture, name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), (), where)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{len(values)} numbers are neither a box nor an outline")
    _require_shares(values)
    corners = list(zip(values[::2], values[1::2], strict=True))
    if len(set(corners)) < 3:
        raise ValueError(f"an outline of {len(set(corners))} corners")
    return FoundLabels(picture, name, box_of(corners), ring_of(corners), where)


def _require_shares(values: list[float]) -> None:
    strange = [value for value in values if not -_ROUNDED <= value <= 1 + _ROUNDED]
    if strange:
        raise ValueError(f"{strange[0]:g} is no share of an image (0 to 1)")


# ---------------------------------------------------------------------- files


def _label_files(folder: Path) -> list[Path]:
    """Label files of a dataset: in `labels`, in the `labels` of its parts, else in the folder itself."""
    homes = [folder / "labels", *(folder / part / "labels" for part in _PARTS)]
    homes = [home for home in homes if home.is_dir()]
    files = sorted(file for home in homes for file in home.rglob("*.txt"))
    if not homes:
        files = sorted(folder.glob("*.txt"))
        if folder.name == "labels" or folder.parent.name == "labels":
            files = sorted(folder.rglob("*.txt"))
    return [
        file
        for file in files
        if file.name.lower() not in _NAMES
        and not file.name.lower().startswith(("readme", "license", "notes"))
        and file.stem not in _PARTS
    ]


def _picture(file: Path) -> str:
    """The image of a label file: beside it, or in `images` in place of `labels`; else the name without its ending."""
    parts = list(file.parts)
    homes = [file.parent]
    if "labels" in parts[:-1]:
        at = len(parts) - 2 - parts[:-1][::-1].index("labels")
        homes.insert(0, Path(*parts[:at], "images", *parts[at + 1 : -1]))
    for home in homes:
        for ending in _IMAGES:
            for spelled in (ending, ending.upper()):
                if (home / f"{file.stem}{spelled}").is_file():
                    return str((home / f"{file.stem}{spelled}").absolute())
    return file.stem


def _is_config(path: Path) -> bool:
    try:
        return isinstance(_yaml(path), Mapping) and "names" in _yaml(path)
    except LabelFileError:
        return False


def _is_labels(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            lines = stream.read(4000).decode("utf-8-sig", "replace").split("\n")
    except OSError:
        return False
    return any(_ROW.fullmatch(line.strip("\r")) for line in lines[:20])


def _yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise LabelFileError(f"{path} is not YAML: {error}; correct it") from error


def _settings(path: Path, files: list[Path]) -> _YoloSettings:
    """The classes, from the files that name them; they must agree."""
    given = [path] if path.is_file() and path.suffix.lower() in (".yaml", ".yml") else []
    folder = path if path.is_dir() else path.parent
    homes = [folder, *{file.parent for file in files}]
    homes += [parent for home in list(homes) for parent in list(home.parents)[:3] if "labels" in home.parts]
    homes = list(dict.fromkeys(homes))
    configs = given or [home / name for home in homes for name in _CONFIGS if (home / name).is_file()]
    tables = [(config, *_of_config(config)) for config in configs if given or _is_config(config)]
    lists = [home / name for home in homes for name in _NAMES if (home / name).is_file()]
    tables += [(file, _of_list(file), False) for file in lists if not given]
    if not tables:
        raise LabelFileError(
            f"{path}: no data.yaml or classes.txt names its classes; write classes.txt beside the label files, one "
            "name per line, in the order of their numbers"
        )
    source, names, _ = tables[0]
    for other, others, _ in tables[1:]:
        if others != names:
            raise LabelFileError(f"{source} and {other} name other classes; remove the one that is wrong")
    return _YoloSettings(names, any(keypoints for *_, keypoints in tables), source.name)


def _of_config(path: Path) -> tuple[dict[int, str], bool]:
    content = _yaml(path)
    listed = content.get("names") if isinstance(content, Mapping) else None
    try:
        if isinstance(listed, list):
            names = {at: name_of(name) for at, name in enumerate(listed)}
        elif isinstance(listed, Mapping):
            names = {int(str(key)): name_of(name) for key, name in listed.items()}
        else:
            raise ValueError(f"its names are {short(listed)}")
    except ValueError as error:
        raise LabelFileError(f"{path}: {error}; correct it") from error
    count = content.get("nc")
    if count is not None and count != len(names):
        raise LabelFileError(f"{path}: {len(names)} names, and nc is {short(count)}; correct it")
    return names, content.get("kpt_shape") is not None


def _of_list(path: Path) -> dict[int, str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        lines = [name_of(line) for line in re.split(r"\r\n|\r|\n", text)]
    except (OSError, ValueError) as error:
        raise LabelFileError(f"{path} cannot be read: {error}") from error
    while lines and not lines[-1]:
        lines.pop()
    return dict(enumerate(lines))
