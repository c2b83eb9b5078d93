"""HighFrequencyAttack among Foolbox's own: the interface it promises, and the attack it is."""

import math

import pytest
import torch
from helpers import randn, run_python
from torch import nn

pytest.importorskip("foolbox")
import eagerpy
import foolbox
from foolbox.attacks.base import MinimizationAttack
from foolbox.criteria import Misclassification, TargetedMisclassification

from alias_ops.frequency import distances, high_frequency_attack
from alias_ops.integrations.foolbox import HighFrequencyAttack

COUNT, SIZE, CLASSES = 10, 10, 6
WIDE = (-10, 10)
TARGET = 0


class Network(nn.Module):
    """One whose labels hang on all frequencies, that counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 32), nn.Tanh(), nn.Linear(32, CLASSES))
        self.asked = 0
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.layers(x - 0.5)


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def images():
    return randn(COUNT, 3, SIZE, SIZE, seed=5, dtype=torch.float32).mul(0.3).add(0.5).clamp(0, 1)


@pytest.fixture
def labels(network, images):
    """Right but for images 2 and 3."""
    with torch.no_grad():
        labels = network(images).argmax(1)
    labels[2:4] = (labels[2:4] + 1) % CLASSES
    network.asked = 0
    return labels


def wrapped(network, bounds=(0, 1)):
    return foolbox.PyTorchModel(network, bounds=bounds, device="cpu")


@pytest.mark.parametrize("settings", [{}, {"step": 3, "min_radius": 0}, {"min_radius": 2.5, "batch_size": 3}])
def test_it_finds_what_the_function_finds(network, images, labels, settings):
    """With bounds that clip nothing, and with the same clipping."""
    for bounds in (WIDE, (0, 1)):
        expected = high_frequency_attack(network, images, labels, bounds=bounds, **settings)
        asked, network.asked = network.asked, 0
        raw = HighFrequencyAttack(**settings).run(wrapped(network, bounds), images, labels)
        assert network.asked == asked == expected.queries.sum()
        network.asked = 0
        torch.testing.assert_close(raw, expected.images)
    assert expected.success.sum() >= 3


EPSILONS = [
    None,
    2.0,
    [None],
    [0.0, 0.5, 2.0, 5.0, None],
]


@pytest.mark.parametrize("epsilons", EPSILONS, ids=str)
def test_calls_return_what_foolbox_promises(network, images, labels, epsilons):
    model, attack = wrapped(network), HighFrequencyAttack(min_radius=0)
    assert isinstance(attack, MinimizationAttack)
    raw, clipped, success = attack(model, images, labels, epsilons=epsilons)
    if not isinstance(epsilons, list):
        assert raw.shape == clipped.shape == images.shape
        assert success.shape == (COUNT,)
        raw, clipped, success, epsilons = [raw], [clipped], success[None], [epsilons]
    assert len(raw) == len(clipped) == len(success) == len(epsilons)
    assert success.dtype == torch.bool
    for epsilon, r, c, s in zip(epsilons, raw, clipped, success, strict=True):
        assert 0 <= min(r.min(), c.min()) <= max(r.max(), c.max()) <= 1
        assert torch.equal(model(c).argmax(1) != labels, s)
        if epsilon is None:
            assert torch.equal(r, c)
        else:
            assert ((c - images).flatten(1).norm(dim=1) <= epsilon * (1 + 1e-5)).all()
    # More room, more successes; and the two images that are wrong to begin with always.
    assert (success.sum(1).diff() >= 0).all()
    assert success[:, 2:4].all()


def test_beside_foolboxes_own_attacks(network, images, labels):
    """One loop over attacks, as people write it; success without a limit is found by the norm too."""
    model = wrapped(network)
    attacks = [
        HighFrequencyAttack(min_radius=0),
        foolbox.attacks.SaltAndPepperNoiseAttack(steps=20),
        foolbox.attacks.LinearSearchContrastReductionAttack(distance=foolbox.distances.l2, steps=20),
        foolbox.attacks.GaussianBlurAttack(distance=foolbox.distances.l2, steps=20),
    ]
    norms = {}
    for attack in attacks:
        raw, _, success = attack(model, images, labels, epsilons=None)
        norms[type(attack).__name__] = torch.where(success, attack.distance(images, raw), torch.inf)
    assert all(norm.shape == (COUNT,) for norm in norms.values())
    found = high_frequency_attack(network, images, labels, min_radius=0, bounds=(0, 1))
    torch.testing.assert_close(norms["HighFrequencyAttack"], found.norm)


def test_other_tools_of_foolbox(network, images, labels):
    model, attack = wrapped(network), HighFrequencyAttack(step=2)
    repeated = attack.repeat(2)
    for a, b in zip(
        attack(model, images, labels, epsilons=[1.0]), repeated(model, images, labels, epsilons=[1.0]), strict=True
    ):
        assert torch.equal(torch.as_tensor(a[0]), torch.as_tensor(b[0]))
    assert repr(attack) == "HighFrequencyAttack(step=2, min_radius=None, batch_size=None)"
    raw, _, success = attack(model, eagerpy.astensor(images), eagerpy.astensor(labels), epsilons=None)
    assert isinstance(raw, eagerpy.Tensor)
    assert isinstance(success, eagerpy.Tensor)


def test_criteria(network, images, labels):
    """A targeted one finds its targets; of an unknown kind, the same is found with more queries."""
    model, attack = wrapped(network), HighFrequencyAttack(min_radius=0, batch_size=4)
    targets = torch.full((COUNT,), TARGET)
    raw, _, success = attack(model, images, TargetedMisclassification(targets), epsilons=None)
    assert torch.equal(network(raw).argmax(1) == TARGET, success)
    assert (success & (network(images).argmax(1) != TARGET)).any()
    assert not success.all()

    class Mine(Misclassification):
        pass

    expected = attack(model, images, Misclassification(labels), epsilons=None)
    network.asked = 0
    found = attack(model, images, Mine(labels), epsilons=None)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert network.asked % COUNT == 0
    both = Misclassification(labels) & TargetedMisclassification(targets)
    raw, _, success = attack(model, images, both, epsilons=None)
    assert torch.equal((network(raw).argmax(1) == TARGET) & (labels != TARGET), success)


def test_what_is_done_is_not_asked_about_again(network, images, labels):
    expected = high_frequency_attack(network, images, labels, bounds=(0, 1), min_radius=3).queries
    network.asked = 0
    HighFrequencyAttack(min_radius=3, batch_size=2)(wrapped(network), images, labels, epsilons=None)
    assert network.asked == expected.sum() + COUNT  # Foolbox asks once more of what is returned
    assert expected.max() == 1 + (distances(SIZE, SIZE) >= 3).sum()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x, y: HighFrequencyAttack(step=0), ValueError, "step must be a positive int, got 0"),
        (
            lambda m, x, y: HighFrequencyAttack(min_radius=-math.pi),
            ValueError,
            "min_radius must be a non-negative number",
        ),
        (lambda m, x, y: HighFrequencyAttack(batch_size=1.5), TypeError, "batch_size must be a positive int, got 1.5"),
        (
            lambda m, x, y: HighFrequencyAttack()(m, x[:, 0], y, epsilons=None),
            TypeError,
            "got torch.float32 [10, 10, 10]",
        ),
        (lambda m, x, y: HighFrequencyAttack().run(m, x.numpy(), y), TypeError, "[N, C, H, W], got ndarray"),
        (lambda m, x, y: HighFrequencyAttack()(m, x, y, epsilons=None, steps=3), TypeError, "unexpected keyword"),
        (lambda m, x, y: HighFrequencyAttack()(m, x + 1, y, epsilons=None), AssertionError, ""),
    ],
)
def test_wrong_calls(network, images, labels, call, error, message):
    with pytest.raises(error) as caught:
        call(wrapped(network), images, labels)
    assert message in str(caught.value)


def test_nothing_imports_foolbox_unasked():
    done = run_python("import alias_ops.frequency, alias_ops.integrations, sys; print('foolbox' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("missing", ["foolbox", "eagerpy"])
def test_a_missing_library_is_named_with_what_installs_it(missing):
    done = run_python(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "try: from alias_ops.integrations.foolbox import HighFrequencyAttack\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    line = 'alias_ops.integrations.foolbox needs foolbox: pip install "alias-ops[attacks]"'
    assert done.stdout == f"ImportError {line}\n", done.stderr
