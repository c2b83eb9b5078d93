"""The parts of the example of adversarial training: its attacks, the rule on PGD, augmentation, CIFAR-10's files."""

import io
import json
import os
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, importable
from torch import nn

for needed in ("foolbox", "rich", "matplotlib", "skimage"):
    pytest.importorskip(needed)

EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.skipif(not (EXAMPLES / "fgsm").is_dir(), reason="not in a checkout")


@pytest.fixture(scope="module", autouse=True)
def example():
    """The example's modules, importable as they are for its script and gone again afterwards."""
    with importable(EXAMPLES):
        yield


class Linear(nn.Module):
    """Two classes told apart by the sign of w · x + b."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 4 * 4, generator=torch.Generator().manual_seed(0)))

    def margin(self, images):
        return (images - 0.5).flatten(1) @ self.weight

    def forward(self, images):
        margin = self.margin(images)
        return torch.stack([-margin, margin], 1)


def linear_problem():
    model = Linear()
    images = 0.2 + 0.6 * torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = (model.margin(images) > 0).long()
    return model, images, labels


def test_fgsm_of_a_linear_model_is_the_worst_case():
    from fgsm.attack import fgsm

    model, images, labels = linear_problem()
    away = (model.weight.detach().sign().view(3, 4, 4) * (1 - 2 * labels).view(-1, 1, 1, 1)).float()
    torch.testing.assert_close(fgsm(model, images, labels, 0.1, random_start=False), images + 0.1 * away)
    assert model.weight.grad is None
    torch.manual_seed(0)
    moved = (fgsm(model, images, labels, 0.1) - images) * away
    # From anywhere in -1..1 by 1.25 and no further than 1.
    assert moved.min() >= 0.25 * 0.1 - 1e-6
    assert moved.max() <= 0.1 + 1e-6
    assert 0.3 < (moved > 0.0999).float().mean() < 0.95


def test_fgsm_stays_within_valid_pixels():
    from fgsm.attack import fgsm

    model, images, labels = linear_problem()
    torch.manual_seed(0)
    attacked = fgsm(model, images.round(), labels, 0.1)
    assert attacked.min() == 0
    assert attacked.max() == 1
    assert not attacked.requires_grad


def test_pgd_leaves_those_with_enough_margin_and_no_trace():
    from fgsm.attack import pgd_survivors

    model, images, labels = linear_problem()
    model.weight.grad = torch.ones_like(model.weight)
    model.eval()
    reach = 0.02 * model.weight.abs().sum()
    expected = int((model.margin(images).abs() > reach).sum())
    assert 0 < expected < 64
    assert pgd_survivors(model, images, labels, 0.02, steps=9) == expected
    assert model.weight.requires_grad
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))


def test_the_pgd_rule():
    from fgsm.attack import PGDEarlyStopping

    rule = PGDEarlyStopping(0.2)
    assert [rule.step(value) for value in (0.1, 0.5, 0.35, 0.2)] == [False] * 4  # slowly is not a fall
    other = PGDEarlyStopping(0.2)
    other.load_state_dict(rule.state_dict())
    assert [other.step(value) for value in (0.6, 0.35, 0.9)] == [False, True, True]
    assert other.reason == "accuracy under PGD fell from 60.0 % to 35.0 %, by more than 20 points"


def test_augmented_images_are_shifted_and_flipped():
    from fgsm.data import augment

    torch.manual_seed(0)
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8)
    padded = F.pad(images, (4, 4, 4, 4))
    found = set()
    for index, image in enumerate(augment(images)):
        for flipped, candidate in ((False, image), (True, image.flip(-1))):
            windows = padded[index].unfold(1, 32, 1).unfold(2, 32, 1)
            same = (windows == candidate[:, None, None]).all((0, -1, -2)).nonzero().tolist()
            found.update((index, flipped, *place) for place in same)
    assert len(found) == 40
    assert {flipped for _, flipped, *_ in found} == {False, True}
    assert len({tuple(place) for _, _, *place in found}) > 20


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as the byte strings of Python 2, in which the official files are written."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def _byte_string(self, value):
        value = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)

    dispatch[bytes] = dispatch[str] = _byte_string


def write_batch(path, content):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    path.write_bytes(file.getvalue().replace(b"numpy._core.", b"numpy.core."))


@pytest.fixture
def cifar(tmp_path):
    """Few images in the format of CIFAR-10."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = generator.integers(256, size=(4, 3072), dtype=np.uint8)
        labels = generator.integers(10, size=4).tolist()
        names = [f"{i}.png" for i in range(4)]
        write_batch(folder / name, {"batch_label": name, "labels": labels, "data": pixels, "filenames": names})
    return folder


def test_cifar10_is_read_from_its_folder_or_the_one_above(cifar):
    from fgsm.data import cifar10

    read, above = cifar10(cifar), cifar10(cifar.parent)
    with (cifar / "data_batch_2").open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    assert read.train.images.shape == (20, 3, 32, 32)
    assert read.train.images[5, 2, 31, 1] == batch[b"data"][1, 2 * 1024 + 31 * 32 + 1]
    assert read.train.labels[4:8].tolist() == batch[b"labels"]
    assert len(read.held_out) == 4
    assert torch.equal(read.train.images, above.train.images)


def test_training_on_cifar10(cifar, tmp_path):
    import train_fgsm

    options = ["--data", str(cifar), "--model", "small", "--epochs", "1", "--output", str(tmp_path / "run")]
    assert train_fgsm.main(options) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["data"]["name"] == "CIFAR-10"


def test_a_pickle_that_runs_something_is_refused(cifar, tmp_path):
    from fgsm.data import cifar10

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (cifar / "test_batch").write_bytes(pickle.dumps({b"data": Attack(), b"labels": []}, protocol=4))
    with pytest.raises(ValueError, match=r"test_batch is not a batch of CIFAR-10: it names \w+\.mkdir"):
        cifar10(cifar)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"labels": [1]}, "b'data'"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]}, r"data is float32 \[2, 3072\]"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]}, "its labels are not one of 0 to 9"),
    ],
)
def test_a_file_that_is_no_batch_is_named(cifar, content, problem):
    from fgsm.data import cifar10

    write_batch(cifar / "data_batch_3", content)
    with pytest.raises(ValueError, match=f"data_batch_3 is not a batch of CIFAR-10: {problem}"):
        cifar10(cifar)


def test_a_folder_without_cifar10_is_named(tmp_path):
    import train_fgsm

    with pytest.raises(SystemExit, match=r"has no CIFAR-10: expected data_batch_1 to data_batch_5 and test_batch"):
        train_fgsm.main(["--data", str(tmp_path)])
