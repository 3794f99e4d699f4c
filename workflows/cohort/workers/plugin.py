"""What every process of a local cluster does first. Apart, because it imports dask."""

from __future__ import annotations

from dataclasses import dataclass

from distributed import WorkerPlugin

from workflows.cohort.workers.work import close_engine, set_up_worker


@dataclass
class SetUp(WorkerPlugin):  # type: ignore[misc]
    """See `set_up_worker`."""

    threads: int | None
    name: str = "qwenvl-set-up"

    def setup(self, worker: object) -> None:
        """Called in the worker's main thread when it starts, also in place of one that was killed."""
        set_up_worker(self.threads)

    def teardown(self, worker: object) -> None:
        """Called when the worker ends on purpose."""
        close_engine()
