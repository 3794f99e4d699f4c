"""Time-lapses: frames sampled, objects linked, ranges found, against planted films.

    python benchmarks/science_timelapse.py [--fast] [--pictures FOLDER]

1. Sampling: an event of a few frames in a long film. How many of the frames of a budget see it, beside even sampling.
2. Linking: nuclei that move, divide, appear and leave; the planted boxes with a tenth left out, false finds and jitter,
   linked by assignment and by the nearest neighbour.
3. End to end with the embedded checkpoint: nuclei detected in every frame and linked, and when tumor is in the field,
   asked frame by frame.

Bars: dense sampling sees the event in at least twice as many frames; link F1 above the nearest neighbour's with no more
switches, on noisy and on detected objects; the range of the planted event is found with an overlap (IoU of frames) of
0.8. Exits with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def sampling(seeds: int) -> bool:
    """Part 1."""
    from workflows.science.timelapse.sampling import frame_changes, sample_frames
    from workflows.science.timelapse.stack import open_stack
    from wsi.synthetic import make_film, write_film

    frames, count = 80, 12
    dense, even = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            first = 12 + (seed * 17) % 55
            film = make_film(
                seed,
                frames=frames,
                size=128,
                nuclei=6,
                divisions=1,
                arrivals=0,
                departures=0,
                speed_um=0.8,
                still=(first, first + 6),
            )
            noise = np.random.default_rng(seed).normal(0, 3, film.frames.shape)
            shown = np.clip(film.frames + noise, 0, 255).astype(np.uint8)
            stack = open_stack(write_film(Path(folder) / f"{seed}.ome.tif", shown, interval=60, mpp=0.5))
            chosen = sample_frames(frame_changes(stack), count)
            plain = sample_frames(np.ones(frames - 1), count)
            inside = range(first - 1, first + 7)
            dense.append(sum(frame in inside for frame in chosen))
            even.append(sum(frame in inside for frame in plain))
            stack.close()
    ratio = sum(dense) / max(1, sum(even))
    print(f"\nSampling: {count} of {frames} frames, an event of 6 frames, {seeds} films")
    print(f"{'':26}{'dense':>10}{'even':>10}{'ratio':>8}")
    print(f"{'frames that see it, mean':26}{np.mean(dense):10.1f}{np.mean(even):10.1f}{ratio:8.1f}")
    print(f"{'films with fewer than two':26}{sum(n < 2 for n in dense):10}{sum(n < 2 for n in even):10}")
    return ratio >= 2


def linking(seeds: int) -> bool:
    """Part 2."""
    from workflows.science.timelapse.linking import LinkRules, link, link_nearest
    from workflows.science.timelapse.measures import score_tracks
    from wsi.synthetic import make_film

    print("\nLinking: planted boxes, a tenth left out, 0.4 false finds per frame, jitter of 1 px")
    print(f"{'um per frame':14}{'way':22}{'link F1':>9}{'switches':>9}{'MOTA':>7}{'divisions found / made / true':>32}")
    reached = True
    for speed in (1.0, 2.0):
        rows: dict[str, list[Any]] = {}
        for seed in range(seeds):
            film = make_film(seed, frames=24, size=224, nuclei=14, speed_um=speed, divisions=3)
            rng = np.random.default_rng(seed)
            noisy = []
            for found in film.boxes:
                kept = found[rng.random(len(found)) > 0.1]
                places = rng.uniform(10, 210, (rng.poisson(0.4), 2))
                noisy.append(np.concatenate([kept + rng.normal(0, 1, kept.shape), np.hstack([places - 7, places + 7])]))
            links = link(noisy, LinkRules(shortest=2))
            ways = {
                "assignment": links,
                "assignment, divisions": link(noisy, LinkRules(shortest=2, divisions=True)),
                "nearest neighbour": link_nearest(noisy, links.reach),
            }
            for name, made in ways.items():
                rows.setdefault(name, []).append(score_tracks(noisy, made, film.boxes, film.tracks, film.parents))
        table = {name: _table(found) for name, found in rows.items()}
        for name, (f1, switches, mota, divisions) in table.items():
            print(f"{speed:<14}{name:22}{f1:9.3f}{switches:9}{mota:7.3f}{divisions:>32}")
        ours, naive = table["assignment"], table["nearest neighbour"]
        reached &= ours[0] > naive[0] and ours[1] <= naive[1]
    return reached


def _table(scores: list[Any]) -> tuple[float, int, float, str]:
    divisions = (sum(getattr(s, f"divisions_{part}") for s in scores) for part in ("right", "made", "true"))
    return (
        float(np.mean([s.link_f1 for s in scores])),
        sum(s.switches for s in scores),
        float(np.mean([s.mota for s in scores])),
        " / ".join(map(str, divisions)),
    )


def end_to_end(seeds: int, pictures: Path | None) -> bool:
    """Part 3."""
    from qwenvl.engines.local import LocalEngine
    from qwenvl.request import Request
    from workflows.science.timelapse.linking import LinkRules, link_nearest
    from workflows.science.timelapse.measures import score_tracks
    from workflows.science.timelapse.picture import write_timeline
    from workflows.science.timelapse.run import ask_frames, choose_frames, frame_objects, link_objects
    from workflows.science.timelapse.stack import open_stack
    from workflows.science.timelapse.strip import Strip
    from workflows.store.run_store import RunStore
    from wsi.synthetic import make_film, sample_field, write_film

    engine = LocalEngine.load("embedded", device="cpu")
    detect = Request(task="detect", labels=("nucleus",), tile_size=224, overlap=0)
    score = Request(task="score", prompt="Is there tumor in this image?", tile_size=224, overlap=0)
    reached = True
    print("\nEnd to end with the embedded checkpoint")
    print(f"{'film':8}{'detection F1':>13}{'link F1':>9}{'nearest':>9}{'switches':>10}{'nearest':>9}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        totals = np.zeros(4)
        for seed in range(seeds):
            film = make_film(seed + 20, frames=16, size=224, mpp=0.25, nuclei=7, speed_um=1.0, divisions=1)
            stack = open_stack(write_film(folder / f"{seed}.ome.tif", film, interval=300, mpp=0.25))
            sampled = choose_frames(stack, engine, side=224, budget=None)
            rules = LinkRules(shortest=2, divisions=True)
            out = folder / f"tracks-{seed}"
            report = ask_frames(stack, engine, detect, sampled, out, rules=rules)
            if pictures is not None and seed == 0:
                picture = write_timeline(out, report, stack)
                (pictures / "timelapse-tracks.png").write_bytes(picture.read_bytes())
            with RunStore.open(out) as store:
                objects = frame_objects(store, Strip(stack, sampled.frames))
            boxes = [each.boxes for each in objects]
            links = link_objects(objects, rules)
            ours = score_tracks(boxes, links, film.boxes, film.tracks, film.parents)
            naive = score_tracks(boxes, link_nearest(boxes, links.reach), film.boxes, film.tracks, film.parents)
            print(
                f"{seed:<8}{ours.detection_f1:13.3f}{ours.link_f1:9.3f}{naive.link_f1:9.3f}{ours.switches:10}{naive.switches:9}",
                flush=True,
            )
            totals += (ours.link_f1, naive.link_f1, ours.switches, naive.switches)
            stack.close()
        reached &= totals[0] > totals[1] and totals[2] <= totals[3]
        tumor = sample_field(3, size=224, tissue="tumor", artefacts=()).image
        stroma = sample_field(8, size=224, tissue="stroma", classes=("stromal",), artefacts=()).image
        frames = np.stack([tumor if 9 <= t < 17 else stroma for t in range(24)])
        frames = np.clip(frames + np.random.default_rng(1).normal(0, 3, frames.shape), 0, 255).astype(np.uint8)
        stack = open_stack(write_film(folder / "stage.ome.tif", frames, interval=30, mpp=0.25))
        sampled = choose_frames(stack, engine, side=224, budget=None)
        report = ask_frames(stack, engine, score, sampled, folder / "when")
        found = {frame for each in report.ranges for frame in range(each.first, each.last + 1)}
        overlap = len(found & set(range(9, 17))) / len(found | set(range(9, 17)))
        told = ", ".join(f"{each.first} to {each.last}" for each in report.ranges) or "none"
        print(f"\nWhen is there tumor? planted 9 to 16, found {told}: overlap {overlap:.2f}")
        if pictures is not None:
            picture = write_timeline(folder / "when", report, stack)
            (pictures / "timelapse-when.png").write_bytes(picture.read_bytes())
        stack.close()
    return reached and overlap >= 0.8


def main() -> int:
    """Run the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--pictures", type=Path, help="also write the timelines here, for the docs")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    fast = arguments.fast
    parts = [sampling(4 if fast else 20), linking(3 if fast else 10), end_to_end(2 if fast else 5, arguments.pictures)]
    print("\nAll bars reached." if all(parts) else "\nA bar was missed.")
    return 0 if all(parts) else 1


if __name__ == "__main__":
    sys.exit(main())
