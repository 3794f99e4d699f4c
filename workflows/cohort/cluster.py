"""Where tickets go: a cluster of processes on this machine, or a scheduler that is already there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from workflows.cohort.config import Study
from workflows.errors import CohortError

RESOURCE = "model"
"""Workers started with `--resources model=1` are the only ones that get work, where there are any."""
_MOST_BY_DEFAULT = 4


@dataclass(frozen=True)
class Cluster:
    """A dask client and what is known of its workers."""

    client: Any
    dashboard: str | None
    local: bool
    host_gpus: bool

    def slots(self) -> tuple[list[str], dict[str, float]]:
        """Addresses of the workers that may be given work, one ticket each, and the resources to ask for."""
        # Not `scheduler_info`: another thread of the client may clear the workers from what it returns.
        try:
            workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        except OSError:
            return [], {}
        fit = [address for address, facts in workers.items() if facts.get("resources", {}).get(RESOURCE)]
        return (fit, {RESOURCE: 1}) if fit else (list(workers), {})


@contextmanager
def connect(study: Study) -> Iterator[Cluster]:
    """The cluster of a study; one that was started here is closed at the end.

    Raises
    ------
    CohortError
        No scheduler answers at the address.
    """
    import dask
    from distributed import Client

    from workflows.cohort._plugin import SetUp

    address = study.cluster.scheduler
    if address is not None:
        try:
            client = Client(address, timeout="15s", set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise CohortError(
                f"No dask scheduler answers at {address} ({error}). Start one with `dask scheduler`, and workers "
                f"with `dask worker {address} --nthreads 1 --resources {RESOURCE}=1`."
            ) from error
        with client:
            yield Cluster(client, client.dashboard_link, local=False, host_gpus=False)
        return
    number, gpus = worker_count(study)
    threads = None if gpus or study.model.server else max(1, (os.cpu_count() or 1) // number)
    if "OMP_NUM_THREADS" in os.environ:
        threads = int(os.environ["OMP_NUM_THREADS"])
    # A worker's death is told by this program, in its own words.
    for name in ("distributed.nanny", "distributed.scheduler", "distributed.worker", "distributed.core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
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
    with dask.config.set(settings):
        from distributed import LocalCluster

        cluster = LocalCluster(
            n_workers=number, threads_per_worker=1, processes=True, memory_limit=0, resources={RESOURCE: 1},
            dashboard_address=study.cluster.dashboard, silence_logs=logging.CRITICAL,
        )  # fmt: skip
        with cluster, Client(cluster, set_as_default=False) as client:
            client.register_plugin(SetUp(threads))
            link = (
                cluster.dashboard_link if find_spec("bokeh") else None
            )  # without it, a page that asks for it
            yield Cluster(client, link, local=True, host_gpus=gpus > 1)


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
    return (gpus or max(1, min(_MOST_BY_DEFAULT, (os.cpu_count() or 2) // 2))), gpus
