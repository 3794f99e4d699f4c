"""Exporting to QuPath GeoJSON: time and memory, beside building the document at once.

A run with boxes of two classes is stored, some of them seen twice at seams. It is exported by this project, and by what
one would write in its place: all features as objects, then `geojson.dump`, `json.dump` or `json.dumps` of the whole
document. Everything reads, merges and names the objects alike; each export is a process of its own.

    python benchmarks/export.py          a million objects beside a hundred thousand
    python benchmarks/export.py --fast   200,000 objects beside 20,000

Exit code 1 where the export is less than 5x faster than `geojson.dump` or `json.dump`, or its peak memory with the
larger run is more than 1.2 times that with the smaller one. `json.dumps` is shown without a bar.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from memory import peak_memory

FASTER, FLAT = 5.0, 1.2
PER_TILE = 40
METHODS = ("napari-qwenvl", "geojson.dump", "json.dump", "json.dumps")


def write_run(folder: Path, objects: int) -> None:
    """A run of so many objects (before merging), answered by the stand-in engine."""
    from qwenvl.engines.fake import FakeEngine
    from qwenvl.request import Request, Task
    from workflows.store.provenance import Manifest, grid_facts, mask_facts, model_facts, slide_facts, software_versions
    from workflows.store.rows import tile_table
    from workflows.store.run_store import RunStore
    from wsi.grid import TileGrid
    from wsi.slide import Level, Slide
    from wsi.tissue import TissueMask

    side = int(np.ceil(np.sqrt(objects / PER_TILE))) * 192

    class Blank(Slide):
        """A slide that nobody looks at."""

        def __init__(self) -> None:
            self.path, self.reader, self.properties = Path("benchmark.svs"), "none", {}
            self.levels, self.mpp_xy, self.mpp_source = (Level(side, side, 1.0),), (0.5, 0.5), "file"
            self.fingerprint = f"sha256:{side:032x}"

        def _reopen(self) -> Any:
            raise NotImplementedError

        def _read(self, x: int, y: int, width: int, height: int, level: int) -> Any:
            return np.full((height, width, 3), 200, np.uint8)

    slide, engine = Blank(), FakeEngine(boxes=PER_TILE)
    request = Request(
        task=Task.DETECT, labels=("tumour", "lymphocyte"), tile_size=224, overlap=32, mpp=0.5, max_objects=100
    )
    mask = TissueMask.from_slide(slide, method="all")
    grid = TileGrid.from_slide(slide, tile_size=224, overlap=32, mpp=0.5, mask=mask)
    manifest = Manifest(
        request=request,
        request_hash=request.hash,
        slide=slide_facts(slide),
        model=model_facts(engine.info),
        grid=grid_facts(grid, slide),
        mask=mask_facts(mask, "all", slide),
        versions=software_versions(),
        command=None,
        created="2026-01-01T00:00:00+00:00",
    )
    rng = np.random.default_rng(0)
    tiles = list(grid)
    with RunStore.create(folder, manifest, tile_table(grid)) as store:
        for start in range(0, len(tiles), 500):
            batch = tiles[start : start + 500]
            pictures = rng.integers(0, 255, (len(batch), 8, 8, 3), dtype=np.uint8).repeat(28, 1).repeat(28, 2)
            store.put(list(zip(batch, engine.answer(list(pictures), request), strict=True)))


def export_ours(run: Path, out: Path) -> int:
    """The project's export."""
    from workflows.export import export_geojson

    return export_geojson(run, out)


def export_at_once(run: Path, out: Path, write: Callable[[list[Any], Any], None], feature: Callable[..., Any]) -> int:
    """All features first, then the document."""
    from workflows.merge.merged import iter_merged
    from workflows.report.images.colours import label_colours
    from workflows.store.run_store import RunStore

    features = []
    with RunStore.open(run) as store:
        labels, name = store.labels, store.manifest.run_id
        classes = [{"name": label, "color": list(colour)} for label, colour in label_colours(labels).items()]
        for chunk in iter_merged(store, labels):
            columns = chunk.tile, chunk.item, chunk.label, np.round(chunk.box, 2), chunk.score
            for tile, item, label, (x0, y0, x1, y1), score in zip(*(c.tolist() for c in columns), strict=True):
                properties = {
                    "objectType": "detection",
                    "classification": classes[label],
                    "measurements": {"score": score},
                    "metadata": {"tile": str(tile), "item": str(item)},
                }
                ring = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]
                features.append(feature(str(uuid.uuid5(name, f"{tile}/{item}")), ring, properties))
    with out.open("w", encoding="utf-8") as stream:
        write(features, stream)
    return len(features)


