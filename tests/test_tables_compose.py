"""Any table goes wherever a table goes: under one small model, and swapped for its compiled form when it is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from inlay.lm import Decoder, stem_decoder  # noqa: E402
from inlay.tables import Compiled, Compositional, Full, Hashed, LowRank, Subspace, Table  # noqa: E402

VOCAB, DIM, HIDDEN = 60, 32, 64
TABLES: dict[str, Callable[[int, int], Table]] = {
    "full": lambda rows, dim: Full(rows, dim, scale=0.1),
    "quotient remainder": lambda rows, dim: Compositional(rows, dim, collisions=4, min_rows=0, scale=0.5),
    "hashed": lambda rows, dim: Hashed(rows, dim, buckets=20, hashes=2, scale=0.1),
    "low rank": lambda rows, dim: LowRank(rows, dim, rank=8),
    "subspace": lambda rows, dim: Subspace(rows, dim, parts=2),
}


def cycles() -> torch.Tensor:
    """Text whose next token follows from the present one."""
    return torch.stack([(torch.arange(17) * 7 + start) % VOCAB for start in range(0, VOCAB, 4)])


def trained(model: Decoder) -> tuple[float, float]:
    """Loss before and after some steps."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    text, losses = cycles(), []
    for _ in range(30):
        loss = model.loss(text[:, :-1], text[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


@pytest.mark.parametrize("name", TABLES)
def test_a_model_learns_over_any_table(name: str) -> None:
    torch.manual_seed(0)
    model = Decoder(VOCAB, DIM, 1, 2, hidden=HIDDEN, input=TABLES[name](VOCAB, DIM))
    before, after = trained(model)
    assert after < before / 2


@pytest.mark.parametrize("name", TABLES)
def test_stem_reads_any_table(name: str) -> None:
    torch.manual_seed(0)
    model = stem_decoder(VOCAB, DIM, 2, 2, hidden=HIDDEN, table=TABLES[name])
    before, after = trained(model)
    assert after < before / 2
    table = model.blocks[1].feed_forward.table
    assert any(p.grad is not None and bool(p.grad.any()) for p in table.parameters())


@pytest.mark.parametrize("name", TABLES)
def test_a_saved_model_reads_the_compiled_table(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = stem_decoder(VOCAB, DIM, 2, 2, hidden=HIDDEN, table=TABLES[name])
    trained(model)
    part = model.blocks[1].feed_forward
    torch.save(model.state_dict(), tmp_path / "model.pt")
    part.table.compiled().save(tmp_path / "table")

    again = stem_decoder(VOCAB, DIM, 2, 2, hidden=HIDDEN, table=TABLES[name])
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    again.blocks[1].feed_forward.table = Compiled.load(tmp_path / "table")
    text = cycles()[:, :-1]
    torch.testing.assert_close(again(text).logits, model(text).logits, atol=1e-5, rtol=0)
    assert not any(p.requires_grad for p in again.blocks[1].feed_forward.table.parameters())
