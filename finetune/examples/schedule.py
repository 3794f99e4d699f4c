"""The order of examples: fixed before the first step, so that an interrupted run goes on with the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.errors import RecipeError, SampleTooLongError
from finetune.examples.examples import ExamplePlan, ExampleSource

_WINDOW = 32  # batches among which examples of like length are put together
_ATTEMPTS = 20


@dataclass(frozen=True)
class ScheduledExample:
    """One example of a schedule: drawn from `source` with `seed`."""

    source: int
    seed: int
    length: int
    supervised: int


@dataclass(frozen=True)
class Schedule:
    """Examples in training order."""

    entries: tuple[ScheduledExample, ...]
    names: tuple[str, ...]
    refused: tuple[str, ...] = ()
    """Why draws were refused: samples that do not fit the model."""

    def shares(self) -> dict[str, float]:
        """Share of every source among the supervised tokens."""
        totals = np.zeros(len(self.names))
        for entry in self.entries:
            totals[entry.source] += entry.supervised
        return dict(zip(self.names, (totals / max(1.0, totals.sum())).tolist(), strict=True))

    def facts(self) -> dict[str, Any]:
        """What is logged: examples and supervised tokens by source."""
        return {
            name: {
                "examples": sum(entry.source == i for entry in self.entries),
                "supervised_tokens": sum(e.supervised for e in self.entries if e.source == i),
                "share": round(self.shares()[name], 4),
            }
            for i, name in enumerate(self.names)
        }


def make_schedule(
    sources: Sequence[ExampleSource],
    shares: Mapping[str, float],
    *,
    count: int,
    batch: int,
    seed: int,
    group_by_length: bool = True,
) -> Schedule:
    """Draw `count` examples.

    Parameters
    ----------
    sources : sequence of ExampleSource
        The first takes what the shares of the others leave.
    shares : mapping of source name to share
        Of the supervised tokens, not of the examples: a box answer has a hundred tokens, a yes one.
    group_by_length : bool
        Put examples of like length into one batch, within windows, so that little is padded.

    Raises
    ------
    RecipeError
        Shares do not add up, or nearly every draw is too long for the model.
    """
    names = tuple(source.name for source in sources)
    rest = sum(shares.get(name, 0.0) for name in names[1:])
    if rest >= 1 or any(share < 0 for share in shares.values()):
        raise RecipeError(f"replay shares {dict(shares)} leave nothing for the labels; use less than 1 together")
    wanted = np.array([1 - rest, *(shares.get(name, 0.0) for name in names[1:])])
    tokens = np.zeros(len(sources))
    entries: list[ScheduledExample] = []
    refused: list[str] = []
    for number in range(count):
        # The source that is furthest behind its share; ties go to the labels.
        behind = wanted * max(1.0, tokens.sum()) - tokens
        behind[wanted == 0] = -np.inf
        source = int(np.argmax(behind))
        for attempt in range(_ATTEMPTS):
            draw = int(np.random.SeedSequence([seed, number, attempt]).generate_state(1)[0])
            try:
                plan = sources[source].plan(np.random.default_rng(draw))
            except SampleTooLongError as error:
                refused.append(f"{names[source]}: {error}")
                continue
            entries.append(ScheduledExample(source, draw, len(plan.tokens.ids), plan.tokens.supervised))
            tokens[source] += plan.tokens.supervised
            break
        else:
            raise RecipeError(f"{_ATTEMPTS} draws of {names[source]} in a row do not fit the model: {refused[-1]}")
    ordered = _grouped(entries, batch, np.random.default_rng([seed, 1])) if group_by_length else entries
    return Schedule(tuple(ordered), names, tuple(refused))


def _grouped(entries: list[ScheduledExample], batch: int, rng: np.random.Generator) -> list[ScheduledExample]:
    ordered: list[ScheduledExample] = []
    for start in range(0, len(entries), batch * _WINDOW):
        window = entries[start : start + batch * _WINDOW]
        window = sorted((window[i] for i in rng.permutation(len(window))), key=lambda entry: entry.length)
        batches = [window[i : i + batch] for i in range(0, len(window), batch)]
        full = [part for part in batches if len(part) == batch]
        rest = [part for part in batches if len(part) < batch]
        for i in rng.permutation(len(full)):
            ordered += full[i]
        ordered += [entry for part in rest for entry in part]
    return ordered


class ScheduledExamples:
    """A schedule as the map-style dataset of torch: item n is the same whenever it is asked for.

    Parameters
    ----------
    change : callable, optional
        Changes every example, given its seed.
    """

    def __init__(
        self,
        schedule: Schedule,
        sources: Sequence[ExampleSource],
        change: Callable[[ExamplePlan, int], ExamplePlan] | None = None,
    ) -> None:
        self.schedule, self._sources, self._change = schedule, sources, change

    def __len__(self) -> int:
        return len(self.schedule.entries)

    def __getitem__(self, number: int) -> ExamplePlan:
        entry = self.schedule.entries[number]
        plan = self._sources[entry.source].plan(np.random.default_rng(entry.seed))
        return plan if self._change is None else self._change(plan, entry.seed)
