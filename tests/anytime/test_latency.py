"""Are all calls made in every round, in changing orders, the warm-up left out, and the threads as they were afterwards?"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from tipslib.anytime.latency import fixed_threads, measure
from tipslib.errors import InvalidInput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which stands still but for what calls add to it."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_each_call_is_timed_once_a_round_and_the_warm_up_is_left_out(clock: list[float]) -> None:
    made: list[int] = []

    def call(number: int) -> None:
        made.append(number)
        # the first two rounds are ten times as slow
        clock[0] += (number + 1) * (0.01 if len(made) <= 6 else 0.001)

    found = measure([lambda i=i: call(i) for i in range(3)], rounds=5, seed=0)  # type: ignore[misc]
    np.testing.assert_allclose(found, np.repeat([[1.0], [2.0], [3.0]], 5, axis=1))
    turns = np.array(made).reshape(7, 3)
    assert all(sorted(turn) == [0, 1, 2] for turn in turns.tolist())
    assert len({tuple(turn) for turn in turns.tolist()}) > 2


def test_the_orders_follow_from_the_seed() -> None:
    def orders(seed: int) -> list[int]:
        made: list[int] = []
        measure([lambda i=i: made.append(i) for i in range(5)], rounds=4, seed=seed, warm_up=0)  # type: ignore[misc]
        return made

    assert orders(0) == orders(0) != orders(1)
    assert len(orders(0)) == 20


def test_threads_are_set_and_set_back() -> None:
    before = torch.get_num_threads()
    seen = []

    def fails() -> None:
        with fixed_threads(before + 1):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"calls": []}, "at least one"), ({"rounds": 0}, "rounds = 0"), ({"warm_up": -1}, "warm_up = -1")],
)
def test_bad_input_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        measure(**({"calls": [list], "rounds": 1, "seed": 0} | asked))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="threads = 0"), fixed_threads(0):
        pass
