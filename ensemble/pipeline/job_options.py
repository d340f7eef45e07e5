"""How jobs are trained, whatever they are of: one run, a student, a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.jobs.hardware import BackendName
from ensemble.pipeline.inputs import AUTO_CACHE, Folder


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The defaults are those of the commands without options.

    Attributes:
        changes: keys of the recipe, `tasks.gender.epochs=5`.
        weights: initial weights in place of the hub's: `FILE`, `TASK=FILE`, or a run, from which fold k takes fold k.
        pretrained: False starts from random weights.
        jobs: at a time; None is one, and on a cluster as many as it takes.
        backend: sequential, loky, dask or ray; None is this process for one job at a time, else loky.
        address: of a cluster's scheduler, for dask and ray; None starts workers on this machine.
        retries: how often a job whose process or node is lost goes on.
        track: tensorboard, wandb.
        compile: the models first, with torch.compile.
        skip_bad_photos: leave out photos that can't be read; else they are refused. A run keeps which they are.
        cache: folder of decoded photos, None for none.
        data: where the data are now, if they were moved.
        device: auto, cpu or cuda.
        workers: loader processes of a job; no result depends on it.
    """

    changes: Sequence[str] = ()
    weights: Sequence[str] = ()
    pretrained: bool = True
    jobs: int | None = None
    backend: BackendName | None = None
    address: str | None = None
    retries: int = 2
    track: Sequence[str] = ()
    compile: bool = False
    skip_bad_photos: bool = False
    cache: Folder | None = AUTO_CACHE
    data: Folder | None = None
    device: str = "auto"
    workers: int | None = None
