"""Pin every thread pool before the library that owns it is imported.

One thread a side is the comparison that says most: it leaves out who grabs more cores, and two pools in one process
(OpenMP of faiss, OpenBLAS of numpy) cost each other scheduler quanta that neither would pay alone.
"""

from __future__ import annotations

import os

__all__ = ["VARIABLES", "pin"]

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def pin(threads: int, *, cores: bool = False) -> None:
    """Hold this process, and the children it starts, to `threads` threads.

    Args:
        threads: size of every pool.
        cores: also bind to that many cores, which holds engines that heed none of the variables.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    os.environ.update(dict.fromkeys(VARIABLES, str(threads)))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
