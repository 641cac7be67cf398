"""Does the small supernet learn, and does it answer from its files as the search said it would?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tipslib.anytime import AnytimeNetwork
from tipslib.anytime.pareto import pareto_front
from tipslib.batches import Plain
from tipslib.data import load
from tipslib.experiments import small
from tipslib.experiments.offers import offered, searched
from tipslib.experiments.small import SIDE, supernet
from tipslib.profiles import PROFILES

SMOKE = PROFILES["smoke"]


def test_a_trained_supernet_answers_from_its_files_as_the_search_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    monkeypatch.setattr(small, "CANDIDATES", 20)
    offers = searched("small", "TIPS", "digits", 6, seed=0, profile=SMOKE)
    macs = [s["macs"] for s in offers.describe()]
    assert pareto_front(macs, offers.held_out).all()
    assert offers.test.max() > 0.9
    assert offers.test.max() > offers.test[0]
    assert offers.front is None
    offered(offers, torch.device("cpu")).save(tmp_path / "net.json")
    anytime = AnytimeNetwork.load(tmp_path / "net.json", supernet(10))
    ((images, labels),) = Plain(load("digits", "test", SMOKE), 1000, options={"size": SIDE, "channels": 3})
    right = []
    for budget in macs:
        anytime.select(budget)
        right.append(float((anytime(images).argmax(1) == labels).double().mean()))
    np.testing.assert_allclose(right, offers.test)
    # trained once: the second time the checkpoint serves
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "build" / "weights").iterdir()}
    again = searched("small", "TIPS", "digits", 6, seed=0, profile=SMOKE)
    np.testing.assert_array_equal(again.test, offers.test)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "build" / "weights").iterdir()} == before
