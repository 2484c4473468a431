"""`python -m benchmarks [NAME ...] [--quick] [--json] [--table]`."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from benchmarks import threads

NAMES = (
    "lexical",
    "flat",
    "gather",
    "keyed_vectors",
    "end_to_end",
    "cold_start",
    "lm",
    "sparse",
    "multi_vector",
    "espn",
    "graph",
    "disk_ivf",
    "filtered",
    "binary",
    "codec_scan",
    "recomputed",
)
ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours against the fastest peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small and short; writes no results")
    parser.add_argument("--json", action="store_true", help="print the results as JSON too")
    parser.add_argument("--table", action="store_true", help="write docs/benchmarks.md from the results and stop")
    parser.add_argument("--threads", type=int, default=1, help="threads of every library (default: 1)")
    given = parser.parse_args(argv)
    unknown = [name for name in given.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; choose from {', '.join(NAMES)}")

    threads.pin(given.threads)  # before anything imports numpy
    from benchmarks import machine, report
    from benchmarks.data import DataMissing

    if given.table:
        page = ROOT / "docs" / "benchmarks.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(report.table(report.load(ROOT / "results")), encoding="utf-8")
        print(f"wrote {page}")
        return 0

    for name in given.names or NAMES:
        bench = import_module(f"benchmarks.{name}")
        print(f"# {bench.TITLE}", file=sys.stderr, flush=True)
        rows, described = [], machine.describe(bench.PACKAGES)
        try:
            for row in bench.measure(quick=given.quick):
                rows.append(row)
                print(report.line(row), file=sys.stderr, flush=True)
        except DataMissing as why:
            print(f"skipped {name}: {why}", file=sys.stderr)
            continue
        result = report.as_json(name, bench.TITLE, described, rows, quick=given.quick)
        if not given.quick:
            print(f"wrote {report.save(result, ROOT / 'results')}", file=sys.stderr)
        if given.json:
            print(json.dumps(result, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
