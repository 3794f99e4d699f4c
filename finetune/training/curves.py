"""Losses and metrics over the steps: CSV files, and a picture of them."""

from __future__ import annotations

import csv
from pathlib import Path


class Curves:
    """Losses and metrics of a training in a CSV file, one row per logged step.

    Parameters
    ----------
    path : Path
    first_step : int
        Rows of later steps (written before an interruption) are dropped.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        rows = [row for row in read_curve(path) if int(row["step"]) < first_step] if path.exists() else []
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "name", "value"])
            writer.writerows([row["step"], row["name"], row["value"]] for row in rows)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append values of a step."""
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([step, name, f"{value:.6g}"] for name, value in values.items())


def read_curve(path: Path) -> list[dict[str, str]]:
    """Rows of a curve file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plot_curves(folder: Path) -> Path:
    """Draw every curve of a run into `curves.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    files = sorted(folder.glob("*.csv"))
    figure, axes = plt.subplots(1, max(1, len(files)), figsize=(5 * max(1, len(files)), 4), squeeze=False)
    for axis, path in zip(axes[0], files, strict=False):
        series: dict[str, list[tuple[int, float]]] = {}
        for row in read_curve(path):
            series.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
        for name, points in series.items():
            window = max(1, len(points) // 200)
            xs = [p[0] for p in points[window - 1 :: window]]
            ys = [
                sum(q[1] for q in points[i : i + window]) / window for i in range(0, len(points) - window + 1, window)
            ]
            axis.plot(xs, ys[: len(xs)], label=name, linewidth=1)
        axis.set_title(path.stem)
        axis.set_xlabel("step")
        axis.set_yscale("log")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=110)
    plt.close(figure)
    return folder / "curves.png"
