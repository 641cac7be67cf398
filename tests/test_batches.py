"""Batches: every pixel against a loop over single images and torchvision's transforms; order and chance from seeds alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import functional as transforms

from tipslib.batches import PIXELS, Loader, Plain, batches, cut, epoch_generator, epoch_order, normalise, resident, resize
from tipslib.data import Dataset, load
from tipslib.errors import InvalidInput
from tipslib.processes import make_fabric
from tipslib.profiles import PROFILES
from tipslib.training import Recipe, fit


def dataset(count=10, height=6, width=5, depth=3, name="cifar10", seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width, depth), dtype=np.uint8)
    return Dataset(name, "train", images, np.arange(count) % 3, ("a", "b", "c"), "")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def collected(*arguments, **options):
    """All batches as one."""
    images, labels = zip(*batches(*arguments, **({"generator": generator()} | options)), strict=True)
    return torch.cat(images), torch.cat(labels)


@given(
    st.integers(1, 5), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3]), st.integers(0, 3), st.integers(0, 100), st.booleans()
)
@settings(max_examples=80)
def test_windows_equal_a_loop_over_images(count, height, width, depth, padding, seed, floating):
    g = generator(seed)
    images = torch.randint(256, (count, height, width, depth), generator=g, dtype=torch.uint8)
    images = images.float() / 7 if floating else images
    edges = tuple(int(torch.randint(1, side + 2 * padding + 1, (), generator=g)) for side in (height, width))
    tops, lefts = (
        torch.randint(side + 2 * padding - edge + 1, (count,), generator=g) for side, edge in zip((height, width), edges, strict=True)
    )
    mirrored = torch.randint(2, (count,), generator=g).bool()
    expected = torch.zeros(count, *edges, depth, dtype=images.dtype)
    for i in range(count):
        for y in range(edges[0]):
            for x in range(edges[1]):
                row = int(tops[i]) + y - padding
                column = int(lefts[i]) + (edges[1] - 1 - x if mirrored[i] else x) - padding
                if 0 <= row < height and 0 <= column < width:
                    expected[i, y, x] = images[i, row, column]
    assert torch.equal(cut(images, tops, lefts, mirrored, edges, padding), expected)


def test_training_batches_equal_torchvision_image_by_image():
    data = dataset(count=9, height=8, width=8)
    images, labels = collected(data, 4, crop_padding=2)
    g = generator()
    order = torch.randperm(9, generator=g)
    tops, lefts = (torch.randint(5, (9,), generator=g) for _ in range(2))
    mirrored = torch.randint(2, (9,), generator=g).bool()
    assert 0 < mirrored.sum() < 9
    pixels = PIXELS["cifar10"]
    for k, i in enumerate(order.tolist()):
        one = transforms.pad(torch.from_numpy(data.images[i].copy()).permute(2, 0, 1), [2])
        one = transforms.crop(one, int(tops[k]), int(lefts[k]), 8, 8)
        one = transforms.hflip(one) if mirrored[k] else one
        torch.testing.assert_close(images[k], transforms.normalize(one / 255, pixels.mean, pixels.std), rtol=1e-5, atol=1e-5)
        assert labels[k] == data.labels[i]


def test_test_batches_are_the_stored_images_normalised():
    data = dataset()
    images, labels = collected(data, 3, augment=False)
    mean, std = (np.array(values, dtype=np.float64) for values in (PIXELS["cifar10"].mean, PIXELS["cifar10"].std))
    np.testing.assert_allclose(images.permute(0, 2, 3, 1), (data.images / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    assert labels.tolist() == data.labels.tolist()
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("crop", [1, 4, 5, 6])
def test_the_middle_is_that_of_torchvision(crop):
    data = dataset(height=9, width=6)
    images, _ = collected(data, 4, augment=False, crop=crop, mean=[0.0], std=[1 / 255])
    expected = transforms.center_crop(torch.from_numpy(data.images.copy()).permute(0, 3, 1, 2), [crop])
    torch.testing.assert_close(images, expected.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [3, 8, 32])
def test_scaling_is_that_of_torchvision(size):
    images = torch.from_numpy(dataset(height=8, width=8).images.copy())
    expected = transforms.resize(images.permute(0, 3, 1, 2).float(), [size, size], antialias=True).permute(0, 2, 3, 1)
    torch.testing.assert_close(resize(images, (size, size)), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 64), (64, 8), (16, 16), (5, 7)])
@pytest.mark.parametrize("edges", [(8, 8), (16, 16), (16, 5), (5, 16)])
def test_scaling_one_side_up_and_the_other_down_is_that_of_pillow(shape, edges):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = Image.fromarray(image.astype(np.float32)).resize(edges[::-1], Image.Resampling.BILINEAR)
    found = resize(torch.from_numpy(image)[None, :, :, None], edges)
    np.testing.assert_allclose(found[0, :, :, 0].numpy(), np.asarray(expected), atol=1e-3)


@pytest.mark.parametrize("seed", [2**31, 2**32, 2**63, 2**64, 2**100])
def test_no_seed_is_too_large(seed):
    assert sorted(epoch_order(50, seed, 2**31).tolist()) == list(range(50))


def test_grey_images_are_repeated_on_request():
    data = dataset(depth=1, name="mnist")
    grey, _ = collected(data, 4, augment=False)
    colour, _ = collected(data, 4, augment=False, channels=3)
    assert grey.shape == (10, 1, 6, 5)
    assert torch.equal(colour, grey.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [None, 12])
def test_memory_order(augment, channels, size):
    data = dataset(height=6, width=6, depth=1, name="digits")
    options = {"augment": augment, "channels": channels, "size": size}
    for images, _ in batches(data, 4, generator=generator(), **options):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.permute(0, 2, 3, 1).is_contiguous()
    for images, _ in batches(data, 4, generator=generator(), channels_last=False, **options):
        assert images.is_contiguous()
    first, second = (collected(data, 4, channels_last=flag, **options)[0] for flag in (True, False))
    assert torch.equal(first, second)


def test_digits_are_not_mirrored_unless_asked():
    data = dataset(count=20, depth=1, name="digits")
    plain, _ = collected(data, 5, crop_padding=0)
    asked, _ = collected(data, 5, crop_padding=0, flip=True)
    changed = (plain != asked).flatten(1).any(1)
    assert 0 < changed.sum() < 20
    assert torch.equal(asked[changed], plain[changed].flip(3))
    stored, _ = collected(data, 5, augment=False, order=torch.randperm(20, generator=generator()))
    assert torch.equal(plain, stored)


@given(st.integers(1, 200), st.integers(0, 2**40), st.integers(0, 1000))
@settings(max_examples=60)
def test_an_epoch_visits_every_image_once_in_an_order_that_seed_and_epoch_decide(n, seed, epoch):
    order = epoch_order(n, seed, epoch)
    assert torch.equal(order.sort().values, torch.arange(n))
    torch.manual_seed(epoch)
    assert torch.equal(order, epoch_order(n, seed, epoch))


def test_orders_of_seeds_and_epochs_differ():
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
    assert epoch_generator(0, 1).initial_seed() != epoch_generator(1, 0).initial_seed()


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("augment", [True, False])
def test_skipping_batches_changes_nothing(first, augment):
    whole = list(batches(dataset(), 3, generator=generator(), augment=augment))
    later = list(batches(dataset(), 3, generator=generator(), augment=augment, first=first))
    assert len(later) == len(whole) - first
    for (x, y), (a, b) in zip(whole[first:], later, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)


def test_nothing_depends_on_the_global_generator_or_the_number_of_threads():
    data = dataset(count=64, height=32, width=32)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            found.append([collected(data, 32, size=size)[0] for size in (None, 24, 40)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            assert torch.equal(x, y)


def test_a_resident_data_set_gives_the_same_batches():
    data = dataset()
    for options in ({}, {"augment": False}, {"size": 9, "crop": 7}):
        for found, expected in zip(collected(resident(data, "cpu"), 4, **options), collected(data, 4, **options), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_device_gives_the_same_batches():
    data = dataset()
    found, labels = collected(resident(data, "cuda"), 4)
    expected, answers = collected(data, 4)
    torch.testing.assert_close(found.cpu(), expected)
    assert torch.equal(labels.cpu(), answers)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("count", [22, 17])  # of a last batch of one image most shares are empty
def test_shares_of_a_batch_make_up_the_batch(processes, count):
    whole = list(batches(dataset(count=count), 8, generator=generator()))
    shares = [list(batches(dataset(count=count), 8, generator=generator(), share=(i, processes))) for i in range(processes)]
    for step, (x, y) in enumerate(whole):
        joined_x, joined_y = torch.empty_like(x), torch.empty_like(y)
        for i, share in enumerate(shares):
            joined_x[i::processes], joined_y[i::processes] = share[step]
        assert torch.equal(joined_x, x)
        assert torch.equal(joined_y, y)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_the_last_batch_is_kept_or_left_out(drop_last, sizes):
    assert [len(y) for _, y in batches(dataset(), 4, generator=generator(), drop_last=drop_last)] == sizes
    assert len(Loader(dataset(), 4, seed=0, drop_last=drop_last)) == len(sizes)


def test_a_loader_depends_on_seed_and_epoch_alone():
    loader = Loader(dataset(), 4, seed=3)
    again = Loader(resident(dataset(), "cpu"), 4, seed=3)
    list(again.batches(7))
    for epoch in (0, 1):
        for (x, y), (a, b) in zip(loader.batches(epoch), again.batches(epoch), strict=True):
            assert torch.equal(x, a)
            assert torch.equal(y, b)
    assert not torch.equal(next(loader.batches(0))[0], next(loader.batches(1))[0])
    assert not torch.equal(next(loader.batches(0))[0], next(Loader(dataset(), 4, seed=4).batches(0))[0])


def test_a_loader_keeps_to_its_rows():
    data, rows = dataset(), torch.tensor([5, 1, 2])
    loader = Loader(data, 2, seed=0, rows=rows, augment=False)
    assert len(loader) == 2
    whole = torch.cat([x for x, _ in batches(data, 100, generator=generator(), augment=False)])[rows]
    seen = torch.cat([x for x, _ in loader.batches(3)])
    assert sorted(int((whole == image).flatten(1).all(1).nonzero()) for image in seen) == [0, 1, 2]
    with pytest.raises(InvalidInput, match="order: indices from 0"):
        Loader(data, 2, seed=0, rows=torch.tensor([len(data.labels)]))


class CrossEntropy:
    def __init__(self, dies_at=None):
        self.dies_at = dies_at

    def step(self, model, images, labels, *, step, backward):
        if step == self.dies_at:
            raise KeyboardInterrupt
        loss = F.cross_entropy(model(images), labels)
        backward(loss)
        return loss.detach()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_killed_training_resumes_with_the_same_bits(tmp_path):
    def train(objective, checkpoint=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(90, 3))
        options = {"seed": 0, "fabric": make_fabric("cpu"), "checkpoint": checkpoint, "checkpoint_seconds": 0}
        losses = fit(model, objective, Loader(dataset(), 4, seed=0), Recipe(epochs=3, learning_rate=0.1), **options)
        return losses, model[1].weight

    losses, weight = train(CrossEntropy())
    with pytest.raises(KeyboardInterrupt):
        train(CrossEntropy(dies_at=7), tmp_path / "checkpoint")
    resumed, same = train(CrossEntropy(), tmp_path / "checkpoint")
    assert losses == resumed
    assert torch.equal(weight, same)


def test_real_digits_reach_a_network_at_32_pixels():
    data = load("digits", "train", "laptop")
    images, labels = collected(data, 500, augment=False, size=32, channels=3)
    assert images.shape == (1438, 3, 32, 32)
    assert labels.tolist() == data.labels.tolist()
    plain, _ = collected(data, 500, augment=False)
    assert float(plain.mean()) == pytest.approx(0, abs=1e-3)
    assert float(plain.std()) == pytest.approx(1, abs=1e-3)


def test_normalising_leaves_its_input_alone():
    images = torch.ones(2, 3, 3, 1)
    assert torch.equal(normalise(images, torch.tensor([2.0]), torch.tensor([1.0])), torch.full((2, 3, 3, 1), 3.0))
    assert torch.equal(images, torch.ones(2, 3, 3, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0; at least 1"),
        ({"first": -1}, "first = -1"),
        ({"share": (2, 2)}, r"share = \(2, 2\)"),
        ({"share": (0, 3)}, "must divide the batch size, 4"),
        ({"channels": 0}, "channels = 0; images have 3"),
        ({"channels": 1}, "channels = 1; images have 3"),
        ({"channels": 4}, "channels = 4"),
        ({"mean": (0.5, 0.5)}, "mean has 2 values for 3 channels"),
        ({"std": (1.0, 1.0, 0.0)}, "every value must be above 0"),
        ({"std": (1.0, float("nan"), 1.0)}, "every value must be above 0"),
        ({"size": 0}, "size = 0"),
        ({"crop": 0}, "crop = 0; allowed are 1 to 13"),
        ({"crop": 14}, "crop = 14; allowed are 1 to 13"),
        ({"crop": 6, "augment": False}, "crop = 6; allowed are 1 to 5"),
        ({"crop_padding": -1}, "crop_padding = -1"),
        ({"order": torch.tensor([10])}, "indices from 0 to 9"),
        ({"order": torch.tensor([-1])}, "indices from 0 to 9"),
        ({"order": torch.tensor([], dtype=torch.int64)}, "indices from 0 to 9"),
        ({"order": torch.tensor([0.5])}, "order is torch.float32"),
        ({"order": torch.tensor([True] * 10)}, "order is torch.bool"),
        ({"order": torch.tensor([[0, 1]])}, r"order is torch.int64 \(1, 2\)"),
    ],
)
def test_impossible_options_are_refused_at_the_call(options, message):
    options = {"batch_size": 4, "generator": generator()} | options
    with pytest.raises(InvalidInput, match=message):
        batches(dataset(), **options)


def test_impossible_options_are_refused_when_a_loader_is_made():
    with pytest.raises(InvalidInput, match="crop = 99"):
        Loader(dataset(), 4, seed=0, crop=99)
    with pytest.raises(InvalidInput, match="seed = -1"):
        Loader(dataset(), 4, seed=-1)


def test_a_set_without_constants_must_bring_them():
    with pytest.raises(InvalidInput, match=r"none for 'mine'; give them, or use one of digits"):
        batches(dataset(name="mine"), 4, generator=generator())
    images, _ = collected(dataset(name="mine"), 4, augment=False, mean=[0.5], std=[0.5])
    assert images.abs().max() <= 1


def test_every_set_of_every_profile_can_be_normalised():
    assert {name for profile in PROFILES.values() for name in profile.datasets} <= set(PIXELS)


def test_the_constants_of_the_digits_are_theirs():
    pixels = load("digits", "train", "laptop").images / 255
    assert PIXELS["digits"].mean[0] == pytest.approx(pixels.mean(), abs=5e-4)
    assert PIXELS["digits"].std[0] == pytest.approx(pixels.std(), abs=5e-4)


def test_plain_batches_come_again_in_the_order_asked_for() -> None:
    data = dataset(count=6, depth=1, name="digits")
    rows = torch.tensor([5, 0, 3, 1, 2])
    plain = Plain(data, 2, rows, {"size": 16, "channels": 3})
    first, again = list(plain), list(plain)
    assert [len(labels) for _, labels in first] == [2, 2, 1]
    assert torch.equal(torch.cat([labels for _, labels in first]), torch.tensor(data.labels)[rows])
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert first[0][0].shape == (2, 3, 16, 16)
