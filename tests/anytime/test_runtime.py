"""Does an anytime network choose as a search by hand would, switch between two passes and never within one, and believe no wrong file?"""

from __future__ import annotations

import json
import math
import shutil
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tipslib.anytime.elastic import Supernet, make_elastic
from tipslib.anytime.layers import Statistics
from tipslib.anytime.runtime import AnytimeNetwork, Subnetwork
from tipslib.anytime.supernets import mobilenet_v2_supernet
from tipslib.errors import CorruptFile, InvalidInput, StorageError, TipslibError
from tipslib.records import canonical


class Residual(nn.Module):
    """A stem, a depthwise block with a shortcut, a head."""

    def __init__(self, stride: int = 1, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, stride, 1, bias=False), nn.BatchNorm2d(12), activation())
        self.block = nn.Sequential(
            *(nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24), activation()),
            *(nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24), activation()),
            *(nn.Conv2d(24, 12, 1, bias=False), nn.BatchNorm2d(12)),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.block(x))


def supernet(seed: int = 0, **changes: Any) -> Supernet:
    torch.manual_seed(seed)
    net = make_elastic(Residual(**changes), (3, 8, 8), lowest=0.25)
    for norm in net.batch_norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        norm.num_batches_tracked += 1  # as if it had been trained
    return net


