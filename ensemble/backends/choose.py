"""Which backend, and what it offers."""

from __future__ import annotations

from ensemble.backends.backend import Backend, SequentialBackend
from ensemble.jobs.hardware import BackendName, Hardware, choose_device
from folds.errors import MaskensError, refuse_without

PACKAGES = {"dask": "distributed", "ray": "ray"}  # backend -> the package it needs, in the extra of its name


def choose_hardware(
    device: str,
    workers: int | None,
    jobs: int | None = None,
    backend: BackendName | None = None,
    address: str | None = None,
) -> Hardware:
    """Where jobs will run, asking the cluster if there is one.

    Args:
        device: auto, cpu or cuda.
        workers: loader processes a job; None lets maskens choose.
        jobs: at a time; None: one here, on a cluster as many as it takes.
        address: of a cluster's scheduler.

    Raises:
        MaskensError: options that don't go together, a package that is not installed, a cluster that does not answer or
            has too little, cuda asked for and not to be had.
    """
    if address and backend not in PACKAGES:
        raise MaskensError("--address goes with --backend dask or --backend ray.")
    if backend == "sequential" and (jobs or 1) > 1:
        raise MaskensError(f"--backend sequential runs one job at a time, not {jobs}: use loky, dask or ray.")
    package = PACKAGES.get(backend or "")
    if backend and package:
        refuse_without([package], backend, f"--backend {backend}")
    if address is None:
        chosen = choose_device(device)
        if backend == "dask" and chosen == "cuda":
            raise MaskensError(
                "--backend dask without --address gives no job a GPU of its own: use --backend loky or --device cpu."
            )
        return Hardware(chosen, workers, jobs or 1, backend)
    if backend == "dask":
        from ensemble.backends.dask_backend import dask_client, dask_shape

        with dask_client(address) as client:
            shape = dask_shape(client)
    else:
        from ensemble.backends.ray_backend import connected, ray_shape

        with connected(address):
            shape = ray_shape(address, jobs, {"cpu": False, "cuda": True}.get(device))
    if device == "cuda" and backend == "ray" and not shape.gpus:
        raise MaskensError(f"--device cuda: no node of the Ray cluster at {address} has a GPU. Use --device cpu.")
    on_gpus = device == "cuda" or (device == "auto" and shape.gpus > 0)
    at_a_time = jobs or (min(shape.slots, shape.gpus) if on_gpus and shape.gpus else shape.slots)
    hardware = Hardware("cuda" if on_gpus else "cpu", workers, at_a_time, backend, address, shape.cores)
    if shape.largest is not None and hardware.job_cores > shape.largest:
        raise MaskensError(
            f"--address {address}: a job needs {hardware.job_cores} CPUs, {hardware.job_threads} for threads and "
            f"{hardware.job_workers} for loader processes, and the largest node has {shape.largest}. "
            "Lower --workers or OMP_NUM_THREADS."
        )
    return hardware


def open_backend(hardware: Hardware) -> Backend:
    """The backend that was chosen, to be entered."""
    name = hardware.backend or ("loky" if hardware.jobs > 1 else "sequential")
    if name == "loky":
        from ensemble.backends.loky_backend import LokyBackend

        return LokyBackend(hardware)
    if name == "dask":
        from ensemble.backends.dask_backend import DaskBackend

        return DaskBackend(hardware)
    if name == "ray":
        from ensemble.backends.ray_backend import RayBackend

        return RayBackend(hardware)
    return SequentialBackend()
