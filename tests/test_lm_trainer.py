"""The loop that trains decoders: what it sees, what it moves, and how it goes on after a kill."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt

torch = pytest.importorskip("torch")

from inlay.lm import Decoder, Packed, Trainer, encode, learn_tokenizer, split_documents, stem_decoder  # noqa: E402
from inlay.lm import validation_loss as validate  # noqa: E402
from inlay.lm.text import SEPARATOR, fingerprint  # noqa: E402
from inlay.lm.trainer import rate, table_parameters, token_losses  # noqa: E402
from inlay.tables import Compositional, Hashed  # noqa: E402

V = 40
TEXT = np.random.default_rng(0).integers(0, V, 4000)


def small(seed: int = 0, **options):
    torch.manual_seed(seed)
    return stem_decoder(V, 16, 2, 2, where=[1], hidden=24, context=32, **options)


def trainer(model, folder=None, **options):
    settings = {"steps": 12, "length": 16, "batch": 4, "warmup": 3, "checkpoint_every": 4, "log_every": 2} | options
    return Trainer(model, TEXT, folder=folder, **settings)


# ---- text and windows


@given(st.integers(30, 400), st.integers(1, 12), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_reads_each_window_once(n, length, batch, seed):
    text = np.arange(max(n, 2 * length + 1))
    packed = Packed(text, length, batch, seed)
    rows = torch.cat([packed(step)[0] for step in range(-(-packed.windows // batch))])[: packed.windows]
    assert len(rows.flatten().unique()) == packed.windows * length
    ids, targets = packed(1)
    assert torch.equal(ids + 1, targets)
    assert torch.equal(Packed(text, length, batch, seed)(1)[0], ids)  # of step and seed alone, whatever came before


def test_windows_of_another_seed_or_epoch_are_others():
    text = np.arange(1000)
    assert not torch.equal(Packed(text, 10, 4, 0)(0)[0], Packed(text, 10, 4, 1)(0)[0])
    packed = Packed(text, 10, 98, 0)
    first, second = packed(0)[0], packed(1)[0]
    assert not torch.equal(first, second)


def test_any_text_is_told_back_and_documents_begin_with_the_separator():
    tokenizer = learn_tokenizer(["the cat sat on the mat " * 20, "and the dog barked at it " * 20], 270)
    texts = ["the cat barked", "naïve 日本語 \t 🙂\n", ""]
    ids = encode(texts, tokenizer)
    starts = np.flatnonzero(ids == tokenizer.token_to_id(SEPARATOR))
    assert len(starts) == 3
    assert ids[0] == 0
    parts = [tokenizer.decode(part[1:].tolist()) for part in np.split(ids, starts[1:])]
    assert parts == texts
    assert fingerprint(tokenizer) == fingerprint(type(tokenizer).from_str(tokenizer.to_str()))
    other = learn_tokenizer(["the cat sat on the mat " * 20, "and the dog barked at it " * 20], 265)
    assert fingerprint(tokenizer) != fingerprint(other)


def test_a_split_keeps_documents_whole():
    texts = [str(i) for i in range(57)]
    train, valid = split_documents(texts, 0.1)
    assert sorted(train + valid) == sorted(texts)
    assert 5 <= len(valid) <= 6
    assert split_documents(["a", "b"]) == (["a"], ["b"])


def test_what_no_text_is():
    for call in (
        lambda: learn_tokenizer(["a"], 100),
        lambda: learn_tokenizer(["ab"], 4096),
        lambda: encode("one", None),  # type: ignore[arg-type]
        lambda: split_documents(["one"]),
        lambda: split_documents(["a", "b"], 1.5),
        lambda: Packed(np.arange(10), 8, 2),
        lambda: Packed(np.zeros((3, 3)), 1, 1),
        lambda: Packed(np.arange(100), 0, 2),
        lambda: Packed(np.random.default_rng(0).random(100), 4, 2),
    ):
        with pytest.raises(BadInput):
            call()


# ---- the loop


def test_the_schedule_rises_falls_and_ends_at_its_floor():
    shares = [rate(step, 100, 10, 0.1) for step in range(100)]
    assert shares[0] == 0.1
    assert shares[9] == 1.0
    assert shares == sorted(shares[:10]) + sorted(shares[10:], reverse=True)
    assert math.isclose(rate(100, 100, 10, 0.1), 0.1)


def test_it_learns_what_can_be_learnt_and_logs_it():
    text = np.tile(np.arange(V), 100)  # a circle: the next id is certain
    model = small()
    log = Trainer(
        model, text, steps=60, length=16, batch=8, warmup=5, lr=1e-2, validation=text[:500], validate_every=30
    ).run()
    assert log[-1]["validation"] < 0.5 < 2 < log[0]["loss"]
    assert [line["step"] for line in log if "validation" in line] == [30, 60]
    assert log[-1]["tokens"] == 60 * 16 * 8
    assert log[-1]["flops"] == 60 * log[0]["flops"] / log[0]["step"]
    assert 0 < log[-1]["table_bytes"] <= 60 * V * 24 * 4


def test_nothing_leaks_from_the_ids_that_are_to_be_predicted():
    ids = torch.randint(V, (40_000,), generator=torch.Generator().manual_seed(1))
    model = small(start="scaled_normal")
    log = Trainer(model, ids, steps=100, length=16, batch=8, warmup=5, lr=1e-2, log_every=1).run()
    assert min(line["loss"] for line in log) > math.log(V) - 0.15
    assert np.mean([line["loss"] for line in log[50:]]) > math.log(V) - 0.05


def test_validation_is_the_mean_over_windows():
    model = small()
    text = TEXT[:100]
    losses = [
        model.loss(torch.tensor(text[None, i : i + 16]), torch.tensor(text[None, i + 1 : i + 17])).item()
        for i in range(0, 96, 16)
    ]
    assert validate(model, text, 16) == pytest.approx(np.mean(losses), abs=1e-5)
    assert token_losses(model, text, 16).shape == (6, 16)


def test_tables_have_an_optimiser_and_a_clip_of_their_own(monkeypatch):
    rows, dense = table_parameters(small())
    assert (len(rows), len(dense)) == (1, 0)
    assert rows[0].shape == (V, 24)
    composed = small(table=lambda rows, width: Compositional(rows, width, collisions=4, min_rows=0))
    rows, dense = table_parameters(composed)
    assert not rows
    assert dense
    one = trainer(composed)
    assert not {id(p) for p in one.backbone} & {id(p) for p in dense}
    assert one.run()[-1]["step"] == 12
    seen = []
    usual = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda ps, most: seen.append({id(p) for p in ps}) or usual(ps, most)
    )
    model = small()
    trainer(model, steps=1).run()
    assert len(seen) == 1  # RowAdam clips its tables itself
    assert not seen[0] & {id(p) for p in table_parameters(model)[0]}


def test_rows_that_are_never_read_owe_all_of_their_decay_and_pay_it_at_the_end():
    text = np.concatenate([np.full(20, 1), np.tile([2, 3, 4], 1500)])
    model = small(start="scaled_normal")
    table = table_parameters(model)[0][0]
    start = table.detach().clone()
    Trainer(model, text, steps=6, length=16, batch=4, warmup=3, lr=1e-2).run()
    shares = [1e-2 * rate(step, 6, 3, 0.1) * 0.1 for step in range(6)]
    torch.testing.assert_close(table[30], start[30] * math.prod(1 - share for share in shares), rtol=1e-5, atol=1e-8)
    assert not torch.equal(table[2], start[2])


@pytest.mark.parametrize("kind", ["hashed", "composed"])
def test_tables_that_share_rows_are_learnt_by_row(kind):
    """By row-sparse gradients as by dense ones: every row owes the same decay, and pays it before it is read."""
    makes = {
        "hashed": lambda sparse: lambda rows, width: Hashed(rows, width, buckets=7, sparse=sparse),
        "composed": lambda sparse: (
            lambda rows, width: Compositional(rows, width, collisions=4, min_rows=0, sparse=sparse)
        ),
    }
    losses = {}
    for sparse in (True, False):
        model = small(table=makes[kind](sparse))
        assert bool(table_parameters(model)[0]) is sparse
        losses[sparse] = trainer(model, clip=1e9, steps=8).run()[-1]["loss"]
    assert losses[True] == pytest.approx(losses[False], abs=1e-3)


# ---- going on


def test_a_run_that_was_cut_goes_on_to_the_same_numbers(tmp_path: Path):
    whole = small()
    log = trainer(whole, tmp_path / "whole").run()
    script = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_lm_trainer import small, trainer
        import torch; torch.set_num_threads(1)
        def watch(line):
            if line["step"] == 6:
                os.kill(os.getpid(), signal.SIGKILL)
        trainer(small(), Path({str(tmp_path / "cut")!r}), watch=watch).run()
    """)
    killed = subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    model = small(seed=5)  # whatever it begins with, the checkpoint replaces it
    one = trainer(model, tmp_path / "cut")
    rest = one.run()
    assert [line["step"] for line in rest] == [line["step"] for line in log]
    assert [line["loss"] for line in rest] == [line["loss"] for line in log]
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    written = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in written] == [line["step"] for line in log]
    assert trainer(small(), tmp_path / "cut").run() == rest  # nothing left to do


