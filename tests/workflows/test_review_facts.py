"""The review section of a report: counts of what counts, by whom and when."""

from __future__ import annotations

from workflows.review.decisions import Action, Change, Decision, Verdict
from workflows.review.facts import review_facts

BOX, MOVED = (0.0, 0.0, 9.0, 9.0), (1.0, 1.0, 9.0, 9.0)


def decision(seq, who, action, name, verdict, label="a", box=BOX, seen=True):
    change = Change(
        action,
        name,
        verdict,
        label,
        box,
        tile=0 if seen else None,
        item=seq if seen else None,
        seen_label="a" if seen else None,
        seen_box=BOX if seen else None,
    )
    return Decision(seq, seq, f"2026-01-01T00:00:{seq:02d}Z", who, action, None, change)


def test_objects_are_counted_by_the_decision_that_counts():
    rows = [
        decision(1, "ada", Action.ACCEPT, "one", Verdict.ACCEPTED),
        decision(2, "ada", Action.REJECT, "two", Verdict.REJECTED),
        decision(3, "grace", Action.RELABEL, "three", Verdict.EDITED, "b", MOVED),
        decision(4, "grace", Action.ADD, "four", Verdict.EDITED, "c", seen=False),
        decision(5, "ada", Action.ADD, "five", Verdict.EDITED, "c", seen=False),
        decision(6, "grace", Action.REJECT, "five", Verdict.REJECTED, "c", seen=False),
        decision(7, "ada", Action.ACCEPT, "two", Verdict.ACCEPTED),
        Decision(8, 8, "2026-01-01T00:00:08Z", "ada", Action.UNDO, 7),
        decision(9, "ada", Action.ACCEPT, "six", Verdict.ACCEPTED),
        decision(10, "ada", Action.CLEAR, "six", Verdict.UNREVIEWED),
    ]
    facts = review_facts(rows)
    counts = (facts.accepted, facts.rejected, facts.relabelled, facts.reshaped, facts.added)
    assert counts == (1, 1, 1, 1, 1)
    assert [(each.who, each.decisions, each.first[-3:], each.last[-3:]) for each in facts.reviewers] == [
        ("ada", 6, "01Z", "10Z"),
        ("grace", 3, "03Z", "06Z"),
    ]


def test_a_run_that_nobody_looked_at_has_no_such_section():
    assert review_facts([]) is None
