"""The high-frequency attack: what it returns is true, it tries what it says, and asks no more than it must."""

import math
import warnings

import pytest
import torch
from helpers import randn
from torch import nn

from alias_ops.frequency import HighFrequencyResult, distances, high_frequency_attack, low_pass

COUNT, SIZE, CLASSES = 12, 12, 6


def photographs(dtype: torch.dtype = torch.float32, size: int = SIZE) -> torch.Tensor:
    return (randn(COUNT, 3, size, size, seed=3).mul(0.2) + 0.5).clamp(0, 1).to(dtype)


class Asked(nn.Module):
    """A network whose labels hang on high frequencies, that records every image it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 32), nn.Tanh(), nn.Linear(32, CLASSES))
        self.asked: list[torch.Tensor] = []
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(x.detach().clone())
        assert not torch.is_grad_enabled()
        return self.layers.to(x.dtype)(x - 0.5)

    def label(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.layers.to(x.dtype)(x - 0.5).argmax(1)


def mixed_labels(model: Asked, x: torch.Tensor) -> torch.Tensor:
    """Right for most, wrong for images 1 and 5."""
    labels = model.label(x)
    labels[[1, 5]] = (labels[[1, 5]] + 1) % CLASSES
    return labels


def by_hand(model, x, label, radii):
    """The attack on one image, as it is defined: (radius, queries)."""
    if model.label(x[None]) != label:
        return math.inf, 1
    for tried, radius in enumerate(radii):
        if model.label(low_pass(x[None], radius)) != label:
            return radius, 2 + tried
    return math.nan, 1 + len(radii)


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


@pytest.mark.parametrize(("step", "min_radius"), [(1, 0), (1, None), (3, 2.5), (5, 0), (1, 6)])
def test_it_is_what_it_is_defined_to_be(step, min_radius):
    model, x = Asked(), photographs()
    labels = mixed_labels(model, x)
    least = SIZE / 4 if min_radius is None else min_radius
    radii = [r for r in distances(SIZE, SIZE).tolist()[::-1][::step] if r >= least]
    found = high_frequency_attack(model, x, labels, step=step, min_radius=min_radius)
    for i in range(COUNT):
        radius, queries = by_hand(model, x[i], labels[i], radii)
        assert same(found.radius[i].item(), radius)
        assert found.queries[i] == queries
    assert (found.radius[[1, 5]] == math.inf).all()
    assert torch.equal(found.success, ~found.radius.isnan())
    if min_radius == 0:
        assert found.success.sum() >= 5, "the network of these tests is one that can be attacked"
        assert found.radius[found.radius.isfinite()].unique().numel() > 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_success_is_wrong_when_it_is_asked_again(dtype):
    model, x = Asked(), photographs(dtype)
    labels = mixed_labels(model, x)
    found = high_frequency_attack(model, x, labels, min_radius=0)
    assert found.images.dtype == dtype
    assert torch.equal(model.label(found.images) != labels, found.success)
    attacked = found.success & found.radius.isfinite()
    assert attacked.any()
    for i in attacked.nonzero()[:, 0]:
        difference = found.images[i].double() - low_pass(x[i : i + 1], found.radius[i])[0].double()
        assert difference.abs().max() <= 2 * torch.finfo(dtype).eps
        norm = (found.images[i].double() - x[i].double()).norm()
        assert found.norm[i].item() == pytest.approx(norm.item(), rel=1e-3)
    assert torch.equal(found.images[~attacked], x[~attacked])
    assert not found.norm[[1, 5]].any()
    assert (found.norm[~found.success] == math.inf).all()


def test_fields_are_as_they_are_documented():
    model, x = Asked(), photographs()
    found = high_frequency_attack(model, x, mixed_labels(model, x))
    assert isinstance(found, HighFrequencyResult)
    assert found._fields == ("images", "success", "radius", "norm", "queries")
    assert [(t.dtype, tuple(t.shape)) for t in found] == [
        (torch.float32, (COUNT, 3, SIZE, SIZE)),
        (torch.bool, (COUNT,)),
        (torch.float64, (COUNT,)),
        (torch.float32, (COUNT,)),
        (torch.int64, (COUNT,)),
    ]
    assert not any(t.requires_grad for t in found)


def test_step_1_tries_every_low_pass_there_is_and_none_twice():
    x = photographs(torch.float64)[:1]
    asked = []
    found = high_frequency_attack(lambda images: asked.append(images) or images.new_zeros(1, 2), x, min_radius=0)
    assert len(asked) == found.queries.item() == 1 + len(distances(SIZE, SIZE))
    energies = torch.stack([images.square().sum() for images in asked])
    assert (energies.diff() < 0).all()
    for images, radius in zip(asked[1:], distances(SIZE, SIZE).flip(0), strict=True):
        torch.testing.assert_close(images, low_pass(x, radius), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4, 5, COUNT, 100, None])
def test_queries_are_counted_and_batches_bounded(batch_size):
    model, x = Asked(), photographs()
    labels = mixed_labels(model, x)
    found = high_frequency_attack(model, x, labels, min_radius=1, batch_size=batch_size)
    assert sum(map(len, model.asked)) == found.queries.sum()
    assert max(map(len, model.asked)) == min(batch_size or COUNT, COUNT)
    assert min(map(len, model.asked)) > 0
    # As many as there is room for: the queries behind x itself are full, but for those at the end.
    lengths = [len(images) for images in model.asked][-(-COUNT // (batch_size or COUNT)) :]
    assert lengths == sorted(lengths, reverse=True)


def test_images_that_are_done_are_not_asked_about_again():
    model, x = Asked(), photographs(torch.float64)
    labels = mixed_labels(model, x)
    found = high_frequency_attack(model, x, labels, min_radius=0)
    # Low-passes keep their image's mean, to whatever radius but 0.
    means = torch.cat([images.mean((1, 2, 3)) for images in model.asked])
    for i in range(COUNT):
        kept = found.queries[i] - int(found.queries[i] == 1 + len(distances(SIZE, SIZE)))
        assert ((means - x[i].mean()).abs() < 1e-12).sum() == kept


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_neither_batches_nor_company_matter(batch_size):
    model, x = Asked(), photographs(torch.float64)
    labels = mixed_labels(model, x)
    together = high_frequency_attack(model, x, labels, min_radius=0)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    others = [
        high_frequency_attack(model, x, labels, min_radius=0, batch_size=batch_size),
        HighFrequencyResult(*(
            torch.empty_like(t).index_copy(0, order, t)
            for t in high_frequency_attack(model, x[order], labels[order], min_radius=0, batch_size=batch_size)
        )),
        HighFrequencyResult(*map(torch.cat, zip(*(
            high_frequency_attack(model, x[i : i + 1], labels[i : i + 1], min_radius=0) for i in range(COUNT)
        ), strict=True))),
    ]  # fmt: skip
    for other in others:
        assert torch.equal(other.success, together.success)
        assert torch.equal(other.queries, together.queries)
        torch.testing.assert_close(other.radius, together.radius, equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(other.images, together.images, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other.norm, together.norm, rtol=1e-12, atol=1e-12)


def test_min_radius_is_respected():
    model, x = Asked(), photographs()
    labels = model.label(x)
    everything = high_frequency_attack(model, x, labels, min_radius=0)
    for least in (2, math.sqrt(5), 4.0, 100, math.inf):
        found = high_frequency_attack(model, x, labels, min_radius=least)
        reached = everything.radius >= least
        assert torch.equal(found.success, reached)
        assert torch.equal(found.radius[reached], everything.radius[reached])
        assert (found.queries[~reached] == 1 + (distances(SIZE, SIZE) >= least).sum()).all()
    # A quarter of the shorter side, if nothing is said.
    wide = torch.cat([x, x], -1)
    asked = []
    constant = lambda images: asked.append(images) or images.new_zeros(len(images), 2)  # noqa: E731
    assert (high_frequency_attack(constant, wide).queries == 1 + (distances(SIZE, 2 * SIZE) >= SIZE / 4).sum()).all()


def test_labels_of_the_model_itself():
    model, x = Asked(), photographs()
    for batch_size in (None, 5):
        found = high_frequency_attack(model, x, min_radius=2, batch_size=batch_size)
        expected = high_frequency_attack(model, x, model.label(x), min_radius=2)
        assert torch.equal(found.success, expected.success)
        assert torch.equal(found.queries, expected.queries)
        assert not found.radius.isinf().any()


def test_models_that_return_labels():
    model, x = Asked(), photographs()
    labels = mixed_labels(model, x)
    expected = high_frequency_attack(model, x, labels)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        found = high_frequency_attack(lambda x, d=dtype: model(x).argmax(1).to(d), x, labels.to(dtype))
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found, expected, strict=True))


def test_bounds_clip_what_is_sent_and_returned():
    x = photographs()
    sent = []

    def model(images):
        sent.append(images)
        return torch.zeros(len(images), dtype=torch.int64) if len(sent) < 8 else torch.ones(len(images)).long()

    found = high_frequency_attack(model, x, bounds=(0.2, 0.75))
    assert found.success.all()
    assert min(images.min() for images in sent[1:]) == pytest.approx(0.2)
    assert max(images.max() for images in sent[1:]) == pytest.approx(0.75)
    torch.testing.assert_close(found.images, low_pass(x, found.radius).clamp(0.2, 0.75))
    assert low_pass(x, found.radius).min() < 0.2


def test_no_images():
    x = photographs()[:0]
    found = high_frequency_attack(Asked(), x, torch.empty(0, dtype=torch.int64))
    assert [len(t) for t in found] == [0] * 5
    assert found.images.shape == x.shape


def test_what_is_left_alone():
    """Inputs, gradients and the model's mode; autocast reaches the model."""
    model, x = Asked(), photographs().requires_grad_()
    before = x.detach().clone()
    found = high_frequency_attack(model, x)
    assert torch.equal(x, before)
    assert x.grad is None
    assert not found.images.requires_grad
    assert all(p.grad is None for p in model.parameters())
    found.images.zero_()
    assert torch.equal(x, before)
    seen = []
    linear = nn.Linear(3 * SIZE * SIZE, 2).eval()
    with torch.autocast("cpu", torch.bfloat16):
        high_frequency_attack(lambda x: seen.append(linear(x.flatten(1))) or seen[-1], before)
    assert {scores.dtype for scores in seen} == {torch.bfloat16}


