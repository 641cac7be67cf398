"""Tracing: known networks, everyday ways of writing layers, and what has no graph."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from tipslib.errors import InvalidInput, TracingError
from tipslib.topology import NetworkGraph, count_subnetworks

SIZE = (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("name", "nodes", "operations", "additions", "required", "subnetworks"),
    [
        ("mobilenet_v2", 65, 74, 10, 7, 3**10),
        ("resnet18", 32, 39, 8, 10, 3**5),
        ("resnet34", 56, 71, 16, 10, 3**13),
        ("resnet50", 73, 88, 16, 10, 3**13),
        ("resnext50_32x4d", 73, 88, 16, 10, 3**13),
        ("wide_resnet50_2", 73, 88, 16, 10, 3**13),
        ("efficientnet_b0", 61, 69, 9, 7, 3**9),
    ],
)
def test_torchvision_networks(name: str, nodes: int, operations: int, additions: int, required: int, subnetworks: int) -> None:
    """Layers and poolings are counted in the module itself; each addition has two edges and a feature map of its own.

    MobileNet-v2 pools by a function, which counts like a pooling layer; squeeze-excitation in EfficientNet counts nothing.
    """
    module = getattr(models, name)(weights=None).eval()
    layers = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
    squeezing = {part for block in module.modules() if type(block).__name__ == "SqueezeExcitation" for part in block.modules()}
    functional = 1 if name == "mobilenet_v2" else 0
    counted = functional + sum(isinstance(part, layers) and part not in squeezing for part in module.modules())
    graph = NetworkGraph.from_module(module, SIZE)
    kinds = Counter(operation.kind for operation in graph.operations)
    assert (len(graph), len(graph.operations)) == (nodes, operations)
    assert len(graph) == 1 + counted + additions
    assert kinds["addition"] == 2 * additions
    assert len(graph.operations) - kinds["addition"] == counted
    assert graph.required.sum() == required
    assert count_subnetworks(graph) == subnetworks


def test_mobilenet_block_reads_as_in_figure_9(mobilenet: NetworkGraph) -> None:
    names = [node.name for node in mobilenet.nodes]
    block = [(names[o.source], names[o.target], o.kind) for o in mobilenet.operations if o.name.startswith("features.3.")]
    start = "features.2.conv.2"
    assert block == [
        (start, "features.3.conv.0.0", "convolution"),
        ("features.3.conv.0.0", "features.3.conv.1.0", "convolution"),
        ("features.3.conv.1.0", "features.3.conv.2", "convolution"),
        (start, "features.3.add", "addition"),
        ("features.3.conv.2", "features.3.add", "addition"),
    ]


def test_what_samples_down_and_the_ends_are_required(mobilenet: NetworkGraph) -> None:
    assert [operation.name for operation in mobilenet.operations if operation.required] == [
        "features.0.0",
        "features.2.conv.1.0",
        "features.4.conv.1.0",
        "features.7.conv.1.0",
        "features.14.conv.1.0",
        "adaptive_avg_pool2d",
        "classifier.1",
    ]


def test_shapes_and_channels_are_those_of_a_forward_pass() -> None:
    module = models.resnet18(weights=None).eval()
    seen: dict[str, tuple[int, ...]] = {}
    for name, part in module.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear, nn.MaxPool2d)):
            part.register_forward_hook(lambda _, __, output, name=name: seen.update({name: tuple(output.shape)}))
    with torch.no_grad():
        module(torch.zeros(2, 3, 64, 64))
    graph = NetworkGraph.from_module(module, (2, 3, 64, 64))
    found = {node.name: node.shape for node in graph.nodes}
    assert found["input"] == (2, 3, 64, 64)
    assert {name: found[name] for name in seen} == seen
    assert {o.name: o.out_channels for o in graph.operations if o.kind in ("convolution", "linear")} == {
        name: shape[1] for name, shape in seen.items() if name != "maxpool"
    }


def test_the_module_is_left_as_it_was() -> None:
    module = models.mobilenet_v2(weights=None).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    NetworkGraph.from_module(module, (1, 3, 32, 32))
    assert all(part.training for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert next(module.parameters()).requires_grad


class Functional(nn.Module):
    """Every operation written as a function or a method."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(6, 3, 3, 3))
        self.matrix = nn.Parameter(torch.zeros(6, 5))
        self.position = nn.Parameter(torch.zeros(1, 5))
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, self.kernel, stride=2))
        y = F.max_pool2d(y, 2)
        y = torch.add(y, F.relu(y))
        y = F.adaptive_avg_pool2d(y, 4)
        z = y.mean([2, 3])
        z = z.view(z.size(0), -1) @ self.matrix + self.position
        z = F.dropout(z, training=self.training)
        z += self.layer(z)
        z = torch.add(z, self.layer(z))
        return torch.flatten(z * torch.sigmoid(z), 1)


