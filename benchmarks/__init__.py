"""Ours against the fastest peer of each structure: same data, same machine, same run, equal quality first.

`python -m benchmarks` runs all of it, `python -m benchmarks lexical flat` some of it, `--quick` a small version, and
`--table` writes `docs/benchmarks.md` from `results/bench-*.json`, so that no figure in the docs was typed by hand.

    harness      what a fair comparison is: quality first, then pairs of timings, then the ratios of the pairs
    machine      what the numbers were measured on, its memory bandwidth included
    child        a fresh process for what a warm one cannot show: peak memory, cold start
    data         the collections measured, read or generated from a seed
    engines      a folder of documents to its first answer, in each engine that a user might take instead
    report       results to files, lines and the table

This face stays empty of imports: threads must be pinned before numpy, numba or faiss is first imported.
"""
