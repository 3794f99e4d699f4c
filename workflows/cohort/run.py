"""Running a cohort: tickets go out, outcomes come back, and no slide's trouble is another's."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from workflows.cohort.folder import AtWork, BatchFolder, Failure
from workflows.cohort.status import cohort_status
from workflows.cohort.study.check import Checked, check_rows
from workflows.cohort.study.engines import require_allowed
from workflows.cohort.study.plan import CohortPlan
from workflows.cohort.study.table import RowFinding
from workflows.cohort.workers.cluster import LOST, Cluster, connect
from workflows.cohort.workers.ticket import SlideOutcome, Ticket
from workflows.cohort.workers.work import TOPIC, run_ticket
from workflows.errors import WorkflowError
from workflows.store.provenance import utc_now

_LONGEST_GOODBYE = 600.0
"""Seconds that a stopped batch waits for the batches at hand."""
_COUNT_EVERY = 5.0
"""Seconds between two looks at how many workers there are, while nothing else happens."""
_ENGINE_FAILURES = 3
"""Slides in a row that the model may fail before the batch stops."""


class Watcher(Protocol):
    """Who is told how a batch gets on. All calls come from one thread."""

    def checked(self, checked: Sequence[Checked]) -> None:
        """Every slide was looked at; the list says what is wrong, finished or to do."""

    def connected(self, dashboard: str | None, workers: int) -> None:
        """Workers are there."""

    def progress(self, words: dict[str, Any]) -> None:
        """A batch of tiles was answered: id, part, done, total, failed, objects, asked."""

    def ended(self, outcome: SlideOutcome) -> None:
        """A slide is done with, for better or worse."""

    def waiting(self, workers: int, under_way: int) -> None:
        """Nothing happened for a while."""


class Quiet:
    """Watches without a word."""

    def checked(self, checked: Sequence[Checked]) -> None: ...
    def connected(self, dashboard: str | None, workers: int) -> None: ...
    def progress(self, words: dict[str, Any]) -> None: ...
    def ended(self, outcome: SlideOutcome) -> None: ...
    def waiting(self, workers: int, under_way: int) -> None: ...


@dataclass(frozen=True)
class CohortResult:
    """What a call of `run_cohort` came to.

    Attributes
    ----------
    plan : CohortPlan
        With the findings of this call.
    outcomes : dict of str to SlideOutcome
        By id, for the slides that had something left to do.
    finished : int
        Slides that were complete before.
    stopped : str or None
        Why the batch ended before all slides were tried: 'cancelled', or what is wrong.
    kept : bool
        The call was refused: plan and tables of the folder are those of an earlier call, which had more to show.
    """

    plan: CohortPlan
    outcomes: dict[str, SlideOutcome] = field(default_factory=dict)
    finished: int = 0
    stopped: str | None = None
    kept: bool = False

    @property
    def complete(self) -> bool:
        """True where every row of the cohort is complete."""
        ended = sum(outcome.ended == "complete" for outcome in self.outcomes.values())
        return not self.plan.findings and ended + self.finished == len(self.plan.rows)


def run_cohort(
    plan: CohortPlan,
    out: Path | str,
    *,
    overwrite: bool = False,
    strict: bool = False,
    allow_code: bool = False,
    cancel: threading.Event | None = None,
    watcher: Watcher | None = None,
) -> CohortResult:
    """Run a request over every slide of a cohort, or go on where an earlier call ended.

    Slides that are finished are left alone without loading the model. What cannot work is found before the first
    tile is asked; the other slides are run all the same. A call that is refused before anything was asked leaves the
    plan and the tables of an earlier one as they are.

    Parameters
    ----------
    plan : CohortPlan
    out : path
        Every slide gets a run folder in it, named by its id.
    overwrite : bool
        Set runs aside (renamed, not deleted) that were made of something else than the plan asks for.
    strict : bool
        Run nothing where anything is wrong with any row.
    allow_code : bool
        Let workers import and run the engine that the study names by 'module:function'.
    cancel : threading.Event, optional
        Once set, workers stop after the batch at hand.
    watcher : Watcher, optional

    Raises
    ------
    StudyError, RunLockedError, ForeignFolderError, FolderNotWritableError
        Nothing was done. StudyError: the study names code, which was not allowed.
    CohortError
        The scheduler does not answer, or no worker can be started.
    """
    require_allowed(plan.study.model, allow_code=allow_code)
    folder = BatchFolder(Path(out).absolute())
    watcher = watcher or Quiet()
    cancel = cancel or threading.Event()
    with AtWork(folder) as at_work:
        checked = check_rows(plan, folder, overwrite=overwrite, cancel=cancel)
        found = tuple(each.finding for each in checked if each.finding and not plan.problem(each.row))
        plan = plan.with_findings(found)
        watcher.checked(checked)
        finished = sum(each.finished for each in checked)
        todo = [each for each in checked if each.problem is None and not each.finished]
        refused = strict and bool(plan.findings)
        if refused or not todo or cancel.is_set():
            stopped = "there are findings, and --strict was given" if refused else "cancelled" if todo else None
            kept = _shows_more(folder, finished)
            if not kept:
                plan.write(folder)
            return CohortResult(plan, {}, finished, stopped, kept)
        with connect(plan.study) as cluster:
            plan.write(folder)
            run = _Run(plan, folder, at_work, cluster, watcher, cancel, overwrite, allow_code)
            outcomes = run.run(_largest_first(todo))
        return CohortResult(plan, outcomes, finished, run.stopped)


def _shows_more(folder: BatchFolder, finished: int) -> bool:
    """Whether the plan of an earlier call has more complete slides than the `finished` ones of this call."""
    try:
        _, slides = cohort_status(folder.root)
    except WorkflowError:  # there is none, or one that nobody can read
        return False
    return sum(each.stage == "complete" for each in slides) > finished


def _largest_first(todo: Sequence[Checked]) -> list[Checked]:
    """Large slides first, so that the last workers do not wait for one that was begun last."""
    return sorted(todo, key=lambda each: -each.bytes)


class _Run:
    """The loop of one call: as many tickets under way as there are workers."""

    def __init__(
        self,
        plan: CohortPlan,
        folder: BatchFolder,
        at_work: AtWork,
        cluster: Cluster,
        watcher: Watcher,
        cancel: threading.Event,
        overwrite: bool,
        allow_code: bool,
    ) -> None:
        self.plan, self.folder, self.at_work, self.cluster = plan, folder, at_work, cluster
        self.watcher, self.cancel = watcher, cancel
        self.overwrite, self.allow_code = overwrite, allow_code
        self.stopped: str | None = None
        self.outcomes: dict[str, SlideOutcome] = {}
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._under_way: dict[Any, Ticket] = {}
        self._waiting: deque[Ticket] = deque()
        self._parts: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._engine_failures = 0
        self._count_at = 0.0
        self._lost = False

    def run(self, todo: Sequence[Checked]) -> dict[str, SlideOutcome]:
        """Work through the slides; their outcomes by id."""
        addresses, _ = self.cluster.slots()
        self.watcher.connected(self.cluster.dashboard, len(addresses))
        self.cluster.client.subscribe_topic(TOPIC, self._heard.put)
        sharing = max(1, len(addresses))
        alone = sharing == 1 and self.cluster.local
        self._waiting.extend(self._ticket(each, sharing, alone) for each in todo)
        farewell: float | None = None
        while self._waiting or self._under_way:
            if (self.cancel.is_set() or self.stopped) and farewell is None:
                self.stopped = self.stopped or "cancelled"
                farewell = time.monotonic() + _LONGEST_GOODBYE
                self.at_work.call_off()
                self._waiting.clear()
            if farewell is not None and time.monotonic() > farewell:
                break
            self._hand_out()
            self._listen()
        return self.outcomes

    def _ticket(self, checked: Checked, sharing: int, alone: bool) -> Ticket:
        plan, row = self.plan, checked.row
        return Ticket(
            id=row.id,
            slide=row.slide,
            mpp=row.mpp,
            mask=plan.mask(row),
            options=plan.slide_options,
            request=plan.request.model_dump_json(),
            model=plan.study.model.model_dump_json(),
            quality=plan.study.quality.model_dump_json(),
            exports=plan.study.exports,
            root=str(self.folder.root),
            token=self.at_work.token,
            part_tiles=0 if alone else plan.study.cluster.part_tiles,
            frame=plan.frame(row),
            overwrite=self.overwrite,
            sharing=sharing,
            host_gpus=self.cluster.host_gpus,
            command=plan.command,
            allow_code=self.allow_code,
        )

    def _hand_out(self) -> None:
        """Keep every worker busy with one ticket, and none with two: what a lost worker had is then known."""
        if not self._waiting:
            return
        addresses, resources = self.cluster.slots()
        while self._waiting and len(self._under_way) < len(addresses):
            ticket = self._waiting.popleft()
            future = self.cluster.client.submit(
                run_ticket,
                ticket,
                pure=False,
                key=f"{ticket.name}-{ticket.id}-{time.monotonic_ns()}",
                resources=resources or None,
            )
            self._under_way[future] = ticket
            future.add_done_callback(self._heard.put)

    def _listen(self) -> None:
        """Wait for the next word, at most half a second."""
        try:
            heard = self._heard.get(timeout=0.5)
        except queue.Empty:
            if time.monotonic() >= self._count_at:
                self._count_at = time.monotonic() + _COUNT_EVERY
                workers = len(self.cluster.slots()[0])
                self.watcher.waiting(workers, len(self._under_way))
                self._look_for_loss(workers)
            return
        if isinstance(heard, tuple):  # (time, words) of a worker
            self.watcher.progress(heard[1])
        elif (ticket := self._under_way.pop(heard, None)) is not None:
            self._take(ticket, self._outcome(heard, ticket))
            heard.release()

    def _look_for_loss(self, workers: int) -> None:
        """Stop where no worker is there and none will come, at this look and the one before."""
        lost = None if workers else self.cluster.lost()
        if lost is not None and self._lost:
            self.stopped = self.stopped or lost
            self._under_way.clear()
        self._lost = lost is not None

    def _outcome(self, future: Any, ticket: Ticket) -> SlideOutcome:
        if future.status == "finished":
            outcome: SlideOutcome = future.result()
            return outcome
        if future.status == "cancelled":
            self.stopped = self.stopped or LOST
            return SlideOutcome(ticket.id, "stopped", "the scheduler went away")
        error = future.exception()
        reason = f"{type(error).__name__}: {error}"
        if type(error).__name__ == "KilledWorker":
            reason = (
                f"{self.plan.study.cluster.losses + 1} workers were lost over it: killed, out of memory, or crashed "
                "in a library that reads it"
            )
        Failure(utc_now(), reason).write(self.folder.failure(ticket.id))
        return SlideOutcome(ticket.id, "failed", reason)

    def _take(self, ticket: Ticket, outcome: SlideOutcome) -> None:
        id = ticket.id
        self._asked[id] = self._asked.get(id, 0) + outcome.asked
        if outcome.ended == "parts":
            self._parts[id] = len(outcome.parts)
            for part in reversed(outcome.parts):
                self._waiting.appendleft(replace(ticket, part=part))
            if self.stopped or self.cancel.is_set():
                self._end(replace(outcome, ended="stopped"))
            return
        if ticket.part is not None:
            self._parts[id] -= 1
            if outcome.ended == "failed" and id not in self.outcomes:
                self.outcomes[id] = outcome
            if self._parts[id] == 0:
                self._waiting.appendleft(replace(ticket, part=None, merge=True))
            self._note_engine(outcome)
            return
        earlier = self.outcomes.get(id)
        if ticket.merge and earlier is not None and outcome.ended != "complete":
            outcome = replace(outcome, ended=earlier.ended, reason=earlier.reason)
        self._end(outcome)

    def _end(self, outcome: SlideOutcome) -> None:
        outcome = replace(outcome, asked=self._asked.get(outcome.id, outcome.asked))
        self.outcomes[outcome.id] = outcome
        self._note_engine(outcome)
        self.watcher.ended(outcome)

    def _note_engine(self, outcome: SlideOutcome) -> None:
        """Stop where every further slide would end the same way."""
        self._engine_failures = self._engine_failures + 1 if outcome.engine else 0
        if outcome.fatal or self._engine_failures >= _ENGINE_FAILURES:
            self.stopped = self.stopped or outcome.reason


__all__ = ["CohortResult", "RowFinding", "Quiet", "Watcher", "run_cohort"]
