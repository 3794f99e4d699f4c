"""Images by the names that annotation files call them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from finetune.errors import DatasetError


class PictureFinder:
    """Pictures by the names that annotations call them."""

    def __init__(self, annotations: Path, pictures: Path | None) -> None:
        self.annotations, self.pictures = annotations, pictures
        beside = annotations if annotations.is_dir() else annotations.parent
        folder = self.folder = pictures if pictures is not None else beside
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        if folder.is_dir() and not (folder / "zarr.json").exists() and not (folder / ".zattrs").exists():
            for file in sorted(folder.iterdir()):
                if file != annotations and file.suffix.lower() not in (
                    ".xml",
                    ".json",
                    ".geojson",
                    ".gz",
                    ".txt",
                    ".yaml",
                    ".yml",
                ):
                    self._by_name[file.name] = file
                    for stem in {file.name, file.stem, file.name.split(".")[0]}:
                        self._by_stem[stem].append(file)

    def find(self, picture: str | None) -> Path:
        """File of a picture named in the annotations, or of the one they lie beside."""
        picture = None if picture is None else picture.replace("\\", "/") if not Path(picture).exists() else picture
        if picture is not None and Path(picture).is_absolute() and Path(picture).exists():
            return self._by_name.get(Path(picture).name, Path(picture)) if self.pictures else Path(picture)
        if picture is None and self.pictures is not None and not self._by_name:
            return self.pictures
        if picture is None and any((self.annotations / name).exists() for name in (".zattrs", "zarr.json")):
            return self.annotations
        if picture is not None and "/" in picture and (self.folder / picture).is_file():
            return self.folder / picture  # images of one name in several folders
        name = Path(picture).name if picture is not None else self.annotations.name
        if name in self._by_name:
            return self._by_name[name]
        stem = name.split(".")[0]
        # An ending that is missing or another one; then whatever stands behind the first dot.
        for key in (name, Path(name).stem, stem):
            files = self._by_stem.get(key, [])
            if len(files) > 1:
                raise DatasetError(
                    f"{self.annotations}: its picture {name!r} may be {files[0].name} or {files[1].name}; leave one in "
                    f"{files[0].parent}, or name it with --images"
                )
            if files:
                return files[0]
        one = self.pictures
        if one is not None and one.is_file() and (picture is None or one.name == name or one.stem == stem):
            return one
        raise DatasetError(
            f"{self.annotations}: its picture {name!r} is not in {self.pictures or self.annotations.parent}; name the "
            "slide, or the folder that holds the pictures, with --images"
        )
