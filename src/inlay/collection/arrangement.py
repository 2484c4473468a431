"""A collection kept as a configuration says: rows are gathered, an index is made, and takes the old segments' place.

The job is a record in the catalog. What it encodes again is laid in files, batch by batch, so that a job that was
killed goes on; until the switch, which is one transaction, the old segments answer. What is added meanwhile keeps rows
of its own, and what is deleted meanwhile stays deleted.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.collection.arranged_rows import arranged, is_arranged
from inlay.collection.merge import merge
from inlay.collection.retrieval import dense_view
from inlay.collection.rows import encoded
from inlay.collection.segment import store, sweep
from inlay.collection.snapshot import DENSE, StoredSpace, embeddable
from inlay.collection.thin_rows import is_thin
from inlay.errors import BadInput, Corrupt, InlayError
from inlay.indexes.configuration import Configuration
from inlay.io import Pack, atomic_write, pack_bytes

if TYPE_CHECKING:
    from inlay.collection.handle import Handle

__all__ = ["abandon", "begin", "finish", "unfinished"]

JOB, FOLDER = "arrangement", ".arrangement"
BATCH = 256  # passages encoded between two files


def unfinished(c: Handle) -> dict[str, Any] | None:
    """The job that was begun and has not switched yet, or None."""
    found: dict[str, Any] | None = c._catalog.get(JOB)
    return found


def begin(c: Handle, configuration: Configuration, encoder: str) -> dict[str, Any]:
    """Write down what is to be done; the job of before, if there is one, is dropped for another.

    Raises:
        BadInput: the collection cannot be kept so; nothing is changed.
    """
    stored = c._snapshot.spaces.get(DENSE)
    if not isinstance(configuration, Configuration):
        raise BadInput(f"a configuration is due, as inlay tune recommends one, got {type(configuration).__name__}")
    if stored is None or stored.space.kind != "dense":
        raise BadInput(f"{c.path} has no dense rows to arrange")
    if stored.space.metric == "l2":
        raise BadInput(f"codes are scored by cosine or dot product, and {c.path} has metric='l2'")
    job = {"configuration": configuration.to_dict(), "encoder": encoder, "from": stored.space.fingerprint}
    _maker(c, job, stored)
    if unfinished(c) != job:
        abandon(c)
        with c._catalog.write():
            c._catalog.set(JOB, job)
    return job


def abandon(c: Handle) -> bool:
    """Drop an unfinished job. Returns whether there was one."""
    there = unfinished(c) is not None
    if there:
        with c._catalog.write():
            c._catalog.run("DELETE FROM settings WHERE key=?", (JOB,))
    shutil.rmtree(c.path / FOLDER, ignore_errors=True)
    return there


def finish(c: Handle, *, progress: bool = False) -> dict[str, int]:
    """Do what `begin` wrote down.

    Returns:
        Bytes of the dense space before and after.
    """
    with c._mutex, c._writing():
        job, stored = unfinished(c), c._snapshot.spaces.get(DENSE)
        if job is None or stored is None:
            raise BadInput(f"no arrangement of {c.path} is under way; begin one")
        if job["from"] != stored.space.fingerprint:
            abandon(c)
            raise InlayError(f"{c.path} has another model's vectors than when this was begun; tune it again")
        maker = _maker(c, job, stored)
    try:
        if maker is not None and not _make(c, maker, progress):
            return {}
        with c._mutex:
            c._state = None
            chunks, rows = _staged(c) if maker is not None else dense_view(c, c._snapshot).vectors()
        if not len(chunks):
            raise BadInput(f"{c.path} holds no passage with a vector; add documents, or embed them")
        metric = stored.space.metric if maker is None or not job["encoder"] else maker.space.metric
        configuration = Configuration.from_dict(job["configuration"])
        from inlay.indexes.shelf import Shelf

        index = Shelf(rows, metric).arranged(configuration)  # outside the mutex: searches go on
    except BadInput:
        with c._mutex, c._writing():
            abandon(c)  # it would fail again
        raise
    with c._mutex, c._writing():
        c._state = None
        if unfinished(c) != job:
            raise InlayError(f"the arrangement of {c.path} was given up or replaced by another process meanwhile")
        return _switch(c, job, index, chunks, maker if job["encoder"] else None)


def _maker(c: Handle, job: dict[str, Any], stored: StoredSpace) -> Any:
    """What makes the rows; None where they are all there as they were made."""
    if job["encoder"]:
        from inlay.encoders import encoder as by_name

        made = by_name(job["encoder"])
        if stored.space.fingerprint == "given":
            raise BadInput(f"the vectors of {c.path} were brought from outside; no encoder can take their place")
        if made.space.kind != "dense" or not made.space.dim or made.space.metric == "l2":
            raise BadInput(f"{job['encoder']!r} does not make dense rows compared by cosine or dot product")
        return made if made.space.fingerprint != stored.space.fingerprint else _maker(c, job | {"encoder": ""}, stored)
    packs = [segment.pack for segment in c._snapshot.segments[DENSE]]
    if not any(is_thin(pack) or is_arranged(pack) for pack in packs):
        return None
    encoder = c._document_encoder()
    if encoder is None:
        raise BadInput(
            f"the vectors of {c.path} are not kept as they were, and no encoder is at hand to make them again"
        )
    return encoder


def _make(c: Handle, encoder: Any, progress: bool) -> bool:
    """Encode every passage that has not been, a batch at a time, each in a file of its own. False if it was stopped."""
    from tqdm import tqdm

    folder = c.path / FOLDER
    folder.mkdir(exist_ok=True)
    with c._mutex:
        alive = _alive(c)
    todo = np.setdiff1d(alive, _staged(c)[0])
    with tqdm(total=len(alive), initial=len(alive) - len(todo), unit="passage", disable=not progress,
              desc="encoding") as bar:  # fmt: skip
        for start in range(0, len(todo), BATCH):
            part = todo[start : start + BATCH]
            with c._mutex:
                passages = c._snapshot.passages(part.tolist())
            kept = [chunk for chunk in part.tolist() if chunk in passages]  # others were deleted meanwhile
            texts = [embeddable(p.metadata, p.heading, p.text) for p in map(passages.__getitem__, kept)]
            if kept:
                rows: np.ndarray = np.ascontiguousarray(encoded(encoder, texts), dtype=np.float32)
                data = pack_bytes({"chunks": np.array(kept, dtype=np.int64), "rows": rows})
                atomic_write(folder / f"{kept[0]}.safetensors", data)
            bar.update(len(part))
            if c._stop.is_set():
                return False  # the collection is being closed
    return True


def _staged(c: Handle) -> tuple[np.ndarray, np.ndarray]:
    """Passages that are still there and their rows, as far as they were made again; chunks ascend."""
    chunks, rows = [np.empty(0, dtype=np.int64)], []
    for path in sorted((c.path / FOLDER).glob("*.safetensors"), key=lambda path: int(path.stem)):
        try:
            pack = Pack(path.read_bytes(), str(path))
            chunks.append(np.array(pack["chunks"]))
            rows.append(np.array(pack["rows"]))
        except (Corrupt, KeyError, ValueError):
            path.unlink()  # it is made again
    every = np.concatenate(chunks)
    _, first = np.unique(every, return_index=True)
    with c._mutex:
        first = first[np.isin(every[first], _alive(c))]
    return every[first], np.concatenate(rows)[first] if rows else np.empty((0, 0), dtype=np.float32)


def _alive(c: Handle) -> np.ndarray:
    return np.array([row[0] for row in c._catalog.all("SELECT chunk FROM chunks ORDER BY chunk")], dtype=np.int64)


def _switch(c: Handle, job: dict[str, Any], index: Any, chunks: np.ndarray, encoder: Any) -> dict[str, int]:
    """Put the index in the place of the segments whose rows it has."""
    snapshot, stored, alive = c._snapshot, c._snapshot.spaces[DENSE], _alive(c)
    before = c._catalog.one("SELECT total(bytes) FROM segments WHERE space=?", (stored.number,))
    new, gone, owed = [store(c.path / "segments", arranged(index, chunks))], [], np.empty(0, dtype=np.int64)
    for segment in snapshot.segments[DENSE]:
        later = np.isin(segment.chunks, alive) & ~np.isin(segment.chunks, chunks)
        plain = encoder is None and not (is_thin(segment.pack) or is_arranged(segment.pack))
        if plain and later.all() and segment.rows:
            continue  # all of it was added meanwhile
        gone.append(segment.name)
        if plain and later.any():
            segment.pack.verify()
            new.append(store(c.path / "segments", merge(stored.space, [segment], [later])))
        elif later.any():
            owed = np.union1d(owed, segment.chunks[later])
    if encoder is not None:
        owed = np.setdiff1d(alive, chunks)
    with c._catalog.write():
        c._catalog.many("DELETE FROM segments WHERE segment=?", [(name,) for name in gone])
        for one in new:
            c._catalog.run("INSERT INTO segments VALUES(?,?,?,?,?,?)", one.record(stored.number))
        covered = [(stored.number, chunk) for chunk in chunks.tolist()]
        c._catalog.many("DELETE FROM pending WHERE space=? AND chunk=?", covered)
        c._catalog.many("INSERT OR IGNORE INTO pending VALUES(?,?)", [(stored.number, i) for i in owed.tolist()])
        # A compaction may have forgotten what was deleted meanwhile; the index has its rows.
        dead = np.setdiff1d(chunks, alive).tolist()
        c._catalog.many("INSERT OR IGNORE INTO tombstones VALUES(?)", [(chunk,) for chunk in dead])
        if encoder is not None:
            space, spec = encoder.space, getattr(encoder, "spec", None)
            c._catalog.run(
                "UPDATE spaces SET dim=?, metric=?, fingerprint=?, spec=? WHERE space=?",
                (space.dim, space.metric, space.fingerprint, None if spec is None else json.dumps(spec), stored.number),
            )
        c._catalog.run("DELETE FROM settings WHERE key=?", (JOB,))
    if encoder is not None:
        c._encoder, c._maker, c._map = encoder, None, None
    c._state = None
    shutil.rmtree(c.path / FOLDER, ignore_errors=True)
    sweep(c.path / "segments", {row[0] for row in c._catalog.all("SELECT segment FROM segments")})
    after = c._catalog.one("SELECT total(bytes) FROM segments WHERE space=?", (stored.number,))
    return {"before": int(before), "after": int(after)}