def statistics_of(net: Supernet, widths: tuple[int, ...], seed: int) -> Statistics:
    """Made-up ones of the right shapes, read off the exported network."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in net.export(widths).modules() if isinstance(m, nn.BatchNorm2d)]
    pairs = [(torch.randn(m.num_features, generator=generator), 0.5 + torch.rand(m.num_features, generator=generator)) for m in norms]
    return Statistics(tuple(pairs))


WIDTHS = (0.25, 0.5, 0.75, 1.0)


def offered(net: Supernet, **changes: Any) -> list[Subnetwork]:
    """Four, ever larger, more accurate and slower."""
    rows = []
    for i, ratio in enumerate(WIDTHS):
        widths = net.space.at(ratio)
        row = {"accuracy": 0.5 + i / 10, "statistics": statistics_of(net, widths, i), "milliseconds": 1.0 + i} | changes
        rows.append(Subnetwork(widths, **row))
    return rows


def anytime(seed: int = 0, **changes: Any) -> AnytimeNetwork:
    net = supernet(seed)
    return AnytimeNetwork(net, offered(net, **changes))


IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


# choosing


@given(
    accuracies=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    times=st.lists(st.integers(1, 6), min_size=8, max_size=8),
    budget=st.floats(0, 8),
    data=st.data(),
)
@settings(max_examples=200)
def test_the_choice_is_the_best_of_all_that_fit(accuracies: list[int], times: list[int], budget: float, data: st.DataObject) -> None:
    net = NET
    sizes = data.draw(st.lists(st.sampled_from(ALL), min_size=len(accuracies), max_size=len(accuracies), unique=True))
    rows = [Subnetwork(widths, accuracy / 6, None, float(time)) for widths, accuracy, time in zip(sizes, accuracies, times, strict=False)]
    made = AnytimeNetwork(net, rows)
    cost = {
        "ms": lambda s: s.milliseconds,
        "MACs": lambda s: net.macs(s.widths),
        "bytes": lambda s: sum(p.numel() * p.element_size() for p in net.export(s.widths).parameters()),
    }
    for unit, of in cost.items():
        allowed = budget * max(map(of, rows)) / 8
        fitting = [s for s in rows if of(s) <= allowed]
        if not fitting:
            before = made.active
            with pytest.raises(InvalidInput, match="the smallest subnetwork costs"):
                made.select(allowed, unit)  # type: ignore[arg-type]
            assert made.active is before
            continue
        chosen = made.select(allowed, unit)  # type: ignore[arg-type]
        assert of(chosen) <= allowed
        best = max(s.accuracy for s in fitting)
        assert chosen.accuracy == best
        assert of(chosen) == min(of(s) for s in fitting if s.accuracy == best)
        assert made.active is chosen
        assert net.widths == chosen.widths


NET, OTHER = supernet(), supernet(seed=9)
ALL = [(a, b) for a in NET.space.dimensions[0].choices[::2] for b in NET.space.dimensions[1].choices[::3]]


def test_costs_are_in_the_order_of_macs_and_what_they_say() -> None:
    made = anytime()
    assert list(made.costs()) == sorted(made.costs())
    assert made.costs("ms") == (1.0, 2.0, 3.0, 4.0)
    for s, macs, size in zip(made.subnetworks, made.costs("MACs"), made.costs("bytes"), strict=True):
        plain = made.net.export(s.widths)
        assert size == sum(p.numel() * p.element_size() for p in plain.parameters())
        assert macs == made.net.macs(s.widths)
    half = AnytimeNetwork(made.net.half(), list(made.subnetworks))
    assert [2 * size for size in half.costs("bytes")] == list(made.costs("bytes"))


def test_the_most_accurate_is_active_at_first_and_the_net_evaluates() -> None:
    net = supernet().train()
    made = AnytimeNetwork(net, offered(net)[:2])
    assert made.active is made.subnetworks[1]
    assert not net.training
    net.set_width(net.space.largest)
    assert made.active is None


@pytest.mark.parametrize("budget", [math.nan, -1.0, 0, 0.999])
def test_a_budget_below_every_subnetwork_is_refused_and_nothing_changes(budget: float) -> None:
    made = anytime()
    made.select(2.5, "ms")
    with pytest.raises(InvalidInput, match=r"the smallest subnetwork costs 1\.0"):
        made.select(budget, "ms")
    assert made.active is made.subnetworks[1]
    assert made.select(math.inf, "ms") is made.subnetworks[3]


def test_units_that_are_unknown_or_not_measured_are_refused() -> None:
    made = anytime()
    with pytest.raises(InvalidInput, match="unit = 'joule'; allowed are MACs, ms, bytes"):
        made.select(1, "joule")  # type: ignore[arg-type]
    untimed = AnytimeNetwork(made.net, [made.subnetworks[0], replace(made.subnetworks[1], milliseconds=None)])
    for ask in (lambda: untimed.select(1, "ms"), lambda: untimed.costs("ms")):
        with pytest.raises(InvalidInput, match="not every subnetwork was timed"):
            ask()


def test_bad_subnetworks_are_refused() -> None:
    net = supernet()
    rows = offered(net)
    for bad, message in (
        ([], "at least one"),
        ([rows[0], rows[0]], "same widths"),
        ([replace(rows[0], widths=(1, 1))], "cannot have 1 channels"),
        ([replace(rows[0], statistics=rows[1].statistics)], "calibrate it anew"),
        ([replace(rows[0], statistics=Statistics(()))], "calibrate it anew"),
    ):
        with pytest.raises(InvalidInput, match=message):
            AnytimeNetwork(net, bad)
    for field, value in (("accuracy", 1.2), ("accuracy", math.nan), ("milliseconds", 0.0), ("milliseconds", math.inf)):
        with pytest.raises(InvalidInput, match=field):
            replace(rows[0], **{field: value})


# switching


def test_every_subnetwork_computes_what_its_exported_network_computes() -> None:
    made = anytime()
    for s, budget in zip(made.subnetworks, made.costs(), strict=True):
        assert made.select(budget) is s
        plain = made.net.export(s.widths, s.statistics).eval()
        with torch.no_grad():
            torch.testing.assert_close(made(IMAGES), plain(IMAGES))
    assert not made(IMAGES).requires_grad


def test_a_switch_touches_no_weights_and_copies_nothing() -> None:
    made = anytime()
    before = {name: (value.data_ptr(), value._version, value.clone()) for name, value in made.net.state_dict().items()}
    own = {s: [value.data_ptr() for pair in s.statistics.pairs for value in pair] for s in made.subnetworks if s.statistics}
    for budget in (1, 4, 2, 3, 1):
        chosen = made.select(budget, "ms")
        made(IMAGES)
        active = made.net.statistics
        assert active is not None
        assert [value.data_ptr() for pair in active.pairs for value in pair] == own[chosen]
    for name, value in made.net.state_dict().items():
        pointer, version, content = before[name]
        assert (value.data_ptr(), value._version) == (pointer, version)
        assert torch.equal(value, content)


def test_a_pass_runs_to_its_end_at_the_widths_it_began_with() -> None:
    """A switch in the middle of a pass, made by another thread while that pass stands still, changes nothing of it."""
    made = anytime()
    small, large = made.subnetworks[0], made.subnetworks[-1]
    made.select(made.costs()[0])
    expected = made(IMAGES)

    def meanwhile(of: nn.Module, given: Any, answer: Any) -> None:
        other = threading.Thread(target=made.select, args=(math.inf,))
        other.start()
        other.join()

    hook = made.net.body.get_submodule("block.2").register_forward_hook(meanwhile)
    found = made(IMAGES)
    hook.remove()
    assert made.active is large
    assert torch.equal(found, expected)
    assert not torch.equal(made(IMAGES), expected)
    assert small.statistics is not large.statistics


def test_switches_by_one_thread_never_mix_two_widths_in_the_passes_of_others() -> None:
    made = anytime()
    answers = []
    for budget in made.costs():
        made.select(budget)
        answers.append(made(IMAGES))
    stop, wrong, seen = threading.Event(), [], [set[int](), set[int](), set[int]()]

    def infer(number: int) -> None:
        while not stop.is_set():
            found = made(IMAGES)
            at = [i for i, answer in enumerate(answers) if torch.allclose(answer, found, rtol=1e-4, atol=1e-5)]
            if len(at) != 1:
                wrong.append(found)
            seen[number].update(at)

    def switch() -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(4000):
            made.select(made.costs()[int(torch.randint(4, (), generator=generator))])

    threads = [threading.Thread(target=infer, args=(i,)) for i in range(3)]
    switchers = [threading.Thread(target=switch) for _ in range(2)]
    for thread in (*threads, *switchers):
        thread.start()
    for thread in switchers:
        thread.join()
    # every thread goes on until it has seen more than one subnetwork
    for budget in (1, 4) * 200:
        if all(len(which) > 1 for which in seen):
            break
        made.select(budget, "ms")
        threading.Event().wait(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(len(which) > 1 for which in seen)


# files


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """JSON and checkpoint of `anytime()`."""
    path = tmp_path / "net.json"
    return path, anytime().save(path)


def same(one: AnytimeNetwork, other: AnytimeNetwork) -> bool:
    """Whether two anytime networks hold and compute the same."""
    if [(s.widths, s.accuracy, s.milliseconds) for s in one.subnetworks] != [
        (s.widths, s.accuracy, s.milliseconds) for s in other.subnetworks
    ]:
        return False
    for budget in one.costs():
        one.select(budget)
        other.select(budget)
        if not torch.equal(one(IMAGES), other(IMAGES)):
            return False
    return True


def test_an_untrained_supernet_is_refused_by_the_name_of_its_checkpoint(tmp_path: Path) -> None:
    network = anytime()
    for norm in network.net.batch_norms:
        norm.num_batches_tracked.zero_()
    checkpoint = network.save(tmp_path / "widths.json")
    with pytest.raises(InvalidInput, match=rf"{checkpoint.name}: of an untrained supernet: none of its 4 batch norms saw a batch"):
        AnytimeNetwork.load(tmp_path / "widths.json", supernet(1))
    # where one layer was trained alone, the network was
    network.net.batch_norms[-1].num_batches_tracked += 1
    network.save(tmp_path / "widths.json")
    AnytimeNetwork.load(tmp_path / "widths.json", supernet(1))


def test_what_is_loaded_is_what_was_saved(pair: tuple[Path, Path]) -> None:
    path, checkpoint = pair
    assert same(AnytimeNetwork.load(path, supernet(seed=9)), anytime())
    assert checkpoint.parent == path.parent
    assert checkpoint.name == f"net-{sha256(checkpoint.read_bytes()).hexdigest()[:12]}.safetensors"
    again = AnytimeNetwork.load(path, supernet(seed=9))
    first = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    again.save(path)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == first


def test_channels_last_half_precision_and_no_statistics_are_kept(tmp_path: Path) -> None:
    net = supernet().to(memory_format=torch.channels_last).double()
    made = AnytimeNetwork(net, offered(net, statistics=None, milliseconds=None))
    made.save(tmp_path / "net.json")
    loaded = AnytimeNetwork.load(tmp_path / "net.json", supernet(seed=3).double())
    made.select(made.costs()[1])
    loaded.select(made.costs()[1])
    assert torch.equal(loaded.net.state_dict()["body.stem.0.weight"], net.state_dict()["body.stem.0.weight"])
    torch.testing.assert_close(made(IMAGES.double()), loaded(IMAGES.double()))
    assert [s.statistics for s in loaded.subnetworks] == [None] * 4


def test_twelve_width_configurations_take_a_few_kilobytes(tmp_path: Path) -> None:
    net = mobilenet_v2_supernet(1.4, 224, 1000, floor="tips")
    rows = [Subnetwork(net.space.at(0.5 + i / 22), 0.6 + i / 100, None, 100.0 + i) for i in range(12)]
    AnytimeNetwork(net, rows).save(tmp_path / "net.json")
    assert (tmp_path / "net.json").stat().st_size < 4096


def test_a_save_that_is_cut_short_leaves_the_older_pair_whole(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from tipslib.anytime import storage

    path, _ = pair
    whole, written = storage.write_atomically, []

    def dies(target: Path, content: bytes) -> None:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        written.append(target)
        whole(target, content)

    monkeypatch.setattr(storage, "write_atomically", dies)
    with pytest.raises(KeyboardInterrupt):
        anytime(seed=5).save(path)
    assert len(written) == 1
    assert same(AnytimeNetwork.load(path, supernet(seed=9)), anytime())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        anytime().save(tmp_path / "file" / "net.json")


def test_a_pair_that_is_not_one_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    path, checkpoint = pair
    other = anytime(seed=5).save(tmp_path / "other" / "net.json")
    shutil.copy(other, checkpoint)
    with pytest.raises(CorruptFile, match=r"not the checkpoint that net.json was saved with"):
        AnytimeNetwork.load(path, supernet())
    checkpoint.unlink()
    with pytest.raises(CorruptFile, match=rf"{checkpoint.name}: no such file"):
        AnytimeNetwork.load(path, supernet())
    with pytest.raises(CorruptFile, match=r"nothing.json: no such file"):
        AnytimeNetwork.load(tmp_path / "nothing.json", supernet())
    with pytest.raises(StorageError, match="cannot be read"):
        AnytimeNetwork.load(tmp_path, supernet())


def other_input() -> Supernet:
    torch.manual_seed(0)
    return make_elastic(Residual(), (3, 16, 16), lowest=0.25)


def other_space() -> Supernet:
    torch.manual_seed(0)
    return make_elastic(Residual(), (3, 8, 8), lowest=0.5)


def other_shape() -> Supernet:
    module = Residual()
    module.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 6))
    return make_elastic(module, (3, 8, 8), lowest=0.25)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (other_input, r"another supernet: input \[3, 8, 8\] in the file, \[3, 16, 16\] in this one"),
        (other_space, r"another supernet: widths of dimension 0, stem.0: \[3, 4, .*\] in the file, \[6, .* in this one"),
        (other_shape, r"another supernet: tensor body.head.2.weight: torch.float32 \(5, 12\) in the file, torch.float32 \(6, 12\)"),
        (lambda: supernet(activation=nn.Sigmoid), "another supernet: layer stem.2: ReLU in the file, Sigmoid in this one"),
        (lambda: supernet().half(), "another supernet: tensor body.stem.0.weight: torch.float32 .* in the file, torch.float16"),
        (lambda: supernet(stride=2), r"another supernet: its subnetworks have \[\d+"),
    ],
)
def test_another_supernet_is_refused_with_the_difference_and_stays_as_it_was(pair: tuple[Path, Path], other: Any, message: str) -> None:
    net = other().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InvalidInput, match=message):
        AnytimeNetwork.load(pair[0], net)
    assert net.training
    assert net.widths == net.space.largest
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def rewritten(path: Path, **changes: Any) -> None:
    """The JSON with other content and a checksum that fits it: not damaged but wrong."""
    body = json.loads(path.read_bytes())
    del body["sha256"]
    body |= changes
    path.write_bytes(canonical(body | {"sha256": sha256(canonical(body)).hexdigest()}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2; this version reads 1"),
        ({"subnetworks": 5}, "not the widths"),
        ({"subnetworks": [5]}, "no subnetworks of this supernet"),
        ({"subnetworks": [{"widths": [3, 6]}]}, "no subnetworks of this supernet"),
        ({"subnetworks": [{"widths": [3, 25], "accuracy": 0.5, "ms": 1.0, "MACs": 1}]}, "cannot have 25 channels"),
        ({"subnetworks": [{"widths": "ab", "accuracy": 0.5, "ms": 1.0, "MACs": 1}]}, "no subnetworks of this supernet"),
        ({"subnetworks": [{"widths": [3, 6], "accuracy": "good", "ms": 1.0, "MACs": 1}]}, "no subnetworks of this supernet"),
        ({"checkpoint": 7}, "not the widths"),
        ({"checkpoint": "\0"}, "no such file"),
        ({"checkpoint": "../../etc/passwd"}, "passwd: no such file"),
    ],
)
def test_content_that_makes_no_sense_is_refused_even_with_a_checksum_that_fits(
    pair: tuple[Path, Path], changes: dict[str, Any], message: str
) -> None:
    rewritten(pair[0], **changes)
    with pytest.raises(CorruptFile, match=message):
        AnytimeNetwork.load(pair[0], supernet())


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"[" * 5000, b"\xff" * 64, b"not a checkpoint", b"\0" * 8, b"\2\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_checkpoint_is_refused_even_with_a_checksum_that_fits(pair: tuple[Path, Path], content: bytes) -> None:
    path, checkpoint = pair
    checkpoint.write_bytes(content)
    rewritten(path, **{"sha256 of checkpoint": sha256(content).hexdigest()})
    with pytest.raises(CorruptFile, match="no checkpoint"):
        AnytimeNetwork.load(path, supernet())
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match="not the widths"):
        AnytimeNetwork.load(path, supernet())


def test_statistics_that_are_missing_or_misshapen_are_refused(pair: tuple[Path, Path]) -> None:
    from safetensors.torch import load, save

    path, checkpoint = pair
    about = {
        "tipslib": json.loads(checkpoint.read_bytes()[8:][: int.from_bytes(checkpoint.read_bytes()[:8], "little")])["__metadata__"][
            "tipslib"
        ]
    }
    tensors = load(checkpoint.read_bytes())
    fewer = {name: value for name, value in tensors.items() if name != "statistics.1.2.mean"}
    for changed, message in (
        (fewer, "some statistics of subnetwork 1 are missing"),
        (tensors | {"statistics.1.2.mean": torch.zeros(1)}, "calibrate it anew"),
    ):
        content = save(changed, about)
        checkpoint.write_bytes(content)
        rewritten(path, **{"sha256 of checkpoint": sha256(content).hexdigest()})
        with pytest.raises(CorruptFile, match=message):
            AnytimeNetwork.load(path, supernet())


@given(which=st.integers(0, 1), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_anywhere_in_either_file_is_noticed(pair: tuple[Path, Path], which: int, place: float, bit: int) -> None:
    path = pair[which]
    content = path.read_bytes()
    at = int(place * len(content))
    path.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
    try:
        with pytest.raises(CorruptFile):
            AnytimeNetwork.load(pair[0], NET)
    finally:
        path.write_bytes(content)


@given(which=st.integers(0, 1), data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_that_are_cut_lengthened_or_scribbled_on_are_refused_or_mean_the_same(
    pair: tuple[Path, Path], which: int, data: st.DataObject
) -> None:
    path = pair[which]
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 64)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=64)) + content[end:])
    try:
        loaded = AnytimeNetwork.load(pair[0], OTHER)
    except TipslibError:
        return
    finally:
        path.write_bytes(content)
    assert same(loaded, anytime())