def test_a_run_that_was_cut_before_its_first_checkpoint_begins_anew(tmp_path: Path):
    class Cut(Exception):
        pass

    def watch(line):
        raise Cut

    with pytest.raises(Cut):
        trainer(small(), tmp_path, watch=watch, checkpoint_every=50).run()
    assert not (tmp_path / "checkpoint").exists()
    log = trainer(small(), tmp_path).run()
    written = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in written] == [line["step"] for line in log] == [2, 4, 6, 8, 10, 12]


def test_a_folder_of_another_run_is_refused(tmp_path: Path):
    trainer(small(), tmp_path, identity="one").run()
    with pytest.raises(BadInput, match="another plan or tokenizer"):
        trainer(small(), tmp_path, identity="other").run()
    with pytest.raises(BadInput, match="another lr"):
        trainer(small(), tmp_path, identity="one", lr=1e-2).run()
    assert trainer(small(), tmp_path, identity="other").run(resume=False)[0]["step"] == 2
    data = bytearray((tmp_path / "checkpoint").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "checkpoint").write_bytes(data)
    with pytest.raises(Corrupt):
        trainer(small(), tmp_path, identity="other").run()


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"length": 64},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"clip": -1.0},
        {"batch": 0},
        {"max_minutes": -1},
    ],
)
def test_what_cannot_be_trained(options):
    with pytest.raises(BadInput):
        trainer(small(), **options)


def test_a_text_of_another_tokenizer_is_refused():
    with pytest.raises(BadInput, match="another tokenizer"):
        Trainer(Decoder(20, 16, 1, 2, context=32), TEXT, length=16)
    with pytest.raises(BadInput, match="token -1"):
        Trainer(Decoder(V, 16, 1, 2, context=32), TEXT - 1, length=16)


def test_a_loss_that_bursts_is_named():
    model = small()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(BadInput, match="not finite"):
        trainer(model).run()
