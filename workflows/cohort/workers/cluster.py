"""Where tickets go: a cluster of processes on this machine, or a scheduler that is already there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from workflows.cohort.study.config import Study
from workflows.errors import CohortError
from wsi.cleanup import cleaning_up
from wsi.limits import raise_limit
from wsi.threads import openmp_threads, usable_cores

RESOURCE = "model"
"""Workers started with `--resources model=1` are the only ones that get work, where there are any."""
LOST = (
    "The dask scheduler is gone. Finished tiles are kept: start it and its workers again, and repeat the command to "
    "go on."
)
_MOST_BY_DEFAULT = 4
_PATIENCE = "15s"
"""For a scheduler that does not answer, at the start and when it is lost."""


@dataclass(frozen=True)
class Cluster:
    """A dask client and what is known of its workers."""

    client: Any
    dashboard: str | None
    local: bool
    host_gpus: bool
    nannies: Mapping[object, object] = field(default_factory=dict)
    """Of a local cluster: they start its worker processes, and new ones in place of those that end."""

    def slots(self) -> tuple[list[str], dict[str, float]]:
        """Addresses of the workers that may be given work, one ticket each, and the resources to ask for."""
        # Not `scheduler_info`: another thread of the client may clear the workers from what it returns.
        try:
            workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        except (OSError, AttributeError):  # a client that has given its scheduler up has none
            return [], {}
        fit = [address for address, facts in workers.items() if facts.get("resources", {}).get(RESOURCE)]
        return (fit, {RESOURCE: 1}) if fit else (list(workers), {})

    def lost(self) -> str | None:
        """Why no worker is there and none will come, in words; None while one may.

        A worker process that has just ended is about to be replaced: what is lost at two looks, some seconds apart, is
        lost.
        """
        if self.client.status in ("closing", "closed"):
            return LOST
        if self.nannies and not any(map(_alive, list(self.nannies.values()))):
            return (
                "No worker process is left, and no new one can be started: they were killed, or the system starts no "
                "further process. Finished tiles are kept; repeat the command to go on, with fewer --workers."
            )
        return None


def _alive(nanny: Any) -> bool:
    return nanny.process is not None and nanny.process.status.name in ("init", "starting", "running")


@contextmanager
def connect(study: Study) -> Iterator[Cluster]:
    """The cluster of a study; one that was started here is closed at the end.

    Raises
    ------
    CohortError
        No scheduler answers at the address, or no worker process can be started here.
    LimitError
        The system starts no further thread or process.
    """
    import distributed  # noqa: F401  (it sets its loggers up when it is imported)

    # A scheduler that is lost or a worker's death is told by this program, in its own words.
    for name in ("client", "comm", "core", "nanny", "scheduler", "worker", "deploy"):
        logging.getLogger(f"distributed.{name}").setLevel(logging.CRITICAL)
    address = study.cluster.scheduler
    with _at(address) if address is not None else _here(study) as cluster:
        yield cluster


@contextmanager
def _at(address: str) -> Iterator[Cluster]:
    """A scheduler that is there."""
    from distributed import Client

    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except Exception as error:
        raise_limit(error)
        if not isinstance(error, OSError | ValueError | TimeoutError):
            raise
        raise CohortError(
            f"No dask scheduler answers at {address} ({error}). Start one with `dask scheduler`, and workers "
            f"with `dask worker {address} --nthreads 1 --resources {RESOURCE}=1`."
        ) from error
    with cleaning_up(client.close):
        yield Cluster(client, client.dashboard_link, local=False, host_gpus=False)


@contextmanager
def _here(study: Study) -> Iterator[Cluster]:
    """Worker processes of this machine."""
    import dask
    from distributed import Client, LocalCluster

    from workflows.cohort.workers.plugin import SetUp

    number, gpus = worker_count(study)
    threads = None if gpus or study.model.server else max(1, usable_cores() // number)
    settings = {
        "distributed.scheduler.allowed-failures": study.cluster.losses,
        # Nothing big is kept in workers: a model that fills the memory is no reason to end its process.
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        # Tickets take minutes; a profile taken a hundred times a second is not worth what it takes.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.interval": "5s",
        # One ticket per worker: nothing waits at a worker that another could take.
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.active-memory-manager.start": False,
    }
    with dask.config.set(settings), ExitStack() as stack:
        try:
            cluster = LocalCluster(
                n_workers=number,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                resources={RESOURCE: 1},
                dashboard_address=study.cluster.dashboard,
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(cleaning_up(cluster.close))
            client = Client(cluster, set_as_default=False)
            stack.enter_context(cleaning_up(client.close))
            client.register_plugin(SetUp(openmp_threads() or threads))
        except Exception as error:
            raise_limit(error)
            raise CohortError(
                f"No worker process can be started here ({type(error).__name__}: {error}). Take fewer --workers, or "
                "free memory and processes, and repeat the command."
            ) from error
        link = cluster.dashboard_link if find_spec("bokeh") else None  # without it, a page that asks for it
        yield Cluster(client, link, local=True, host_gpus=gpus > 1, nannies=cluster.workers)


def worker_count(study: Study) -> tuple[int, int]:
    """Processes of a local cluster, and the GPUs they share."""
    gpus = 0
    if study.model.server is None and study.model.engine is None and study.model.device == "auto":
        import torch

        gpus = torch.cuda.device_count()
    if study.cluster.workers is not None:
        return study.cluster.workers, gpus
    if study.model.server is not None:
        return 2, 0  # one reads and merges while the other waits for the server
    return (gpus or max(1, min(_MOST_BY_DEFAULT, usable_cores() // 2))), gpus
