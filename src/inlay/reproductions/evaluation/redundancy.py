"""How many dimensions tasks need (Tsukagoshi and Sasano, 2025), and what isotropy and intrinsic dimension say of it.

The paper finds that rows cut to a few of their dimensions still classify almost as well as whole ones while retrieval
falls fast, that this goes with a low intrinsic dimension (TwoNN) and a low IsoScore, and that both come from what rows
were made for: the classification prompt of one model gives 22.0 and .005, its query prompt 31.9 and .078.

There is no model with prompts here. The same question is put to latent semantic analysis (LSA, 256 dimensions) and to a
small network on top of it, trained to tell the intents of CLINC150; both are turned at random before they are cut, so
that no dimension is the first. Four things decide:

(a) the measures are right: TwoNN of Gaussians of 2, 5 and 10 dimensions in 100 is within 15%; IsoScore of a ball is
above 0.95 and of a line below 1e-6; the short form is the long one to 1e-9;
(b) the trained space has the lower intrinsic dimension and the lower IsoScore, in every seed, of the utterances judged
and of Wikipedia sentences, which the paper measures them on;
(c) its accuracy is flatter: at 8, 16 and 32 dimensions it keeps a larger share than that of LSA;
(d) retrieval is not: on Cranfield LSA keeps at most 80% of its nDCG@10 at 32 of 256 dimensions, and less than the
trained space keeps of its accuracy there.

All four make it shown; the first with some of the others, partly. Accuracy is that of the nearest class mean, of
utterances that were not trained on. An untrained network of the same form is the control of (b) and (c). Beside them:
MiniLM, the encoder in the box and its token table, cut to their first, to random and to principal dimensions.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.intrinsic_dimension import two_nn
from inlay.evaluation.isotropy import iso_score
from inlay.evaluation.redundancy import TruncationCurve, truncation_curve
from inlay.evaluation.row_geometry import Geometry, geometry
from inlay.kernels.dense import nearest, normalise
from inlay.reproductions.evaluation._text_rows import Utterances, in_package, lsa, minilm, utterances
from inlay.reproductions.indexes._embedded_texts import Texts, encoded, judged, ndcg
from inlay.reproductions.result import Figure, Result

PAPER = (
    "Redundancy, Isotropy, and Intrinsic Dimensionality of Prompt-based Text Embeddings (arXiv 2506.01435, "
    "Findings of ACL 2025)"
)

WIDTH, DIMS, FEW = 256, (2, 4, 8, 16, 32, 64, 128), (8, 16, 32)
SENTENCES, WORDS = 2000, 8  # of Wikipedia, and the fewest words of one
TRAIN_EACH = 20  # utterances of an intent that real encoders' class means are of
CLOSE, KEPT = 0.15, 0.8


class Space(NamedTuple):
    """A space: its shape on the test utterances and on Wikipedia sentences, and accuracy by dimensions kept."""

    shape: Geometry
    general: Geometry
    curve: TruncationCurve


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """The measures on made rows, LSA against a network on it, retrieval, and real encoders; about five minutes."""
    began = time.perf_counter()
    made = _made(seeds)
    said = utterances(data, "clinc150")
    sentences = _sentences(data)
    plain = lsa(WIDTH, said.train, said.test, sentences)
    known = plain[1].any(axis=1)  # of utterances that share a word with another, so that all spaces are of as many rows
    said = said._replace(test=[said.test[i] for i in np.flatnonzero(known)], test_labels=said.test_labels[known])
    plain = [plain[0], plain[1][known], plain[2][plain[2].any(axis=1)]]
    spaces: dict[str, list[Space]] = {}
    for seed in seeds:
        for name, rows in (
            ("LSA", plain),
            ("trained", _head(plain, said, seed)),
            ("untrained", _head(plain, said, seed, steps=0)),
        ):
            spaces.setdefault(name, []).append(_space(_turned(rows, seed), said, ("first",), DIMS))
            _say(progress, f"seed {seed}, {name}: {spaces[name][-1].shape.to_dict()}, {spaces[name][-1].curve}")
    documents = judged(data, "cranfield")
    retrieval = {"LSA": _retrieval(documents, encoded(documents, "LSA-256"), ("random",), DIMS, seeds)}
    real = _real(said, sentences, documents, retrieval, seeds, progress)

    kept = {name: {dims: _mean([s.curve.retained("first", dims) for s in own]) for dims in DIMS}
            for name, own in spaces.items()}  # fmt: skip
    held = _held(made, spaces, kept, retrieval["LSA"].retained("random", FEW[-1]))
    middle = FEW[1]
    return Result(
        name="redundancy",
        title="Redundancy, isotropy, intrinsic dimension",
        room="evaluation",
        source=PAPER,
        claim="rows made to classify have a low intrinsic dimension and IsoScore, and classify when cut to few numbers",
        paper="gte-Qwen2 cut to 2 dimensions classifies at 76.3, above E5-large's whole 75.7; retrieval falls fast",
        metric=f"share of accuracy kept at {middle} of {WIDTH} random directions, CLINC150",
        baseline=Figure("LSA", round(kept["LSA"][middle], 4)),
        method=Figure("network trained on intents", round(kept["trained"][middle], 4)),
        data=f"CLINC150: {len(said.train):,} utterances to learn from, {len(said.test):,} to judge; Cranfield",
        verdict="shown" if all(held) else "partly" if held[0] and any(held[1:]) else "not shown",
        detail=_detail(made, spaces, kept, retrieval, real, held[1:]),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "TwoNN_error": round(made[0], 4),
            "spaces": {
                name: [
                    {**one.shape.to_dict(), "Wikipedia": one.general.to_dict(), **one.curve.to_dict()} for one in own
                ]
                for name, own in spaces.items()
            },
            "real_encoders": {
                name: {**one.shape.to_dict(), "Wikipedia": one.general.to_dict(), "accuracy": one.curve.to_dict()}
                for name, one in real.items()
            },
            "nDCG@10": {name: one.to_dict() for name, one in retrieval.items()},
        },
    )


def _held(
    made: tuple[float, float, float, float],
    spaces: dict[str, list[Space]],
    kept: dict[str, dict[int, float]],
    retrieval: float,
) -> tuple[bool, ...]:
    """Which of the four that decide hold; `retrieval` is the share LSA keeps of nDCG at the last of `FEW`."""
    worst, ball, line, forms = made
    lower = all(
        ours.two_nn < theirs.two_nn and ours.iso_score < theirs.iso_score
        for a, b in zip(spaces["trained"], spaces["LSA"])
        for ours, theirs in ((a.shape, b.shape), (a.general, b.general))
    )
    return (
        worst <= CLOSE and ball > 0.95 and line < 1e-6 and forms < 1e-9,
        lower,
        all(kept["trained"][dims] > kept["LSA"][dims] for dims in FEW),
        retrieval <= KEPT and retrieval < kept["trained"][FEW[-1]],
    )


def _sentences(data: Path) -> list[str]:
    """Random sentences of Wikipedia, each once."""
    path = data / "text" / "wikitext2_valid.txt.gz"
    if not path.is_file():
        raise BadInput(f"there is no {path}; give the data folder that holds it")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    every = [one.strip() for line in lines if not line.strip().startswith("=") for one in line.split(" . ")]
    found = list(dict.fromkeys(one for one in every if len(one.split()) >= WORDS))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:SENTENCES]]


def _made(seeds: Sequence[int]) -> tuple[float, float, float, float]:
    """Largest relative error of TwoNN; IsoScore of a ball and of a line; largest difference of its two forms."""
    worst = forms = 0.0
    for seed in seeds:
        draw = np.random.default_rng(seed)
        for rank in (2, 5, 10):
            rows = draw.standard_normal((2000, rank)) @ np.linalg.qr(draw.standard_normal((100, rank)))[0].T
            worst = max(worst, abs(two_nn(rows.astype(np.float32), metric="l2") / rank - 1))
            skewed = (draw.standard_normal((500, 30)) * draw.random(30)).astype(np.float32)
            forms = max(forms, abs(iso_score(skewed) - _long(skewed)))
    ball = iso_score(draw.standard_normal((20_000, 20)).astype(np.float32))
    line = iso_score(np.outer(draw.standard_normal(500), draw.standard_normal(20)).astype(np.float32))
    return worst, ball, line, forms


def _long(rows: np.ndarray) -> float:
    """IsoScore as its authors write it."""
    variances = np.linalg.eigvalsh(np.cov(rows.T.astype(np.float64)))
    n = len(variances)
    scaled = np.sqrt(n) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(scaled - 1) / np.sqrt(2 * (n - np.sqrt(n)))
    used = (n - defect**2 * (n - np.sqrt(n))) ** 2 / n**2
    return float((n * used - 1) / (n - 1))


def _head(rows: list[np.ndarray], said: Utterances, seed: int, *, steps: int = 1500) -> list[np.ndarray]:
    """Rows that a network of one hidden layer makes, as wide as before, trained with a layer that tells classes."""
    import torch

    torch.manual_seed(seed)
    inside = torch.nn.Sequential(torch.nn.Linear(WIDTH, 512), torch.nn.GELU(), torch.nn.Linear(512, WIDTH))
    classes = torch.nn.Linear(WIDTH, int(said.train_labels.max()) + 1)
    learns = torch.optim.AdamW([*inside.parameters(), *classes.parameters()], lr=2e-3, weight_decay=1e-2)
    train, labels = torch.from_numpy(rows[0]), torch.from_numpy(said.train_labels)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(train), (256,), generator=draw)
        loss = torch.nn.functional.cross_entropy(classes(inside(train[batch])), labels[batch])
        learns.zero_grad()
        loss.backward()
        learns.step()
    with torch.inference_mode():
        return [normalise(inside(torch.from_numpy(one)).numpy()) for one in rows]


def _turned(rows: list[np.ndarray], seed: int) -> list[np.ndarray]:
    width = rows[0].shape[1]
    turn = np.linalg.qr(np.random.default_rng(1000 + seed).standard_normal((width, width)))[0].astype(np.float32)
    return [one @ turn for one in rows]


def _space(
    rows: list[np.ndarray],
    said: Utterances,
    how: Sequence[str],
    dims: Sequence[int] | None,
    seeds: Sequence[int] = (0,),
) -> Space:
    """Shape of the test rows and of general ones, and accuracy by nearest class mean of the train rows."""

    def task(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        means = np.zeros((int(said.train_labels.max()) + 1, train.shape[1]), dtype=np.float32)
        np.add.at(means, said.train_labels, train)
        return nearest(test, normalise(means), 1).ids[:, 0] == said.test_labels

    shape, general = (geometry(one, subsamples=0) for one in rows[1:])
    return Space(shape, general, truncation_curve(rows[:2], task, dims=dims, how=how, seeds=seeds))


def _retrieval(
    texts: Texts, rows: tuple[np.ndarray, np.ndarray], how: Sequence[str], dims: Sequence[int], seeds: Sequence[int]
) -> TruncationCurve:
    """nDCG@10 of exact searches by dimensions kept."""
    judge = ndcg(texts.grades)
    return truncation_curve(
        list(rows), lambda documents, queries: judge(nearest(queries, documents, 10).ids), dims=dims, how=how,
        seeds=seeds,
    )  # fmt: skip


def _real(
    said: Utterances,
    sentences: list[str],
    documents: Texts,
    retrieval: dict[str, TruncationCurve],
    seeds: Sequence[int],
    progress: bool,
) -> dict[str, Space]:
    """Real encoders on both tasks; class means are of fewer utterances, for there are many to encode."""
    draw = np.random.default_rng(0)
    few = np.concatenate([
        draw.permutation(np.flatnonzero(said.train_labels == one))[:TRAIN_EACH] for one in np.unique(said.train_labels)
    ])  # fmt: skip
    part = Utterances([said.train[i] for i in few], said.test, said.train_labels[few], said.test_labels)
    lists = (part.train, part.test, sentences, documents.documents, documents.queries)
    found: dict[str, Space] = {}
    made: dict[str, Any] = {"MiniLM": minilm, "box": lambda *own: in_package("box", *own)}
    made["box, table alone"] = lambda *own: in_package("box?context=false", *own)
    for name, make in made.items():
        rows = make(*lists)
        if rows is None:
            continue
        width = rows[0].shape[1]
        dims, ways = [width // cut for cut in (32, 16, 8, 4, 2)], ("first", "random", "pca")
        found[name] = _space(rows[:3], part, ways, dims, seeds)
        retrieval[name] = _retrieval(documents, (rows[3], rows[4]), ways, dims, seeds)
        _say(progress, f"{name}: {found[name].shape.to_dict()}, {found[name].curve}, {retrieval[name]}")
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _detail(
    made: tuple[float, float, float, float],
    spaces: dict[str, list[Space]],
    kept: dict[str, dict[int, float]],
    retrieval: dict[str, TruncationCurve],
    real: dict[str, Space],
    held: tuple[bool, ...],
) -> str:
    def shape(name: str, texts: str) -> str:
        own = [getattr(one, texts) for one in spaces[name]]
        means = [_mean([getattr(one, of) for one in own]) for of in ("two_nn", "levina_bickel", "iso_score")]
        return f"{name} {means[0]:.1f}, {means[1]:.1f} and {means[2]:.3f}"

    accuracy = {name: _mean([one.curve.whole for one in own]) for name, own in spaces.items()}
    said = [
        f"TwoNN is off by {made[0]:.1%} at most on Gaussians of known dimension; IsoScore of a ball is {made[1]:.3f}.",
        "Intrinsic dimension by TwoNN, by ten to twenty neighbours, and IsoScore: of utterances "
        + "; ".join(shape(name, "shape") for name in spaces)
        + "; of Wikipedia sentences "
        + "; ".join(shape(name, "general") for name in spaces)
        + (
            ". TwoNN and IsoScore are lower when trained."
            if held[0]
            else ". Not both are lower when trained everywhere."
        ),
        "Accuracy "
        + ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
        + f"; kept at {', '.join(map(str, FEW))} dimensions: "
        + "; ".join(f"{name} " + ", ".join(f"{own[dims]:.0%}" for dims in FEW) for name, own in kept.items())
        + (", flatter when trained." if held[1] else ", not flatter when trained at each."),
        "nDCG@10 of LSA on Cranfield keeps "
        + ", ".join(f"{retrieval['LSA'].retained('random', dims):.0%} at {dims}" for dims in (128, 64, 32))
        + (
            " random dimensions, less than accuracy does."
            if held[2]
            else f", where {KEPT:.0%} or less was needed at 32."
        ),
    ]
    if real:
        said.append(
            "Cut to the first quarter of their dimensions, encoders keep of accuracy and of nDCG@10: "
            + "; ".join(
                f"{name} {one.curve.retained('first', one.curve.dim // 4):.0%} and "
                f"{retrieval[name].retained('first', one.curve.dim // 4):.0%} "
                f"(of Wikipedia TwoNN {one.general.two_nn:.1f}, IsoScore {one.general.iso_score:.3f})"
                for name, one in real.items()
            )
            + "."
        )
    return " ".join(said)


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
