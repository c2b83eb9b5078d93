"""ONNX files of the poolings and of networks with them: what is in them, and what ONNX Runtime computes from them."""

import collections
import warnings

import pytest
import torch
from helpers import randn
from torch import nn

import alias_ops

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")  # of PyTorch's exporter, by itself

SINGLE = torch.float32
POOLS = {"flc": alias_ops.FLCPool2d, "asap": alias_ops.ASAPPool2d}
pools = pytest.mark.parametrize("pool", POOLS)
EXPORTERS = ("export", "program", "torchscript")


def images(batch, *size, dtype=SINGLE, channels=3):
    return randn(batch, channels, *size, dtype=dtype, seed=batch)


def written(model, x, folder, how="export"):
    """The file of a model with a dynamic batch, by one of PyTorch's ways."""
    path = str(folder / "model.onnx")
    shapes = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "export":
            torch.onnx.export(model, (x,), path, dynamic_shapes=shapes, verbose=False)
        elif how == "program":
            program = torch.export.export(model, (x,), dynamic_shapes=shapes)
            assert any("alias_ops" in str(node.target) for node in program.graph.nodes)
            torch.onnx.export(program, (), path, verbose=False)
        else:
            names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
            torch.onnx.export(model, (x,), path, dynamo=False, **names)
    onnx.checker.check_model(path, full_check=True)
    return path


def operators(path):
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    return collections.Counter(node.op_type for node in model.graph.node)


def run(path, x):
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def assert_runs(path, model, *inputs, tolerance=1e-5):
    for x in inputs:
        with torch.no_grad():
            expected = model(x)
        y = run(path, x)
        assert y.dtype == expected.dtype
        assert y.shape == expected.shape
        assert (y.double() - expected.double()).abs().max() <= tolerance * expected.abs().max()


# Even, odd, prime; one term and two; with more numbers than an exporter folds; past 1024, where FFTs take over.
SIZES = {"8x10": (8, 10), "7x9": (7, 9), "56x28": (56, 28), "33x1030": (33, 1030)}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pools
def test_a_pooling_is_matrix_products_and_their_sum(pool, size, tmp_path):
    model = POOLS[pool]()
    path = written(model, images(2, *size), tmp_path)
    found = operators(path)
    terms = len(alias_ops.designs.pooling_terms(pool, *size, (2, 2)))
    assert found == {"MatMul": 2 * terms} | ({"Add": 1} if terms > 1 else {})
    assert_runs(path, model, images(1, *size), images(5, *size))


@pytest.mark.parametrize("how", EXPORTERS)
@pytest.mark.parametrize("size", [(9, 12), (80, 72)], ids=str)
def test_every_way_to_export(how, size, tmp_path):
    """A program exported earlier has the op in it; what becomes of that is products of parts of constants."""
    model = nn.Sequential(alias_ops.FLCPool2d(), alias_ops.ASAPPool2d(stride=(1, 3)))
    path = written(model, images(2, *size), tmp_path, how)
    about_constants = {"program": {"Gather", "Transpose", "Cast", "Constant"}, "torchscript": {"Constant"}}
    found = set(operators(path))
    assert {"MatMul"} <= found <= {"MatMul", "Add"} | about_constants.get(how, set())
    assert_runs(path, model, images(1, *size), images(4, *size))


@pytest.mark.parametrize("dims", [2, 3, 5])
def test_any_number_of_leading_dimensions(dims, tmp_path):
    path = str(tmp_path / "model.onnx")
    x = randn(*(2, 3, 4)[: dims - 2], 8, 6, dtype=SINGLE)
    model = alias_ops.FLCPool2d().eval()
    torch.onnx.export(model, (x,), path, verbose=False)
    assert_runs(path, model, x)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.float64, 1e-12)], ids=str)
def test_other_dtypes(dtype, tolerance, tmp_path):
    """Half maps are summed in float32 there too."""
    model = alias_ops.ASAPPool2d()
    path = written(model, images(2, 12, 8, dtype=dtype), tmp_path)
    casts = {"Cast"} if dtype is torch.float16 else set()
    assert set(operators(path)) == {"MatMul", "Add"} | casts
    assert_runs(path, model, images(3, 12, 8, dtype=dtype), tolerance=tolerance)


@pytest.mark.parametrize("how", ["export", "torchscript"])
@pools
def test_a_residual_network(pool, how, tmp_path):
    torch.manual_seed(0)
    model = alias_ops.models.PreActResNet((1, 1, 1, 1), channels=8, downsampling=pool)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    model = model.eval()
    path = written(model, images(2, 32, 32), tmp_path, how)
    assert operators(path)["MatMul"] >= 12  # six poolings, two products at least
    assert not {"DFT", "Einsum"} & set(operators(path))
    assert_runs(path, model, images(1, 32, 32), images(7, 32, 32))


class Strided(nn.Module):
    """As torchvision's ResNet begins and goes on, narrow."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.downsample = nn.Conv2d(8, 16, 1, 2)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        return self.fc((self.layer1(x) + self.downsample(x)).mean((2, 3)))


def test_a_network_after_replace_downsampling(tmp_path):
    torch.manual_seed(0)
    model = Strided()
    alias_ops.replace_downsampling(model, "asap", stem=True)
    model = model.eval()
    path = written(model, images(2, 40, 36), tmp_path)
    assert_runs(path, model, images(1, 40, 36), images(3, 40, 36))
