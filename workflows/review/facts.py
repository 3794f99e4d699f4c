"""What people decided about a run's objects, as a section of its report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pydantic import Field

from workflows.review.decisions import Decision, Ledger, Verdict
from workflows.store.provenance import Facts


class ReviewerFacts(Facts):
    """One reviewer's decisions, undone ones included."""

    who: str
    decisions: int = Field(description="Decisions about objects; undo and redo are not counted.")
    first: str = Field(description="UTC time of the first one, ISO 8601.")
    last: str = Field(description="UTC time of the last one, ISO 8601.")


class ReviewFacts(Facts):
    """Objects by the decision that counts for them now. An object that was relabelled and moved counts for both."""

    accepted: int = Field(description="Right as the model gave them.")
    rejected: int = Field(description="Not there.")
    relabelled: int = Field(description="Of another class than the model said.")
    reshaped: int = Field(description="Moved or resized.")
    added: int = Field(description="Drawn by a person.")
    reviewers: tuple[ReviewerFacts, ...] = Field(description="Who decided and when, by name.")


def review_facts(decisions: Sequence[Decision]) -> ReviewFacts | None:
    """The section for the rows of a review, in their order; None where nobody decided anything."""
    made: dict[str, list[str]] = defaultdict(list)
    for decision in decisions:
        if decision.change is not None:
            made[decision.who].append(decision.time)
    if not made:
        return None
    changes = [each.change for each in Ledger(decisions).standing().values() if each.change is not None]
    drawn = [change for change in changes if change.seen_box is None]
    seen = [change for change in changes if change.seen_box is not None]
    edited = [change for change in seen if change.verdict is Verdict.EDITED]
    return ReviewFacts(
        accepted=sum(change.verdict is Verdict.ACCEPTED for change in seen),
        rejected=sum(change.verdict is Verdict.REJECTED for change in seen),
        relabelled=sum(change.label != change.seen_label for change in edited),
        reshaped=sum(change.box != change.seen_box for change in edited),
        added=sum(change.verdict in (Verdict.ACCEPTED, Verdict.EDITED) for change in drawn),
        reviewers=tuple(
            ReviewerFacts(who=who, decisions=len(times), first=min(times), last=max(times))
            for who, times in sorted(made.items())
        ),
    )
