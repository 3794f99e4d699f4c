"""Genes and signatures: found by name, normalised, and scored per spot."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workflows.errors import SpatialError
from workflows.science.spatial.sections.section import Section

SIGNATURE = "signature"
_OFFERED = 5
_HOUSEKEEPING = ("MT-", "MTRNR", "RPL", "RPS")

MARKERS = (
    "ACTA2",
    "ADIPOQ",
    "AEBP1",
    "AGR2",
    "APOC1",
    "APOE",
    "AZGP1",
    "B2M",
    "BGN",
    "C1QA",
    "CCL5",
    "CD163",
    "CD19",
    "CD2",
    "CD24",
    "CD3D",
    "CD3E",
    "CD4",
    "CD68",
    "CD74",
    "CD79A",
    "CD8A",
    "CDH1",
    "COL1A1",
    "COL1A2",
    "COL3A1",
    "CRISP3",
    "CXCL10",
    "CXCL9",
    "DCN",
    "EPCAM",
    "ERBB2",
    "ESR1",
    "FABP4",
    "FASN",
    "FN1",
    "FOXA1",
    "GATA3",
    "GRB7",
    "HLA-B",
    "HLA-DRA",
    "IGHG1",
    "IGHG3",
    "IGKC",
    "IGLC2",
    "ISG15",
    "JCHAIN",
    "KRT14",
    "KRT17",
    "KRT18",
    "KRT19",
    "KRT5",
    "KRT7",
    "KRT8",
    "LDHA",
    "LUM",
    "LYZ",
    "MGP",
    "MKI67",
    "MS4A1",
    "MUC1",
    "MUCL1",
    "PDGFRB",
    "PECAM1",
    "PGR",
    "PIP",
    "PLIN1",
    "POSTN",
    "PTPRC",
    "SCD",
    "SCGB1D2",
    "SCGB2A2",
    "SPARC",
    "TAGLN",
    "TFF1",
    "TFF3",
    "VEGFA",
    "VIM",
    "VWF",
)
"""Genes by which breast tissue is commonly classified: epithelium, stroma, immune cells, vessels, fat, receptors."""


@dataclass(frozen=True)
class ExpressionTarget:
    """What is scored: a gene, or a signature of several.

    Attributes
    ----------
    name : str
        Word by which models are asked and columns are named.
    genes : tuple of str
        As the table of counts names them.
    """

    name: str
    genes: tuple[str, ...]

    @classmethod
    def parse(cls, words: str) -> ExpressionTarget:
        """'CD8A', or a signature as 'T cell=CD3D+CD3E+CD8A'."""
        name, equals, listed = words.partition("=")
        genes = tuple(gene.strip() for gene in listed.split("+") if gene.strip()) if equals else (name.strip(),)
        if not name.strip() or not genes or not genes[0]:
            raise SpatialError(f"{words!r} is no gene, and no signature such as 'T cell=CD3D+CD3E+CD8A'.")
        if len(set(genes)) != len(genes):
            raise SpatialError(f"{words!r} names a gene twice.")
        return cls(name.strip(), genes)

    def __str__(self) -> str:
        return self.name if self.genes == (self.name,) else f"{self.name}={'+'.join(self.genes)}"


def parse_targets(words: Iterable[str]) -> tuple[ExpressionTarget, ...]:
    """Targets of several words; raises SpatialError where a name comes twice."""
    targets = tuple(ExpressionTarget.parse(word) for word in words)
    names = [target.name for target in targets]
    if len(set(names)) != len(names):
        raise SpatialError(f"{names} names a gene or signature twice.")
    return targets


def find_genes(section: Section, targets: Sequence[ExpressionTarget]) -> tuple[ExpressionTarget, ...]:
    """The targets with their genes as the table of counts writes them; capitals do not matter.

    Raises
    ------
    SpatialError
        A gene is not in the table; the message offers the nearest names.
    """
    known = set(section.genes)
    folded: dict[str, str] = {}
    for gene in section.genes:
        folded.setdefault(gene.casefold(), gene)

    def named(gene: str) -> str:
        found = gene if gene in known else folded.get(gene.casefold())
        if found is None:
            near = difflib.get_close_matches(gene.casefold(), folded, n=_OFFERED, cutoff=0.5)
            offered = ", ".join(folded[each] for each in near) or "none is near"
            raise SpatialError(
                f"Gene {gene!r} is not among the {len(known):,} genes of {section.name}. Nearest names: {offered}."
            )
        return found

    return tuple(
        ExpressionTarget(t.name if t.genes != (t.name,) else named(t.name), tuple(named(gene) for gene in t.genes))
        for t in targets
    )


def normalise(section: Section) -> Any:
    """AnnData with log1p of counts brought to the median total per spot (CSR); spots without counts are refused.

    Raises
    ------
    SpatialError
        A spot has no counts at all.
    """
    import scanpy

    totals = np.asarray(section.counts.X.sum(axis=1)).ravel()
    if (empty := int((totals <= 0).sum())) > 0:
        raise SpatialError(
            f"{section.name}: {empty} of {len(totals)} spots have no counts at all, so nothing can be said of them. "
            "Leave them out (without_empty) or use the filtered matrix."
        )
    table = section.counts.copy()
    scanpy.pp.normalize_total(table)
    scanpy.pp.log1p(table)
    return table


def without_empty(section: Section) -> Section:
    """The section without spots that have no counts."""
    totals = np.asarray(section.counts.X.sum(axis=1)).ravel()
    return section if (totals > 0).all() else section.with_counts(section.counts[totals > 0].copy())


def expression(section: Section, targets: Sequence[ExpressionTarget]) -> NDArray[np.float64]:
    """Expression of every target, float64 (spots, targets), in the order given.

    A gene is its normalised log1p value. A signature is scanpy's score: the mean of its genes minus that of
    reference genes of like expression (Satija et al. 2015), reproducible by its fixed seed.

    Raises
    ------
    SpatialError
        A gene is not in the table, or a spot has no counts.
    """
    import scanpy

    found = find_genes(section, targets)
    table = normalise(section)
    columns = []
    for target in found:
        if target.genes == (target.name,):
            column = table[:, [target.name]].X
            columns.append(np.asarray(column.todense() if hasattr(column, "todense") else column).ravel())
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            try:
                scanpy.tl.score_genes(table, list(target.genes), score_name=SIGNATURE, random_state=0)
            except RuntimeError as error:
                raise SpatialError(
                    f"Signature {target.name!r} cannot be scored on {section.name}: among its {section.counts.n_vars} "
                    f"genes there are none of like expression to compare with ({error})."
                ) from error
        columns.append(table.obs.pop(SIGNATURE).to_numpy())
    return np.stack(columns, axis=1).astype(np.float64)


def most_variable(
    sections: Sequence[Section], number: int, *, among: Sequence[str] | None = MARKERS, detected: float = 0.3
) -> tuple[ExpressionTarget, ...]:
    """Genes whose normalised values vary most over the spots of all sections together.

    Parameters
    ----------
    among : sequence of str, optional
        Genes to choose from; None takes all but mitochondrial and ribosomal ones.
    detected : float
        Least share of spots with a count.

    Raises
    ------
    SpatialError
        Fewer than `number` genes are left.
    """
    tables = [normalise(section) for section in sections]
    shared = set.intersection(*[set(section.genes) for section in sections])
    wanted = shared if among is None else shared & set(among)
    names = sorted(g for g in wanted if among is not None or not g.startswith(_HOUSEKEEPING))
    values = [np.asarray(table[:, names].X.todense()) for table in tables]
    together = np.concatenate(values)
    often = (together > 0).mean(axis=0) >= detected
    if int(often.sum()) < number:
        raise SpatialError(
            f"Only {int(often.sum())} of {len(names)} genes have counts in {detected:.0%} of the spots; asked for "
            f"{number}. Name genes yourself, or ask for fewer."
        )
    variance = np.where(often, together.var(axis=0), -1.0)
    order = np.argsort(-variance, kind="stable")[:number]
    return tuple(ExpressionTarget(names[i], (names[i],)) for i in order)
