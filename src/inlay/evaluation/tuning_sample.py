"""A task of tuning made of a collection: a sample of its passages, and queries of a file or of the passages.

Nothing is written: rows are read as they are stored. Passages of relevant documents are always in the sample.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.collection.snapshot import DENSE, embeddable
from inlay.errors import BadInput
from inlay.evaluation.pseudo_queries import pseudo_queries
from inlay.evaluation.retrieval_set import read_qrels
from inlay.evaluation.tuning_task import Task, TunedSpace

if TYPE_CHECKING:
    from inlay.collection.collection import Collection

__all__ = ["Question", "read_questions", "sample_collection"]

TIMED = 20  # queries that an encoder's time is the median of


@dataclass(frozen=True)
class Question:
    """A query, and the grades of documents by id; none where nobody judged it."""

    text: str
    relevant: dict[str, int] = field(default_factory=dict)


def read_questions(path: str | Path, qrels: str | Path | None = None) -> list[Question]:
    """Queries of a file, one a line.

    A line is `{"query": …, "relevant": [ids]}`, `{"id": …, "text": …}` whose judgments are in `qrels`, or plain text.

    Args:
        path: the file.
        qrels: a table query-id, document-id, grade, separated by tabs.
    """
    path = Path(path)
    judged = read_qrels(qrels) if qrels is not None else {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}; name a file with a query a line") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            found.append(Question(line.strip()))
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}:{number}: not a line of JSON ({error.msg}): {line[:80]!r}") from None
        text = item.get("query", item.get("text"))
        relevant = item.get("relevant", [])
        if not isinstance(text, str) or not text.strip():
            raise BadInput(f"{path}:{number}: expected an object with query or text, got {line[:80]!r}")
        if not isinstance(relevant, list | dict):
            raise BadInput(f"{path}:{number}: relevant is a list of document ids, got {relevant!r:.80}")
        grades = dict.fromkeys(map(str, relevant), 1) if isinstance(relevant, list) else relevant
        if not all(isinstance(grade, int) for grade in grades.values()):
            raise BadInput(f"{path}:{number}: grades are whole numbers, got {relevant!r:.80}")
        key = item.get("id", item.get("_id"))
        found.append(Question(text, {str(one): grade for one, grade in grades.items()} | judged.get(str(key), {})))
    if not found:
        raise BadInput(f"{path} holds no query; write one a line")
    return found


def sample_collection(
    collection: Collection,
    questions: Sequence[Question] | None = None,
    *,
    encoders: Sequence[str] = (),
    rows: int = 20_000,
    queries: int = 300,
    k: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> Task:
    """What `tune` measures on.

    Args:
        collection: an open one with dense rows, or any with text where encoders are named.
        questions: queries; without any, the passages ask (see `pseudo_queries`).
        encoders: names of encoders to compare in place of the collection's own rows.
        rows: passages at most; more are drawn at random.
        queries: at most, likewise.
        k: answers looked at.
        seed: of what is drawn.
        progress: show bars of the encoders.
    """
    random = np.random.default_rng(seed)
    remarks: list[str] = []
    with collection._mutex:
        snapshot = collection._snapshot
        stored = snapshot.spaces.get(DENSE)
        own = stored is not None and stored.space.kind == "dense" and not snapshot.view(DENSE).thin
        coded = own and snapshot.view(DENSE).arranged and not encoders
        again = coded and collection._document_encoder() is not None  # of codes, nothing finer can be learnt
        if not encoders and not own:
            raise BadInput(f"{collection.path} keeps no dense rows; name an encoder to make some with --encoder")
        pairs = collection._catalog.all("SELECT chunk, id FROM chunks JOIN documents USING(doc) ORDER BY chunk")
        covered = snapshot.view(DENSE).covered() if own and not encoders else np.array([c for c, _ in pairs], np.int64)
        names = dict(pairs)
        if not len(covered):
            raise BadInput(f"{collection.path} holds no passage with a vector; add documents, or embed them")
        asked = None if questions is None else list(questions)
        judged, wanted = False, set[str]()
        if asked is not None:
            there = {names[c] for c in covered.tolist()}
            asked, judged = _usable(asked, there, remarks)
            asked = [asked[i] for i in np.sort(random.permutation(len(asked))[:queries])]
            wanted = {one for question in asked for one, grade in question.relevant.items() if grade > 0} & there
        needed = np.array([c for c in covered.tolist() if names[c] in wanted], dtype=np.int64)
        others = random.permutation(np.setdiff1d(covered, needed))
        chunks = np.sort(np.concatenate([needed, others[: max(0, rows - len(needed))]]))
        passages: dict[int, Any] = snapshot.passages(chunks.tolist()) if encoders or asked is None or again else {}
        texts = [embeddable(p.metadata, p.heading, p.text) for p in map(passages.get, chunks.tolist()) if p]
        kept = snapshot.view(DENSE).rows(chunks) if own and not encoders and not again else None
        if coded and not again:
            remarks.append("The rows are kept as codes, and what is lost already is not counted.")
        maker = collection._dense_encoder() if not encoders else None
        metric = stored.space.metric if stored is not None and not encoders else "cosine"
    place: np.ndarray | None = None
    if asked is None:
        titles = [str(passages[c].metadata.get("title") or "") for c in chunks.tolist()]
        own_queries = pseudo_queries([passages[c].text for c in chunks.tolist()], titles)
        can = maker is not None or encoders
        spoken = np.array([bool(text) for text in own_queries]) if can else kept.any(axis=1)  # type: ignore[union-attr]
        place = np.sort(random.permutation(np.flatnonzero(spoken))[:queries])
        if not len(place):
            raise BadInput(f"no passage of {collection.path} can be asked with; give queries with --queries")
        asked = [Question(own_queries[i]) for i in place]
        by = "title, or the sentence with the rarest words, of" if can else "stored row of"
        remarks.append(f"No queries were given: the {by} {len(place):,} passages ask, and what each is of is left out.")
    elif maker is None and not encoders:
        raise BadInput("the vectors were brought from outside, so text cannot be asked with; leave --queries out")
    spaces: dict[str, TunedSpace] = {}
    asking = [one.text for one in asked]
    for name, made in dict.fromkeys(encoders).items() if encoders else [("", maker)]:
        from inlay.encoders.names import encoder as by_name

        made = by_name(name) if made is None and name else made
        if made is None:
            assert kept is not None
            assert place is not None
            spaces[name] = TunedSpace(kept, kept[place])
            continue
        if made.space.kind != "dense":
            raise BadInput(f"dense rows are tuned, and {name!r} makes {made.space.kind} ones; name another encoder")
        vectors = kept if kept is not None else made.encode_document(texts, progress=progress)
        ready = made.encode_query(asking, progress=progress)
        if not name and collection._map is not None:
            ready = collection._map.transform(np.asarray(ready))
        spaces[name] = TunedSpace(np.asarray(vectors, np.float32), np.asarray(ready, np.float32), _timed(made, asking))
    full = np.all([one.queries.any(axis=1) for one in spaces.values()], axis=0)
    if not full.any():
        raise BadInput("no query has a vector that is not zero: write queries of words that the encoder knows")
    if not full.all():
        remarks.append(f"{int((~full).sum())} queries whose vector is zero were left out.")
        spaces = {name: TunedSpace(one.rows, one.queries[full], one.encode_ms) for name, one in spaces.items()}
    if len(chunks) == 1:
        place = None  # the only passage is the only answer
    return Task(
        spaces, metric, [names[c] for c in chunks.tolist()],
        [question.relevant for question, good in zip(asked, full) if good] if judged else None,
        None if place is None else place[full], len(covered), k, seed, tuple(remarks),
    )  # fmt: skip


def _usable(asked: list[Question], there: set[str], remarks: list[str]) -> tuple[list[Question], bool]:
    """Queries to ask, and whether they are judged."""
    judged = [one for one in asked if any(grade > 0 for grade in one.relevant.values())]
    if not judged:
        remarks.append("No query is judged: quality is agreement with an exact search at full precision.")
        return asked, False
    found = [one for one in judged if any(g > 0 and name in there for name, g in one.relevant.items())]
    if not found:
        name = next(iter(judged[0].relevant))
        raise BadInput(f"no judged document is in the collection (for example {name!r}): check the ids")
    if len(judged) < len(asked):
        remarks.append(f"{len(asked) - len(judged)} queries without a relevant document were left out.")
    if len(found) < len(judged):
        remarks.append(f"{len(judged) - len(found)} queries whose relevant documents are not here were left out.")
    return found, True


def _timed(encoder: Any, texts: list[str]) -> float:
    """Median milliseconds of encoding one query, warm."""
    encoder.encode_query(texts[:1])
    took = []
    for text in texts[:TIMED]:
        began = time.perf_counter()
        encoder.encode_query([text])
        took.append(time.perf_counter() - began)
    return float(np.median(took)) * 1000
