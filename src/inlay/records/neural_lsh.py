"""NLSHBlock: a learnt hash for blocking, "Neural Locality Sensitive Hashing for Entity Blocking" (arXiv 2401.18064).

A family of hashes is (R, cR, p1, p2)-sensitive if what is within R collides often and what is beyond cR seldom. Where
"near" is Jaccard or cosine, such families are known; where it is what labels or a rule of yours call a match, a network
learns one, by the loss

    max(R, |h(p) − h(q)|) − min(cR, |h(p) − h(r)|)      p, q a match; r a non-match

whose two hinges rest separately. Non-matches are those that were labelled, others of the batch, and the nearest of the
current hash, found anew before each epoch. The paper leaves |·|, R, c and the width open: here it is the Euclidean
distance of hashes of length 1, with R = 1 (a cosine of 0.5) and c = 1.2 (0.28), which did best on held-out matches of
Abt-Buy. On a sphere cR must stay below √2 or it is out of reach; `unit=False` leaves lengths free, for larger c.

The paper fine-tunes RoBERTa. Here a head learns on rows that stay as they are, which takes seconds and no model. On
hashed character n-grams, the default, it is a weight for each n-gram and for each kind of them (`hash_heads.Weights`):
two layers, as one would put on dense rows and as are put on those (`hash_heads.Layers`), learn some hundreds of matches
by heart and are then worse than no learning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inlay import sealed
from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import bar
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.records.blocking import block
from inlay.records.candidates import checked_pairs
from inlay.records.hash_heads import Layers, Weights, tensors
from inlay.records.hash_losses import LOSSES
from inlay.records.known_pairs import Labels, Rule, RuleLabels
from inlay.records.record_grams import RecordGrams
from inlay.records.serialisation import Record, Serialised, checked_records
from inlay.records.token_blocking import TokenBlocking
from inlay.types import Encoder, Space, Sparse

__all__ = ["NeuralLSH"]

KIND = "neural hash"
AT_ONCE = 1024
LABELLED = 2  # labelled non-matches of a record that are drawn for an epoch
RULE_TOKEN_PAIRS = 100  # a token that makes more pairs is too common to propose them to a rule


class NeuralLSH:
    """A hash of records that learns which are near.

    Args:
        encoder: makes the rows that the head reads: a `RecordGrams`, or an encoder of texts, which reads records
            serialised. None takes `RecordGrams`.
        out: numbers in a hash; None takes 2048 on n-grams, of which a hash must keep many apart, and 128 on dense rows.
        hidden: width of the layer before; on dense rows only.
        radius: R, the distance within which a match pulls no more.
        c: non-matches are pushed to c · R.
        loss: `nlsh`; `triplet` and `info_nce` are here to compare it with.
        epochs: passes over the matches.
        batch: matches in a step.
        lr: learning rate of Adam; None takes 0.01 for weights of n-grams and 0.001 for layers.
        hard: nearest non-matches of each record that are learnt from.
        unit: scale hashes to length 1; then cR must not be above √2.
        seed: of the first weights, and of the order.
    """

    def __init__(
        self, encoder: Any = None, *, out: int | None = None, hidden: int = 512, radius: float = 1.0, c: float = 1.2,
        loss: str = "nlsh", epochs: int = 10, batch: int = 256, lr: float | None = None, hard: int = 4,
        unit: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        if encoder is None:
            encoder = RecordGrams()
        elif not hasattr(encoder, "encode") and isinstance(encoder, Encoder):
            encoder = Serialised(encoder)
        if not isinstance(encoder, RecordGrams | Serialised):
            raise BadInput(f"a hash learns on RecordGrams, or on an encoder of texts, got {encoder!r}")
        grams = encoder.space.kind == "sparse"
        out = (2048 if grams else 128) if out is None else out
        lr = (0.01 if grams else 1e-3) if lr is None else lr
        given = {"out": out, "hidden": hidden, "epochs": epochs, "batch": batch, "hard": hard, "seed": seed}
        for name, value, least in zip(given, given.values(), (1, 1, 1, 2, 0, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadInput(f"{name} must be an integer of {least} or more, got {value!r}")
        for name, number, above in (("radius", radius, 0), ("c", c, 1), ("lr", lr, 0)):
            if isinstance(number, bool | str) or not above < number < float("inf"):
                raise BadInput(f"{name} must be a number above {above}, got {number!r}")
        if unit and c * radius > 2**0.5:
            raise BadInput(
                f"hashes of length 1 are hardly ever farther apart than √2, and c · radius is {c * radius:g}; "
                "take smaller ones, or unit=False"
            )
        if loss not in LOSSES:
            raise BadInput(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
        self.encoder = encoder
        self.settings: dict[str, Any] = {
            **given, "radius": float(radius), "c": float(c), "loss": loss, "lr": float(lr), "unit": bool(unit)
        }  # fmt: skip
        self.head: Weights | Layers | None = None
        self.scale = 1.0  # of hashes whose length is free
        self.losses: list[float] = []

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"NeuralLSH({self.encoder!r}, {said})"

    @property
    def space(self) -> Space:
        """Where hashes are comparable."""
        arrays = self._arrays()
        identity = fingerprint(KIND.replace(" ", "-"), self.settings, arrays.values()) if arrays else ""
        return Space("dense", self.settings["out"], "l2", identity)

    @property
    def nbytes(self) -> int:
        """Bytes of the head."""
        return sum(array.nbytes for array in self._arrays().values())

    def fit(
        self, records: Sequence[Record], matches: Iterable[tuple[int, int]] | None = None, *,
        other: Sequence[Record] | None = None, non_matches: Iterable[tuple[int, int]] = (), rule: Rule | None = None,
        progress: bool = False,
    ) -> NeuralLSH:  # fmt: skip
        """Learn from labelled pairs, or from a rule.

        Args:
            records: the first table, or the only one.
            matches: pairs of row numbers, of the first table and of the second (of the only one twice).
            other: the second table.
            non_matches: pairs that are none, where some are labelled.
            rule: says of two records whether they match; instead of labels. It is asked of likely pairs: those that
                share rare tokens, the nearest by n-grams, and those that come near while the hash learns.
            progress: show a progress bar on stderr.
        """
        a = checked_records(records)
        b = None if other is None else checked_records(other, "record of the second table")
        if (matches is None) == (rule is None):
            raise BadInput("a hash learns from matches or from a rule; give one of them")
        every = [*a, *(b or ())]
        sides = np.repeat(np.array([0, 1], np.int8), [len(a), len(b or ())])
        if not getattr(self.encoder, "fitted", False):
            self.encoder.fit(every)
        rows = self.encoder.encode(every)
        known: Labels | RuleLabels
        if rule is None:
            sizes, shift = (len(a), len(a) if b is None else len(b)), np.array([0, 0 if b is None else len(a)])
            positive = checked_pairs(matches, "match", sizes) + shift
            if not len(positive):
                raise BadInput("a hash cannot learn from no matches; give pairs, or a rule")
            known = Labels(len(every), positive, checked_pairs(non_matches, "non-match", sizes) + shift)
        else:
            known = RuleLabels(every, sides, rule, _likely(a, b))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings["seed"])
            self._learn(rows, sides, known, progress)
        return self

    def encode(self, records: Sequence[Record]) -> np.ndarray:
        """Hashes, float32 [n, out]."""
        if self.head is None:
            raise BadInput("this hash has learnt nothing; call fit before encode")
        return self._hashes(self.encoder.encode(checked_records(records)))

    def save(self, path: str | Path) -> None:
        """Write the head to one file, and what its own `RecordGrams` learnt; another encoder is named only."""
        if self.head is None:
            raise BadInput("this hash has learnt nothing; call fit before save")
        facts: dict[str, Any] = {"kind": KIND, "settings": self.settings, "losses": self.losses, "scale": self.scale}
        arrays = self._arrays()
        if isinstance(self.encoder, RecordGrams):
            facts["grams"], idf = self.encoder.state()
            arrays |= idf
        else:
            facts["on"] = self.encoder.space.fingerprint
            facts["columns"] = None if self.encoder.columns is None else list(self.encoder.columns)
        sealed.write(path, arrays, facts)

    @classmethod
    def load(cls, path: str | Path, encoder: Any = None) -> NeuralLSH:
        """Read what `save` wrote. A head on another encoder than `RecordGrams` needs that encoder again."""
        arrays, facts = sealed.read(path, KIND)
        try:
            if "grams" in facts:
                encoder = RecordGrams.of_state(facts["grams"], arrays)
            elif encoder is None:
                raise BadInput(f"the hash in {path} stands on {facts['on']}; give that encoder")
            elif encoder.space.fingerprint != facts["on"]:
                given = encoder.space.fingerprint
                raise SpaceMismatch(f"the hash in {path} stands on {facts['on']}, and the encoder given is {given}")
            else:
                encoder = Serialised(getattr(encoder, "encoder", encoder), facts["columns"])
            made = cls(encoder, **facts["settings"])
            state = {name: torch.from_numpy(arrays[name].copy()) for name in arrays if not name.startswith("idf.")}
            columns = state["logarithms" if "logarithms" in state else "projection"].shape[0]
            made.head = made._new_head(columns, "logarithms" in state)
            made.head.load_state_dict(state)
            made.scale = float(facts["scale"])
            made.losses = list(facts["losses"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, BadInput):
                raise
            raise Corrupt(f"{path} does not hold a whole hash ({error!r}); {sealed.REPAIR}") from None
        return made

    def _learn(self, rows: np.ndarray | Sparse, sides: np.ndarray, known: Labels | RuleLabels, progress: bool) -> None:
        s = self.settings
        self.head = self._new_head(rows.shape[1], isinstance(rows, Sparse))
        self._spread(rows)
        optimiser = torch.optim.Adam(self.head.parameters(), lr=s["lr"])
        loss_of, rng = LOSSES[s["loss"]], np.random.default_rng(s["seed"])
        self.losses = []
        with bar(s["epochs"], progress=progress, what="learning") as shown:
            for _ in range(s["epochs"]):
                learning = np.unique(known.matches) if isinstance(known, Labels) else np.arange(len(sides))
                hard = self._hard(rows, sides, known, learning, rng)
                pairs = known.matches[rng.permutation(len(known.matches))]
                total = 0.0
                for low in range(0, len(pairs), s["batch"]):
                    part = pairs[low : low + s["batch"]]
                    optimiser.zero_grad(set_to_none=True)
                    loss = self._loss(rows, part, hard, known.group, loss_of)
                    loss.backward()
                    optimiser.step()
                    total += float(loss.detach()) * len(part)
                self.losses.append(total / len(pairs))
                shown.update(1)

    def _loss(self, rows: Any, pairs: np.ndarray, hard: np.ndarray, group: np.ndarray, loss_of: Any) -> Tensor:
        s = self.settings
        own = hard[pairs]  # [B, 2, H]
        named, place = np.unique(np.concatenate([pairs.ravel(), np.maximum(own, 0).ravel()]), return_inverse=True)
        hashes = self._hashed(rows, named)
        at, r = place[: pairs.size].reshape(pairs.shape), hashes[place[pairs.size :].reshape(own.shape)]
        there, group_of = torch.from_numpy(own >= 0), torch.from_numpy(group[pairs])
        total = hashes.new_zeros(())
        for one, other in ((0, 1), (1, 0)):  # either record of a match looks for the other
            others = group_of[:, one][:, None] != group_of[:, other][None]
            p, q = hashes[at[:, one]], hashes[at[:, other]]
            total = total + loss_of(p, q, r[:, one], there[:, one], others, s["radius"], s["c"]) / 2
        return total

    def _hard(
        self, rows: Any, sides: np.ndarray, known: Labels | RuleLabels, learning: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Non-matches of each record, −1 where there are fewer: the nearest, and some of those that were labelled."""
        count, hard = len(sides), self.settings["hard"]
        out = np.full((count, hard + (LABELLED if known.non_matches else 0)), -1, np.int64)
        if hard:
            hashes = torch.from_numpy(self._hashes(rows))
            for side in np.unique(sides):
                asking = learning[sides[learning] == side]
                among = learning[sides[learning] != side] if sides.any() else learning
                for low in range(0, len(asking), AT_ONCE):
                    some = asking[low : low + AT_ONCE]
                    # Matches, and the record itself, stand among the nearest: as many more are looked at.
                    far = torch.cdist(hashes[some], hashes[among])
                    near = among[far.topk(min(2 * hard + 4, len(among)), largest=False).indices.numpy()]
                    wrong = known.consider(some, near) & (near != some[:, None])
                    order = np.argsort(~wrong, axis=1, kind="stable")[:, :hard]
                    found = np.where(np.take_along_axis(wrong, order, 1), np.take_along_axis(near, order, 1), -1)
                    out[some, : found.shape[1]] = found
        for row, those in known.non_matches.items():
            drawn = rng.permutation(those)[:LABELLED]
            out[row, hard : hard + len(drawn)] = drawn
        return out

    def _spread(self, rows: Any) -> None:
        """Where lengths are free, scale them so that half of all pairs begin beyond cR, which is where most belong."""
        self.scale = 1.0
        some = np.random.default_rng(0).permutation(rows.shape[0])[:AT_ONCE]
        if self.settings["unit"] or len(some) < 2:
            return
        with torch.no_grad():
            median = float(torch.pdist(self._hashed(rows, some)).median())
        self.scale = self.settings["c"] * self.settings["radius"] / median if median > 0 else 1.0

    def _hashed(self, rows: Any, which: np.ndarray) -> Tensor:
        assert self.head is not None
        hashes: Tensor = self.head(tensors(rows, which))
        return nn.functional.normalize(hashes, dim=-1) if self.settings["unit"] else hashes * self.scale

    def _hashes(self, rows: np.ndarray | Sparse) -> np.ndarray:
        out = np.empty((rows.shape[0], self.settings["out"]), np.float32)
        with torch.no_grad():
            for low in range(0, len(out), AT_ONCE):
                part = np.arange(low, min(low + AT_ONCE, len(out)))
                out[part] = self._hashed(rows, part).numpy()
        return out

    def _new_head(self, width: int, sparse: bool) -> Weights | Layers:
        s = self.settings
        if sparse:
            kinds = self.encoder.kinds if isinstance(self.encoder, RecordGrams) else [width]
            return Weights(kinds, s["out"])
        return Layers(width, s["out"], s["hidden"])

    def _arrays(self) -> dict[str, np.ndarray]:
        return {} if self.head is None else {name: t.detach().numpy() for name, t in self.head.state_dict().items()}


def _likely(a: list[Record], b: list[Record] | None) -> np.ndarray:
    """Pairs to ask a rule about at first: those of rare tokens, and the nearest by n-grams."""
    shift = 0 if b is None else len(a)
    found = [TokenBlocking(RULE_TOKEN_PAIRS).block(a, b), block(RecordGrams(), a, b, 10)]
    return np.unique(np.concatenate([np.stack([one.left, one.right + shift], 1) for one in found]), axis=0)
