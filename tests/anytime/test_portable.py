"""Does an exported ONNX file answer as the subnetwork does, at every batch size, and is none written that would not?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tipslib.anytime import portable
from tipslib.anytime.elastic import Supernet, make_elastic
from tipslib.anytime.layers import Statistics
from tipslib.anytime.portable import export_onnx
from tipslib.anytime.supernets import mobilenet_v2_supernet, resnet18_supernet
from tipslib.errors import InvalidInput, StorageError, TracingError


@pytest.fixture(scope="module", params=["mobilenet_v2", "resnet18"])
def net(request: pytest.FixtureRequest) -> Supernet:
    torch.manual_seed(0)
    made = {"mobilenet_v2": mobilenet_v2_supernet, "resnet18": resnet18_supernet}[request.param](width=0.25, resolution=32, classes=7)
    for norm in made.batch_norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    return made.eval()


@pytest.fixture(scope="module")
def small() -> Supernet:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return make_elastic(body, (3, 6, 6)).eval()


def test_the_file_answers_as_the_subnetwork_does(net: Supernet, tmp_path: Path) -> None:
    widths = net.space.at(0.6)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    norms = [m for m in net.export(widths).modules() if isinstance(m, nn.BatchNorm2d)]
    statistics = Statistics(tuple((torch.randn(m.num_features) / 9, 0.5 + torch.rand(m.num_features)) for m in norms))
    net.set_width(net.space.smallest)
    path = tmp_path / "net.onnx"
    assert 0 <= export_onnx(net, widths, path, statistics) <= 1e-5
    assert net.widths == net.space.smallest
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    net.set_width(widths, statistics)
    for count in (1, 2, 5):
        with torch.no_grad():
            wanted = net(images[:count]).numpy()
        (found,) = session.run(None, {"images": images[:count].numpy()})
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
        assert (found.argmax(1) == wanted.argmax(1)).all()
    # its weights are those of the small network, and it says nothing of where it was made
    size = sum(p.numel() for p in net.export().parameters())
    stored = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer)
    assert stored <= 1.05 * size
    assert b"site-packages" not in path.read_bytes()
    assert str(Path(portable.__file__).parent).encode() not in path.read_bytes()


def test_a_file_that_answers_otherwise_is_not_written(small: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = portable._translated

    def wrong(plain: nn.Module, images: torch.Tensor) -> bytes:
        with torch.no_grad():
            last = [m for m in plain.modules() if isinstance(m, nn.Linear)][-1]
            last.bias.add_(0.5)
            content = right(plain, images)
            last.bias.sub_(0.5)
        return content

    monkeypatch.setattr(portable, "_translated", wrong)
    with pytest.raises(TracingError, match=r"logits differ by .* Nothing was written"):
        export_onnx(small, small.space.smallest, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(small: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="widths for"):
        export_onnx(small, (1, 2, 3), tmp_path / "net.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        export_onnx(small, small.space.smallest, tmp_path / "file" / "net.onnx")

    def refuses(*given: object, **options: object) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", refuses)
    with pytest.raises(TracingError, match=r"has no form in ONNX: RuntimeError: no such operator$"):
        export_onnx(small, small.space.smallest, tmp_path / "net.onnx")