def test_functions_and_methods_are_read_like_layers() -> None:
    graph = NetworkGraph.from_module(Functional(), torch.zeros(2, 3, 64, 64))
    assert [(o.name, o.kind, o.source, o.target, o.required, o.out_channels) for o in graph.operations] == [
        ("conv2d", "convolution", 0, 1, True, 6),
        ("max_pool2d", "pooling", 1, 2, True, None),
        ("adaptive_avg_pool2d", "pooling", 2, 3, True, None),
        ("mean", "pooling", 3, 4, True, None),
        ("matmul", "linear", 4, 5, False, None),
        ("layer", "linear", 5, 6, False, 5),
        ("add(matmul)", "addition", 5, 7, False, None),
        ("add(layer)", "addition", 6, 7, False, None),
        ("layer:2", "linear", 7, 8, False, 5),
        ("add:2(add)", "addition", 7, 9, False, None),
        ("add:2(layer:2)", "addition", 8, 9, False, None),
    ]


class Branches(nn.Module):
    """Concatenation, a gated product, a transposed convolution, an auxiliary head and a branch that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.gate = nn.Conv2d(4, 4, 1)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.stem(x)
        y = self.up(torch.cat([self.left(x), self.right(x), self.left(x)][:2], dim=1))
        if mask is not None:
            y = y * mask
        self.unused(y.mean((2, 3))[:, :3])
        return y * torch.sigmoid(self.gate(y))


def test_meeting_feature_maps_and_dead_ends() -> None:
    graph = NetworkGraph.from_module(Branches(), (1, 3, 8, 8))
    assert [(o.name, o.kind, o.source, o.target, o.required) for o in graph.operations] == [
        ("stem", "convolution", 0, 1, True),
        ("left", "convolution", 1, 2, False),
        ("right", "convolution", 1, 3, False),
        ("cat(left)", "addition", 2, 4, False),
        ("cat(right)", "addition", 3, 4, False),
        ("up", "convolution", 4, 5, False),
        ("gate", "convolution", 5, 6, False),
        ("mul(up)", "addition", 5, 7, False),
        ("mul(gate)", "addition", 6, 7, False),
    ]


@pytest.mark.parametrize("order", ["gate first", "gate last"])
def test_squeeze_excitation_belongs_to_the_operation_it_follows(order: str) -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.squeeze, self.excite = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
            return gate * x if order == "gate first" else x.mul_(gate)

    graph = NetworkGraph.from_module(Squeeze(), (1, 3, 8, 8))
    assert [operation.name for operation in graph.operations] == ["conv"]


def test_networks_with_concatenation_are_read() -> None:
    graph = NetworkGraph.from_module(models.squeezenet1_0(weights=None), SIZE)
    assert Counter(operation.kind for operation in graph.operations) == {"convolution": 26, "pooling": 4, "addition": 16}


def test_constants_and_sizes_are_no_feature_maps() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x + torch.arange(3.0))
            return self.b(y.reshape(x.shape[0], -1) * x.size(1))

    assert [o.name for o in NetworkGraph.from_module(Positions(), (2, 3)).operations] == ["a", "b"]


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.layer(x)
        return x


def test_data_dependent_control_flow_names_the_place_and_the_way_out() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(DataDependent()))
    with pytest.raises(TracingError, match=r"module '1\.0' \(DataDependent\).*if x\.sum\(\) > 0.*leaves=\['1\.0'\]"):
        NetworkGraph.from_module(network, (1, 4))
    with pytest.raises(TracingError, match=r"network itself \(DataDependent\).*from_edges"):
        NetworkGraph.from_module(DataDependent(), (1, 4))


@pytest.mark.parametrize("leaves", [["1.0"], ["1"], [DataDependent], "1.0", DataDependent])
def test_a_leaf_is_one_operation_whatever_it_computes(leaves: Sequence[str | type[nn.Module]]) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(DataDependent()), nn.Linear(4, 2))
    graph = NetworkGraph.from_module(network, (1, 4), leaves=leaves)
    assert [operation.kind for operation in graph.operations] == ["linear", "leaf", "linear"]
    assert graph.nodes[-1].shape == (1, 2)


def test_a_leaf_that_samples_down_is_required() -> None:
    graph = NetworkGraph.from_module(models.resnet18(weights=None), SIZE, leaves=["layer1.0", "layer2.0"])
    leaves = {operation.name: operation.required for operation in graph.operations if operation.kind == "leaf"}
    assert leaves == {"layer1.0": False, "layer2.0": True}


class Block(nn.Module):
    """A transformer block as it is written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.between(x))


