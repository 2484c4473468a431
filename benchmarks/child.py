"""A fresh process for what a warm one cannot show: peak memory, imports, the first answer.

`python -m benchmarks.child module:function '{"json": "arguments"}'` runs one function and prints what it returns, a
dict, as one line of JSON, with its seconds and the peak memory of the process.

What has to be timed or weighed at one point within a function, the function returns itself.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["ChildFailed", "peak_bytes", "run", "wall"]

ROOT = Path(__file__).resolve().parent.parent
MARK = "child-result:"


class ChildFailed(RuntimeError):
    """A child process ended badly; carries the last lines of what it said."""


def run(target: str, arguments: Mapping[str, Any], *, timeout: float = 900) -> dict[str, Any]:
    """Call `target` ("module:function") in a fresh process.

    Returns:
        What the function returned (a dict), `seconds` and `peak_bytes` added where it did not say.
    """
    command = [sys.executable, "-m", "benchmarks.child", target, json.dumps(dict(arguments))]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=timeout)
    marked = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not marked:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise ChildFailed(f"{target} ended with status {done.returncode}\n{said}")
    return json.loads(marked[-1][len(MARK) :])


def wall(command: list[str], *, env: Mapping[str, str] | None = None, timeout: float = 300) -> float:
    """Wall seconds of a whole command, start of the interpreter included."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=_environment(env), capture_output=True, text=True, timeout=timeout)
    seconds = time.perf_counter() - start
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise ChildFailed(f"{' '.join(command)} ended with status {done.returncode}\n{said}")
    return seconds


def peak_bytes() -> int:
    """Most memory this process has held so far.

    `ru_maxrss` of a child starts from what its parent held when it was started (the kernel carries it over `exec`), so
    that a fat parent would make every engine look alike. `VmHWM` belongs to the new image alone.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the child finds: our own variables, with every engine's network use and telemetry turned off.

    Modules are compiled once and kept, as an installer does for the peers': a checkout is not to be compiled anew by
    every process that is timed.
    """
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False"}
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return given | offline | dict(extra or {})


def main(target: str, arguments: str) -> None:
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    start = time.perf_counter()
    result = function(**json.loads(arguments))
    result = {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes()} | dict(result)
    print(MARK + json.dumps(result), flush=True)
    os._exit(0)  # background threads of an engine do not hold up the next measurement


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
