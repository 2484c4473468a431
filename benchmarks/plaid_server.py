"""fast-plaid in a process of its own: it is built against one torch version and crashes with others.

Run by an interpreter that has `fast-plaid` and its torch: `PYTHON plaid_server.py FOLDER`. FOLDER holds `tokens.npz`
(arrays `documents`, `offsets`, `queries`, `asked`). Each line of standard input is JSON `{"from", "to", "k", "full",
"probe"}`; the answer is a line `{"ids", "seconds"}`. It imports nothing of inlay.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.update(OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1", MKL_NUM_THREADS="1")


def main(folder: str) -> None:
    """Build the index, then answer."""
    import numpy as np
    import torch
    from fast_plaid import search

    torch.set_num_threads(1)
    held = np.load(os.path.join(folder, "tokens.npz"))

    def bags(values: str, offsets: str) -> list[torch.Tensor]:
        ends = held[offsets].tolist()
        rows = torch.from_numpy(held[values])
        return [rows[low:high] for low, high in zip(ends, ends[1:])]

    began = time.perf_counter()
    index = search.FastPlaid(index=os.path.join(folder, "plaid"), device="cpu")
    index.create(documents_embeddings=bags("documents", "offsets"))
    queries = bags("queries", "asked")
    at = os.path.join(folder, "plaid")
    nbytes = sum(os.path.getsize(os.path.join(top, name)) for top, _, names in os.walk(at) for name in names)
    print(json.dumps({"seconds": time.perf_counter() - began, "bytes": nbytes}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        ids, began = [], time.perf_counter()
        for query in queries[asked["from"] : asked["to"]]:  # one a call
            found = index.search([query], top_k=asked["k"], n_full_scores=asked["full"], n_ivf_probe=asked["probe"],
                                 show_progress=False, n_processes=1)  # fmt: skip
            ids.append([place for place, _ in found[0]])
        print(json.dumps({"ids": ids, "seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