def test_a_model_in_training_mode_is_warned_of_and_left_so():
    model, x = Asked(), photographs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        high_frequency_attack(model, x)
    model.train()
    with pytest.warns(UserWarning, match="model is in training mode") as caught:
        high_frequency_attack(model, x)
    assert caught[0].filename == __file__
    assert model.training


X, LABELS = photographs()[:2], torch.tensor([0, 1])
CONSTANT = {"scores": lambda x: x.new_zeros(len(x), 2)}["scores"]
WRONG = [
    (
        lambda: high_frequency_attack(3, X),
        TypeError,
        "model must be a callable from images to scores or labels, got int",
    ),
    (lambda: high_frequency_attack(CONSTANT, X.int()), TypeError, "x must be a floating tensor"),
    (
        lambda: high_frequency_attack(CONSTANT, X[0]),
        ValueError,
        "x must be a floating tensor [N, C, H, W], got [3, 12,",
    ),
    (
        lambda: high_frequency_attack(CONSTANT, X, [0, 1]),
        TypeError,
        "labels must be an integer tensor [2] or None, got list",
    ),
    (
        lambda: high_frequency_attack(CONSTANT, X, LABELS.float()),
        TypeError,
        "integer tensor [2] or None, got float32 [2]",
    ),
    (lambda: high_frequency_attack(CONSTANT, X, LABELS[:1]), ValueError, "integer tensor [2] or None, got int64 [1]"),
    (lambda: high_frequency_attack(CONSTANT, X, LABELS.to("meta")), ValueError, "on the device of x (cpu), got meta"),
    (lambda: high_frequency_attack(CONSTANT, X, step=0), ValueError, "step must be a positive int, got 0"),
    (lambda: high_frequency_attack(CONSTANT, X, step=1.0), TypeError, "step must be a positive int, got 1.0"),
    (lambda: high_frequency_attack(CONSTANT, X, batch_size=0), ValueError, "batch_size must be a positive int, got 0"),
    (lambda: high_frequency_attack(CONSTANT, X, min_radius=-1), ValueError, "min_radius must be a non-negative number"),
    (lambda: high_frequency_attack(CONSTANT, X, min_radius="1"), TypeError, "min_radius must be a non-negative number"),
    (lambda: high_frequency_attack(CONSTANT, X, bounds=(1, 0)), ValueError, "bounds must be a pair of numbers"),
    (lambda: high_frequency_attack(CONSTANT, X, bounds=1), ValueError, "bounds must be a pair of numbers"),
    (
        lambda: high_frequency_attack(lambda x: x, X),
        TypeError,
        "scores [2, classes] or integer labels [2], got float32 [2, 3,",
    ),
    (lambda: high_frequency_attack(lambda x: x[:1, 0, 0], X), TypeError, "integer labels [2], got float32 [1, 12]"),
    (lambda: high_frequency_attack(lambda x: x[:, 0, 0, 0], X), TypeError, "integer labels [2], got float32 [2]"),
    (lambda: high_frequency_attack(lambda x: (x, x), X), TypeError, "integer labels [2], got tuple"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[case[2][:70] for case in WRONG])
def test_wrong_calls_say_what_is_wrong(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
