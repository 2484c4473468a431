"""What keeps a collection well: vectors that are owed, rows kept in fewer bytes, merging, checking, repairing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.collection.compaction import compact
from inlay.collection.handle import Handle
from inlay.collection.pending import fill
from inlay.collection.segment import store, sweep
from inlay.collection.snapshot import DENSE, StoredSpace, embeddable
from inlay.errors import BadInput, InlayError

if TYPE_CHECKING:
    from inlay.indexes.configuration import Configuration

__all__ = ["Upkeep"]


class Upkeep(Handle):
    """The part of a `Collection` that changes how things are kept, and not what is in it."""

    def embed(self, *, limit: int | None = None, progress: bool = False, background: bool = False) -> int:
        """Make the vectors that an expensive encoder still owes. Can be stopped at any time and called again.

        Args:
            limit: at most so many passages.
            progress: show a progress bar.
            background: do it in a thread that ends with `close()`; returns at once.

        Returns:
            How many were made (0 with `background`).
        """
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise BadInput(f"limit is a number of passages or None, got {limit!r}")
        with self._mutex:
            stored = self._snapshot.spaces.get(DENSE)
            if stored is None or not self._snapshot.pending(DENSE):
                return 0
            with self._writing():
                if DENSE not in self._encoders():
                    raise InlayError(f"the encoder of {self.path} is not at hand: open it with encoder= to embed")
        if background:
            if self._background is None or not self._background.is_alive():
                self._stop.clear()
                self._background = threading.Thread(target=self._embed, args=(stored, None, False), daemon=True)
                self._background.start()
            return 0
        return self._embed(stored, limit, progress)

    def _embed(self, stored: StoredSpace, limit: int | None, progress: bool) -> int:
        from tqdm import tqdm

        done = 0
        with self._mutex:
            due = self._snapshot.pending(DENSE)
        with tqdm(
            total=due if limit is None else min(due, limit), unit="passage", disable=not progress, desc="embedding"
        ) as bar:
            while not self._stop.is_set() and (limit is None or done < limit):
                # One batch at a time under the mutex: searches go on in between, an interrupt loses one batch.
                with self._mutex, self._writing():
                    size = 64 if limit is None else min(64, limit - done)
                    made = fill(self._catalog, self.path, stored, self._encoders()[stored.name], size)
                    self._state = None
                    done += made
                    if not made:
                        compact(self._catalog, self.path)
                        break
                bar.update(made)
        return done

    def thin(self, *, progress: bool = False) -> dict[str, int]:
        """Throw the dense vectors away and keep a graph and product codes: a few per cent of the text's bytes (LEANN).

        From then on a search makes the vectors of some hundred passages again, which takes a cheap encoder; what is
        added later has vectors as before, until this is called again.

        Returns:
            Bytes of the dense space before and after.

        Raises:
            BadInput: the vectors were brought from outside or are not dense, or there are too few.
        """
        from inlay.collection.thin_rows import thinned

        with self._mutex, self._writing():
            snapshot, stored = self._snapshot, self._snapshot.spaces.get(DENSE)
            encoder = None if stored is None else self._document_encoder()
            if stored is None or stored.space.kind != "dense" or encoder is None or stored.space.metric == "l2":
                raise BadInput(f"{self.path} has no dense vectors that an encoder at hand can make again")
            chunks = np.array([row[0] for row in self._catalog.all("SELECT chunk FROM chunks ORDER BY chunk")])
            passages = snapshot.passages(chunks.tolist())
            texts = [embeddable(p.metadata, p.heading, p.text) for p in map(passages.__getitem__, chunks.tolist())]
            arrays = thinned(encoder, chunks.astype(np.int64), texts, progress=progress)
            before = self._catalog.one("SELECT total(bytes) FROM segments WHERE space=?", (stored.number,))
            kept = store(self.path / "segments", arrays)
            with self._catalog.write():
                for table in ("segments", "pending"):
                    self._catalog.run(f"DELETE FROM {table} WHERE space=?", (stored.number,))
                self._catalog.run("INSERT INTO segments VALUES(?,?,?,?,?,?)", kept.record(stored.number))
            self._state = None
            sweep(self.path / "segments", {row[0] for row in self._catalog.all("SELECT segment FROM segments")})
        return {"before": int(before), "after": kept.nbytes}

    def arrange(
        self, configuration: Configuration | None = None, *, encoder: str = "", progress: bool = False,
        background: bool = False,
    ) -> dict[str, int]:  # fmt: skip
        """Keep and search the dense rows as a configuration says, for instance one that `inlay tune` recommends.

        The old rows answer until the new ones are ready; a job that was interrupted goes on when this is called again.
        What is added later has rows as before, until the collection is arranged again.

        Args:
            configuration: how rows are kept and searched; None goes on with the job that was begun.
            encoder: name of another encoder to take the place of the collection's; every passage is encoded again.
            progress: show a progress bar.
            background: do it in a thread that ends with `close()`; returns at once.

        Returns:
            Bytes of the dense space before and after (nothing with `background`).

        Raises:
            BadInput: the rows do not allow it, or cannot be made again; nothing is changed.
        """
        from inlay.collection import arrangement

        with self._mutex, self._writing():
            if configuration is not None:
                arrangement.begin(self, configuration, encoder)
        if not background:
            return arrangement.finish(self, progress=progress)
        if self._background is None or not self._background.is_alive():
            self._stop.clear()
            self._background = threading.Thread(target=arrangement.finish, args=(self,), daemon=True)
            self._background.start()
        return {}

    @property
    def arrangement(self) -> dict[str, Any] | None:
        """The job of `arrange` that was begun and is not done: its configuration and encoder; None if there is none."""
        from inlay.collection.arrangement import unfinished

        with self._mutex:
            return unfinished(self)

    def abandon(self) -> bool:
        """Give up an unfinished `arrange`; the collection stays as it is. Returns whether there was one."""
        from inlay.collection.arrangement import abandon

        with self._mutex, self._writing():
            return abandon(self)

    def compact(self) -> int:
        """Merge the segments of each space into one and drop deleted rows. Returns how many were replaced."""
        with self._mutex, self._writing():
            replaced = compact(self._catalog, self.path, everything=True)
            self._state = None
            self._catalog.checkpoint()
        return replaced

    def verify(self, *, progress: bool = False) -> list[str]:
        """Read and check everything. Returns the problems, in words; none means that everything verifies."""
        from inlay.collection.doctor import verify

        with self._mutex:
            for _ in range(20):
                self.refresh()
                version = self._catalog.one("PRAGMA data_version")
                if not self._lock.held:
                    self._catalog.pin()
                try:
                    problems = verify(self._catalog, self.path, progress=progress)
                except FileNotFoundError as error:
                    problems = [f"{error.filename} is missing"]
                self._catalog.unpin()
                # A writer replaces segments while we read them: what is missing then was merely compacted.
                if not problems or self._catalog.one("PRAGMA data_version") == version:
                    break
            return problems

    def repair(self) -> list[str]:
        """Make again what can be made again from the stored text. Returns what was done, in words."""
        from inlay.collection.doctor import repair

        with self._mutex, self._writing() as writer:
            done = repair(self._catalog, self.path, writer)
            self._state = None
        return done
