"""The reproduction of `inlay tune`: its verdict by the figures, and a small collection measured from end to end."""

import copy

import pytest

import inlay
from inlay.evaluation.tuning_sample import Question
from inlay.reproductions import names
from inlay.reproductions.evaluation import tune

CASE = {"exhaustive": "a", "halving": "b", "share of the best": 0.995, "time": 0.2, "work": 0.2}
ONE = {
    "passages": 100, "queries": 10, "measure": "ndcg@10", "configurations": 80, "exhaustive_seconds": 9.0,
    "budgets": {"1/8": CASE, "1/24": CASE},
    "promised": {"quality": 0.6, "bytes": 1_000_000, "ms": 0.1},
    "delivered": {"quality": 0.6, "bytes": 1_050_000, "ms": 0.1, "before": 9_000_000},
}  # fmt: skip


def changed(*path, to):
    found = {"one": copy.deepcopy(ONE), "two": copy.deepcopy(ONE)}
    at = found["two"]
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = to
    return found


def test_it_is_found_by_name():
    assert "tune" in names()


@pytest.mark.parametrize(
    ("path", "to", "expected"),
    [
        (("passages",), 100, (True, True, True)),
        (("budgets", "1/24", "share of the best"), 0.98, (False, True, True)),
        (("budgets", "1/8", "time"), 0.26, (True, False, True)),
        (("delivered", "quality"), 0.58, (True, True, False)),
        (("delivered", "bytes"), 1_200_000, (True, True, False)),
    ],
)
def test_one_collection_that_falls_short_is_told(path, to, expected):
    found = changed(*path, to=to)
    checks, slowest = tune.judged(found)
    assert checks == expected
    assert slowest == max(case["time"] for one in found.values() for case in one["budgets"].values())
    said = tune._detail(found, checks)
    assert said.count("Yes: ") == sum(expected)
    assert said.count("No: ") == 3 - sum(expected)


def test_a_small_collection_is_tuned_and_keeps_its_promise(tmp_path):
    with inlay.open(tmp_path / "small.inlay", encoder="box?context=false") as c:
        words = ["river", "engine", "garden", "violin", "market", "winter", "bridge", "doctor"]
        c.add({"id": f"{i}", "text": f"{words[i % 8]} number {i} of the {words[i // 8 % 8]}"} for i in range(64))
        c.embed()
    asked = [Question(f"{word} number {i}", {str(i): 1}) for i, word in enumerate(words)]
    one = tune._measured(tmp_path / "small.inlay", asked, 0, tmp_path / "copy.inlay", False)
    assert one["passages"] == 64
    assert set(one["budgets"]) == set(tune.BUDGETS)
    assert all(case["share of the best"] > 0 for case in one["budgets"].values())
    assert one["delivered"]["quality"] == pytest.approx(one["promised"]["quality"], abs=0.05)