def export_with_geojson(run: Path, out: Path) -> int:
    """Features and document of the geojson library."""
    import geojson

    return export_at_once(
        run,
        out,
        lambda features, stream: geojson.dump(geojson.FeatureCollection(features), stream),
        lambda name, ring, properties: geojson.Feature(name, geojson.Polygon(ring), properties),
    )


def _plain(name: str, ring: Any, properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": name,
        "geometry": {"type": "Polygon", "coordinates": ring},
        "properties": properties,
    }


def export_with_json(run: Path, out: Path) -> int:
    """Dicts, and json.dump into the file."""
    return export_at_once(
        run,
        out,
        lambda features, stream: json.dump({"type": "FeatureCollection", "features": features}, stream),
        _plain,
    )


def export_with_dumps(run: Path, out: Path) -> int:
    """Dicts, and json.dumps, which writes in C but holds the text too."""
    return export_at_once(
        run,
        out,
        lambda features, stream: stream.write(json.dumps({"type": "FeatureCollection", "features": features})),
        _plain,
    )


EXPORTS = dict(zip(METHODS, (export_ours, export_with_geojson, export_with_json, export_with_dumps), strict=True))


def measured(method: str, run: Path, out: Path) -> dict[str, float]:
    """One export in a process of its own: objects, CPU seconds without imports, peak memory in MiB."""
    out.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, __file__, "--one", method, str(run), str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{method} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(method: str, run: Path, out: Path) -> None:
    """What `measured` runs."""
    import workflows.export
    import workflows.merge.merged  # noqa: F401 - imported before the clock starts

    if method == "geojson.dump":
        import geojson  # noqa: F401
    began = time.process_time()
    number = EXPORTS[method](run, out)
    seconds = time.process_time() - began
    peak = peak_memory()
    print(json.dumps({"objects": number, "seconds": seconds, "peak": peak}))


def same_content(run: Path, folder: Path, methods: list[str]) -> None:
    """Every method must write the same features."""
    documents = []
    for method in methods:
        out = folder / "check.geojson"
        measured(method, run, out)
        features = json.loads(out.read_text(encoding="utf-8"))["features"]
        documents.append(sorted(features, key=lambda feature: feature["id"]))
    for method, document in zip(methods, documents, strict=True):
        if document != documents[0]:
            raise SystemExit(f"{method} writes other features than {methods[0]}: the comparison would be unfair.")
    print(f"Same {len(documents[0]):,} features: {', '.join(methods)}\n")


def main() -> int:
    """Measure, print one table, return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="GeoJSON export beside building the document at once.")
    parser.add_argument("--fast", action="store_true", help="200,000 objects instead of a million")
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "RUN", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], Path(given.one[1]), Path(given.one[2]))
        return 0
    methods = list(METHODS)
    try:
        import geojson  # noqa: F401
    except ImportError:
        methods.remove("geojson.dump")
        print("geojson.dump is left out: the library is not installed. Install it with pip install geojson.")
    large = 200_000 if given.fast else 1_000_000
    sizes = {"small": large // 10, "large": large}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, objects in sizes.items():
            write_run(folder / name, int(objects * 1.06))
        same_content(folder / "small", folder, methods)
        rows = {
            (method, size): measured(method, folder / size, folder / "x.geojson")
            for size in sizes
            for method in methods
        }
        again = measured("napari-qwenvl", folder / "large", folder / "x.geojson")
        size = (folder / "x.geojson").stat().st_size / 1e6
    ours = rows["napari-qwenvl", "large"]
    ours["seconds"] = min(ours["seconds"], again["seconds"])
    print(f"{'':16}{'objects':>11}{'CPU s':>8}{'us/object':>11}{'peak MiB':>10}   against ours")
    for (method, name), row in rows.items():
        base = rows["napari-qwenvl", name]
        ratio = "" if row is base else f"{row['seconds'] / base['seconds']:.1f}x the time"
        print(
            f"{method:16}{int(row['objects']):>11,}{row['seconds']:>8.2f}"
            f"{row['seconds'] / row['objects'] * 1e6:>11.1f}{row['peak']:>10.0f}   {ratio}"
        )
    growth = ours["peak"] / rows["napari-qwenvl", "small"]["peak"]
    print(f"\nPeak with ten times the objects: {growth:.2f}x (bar {FLAT}x). The file has {size:,.0f} MB.")
    missed = [] if growth <= FLAT else [f"memory grows {growth:.2f}x, the bar is {FLAT}x"]
    bars = {
        method: rows[method, "large"]["seconds"] / ours["seconds"] for method in methods if method.endswith(".dump")
    }
    for method, faster in bars.items():
        if faster < FASTER:
            missed.append(f"{method} takes {faster:.1f}x the time, the bar is {FASTER:g}x")
    for words in missed:
        print(f"BAR MISSED  {words}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
