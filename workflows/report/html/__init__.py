"""Reports for people: one self-contained HTML file per slide and per cohort."""

from workflows.report.html.cohort import CohortSlide, write_batch_report, write_cohort_report
from workflows.report.html.slide import write_slide_report

__all__ = ["CohortSlide", "write_batch_report", "write_cohort_report", "write_slide_report"]
