"""Every form of a section is read to the same places and counts, and every fault gets a message that helps."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("scanpy", reason="needs the extra 'science'")
import pandas as pd
from spatial_files import GENES, PITCH0, VisiumFolder, lattice, planted_counts, write_section_slide, write_st

from workflows.errors import SpatialError
from workflows.science.spatial.sections.fit import check_fit
from workflows.science.spatial.sections.listing import SectionEntry, lay_places, opened
from workflows.science.spatial.sections.reading import read_section
from wsi import TissueMask, open_slide


@pytest.mark.parametrize(("matrix", "positions"), [("h5", "csv"), ("h5", "list"), ("h5", "parquet"), ("mtx", "csv")])
def test_a_space_ranger_folder_is_joined_by_barcode(matrix, positions, tmp_path):
    planted = VisiumFolder.planted()
    planted.write(tmp_path / "sample" / "outs", matrix=matrix, positions=positions)
    section = read_section(tmp_path / "sample")
    assert section.name == "sample"
    assert section.kind == "visium"
    assert section.counts.obs_names.tolist() == planted.barcodes[1:]
    np.testing.assert_allclose(section.places0, planted.places0[1:])
    np.testing.assert_array_equal(section.counts.X.toarray(), planted.counts[1:])
    assert section.genes == GENES
    assert dict(section.dropped) == {"not under tissue": 1}
    assert section.pitch0 == pytest.approx(PITCH0, rel=1e-6)
    assert section.um_per_px == pytest.approx(100 / PITCH0, rel=1e-6)


def test_bins_of_visium_hd_are_chosen_by_their_side(tmp_path):
    planted = VisiumFolder.planted()
    planted.scales |= {"bin_size_um": 16.0, "microns_per_pixel": 0.25}
    planted.write(tmp_path / "outs" / "binned_outputs" / "square_016um", positions="parquet")
    section = read_section(tmp_path / "outs", bin_um=16)
    assert (section.kind, section.um_per_px) == ("visium-hd", 0.25)
    with pytest.raises(SpatialError, match=r"no bins of 8 um .* there are square_016um"):
        read_section(tmp_path / "outs", bin_um=8)


def test_the_older_form_is_joined_by_place_in_the_array(tmp_path):
    counts, spots = write_st(tmp_path)
    section = read_section(counts, spots=spots, pitch_um=200)
    table, where = pd.read_csv(counts, sep="\t", index_col=0), pd.read_csv(spots, sep="\t")
    assert section.counts.n_obs == len(table) == len(where) - 1
    assert dict(section.dropped) == {"places without counts": 1}
    assert section.um_per_px == pytest.approx(200 / 80)
    at = section.counts.obs_names.get_loc("5x4")
    assert section.places0[at].tolist() == [400.0, 320.0]
    np.testing.assert_array_equal(section.counts.X[at].toarray().ravel(), table.loc["5x4"].to_numpy())


def test_anndata_in_the_form_of_scanpy_is_read_and_other_values_than_counts_are_not(visium, tmp_path):
    section = read_section(visium)
    table = section.counts.copy()
    table.uns["spatial"] = {"lib": {"scalefactors": {"spot_diameter_fullres": 33.0}}}
    table.write_h5ad(tmp_path / "a.h5ad")
    again = read_section(tmp_path / "a.h5ad", pitch_um=100)
    assert (again.name, again.spot0) == ("lib", 33.0)
    np.testing.assert_array_equal(again.places0, section.places0)
    table.X = table.X * 0.5
    table.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(SpatialError, match=r"no counts .* layers\['counts'\]"):
        read_section(tmp_path / "b.h5ad")


def _without_scales(folder):
    (folder / "spatial" / "scalefactors_json.json").unlink()


def _broken_scales(folder):
    (folder / "spatial" / "scalefactors_json.json").write_text('{"spot_diameter_fullres": 0}')


def _without_positions(folder):
    (folder / "spatial" / "tissue_positions.csv").unlink()


def _other_columns(folder):
    path = folder / "spatial" / "tissue_positions.csv"
    pd.read_csv(path).rename(columns={"pxl_col_in_fullres": "x"}).to_csv(path, index=False)


def _other_barcodes(folder):
    path = folder / "spatial" / "tissue_positions.csv"
    table = pd.read_csv(path)
    table["barcode"] = "T" + table["barcode"]
    table.to_csv(path, index=False)


def _no_counts(folder):
    (folder / "filtered_feature_bc_matrix.h5").unlink()


def _cut_short(folder):
    path = folder / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_without_scales, r"scalefactors_json.json is missing.*Copy it from"),
        (_broken_scales, r"spot_diameter_fullres is 0"),
        (_without_positions, r"no positions: none of tissue_positions"),
        (_other_columns, r"lacks the columns pxl_col_in_fullres"),
        (_other_barcodes, r"none of the \d+ barcodes .* different sections"),
        (_no_counts, r"holds no counts"),
        (_cut_short, r"cannot be read as a matrix"),
    ],
)
def test_a_fault_of_the_folder_is_named(fault, message, visium, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(visium, folder)
    fault(folder)
    with pytest.raises(SpatialError, match=message):
        read_section(folder)


def test_the_spots_of_a_section_lie_on_its_tissue(entry):
    with opened(entry) as found:
        assert found.fit.on_tissue > 0.99
        assert found.slide.mpp == pytest.approx(100 / PITCH0)


def test_exchanged_columns_are_told_from_another_section(visium, section_slide, tmp_path):
    section, slide = read_section(visium), open_slide(section_slide)
    mask = TissueMask.from_slide(slide)
    with pytest.raises(SpatialError, match=r"With x and y exchanged 100% lie on tissue.*--swap-xy"):
        check_fit(section.swapped(), slide, mask)
    assert check_fit(section.swapped().swapped(), slide, mask).on_tissue > 0.99
    other = open_slide(write_section_slide(tmp_path / "other.png", mirrored=True))
    with pytest.raises(SpatialError, match="Image and matrix are of different sections"):
        check_fit(section, other)
    half = section.counts.copy()
    half.obsm["spatial"] = section.places0 / 4
    with pytest.raises(SpatialError, match=r"px of a picture 0\.2\d times as large"):
        check_fit(section.with_counts(half), slide, mask)


def test_a_slide_that_is_not_the_picture_of_the_counts_is_refused_where_spots_alone_do_not_tell(
    section_slide, tmp_path
):
    planted = VisiumFolder.planted()
    planted.scales["tissue_hires_scalef"] = 0.2
    slide = open_slide(section_slide)
    assert check_fit(read_section(planted.write(tmp_path / "a", hires=section_slide)), slide).likeness > 0.95
    planted.scales["tissue_hires_scalef"] = 0.1
    with pytest.raises(SpatialError, match=r"measures 1500x1100 px.*3000x2200"):
        check_fit(read_section(planted.write(tmp_path / "b", hires=section_slide)), slide)
    planted.scales["tissue_hires_scalef"] = 0.2
    other = write_section_slide(tmp_path / "other.png", mirrored=True)
    with pytest.raises(SpatialError, match="does not look like"):
        check_fit(read_section(planted.write(tmp_path / "c", hires=other)), slide)


def test_places_are_laid_over_the_tissue_where_nothing_was_measured(section_slide):
    slide = open_slide(section_slide, mpp=1.0)
    mask = TissueMask.from_slide(slide)
    section = lay_places(slide, mask, 50.0)
    assert section.kind == "lattice"
    area = mask.area_px0 / (np.sqrt(3) / 2 * 50**2)
    assert section.counts.n_obs == pytest.approx(area, rel=0.1)
    assert check_fit(section, slide, mask).on_tissue == 1.0


def test_the_list_of_sections_names_what_is_wrong(tmp_path):
    from workflows.science.spatial.sections.listing import read_sections

    path = tmp_path / "sections.csv"
    path.write_text("counts,image,split,pitch_um\na,b.png,held_out,200\n")
    (only,) = read_sections(path)
    assert (only.counts, only.split, only.pitch_um) == (tmp_path / "a", "held_out", 200.0)
    assert SectionEntry.of_facts(json.loads(json.dumps(only.facts()))) == only
    for text, message in (
        ("counts,picture\na,b\n", "needs the columns counts, image"),
        ("counts,image,split\na,b,test\n", "line 2: split 'test'"),
        ("counts,image\n,b\n", "line 2: counts and image need a path"),
    ):
        path.write_text(text)
        with pytest.raises(SpatialError, match=message):
            read_sections(path)


@pytest.mark.real
def test_real_spots_lie_on_their_section_and_on_no_other(real_data):
    folder = real_data / "spatial" / "her2st"
    section = read_section(folder / "counts" / "C4.tsv.gz", spots=folder / "spots" / "C4_selection.tsv", pitch_um=200)
    stated = pd.read_csv(folder / "pixel_size_from_HEST_v1_1_0.csv").set_index("subseries").loc["C4"]
    assert section.um_per_px == pytest.approx(stated["pixel_size_um_estimated"], rel=0.01)
    assert section.counts.n_obs == stated["spots_under_tissue"]
    slide = open_slide(folder / "images" / "C4_5714_HE_BT_D2.jpg")
    mask = TissueMask.from_slide(slide)
    assert check_fit(section, slide, mask).on_tissue > 0.98
    with pytest.raises(SpatialError, match="--swap-xy"):
        check_fit(section.swapped(), slide, mask)
    other = read_section(folder / "counts" / "C3.tsv.gz", spots=folder / "spots" / "C3_selection.tsv", pitch_um=200)
    with pytest.raises(SpatialError, match="different sections"):
        check_fit(other, slide, mask)


@pytest.mark.real
def test_a_folder_that_space_ranger_wrote_is_read(real_data):
    section = read_section(real_data / "spatial" / "visium_scanpy" / "1.0.0")
    assert section.counts.shape == (100, 100)
    assert section.spot0 == pytest.approx(89.4275, abs=1e-3)
    # Neighbours of one row are two array columns, about 138 px, apart.
    assert section.pitch0 == pytest.approx(138, rel=0.02)


def test_planted_counts_are_what_the_tests_think():
    _, places0 = lattice()
    counts = planted_counts(places0)
    assert counts.shape == (len(places0), len(GENES))
    assert 150 < len(places0) < 400
