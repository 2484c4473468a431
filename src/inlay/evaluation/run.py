"""A run: what a search answered to each query, the currency between searches, fusions and measures.

A run is a dictionary `{query id: {document id: score}}` with a name. It is read from and written to TREC run files,
six fields a line: `query Q0 document rank score name`. Those fields are separated by spaces, and ids may hold spaces
("Geneva Durben"), so ids are written with percent signs, as in web addresses: a space becomes `%20` (tab `%09`, line
feed `%0A`, vertical tab `%0B`, form feed `%0C`, carriage return `%0D`) and a percent sign `%25`. Reading turns exactly
these seven back and leaves every other character alone, so that any id survives and ordinary files mean what they did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inlay.errors import BadInput

if TYPE_CHECKING:
    from inlay.types import Neighbours

__all__ = ["Run"]

_ESCAPED = re.compile(r"[ \t\n\v\f\r%]")
_ESCAPE = re.compile(r"%(?:20|09|0A|0B|0C|0D|25)")


class Run(dict[str, dict[str, float]]):
    """Scores of the documents that were found: `{query id: {document id: score}}`, higher is nearer.

    Args:
        scores: the answers.
        name: what made them; the last field of a TREC run file.
    """

    def __init__(self, scores: Mapping[str, Mapping[str, float]] | None = None, name: str = "inlay") -> None:
        super().__init__()
        self.name = name
        for query, found in (scores or {}).items():
            self[query] = {document: float(score) for document, score in found.items()}
            bad = next((document for document, score in self[query].items() if math.isnan(score)), None)
            if bad is not None:
                raise BadInput(f"query {query!r}: the score of {bad!r} is not a number")

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {len(self)} queries)"

    @classmethod
    def of(cls, neighbours: Neighbours, queries: Sequence[str], documents: Sequence[str], name: str = "inlay") -> Run:
        """From what an index found.

        Args:
            neighbours: scores and row numbers, [queries, k]; row −1 is skipped.
            queries: id of each query.
            documents: id of each row. Rows of the same document (passages) keep the best score.
            name: name of the run.
        """
        if len(neighbours.ids) != len(queries):
            raise BadInput(f"{len(neighbours.ids)} rows of neighbours for {len(queries)} query ids")
        scores: dict[str, dict[str, float]] = {}
        for query, row, values in zip(queries, neighbours.ids.tolist(), neighbours.scores.tolist()):
            found: dict[str, float] = {}
            for i, score in zip(row, values):
                if i >= 0 and score > found.get(documents[i], -math.inf):
                    found[documents[i]] = score
            scores[query] = found
        return cls(scores, name)

    def top(self, query: str, k: int | None = None) -> list[str]:
        """Document ids, best first; of equal scores, the one that was found first."""
        found = self[query]
        return sorted(found, key=found.__getitem__, reverse=True)[:k]

    def write(self, path: str | Path) -> None:
        """Write a TREC run file. Scores are written in full, so that reading gives the same run."""
        name = _escape(self.name or "inlay", "run name")
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for query, found in self.items():
                head = _escape(query, "query id")
                for rank, document in enumerate(self.top(query), start=1):
                    score = float(found[document])
                    file.write(f"{head} Q0 {_escape(document, 'document id')} {rank} {score!r} {name}\n")

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """Read a TREC run file, ours or another's."""
        path = Path(path)
        scores: dict[str, dict[str, float]] = {}
        name = b"inlay"
        try:
            file = open(path, "rb")  # noqa: SIM115 - the error is about opening only
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
        with file:
            for number, line in enumerate(file, start=1):
                fields = line.split()  # bytes: split at ASCII white space only, so that other characters stay in ids
                if not fields:
                    continue
                try:
                    query, _, document, _, value, name = fields
                    found = scores.setdefault(_unescape(query), {})
                    key, score = _unescape(document), float(value)
                    if key in found or math.isnan(score):
                        raise ValueError
                    found[key] = score
                except ValueError:
                    text = line.decode(errors="replace").strip()
                    problem = "expected six fields: query Q0 document rank score name"
                    if len(fields) == 6:
                        problem = "the score is not a number, or the document was given before for this query"
                    raise BadInput(f"{path}:{number}: {problem}, got {text[:100]!r}") from None
        if not scores:
            raise BadInput(f"{path} holds no answers: is it a TREC run file?")
        return cls(scores, _unescape(name))


def _escape(value: str, what: str) -> str:
    if not value:
        raise BadInput(f"an empty {what} cannot be written to a run file")
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", value)


def _unescape(value: bytes) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[0][1:], 16)), value.decode("utf-8"))
