"""A retrieval test set: documents, queries, and judgments of which documents answer which query.

Two layouts are read, and nothing else has to be said about them:

- BEIR: `corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv` (also `qrels/dev.tsv`, `qrels/train.tsv`);
- flat: `corpus.jsonl.gz`, `queries.jsonl.gz`, `qrels.tsv` (other splits `qrels_dev.tsv`, `qrels_train.tsv`).

Every file may be gzipped or not. Ids are strings. Judgments are split on tabs only, because ids may hold spaces.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from inlay.errors import BadInput

__all__ = ["Qrels", "RetrievalSet"]

Qrels = dict[str, dict[str, int]]


class RetrievalSet:
    """Documents, queries and judgments.

    Only queries that have a relevant document count: without one, every ranking scores the same. A judged document
    that is not in the corpus stays in the judgments, so that recall counts it as missed.

    Args:
        corpus: documents, each `{"id", "title", "text"}` (`title` may be missing), or a mapping of id to text.
        queries: mapping of id to text, or items `{"id", "text"}`.
        qrels: query id → document id → grade; grades above 0 are relevant, 0 is judged and not relevant.
        name: what the set is called in reports.
        split: which judgments these are.
    """

    def __init__(
        self,
        corpus: Iterable[Mapping[str, Any]] | Mapping[str, str],
        queries: Mapping[str, str] | Iterable[Mapping[str, Any]],
        qrels: Mapping[str, Mapping[str, int]],
        name: str = "",
        split: str = "test",
    ) -> None:
        if isinstance(corpus, Mapping):
            corpus = [{"id": key, "text": text} for key, text in corpus.items()]
        self.corpus = [_document(item) for item in corpus]
        if not self.corpus:
            raise BadInput("a retrieval set needs at least one document")
        self.ids = [document["id"] for document in self.corpus]
        if len(set(self.ids)) != len(self.ids):
            raise BadInput(f"document id {_repeated(self.ids)!r} occurs twice: ids must be unique")
        if not isinstance(queries, Mapping):
            queries = {str(item["id"]): str(item["text"]) for item in queries}
        judged = {
            str(query): {str(document): int(grade) for document, grade in grades.items()}
            for query, grades in qrels.items()
            if any(int(grade) > 0 for grade in grades.values())
        }
        unknown = next((query for query in judged if query not in queries), None)
        if unknown is not None:
            raise BadInput(f"query {unknown!r} has judgments but no text: check that the ids of both files agree")
        known = set(self.ids)
        if judged and not any(document in known for grades in judged.values() for document in grades):
            document = next(iter(next(iter(judged.values()))))
            raise BadInput(f"no judged document is in the corpus (for example {document!r}): check the ids")
        self.qrels: Qrels = judged
        self.queries = {query: queries[query] for query in queries if query in judged}
        self.name, self.split = name, split

    @property
    def texts(self) -> list[str]:
        """What is indexed: the title, if any, before the text."""
        return [f"{doc['title']} {doc['text']}".strip() if doc["title"] else doc["text"] for doc in self.corpus]

    def __len__(self) -> int:
        return len(self.corpus)

    def __repr__(self) -> str:
        return f"RetrievalSet({self.name!r}, {self.split}: {len(self.corpus)} documents, {len(self.queries)} queries)"

    @classmethod
    def load(cls, folder: str | Path, split: str = "test") -> RetrievalSet:
        """Read a folder in either layout.

        Args:
            folder: holds `corpus.jsonl[.gz]`, `queries.jsonl[.gz]` and judgments.
            split: which judgments: `test`, `dev`, `train` or whatever the files are called.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise BadInput(f"{folder} is not a folder; give one that holds corpus.jsonl, queries.jsonl and qrels")
        if not re.fullmatch(r"[\w.-]+", split):
            raise BadInput(f"split {split!r} is not a name such as test, dev or train")
        names = [f"qrels/{split}.tsv", f"qrels_{split}.tsv"] + (["qrels.tsv"] if split == "test" else [])
        judgments = _find(folder, names, f"judgments of split {split!r}")
        corpus = list(_records(_find(folder, ["corpus.jsonl"], "the documents")))
        queries = {item["id"]: item["text"] for item in _records(_find(folder, ["queries.jsonl"], "the queries"))}
        return cls(corpus, queries, read_qrels(judgments), name=folder.resolve().name, split=split)

    def save(self, folder: str | Path) -> None:
        """Write the BEIR layout (`corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`)."""
        folder = Path(folder)
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        with open(folder / "corpus.jsonl", "w", encoding="utf-8") as file:
            for doc in self.corpus:
                row = {"_id": doc["id"], "title": doc["title"], "text": doc["text"]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        with open(folder / "queries.jsonl", "w", encoding="utf-8") as file:
            for query, text in self.queries.items():
                file.write(json.dumps({"_id": query, "text": text}, ensure_ascii=False) + "\n")
        with open(folder / "qrels" / f"{self.split}.tsv", "w", encoding="utf-8") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for query, grades in self.qrels.items():
                file.writelines(f"{query}\t{document}\t{grade}\n" for document, grade in grades.items())


def read_qrels(path: str | Path) -> Qrels:
    """Judgments from a table `query-id, corpus-id, score`, separated by tabs, with or without that header line."""
    path = Path(path)
    qrels: Qrels = {}
    for number, line in _lines(path):
        fields = line.split("\t")
        if number == 1 and len(fields) == 3 and not _is_integer(fields[2]):
            continue  # the header
        if len(fields) != 3 or not _is_integer(fields[2]):
            raise BadInput(
                f"{path}:{number}: expected query-id, corpus-id and a whole score between tabs, got {line!r}"
            )
        grades = qrels.setdefault(fields[0], {})
        # Some sets judge a pair twice; the kinder judgment stands, whatever the order of the lines.
        grades[fields[1]] = max(int(fields[2]), grades.get(fields[1], 0))
    if not qrels:
        raise BadInput(f"{path} holds no judgments")
    return qrels


def _records(path: Path) -> Iterator[dict[str, str]]:
    for number, line in _lines(path):
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}:{number}: not a line of JSON ({error.msg}): {line[:80]!r}") from None
        key = item.get("_id", item.get("id")) if isinstance(item, dict) else None
        if key is None or not isinstance(item.get("text"), str):
            raise BadInput(f"{path}:{number}: expected an object with _id and text, got {line[:80]!r}")
        yield {"id": str(key), "title": str(item.get("title") or ""), "text": item["text"]}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, counted from 1, without their line ends."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                # Cut at "\n" alone: texts may hold U+2028 and other characters that str.splitlines takes for line ends.
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except UnicodeDecodeError:
        raise BadInput(f"{path}:{number}: not UTF-8 text") from None
    except (OSError, EOFError) as error:
        raise BadInput(f"{path} cannot be read after line {number}: {error}") from None


def _find(folder: Path, names: list[str], what: str) -> Path:
    tried = [candidate for name in names for candidate in (name, name + ".gz")]
    for name in tried:
        if (folder / name).is_file():
            return folder / name
    message = f"{folder} has no {what}: looked for {', '.join(tried)}"
    there = sorted(file.relative_to(folder).as_posix() for file in folder.glob("qrels*/*.tsv*"))
    there += sorted(file.name for file in folder.glob("qrels*.tsv*"))
    if what.startswith("judgments") and there:
        message += f"; there is {', '.join(there)}"
    raise BadInput(message)


def _document(item: Mapping[str, Any]) -> dict[str, str]:
    try:
        return {"id": str(item["id"]), "title": str(item.get("title") or ""), "text": str(item["text"])}
    except (KeyError, TypeError, AttributeError):
        raise BadInput(f"a document needs id and text, got {item!r:.80}") from None


def _repeated(ids: list[str]) -> str:
    seen: set[str] = set()
    return next(key for key in ids if key in seen or seen.add(key))  # type: ignore[func-returns-value]


def _is_integer(field: str) -> bool:
    return re.fullmatch(r"\s*-?\d+\s*", field) is not None
