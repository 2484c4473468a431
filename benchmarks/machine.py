"""What the numbers were measured on: a ratio travels between machines better than a time, but neither travels alone."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

__all__ = ["bandwidth", "describe", "versions"]


def bandwidth(megabytes: int = 512, sweeps: int = 7) -> float:
    """Bytes a second that one thread reads from memory, the best of a few sweeps.

    A dot product of an array with itself reads each byte once and computes less than it waits, so BLAS runs it at the
    speed of memory; the array is far larger than any cache.
    """
    import numpy as np

    rows = np.ones(megabytes * (1 << 20) // 4, dtype=np.float32)
    best = float("inf")
    for _ in range(sweeps):
        start = time.perf_counter()
        rows @ rows
        best = min(best, time.perf_counter() - start)
    return rows.nbytes / best


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions; a package that is absent is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe(packages: Iterable[str] = (), *, measure: bool = True) -> dict:
    """The machine as JSON: processor, cores, memory, bandwidth, load and library versions."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": usable,
        "memory_gb": round(_memory() / 1e9, 1),
        "read_gb_per_s": round(bandwidth() / 1e9, 1) if measure else None,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", usable or 1)),
        "versions": versions(packages),
    }


def _cpu() -> str:
    """The model as the system names it, with the vector width that decides the kernels."""
    try:
        with open("/proc/cpuinfo") as lines:
            facts = dict(line.split(":", 1) for line in lines if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", "").split()
    widest = next((name for name in ("avx512f", "avx2", "sse2") if name in flags), "")
    return " ".join(part for part in (facts.get("model name", platform.machine()), widest and f"({widest})") if part)


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