class Attention(nn.Module):
    """Attention with three projections."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.query(x) @ self.key(x).transpose(-1, -2), -1) @ self.value(x)


def test_attention_has_no_graph_unless_it_is_a_leaf() -> None:
    with pytest.raises(TracingError, match=r"'attention' \(MultiheadAttention\).*leaves=\['attention'\]"):
        NetworkGraph.from_module(Block(), (1, 5, 8))
    with pytest.raises(TracingError, match=r"matmul in module '0' \(Attention\).*leaves=\['0'\]"):
        NetworkGraph.from_module(nn.Sequential(Attention()), (1, 5, 8))
    graph = NetworkGraph.from_module(Block(), (1, 5, 8), leaves=[nn.MultiheadAttention])
    assert Counter(operation.kind for operation in graph.operations) == {"leaf": 1, "addition": 4, "linear": 2}
    assert count_subnetworks(graph) == 9


def test_pytorch_transformer_layer_and_vision_transformer() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    with pytest.raises(TracingError, match=r"network itself \(TransformerEncoderLayer\)"):
        NetworkGraph.from_module(layer, (1, 5, 8))
    assert len(NetworkGraph.from_module(nn.Sequential(layer), (1, 5, 8), leaves=[nn.TransformerEncoderLayer])) == 2
    vit = models.VisionTransformer(image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16)
    with pytest.raises(TracingError, match="MultiheadAttention"):
        NetworkGraph.from_module(vit, (1, 3, 32, 32))
    graph = NetworkGraph.from_module(vit, (1, 3, 32, 32), leaves=[nn.MultiheadAttention])
    assert Counter(operation.kind for operation in graph.operations) == {"convolution": 1, "leaf": 2, "linear": 5, "addition": 8}


def test_a_foreign_function_with_weights_is_not_taken_for_elementwise() -> None:
    with pytest.raises(TracingError, match=r"shifted_window_attention in module 'features\.1\.0\.attn'"):
        NetworkGraph.from_module(models.swin_t(weights=None), SIZE)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.LSTM(4, 4)), r"'0' \(LSTM\).*leaves=\['0'\]"),
        (nn.ReLU(), "no operation leads from the input"),
        (nn.Bilinear(4, 4, 4), "further inputs .*wrap it"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(3, 3)), r"shape \(1, 4\) does not pass module '1' \(Linear\)"),
    ],
)
def test_networks_without_a_graph_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(TracingError, match=message):
        NetworkGraph.from_module(module, (1, 4))


def test_several_outputs_are_refused_but_one_in_a_container_is_not() -> None:
    class Outputs(nn.Module):
        def __init__(self, both: bool) -> None:
            super().__init__()
            self.first, self.second, self.both = nn.Linear(4, 4), nn.Linear(4, 4), both

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.first(x)
            return {"early": x, "late": self.second(x)} if self.both else {"only": self.second(x)}

    with pytest.raises(TracingError, match=r"several feature maps \('first', 'second'\)"):
        NetworkGraph.from_module(Outputs(both=True), (1, 4))
    assert len(NetworkGraph.from_module(Outputs(both=False), (1, 4))) == 3


@pytest.mark.parametrize("example", [(), None, "1,4", (1, 0), (1, 4.0), 4])
def test_examples_that_are_no_input_are_refused(example: Sequence[int]) -> None:
    with pytest.raises(InvalidInput, match="example_input must be a tensor or a shape"):
        NetworkGraph.from_module(nn.Linear(4, 4), example)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_modules_that_cannot_be_read_are_refused() -> None:
    for compiled in (torch.jit.script(nn.Linear(4, 4)), torch.compile(nn.Linear(4, 4))):
        with pytest.raises(InvalidInput, match=r"not compiled.*give the original"):
            NetworkGraph.from_module(compiled, (1, 4))
    with pytest.raises(InvalidInput, match=r"torch\.nn\.Module.*not int"):
        NetworkGraph.from_module(3, (1, 4))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="lazy"):
        NetworkGraph.from_module(nn.LazyLinear(4), (1, 4))
    with pytest.raises(InvalidInput, match="'nowhere' is no submodule"):
        NetworkGraph.from_module(nn.Linear(4, 4), (1, 4), leaves=["nowhere"])
