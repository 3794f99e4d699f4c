"""The plan of a batch: what is asked of which slides, kept beside the runs so that `status` needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError

from qwenvl.request import Request
from workflows.cohort.folder import BatchFolder
from workflows.cohort.study.config import Study, effective_request
from workflows.cohort.study.engines import Identity, Known
from workflows.cohort.study.table import Cohort, CohortRow, RowFinding
from workflows.errors import CohortError, RunNotFoundError
from workflows.store.folder import replace_whole
from workflows.store.provenance import Facts, utc_now
from wsi.regions.frames import PixelFrame


class CohortPlan(Facts):
    """A cohort as it was last asked for."""

    schema_version: Literal["1.0"] = "1.0"
    source: str
    study: Study
    request: Request
    """The study's, with what the checkpoint recommends where nothing was given."""
    model: Identity
    rows: tuple[CohortRow, ...]
    findings: tuple[RowFinding, ...]
    notes: tuple[str, ...] = ()
    """What was put together or left out where rows were looked for."""
    command: str | None
    created: str

    @classmethod
    def of(cls, cohort: Cohort, study: Study, known: Known, command: str | None = None) -> Self:
        """Plan a cohort."""
        return cls(
            source=cohort.source,
            study=study,
            request=effective_request(study.request, dict(known.recommended)),
            model=known.identity,
            rows=cohort.rows,
            findings=cohort.findings,
            notes=cohort.notes,
            command=command,
            created=utc_now(),
        )

    @classmethod
    def read(cls, folder: BatchFolder) -> Self:
        """The plan of a batch's folder.

        Raises
        ------
        RunNotFoundError
            The folder holds no batch.
        CohortError
            The plan was written by another version.
        """
        try:
            return cls.model_validate_json(folder.plan.read_bytes())
        except FileNotFoundError as error:
            raise RunNotFoundError(
                f"{folder.root} holds no batch. Name the folder that was given to `qwenvl batch -o`."
            ) from error
        except ValidationError as error:
            raise CohortError(
                f"{folder.plan} cannot be understood ({error.error_count()} faults); it is written anew when the "
                "batch command is repeated."
            ) from error

    def write(self, folder: BatchFolder) -> None:
        """Keep it."""
        replace_whole(folder.plan, self._write_to)

    def _write_to(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=1, exclude_unset=False) + "\n", encoding="utf-8")

    def with_findings(self, findings: tuple[RowFinding, ...]) -> Self:
        """The same plan with more findings, in the order of rows."""
        every = sorted((*self.findings, *findings), key=lambda found: found.row)
        return self.model_copy(update={"findings": tuple(every)})

    def problem(self, row: CohortRow) -> str | None:
        """Why a row is not run, or None."""
        return next((found.problem for found in self.findings if found.row == row.number), None)

    def mask(self, row: CohortRow) -> str:
        """The tissue mask of a row."""
        return row.mask if row.mask is not None else self.study.slides.mask

    def frame(self, row: CohortRow) -> PixelFrame | None:
        """The frame of the coordinates of a row's mask, where it was given."""
        return row.frame if row.frame is not None else self.study.slides.frame

    @property
    def slide_options(self) -> dict[str, Any]:
        """How slides are opened, by the names of `run_slide`."""
        slides = self.study.slides
        colour = None if self.request.colour == "stored" else self.request.colour
        chosen = {"plane": slides.plane, "rendering": slides.rendering, "series": slides.series}
        return chosen | {"colour": colour}
