"""Samples, predictions and evaluations, end to end on a planted section."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("scanpy", reason="needs the extra 'science'")
import anndata
from run_helpers import losing_its_server
from spatial_files import DarknessEngine, VisiumFolder, dark, planted_counts, write_section_slide
from typer.testing import CliRunner

from qwenvl.checkpoints.checkpoint_metadata import describe_checkpoint
from qwenvl.checkpoints.loading import find_checkpoint
from qwenvl.cli import load_commands
from qwenvl.errors import ServerError
from qwenvl.writing import Writer
from workflows.errors import ExportExistsError, ForeignFolderError, RunMismatchError, SpatialError
from workflows.review.reviewed import reviewed_objects
from workflows.science.spatial.job import PredictionSettings, evaluate_prediction, predict_section
from workflows.science.spatial.predict import ANSWERS, LOCATED, slug
from workflows.science.spatial.questions import region_question
from workflows.science.spatial.samples import SampleSettings, write_samples
from workflows.science.spatial.sections.genes import parse_targets
from workflows.science.spatial.sections.listing import SectionEntry
from workflows.store.run_store import RunStore
from wsi.errors import ReadError, SlideChangedError

TARGETS = parse_targets(["DARK1", "LIGHT1"])
SETTINGS = SampleSettings(mpp=2.0, tile_size=96, region_mpp=5.0, most_spots=40, margin=0.0)
ASKED = PredictionSettings(mpp=2.0, tile_size=96, region_mpp=5.0)


@pytest.fixture(scope="module")
def embedded():
    return describe_checkpoint(find_checkpoint("embedded"), name="embedded")


@pytest.fixture(scope="module")
def other_entry(tmp_path_factory):
    """Another section: other grain, other counts, of another patient."""
    from workflows.science.spatial.sections.listing import SectionEntry

    folder = tmp_path_factory.mktemp("other")
    planted = VisiumFolder.planted()
    planted.counts = planted_counts(planted.places0, seed=2)
    slide = write_section_slide(folder / "other.png", seed=5)
    return SectionEntry(planted.write(folder / "visium"), slide, "other", patient="B", split="held_out")


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def question_of(row):
    return row["messages"][0]["content"][1]["text"]


@pytest.fixture(scope="module")
def written(tmp_path_factory, visium, section_slide, other_entry, embedded):
    from workflows.science.spatial.sections.listing import SectionEntry

    out = tmp_path_factory.mktemp("samples") / "out"
    train = SectionEntry(visium, section_slide, "planted", patient="A")
    facts = write_samples([train, other_entry], TARGETS, out, Writer.of(embedded), embedded.processor, SETTINGS)
    return out, facts


def test_spots_are_answered_as_they_were_planted(written):
    out, facts = written
    asked = [row for row in rows_of(out / "conversations.jsonl") if "Is DARK1 high here?" in question_of(row)]
    assert len(asked) == 40
    right = 0
    for row in asked:
        assert question_of(row) == "Is DARK1 high here? Answer yes or no."
        picture = cv2.imread(str(out / row["messages"][0]["content"][0]["image"]))
        assert picture.shape == (96, 96, 3)
        told = row["messages"][1]["content"]
        right += (picture[40:56, 40:56].mean() < 150) == (told == "yes")
    assert right >= 36  # some spots lie on the border
    counts = facts["sections"][0]["counts"]
    assert (counts["questions"]["spots"], counts["yes"] + counts["no"]) == (80, 80)
    assert facts["sections"][0]["patient"] == "A"
    assert facts["notes"] == []


def test_regions_come_back_to_where_they_are(written, embedded):
    out, facts = written
    writer, dark_share, empty = Writer.of(embedded), [], 0
    frame = embedded.processor.frame(96, 96)
    for row in rows_of(out / "conversations.jsonl"):
        if "Locate" not in question_of(row) or "DARK1" not in question_of(row):
            continue
        request = region_question("DARK1", scale_of(facts))
        assert question_of(row) == request.prompt
        answer = writer.read(row["messages"][1]["content"], request, frame)
        picture = cv2.imread(str(out / row["messages"][0]["content"][0]["image"])).mean(axis=2)
        empty += not answer.objects
        for found in answer.objects:
            assert found.label == "high DARK1"
            x0, y0, x1, y1 = (round(v) for v in found.box)
            dark_share.append((picture[y0:y1, x0:x1] < 150).mean())
    assert len(dark_share) >= 2
    # Tiles of 5 um/px mix the two halves at their border; elsewhere a box holds the dark half alone.
    assert np.median(dark_share) > 0.9
    assert np.mean(dark_share) > 0.6
    assert empty >= 1, "tiles without a region are asked about too"
    assert facts["sections"][0]["counts"]["empty"] >= empty


def scale_of(facts):
    from workflows.science.spatial.questions import ExpressionScale

    return ExpressionScale(2.0, 96, facts["sections"][0]["region_mpp"])


def test_held_out_sections_have_a_file_and_tiles_of_their_own(written):
    out, facts = written
    train, held = (rows_of(out / name) for name in ("conversations.jsonl", "held_out.jsonl"))
    assert facts["rows"] == {"train": len(train), "held_out": len(held)}
    pictures = [{row["messages"][0]["content"][0]["image"] for row in rows} for rows in (train, held)]
    assert not pictures[0] & pictures[1]
    assert all("00_planted" in name for name in pictures[0])


def test_samples_are_what_fine_tuning_reads(written):
    from finetune.conversations.formats import read_conversations

    out, _ = written
    first = read_conversations(out / "held_out.jsonl")[0]
    assert first.sizes == ((96, 96),)
    assert first.messages[1]["content"] in ("yes", "no")


def test_a_patient_on_both_sides_is_refused_and_samples_are_never_lost(entry, other_entry, embedded, tmp_path):
    kit = (Writer.of(embedded), embedded.processor)
    same = [replace(entry, patient="B"), other_entry]
    small = replace(SETTINGS, most_spots=3, tasks=("spots",))
    with pytest.raises(SpatialError, match="Patient B is on both sides"):
        write_samples(same, TARGETS, tmp_path / "a", *kit, small)
    assert not (tmp_path / "a").exists()
    facts = write_samples(same, TARGETS, tmp_path / "a", *kit, replace(small, split_by="section"))
    assert "not to another patient" in facts["notes"][0]
    with pytest.raises(ExportExistsError, match="--overwrite"):
        write_samples([entry], TARGETS, tmp_path / "a", *kit, small)
    write_samples([entry], TARGETS, tmp_path / "a", *kit, small, overwrite=True)
    assert (tmp_path / "a.bak-1" / "held_out.jsonl").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ForeignFolderError):
        write_samples([entry], TARGETS, tmp_path / "mine", *kit, small, overwrite=True)
    with pytest.raises(SpatialError, match="none is left to train on"):
        write_samples([other_entry], TARGETS, tmp_path / "b", *kit, small)
    with pytest.raises(SpatialError, match="both sides of the split"):
        write_samples([entry, replace(entry, name="x", split="held_out")], TARGETS, tmp_path / "b", *kit, small)


def test_a_prediction_is_anndata_boxes_and_maps(entry, tmp_path):
    engine = DarknessEngine()
    result = predict_section(entry, TARGETS, engine, tmp_path / "p", ASKED)
    table = anndata.read_h5ad(tmp_path / "p" / "predictions.h5ad")
    assert result.complete
    assert result.facts["statuses"] == {"ok": 2 * table.n_obs}
    is_dark = dark(table.obsm["spatial"])
    told = table.obsm["predicted"]
    assert told["DARK1"][is_dark].mean() > told["DARK1"][~is_dark].mean() + 0.3
    np.testing.assert_allclose(table.obs["predicted LIGHT1"], told["LIGHT1"])
    assert list(table.obsm["measured"].columns) == ["DARK1", "LIGHT1"]
    features = json.loads((tmp_path / "p" / "regions.geojson").read_text())["features"]
    ring = np.array(
        next(f for f in features if f["properties"]["classification"]["name"] == "high DARK1")["geometry"][
            "coordinates"
        ][0]
    )
    assert ring[:, 0].max() < 720
    assert (table.obs["region DARK1"][~is_dark] == 0).mean() > 0.95
    assert cv2.imread(str(tmp_path / "p" / "maps.png")).std() > 5
    with RunStore.open(tmp_path / "p" / ANSWERS / "DARK1") as store:
        assert store.manifest.request.prompt == "Is DARK1 high here?"
    assert (tmp_path / "p" / ANSWERS / "DARK1" / "report.json").is_file()

    score = evaluate_prediction(tmp_path / "p")
    assert score.scores[0].mean("pearson") > 0.8
    assert score.scores[0].mean("auroc") > 0.9
    assert score.shuffled.upper < 0.3
    assert json.loads((tmp_path / "p" / "evaluation.json").read_text())["section"] == "planted"


def test_regions_that_the_model_locates_are_a_run_of_their_own_and_are_scored(entry, tmp_path):
    result = predict_section(entry, TARGETS, DarknessEngine(), tmp_path / "p", replace(ASKED, locate=True))
    assert result.facts["located"] == ["DARK1", "LIGHT1"]
    with RunStore.open(tmp_path / "p" / LOCATED / "DARK1") as store:
        boxes = reviewed_objects(store).box
        assert store.manifest.request.labels == ("high DARK1",)
    assert len(boxes)
    assert boxes[:, 0].min() < 200
    assert boxes[:, 2].max() < 680, "no box reaches far into the light half"
    located = evaluate_prediction(tmp_path / "p").located
    assert set(located) == {"DARK1", "LIGHT1"}
    assert located["DARK1"] > 0.6
    told = json.loads((tmp_path / "p" / "evaluation.json").read_text())
    assert told["located_box_f1"] == located

    class Wrong(DarknessEngine):
        @staticmethod
        def _located(picture, request):
            label = request.labels[0]
            asked = request.model_copy(update={"labels": (label.replace("DARK", "LIGHT"),)})
            found = DarknessEngine._located(picture, asked)
            return replace(found, objects=tuple(replace(each, label=label) for each in found.objects))

    predict_section(entry, TARGETS[:1], Wrong(), tmp_path / "q", replace(ASKED, locate=True))
    assert (tmp_path / "q" / LOCATED / "DARK1" / "report.json").is_file()
    assert evaluate_prediction(tmp_path / "q").located == {"DARK1": 0.0}


def test_a_killed_prediction_goes_on_and_ends_the_same(entry, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict_section(entry, TARGETS, DarknessEngine(fail_after=7), tmp_path / "p", ASKED)
    with RunStore.open(tmp_path / "p" / ANSWERS / "DARK1") as store:
        before = len(store.finished())
    assert before > 0
    engine = DarknessEngine()
    again = predict_section(entry, TARGETS, engine, tmp_path / "p", ASKED)
    whole = predict_section(entry, TARGETS, DarknessEngine(), tmp_path / "q", ASKED)
    spots = whole.facts["section"]["spots"]
    assert engine.pictures <= 2 * (spots - before) + 8
    assert again.facts["statuses"] == whole.facts["statuses"]
    told = [anndata.read_h5ad(tmp_path / name / "predictions.h5ad").obsm["predicted"] for name in "pq"]
    np.testing.assert_array_equal(told[0].to_numpy(), told[1].to_numpy())
    with pytest.raises(RunMismatchError):
        predict_section(entry, TARGETS, DarknessEngine(), tmp_path / "p", replace(ASKED, mpp=2.5))


def test_a_lost_server_keeps_what_arrived_and_fails_no_spot(entry, tmp_path):
    with pytest.raises(ServerError, match="cannot be reached"):
        predict_section(entry, TARGETS, losing_its_server(DarknessEngine(), call=2), tmp_path / "p", ASKED)
    for target in TARGETS:
        with RunStore.open(tmp_path / "p" / ANSWERS / target.name) as store:
            assert (len(store.finished()), len(store.failed())) == (12, 0)  # 8 of the first call, 4 of the second
    again = predict_section(entry, TARGETS, DarknessEngine(), tmp_path / "p", ASKED)
    whole = predict_section(entry, TARGETS, DarknessEngine(), tmp_path / "q", ASKED)
    assert again.facts["statuses"] == whole.facts["statuses"]


def test_a_spot_whose_tile_cannot_be_read_is_unknown_and_not_low(entry, tmp_path, monkeypatch):
    from wsi.readers.opened import OpenedSlide

    read = OpenedSlide.read_scaled

    def broken(self, x0, y0, width0, height0, size):
        if size == (96, 96) and x0 < 300:
            raise ReadError("corrupt")
        return read(self, x0, y0, width0, height0, size)

    monkeypatch.setattr(OpenedSlide, "read_scaled", broken)
    result = predict_section(entry, TARGETS, DarknessEngine(), tmp_path / "p", ASKED)
    table = anndata.read_h5ad(tmp_path / "p" / "predictions.h5ad")
    lost = np.isnan(table.obsm["predicted"].to_numpy())
    assert lost.any()
    assert lost.sum() == result.facts["statuses"]["failed"]
    assert not result.complete
    assert table.obsm["spatial"][lost[:, 0], 0].max() < 450
    score = evaluate_prediction(tmp_path / "p")
    assert score.scores[0].targets[0].spots == table.n_obs - int(lost[:, 0].sum())


def test_a_slide_without_counts_is_predicted_at_places_laid_over_it(entry, tmp_path):
    from workflows.science.spatial.sections.listing import SectionEntry

    bare = SectionEntry(None, entry.image, "bare", pitch_um=150.0, slide_mpp=1.6667)
    result = predict_section(bare, TARGETS, DarknessEngine(), tmp_path / "p", ASKED)
    table = anndata.read_h5ad(tmp_path / "p" / "predictions.h5ad")
    assert table.shape == (result.facts["section"]["spots"], 0)
    told = table.obsm["predicted"]["DARK1"]
    is_dark = dark(table.obsm["spatial"])
    assert told[is_dark].mean() > told[~is_dark].mean() + 0.3
    with pytest.raises(SpatialError, match="nothing to compare"):
        evaluate_prediction(tmp_path / "p")


def test_ridge_stands_beside_the_model(entry, other_entry, tmp_path):
    predict_section(other_entry, TARGETS, DarknessEngine(), tmp_path / "p", ASKED)
    score = evaluate_prediction(tmp_path / "p", [entry])
    assert [s.method for s in score.scores] == ["model", "ridge"]
    assert score.scores[1].mean("pearson") > 0.8
    assert abs(score.ridge_shuffled.mean) < 0.3
    assert score.ridge_shuffled.upper < score.scores[1].mean("pearson")
    with pytest.raises(SpatialError, match="among the training sections too"):
        evaluate_prediction(tmp_path / "p", [other_entry])


def test_names_of_folders_are_safe_and_apart():
    assert slug("CD8A") == "CD8A"
    assert slug("HLA-DRA") == "HLA-DRA"
    assert len({slug(name) for name in ("T cell", "T_cell", "T/cell", "../../T", "日本")}) == 5
    assert all("/" not in slug(name) and slug(name) not in ("", ".", "..") for name in ("../..", "日本", "/"))


def run(*args):
    return CliRunner().invoke(load_commands(), ["spatial", *map(str, args)])


def test_the_commands_go_from_a_folder_to_an_evaluation(visium, section_slide, tmp_path):
    shown = run("show", visium, "-i", section_slide, "-g", "DARK1", "--json", "-o", tmp_path / "map.png")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["fit"]["on_tissue"] > 0.99
    assert (tmp_path / "map.png").is_file()
    listed = tmp_path / "sections.csv"
    listed.write_text(f"counts,image,name\n{visium},{section_slide},planted\n")
    made = run(
        "samples",
        listed,
        "-o",
        tmp_path / "s",
        "-g",
        "DARK1",
        "--mpp",
        2,
        "--tile-size",
        96,
        "--most-spots",
        5,
        "--task",
        "spots",
        "--margin",
        0,
    )
    assert made.exit_code == 0, made.output
    assert len(rows_of(tmp_path / "s" / "conversations.jsonl")) == 5
    asked = ["-g", "DARK1", "--mpp", "3", "--tile-size", "64", "-o", tmp_path / "p"]
    planned = run("predict", visium, "-i", section_slide, *asked, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "spots x 1 questions" in planned.output
    assert not (tmp_path / "p").exists()
    told = run("predict", visium, "-i", section_slide, *asked)
    assert told.exit_code == 0, told.output
    assert "not for diagnosis" in told.output
    judged = run("evaluate", tmp_path / "p", "--json")
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)["scores"][0]["method"] == "model"


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [(["-g", "CD8"], 1, "Nearest names: CD8A"), (["--swap-xy"], 1, "With x and y exchanged")],
)
def test_bad_input_is_one_line_and_a_code(flags, code, message, visium, section_slide):
    result = run("show", visium, "-i", section_slide, *flags)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_genes_have_to_be_named(visium, section_slide, tmp_path):
    result = run("predict", visium, "-i", section_slide, "-o", tmp_path / "p")
    assert result.exit_code == 2
    assert "Name the genes" in result.output


class Rewriting(DarknessEngine):
    """Rewrites the slide after a batch was read."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def answer(self, pictures, request):
        write_section_slide(self._path, seed=9)
        return super().answer(pictures, request)


def test_a_section_that_is_rewritten_ends_the_prediction(visium, tmp_path):
    slide = write_section_slide(tmp_path / "section.png", seed=3)
    entry = SectionEntry(visium, slide, "one")
    with pytest.raises(SlideChangedError, match=r"section\.png changed while it was read"):
        predict_section(entry, TARGETS, Rewriting(slide), tmp_path / "out", ASKED)
    assert not (tmp_path / "out" / "prediction.json").exists()
    assert not list((tmp_path / "out").rglob("run.sqlite")), "runs without an answer leave nothing"


def test_samples_of_a_section_that_is_rewritten_are_not_written(visium, tmp_path, embedded):
    slide = write_section_slide(tmp_path / "section.png", seed=3)
    writer = Writer.of(embedded)

    def rewrite(words):
        write_section_slide(slide, seed=9)

    with pytest.raises(SlideChangedError):
        write_samples(
            [SectionEntry(visium, slide, "one")],
            TARGETS,
            tmp_path / "out",
            writer,
            embedded.processor,
            SETTINGS,
            progress=rewrite,
        )
    assert not (tmp_path / "out").exists()
