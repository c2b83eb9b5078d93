"""Spectra of perturbations, whatever made them, and confidence: against NumPy on attacks whose result is known."""

import math

import numpy as np
import pytest
import torch
from helpers import randn, vision
from torch import nn

from alias_ops.spectra import confidence_report, perturbation_spectrum, spectrum

EPSILON = 0.1


@pytest.fixture
def model():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(features, nn.Flatten(), nn.Linear(4, 3))


@pytest.fixture
def images():
    return torch.rand(7, 3, 10, 10, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2, 2, 0, 1, 1, 0])


def fgsm(model, x, y):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
    return (x.detach() + EPSILON * gradient.sign()).clamp(0, 1)


def test_channels_and_classes_are_means_over_images(model, images):
    x, y = images
    found = perturbation_spectrum(model, x, y, fgsm, by_class=True, batch_size=3)
    added = (fgsm(model.eval(), x, y) - x).double()
    torch.testing.assert_close(found.adversarial, fgsm(model, x, y))
    torch.testing.assert_close(found.channels.double(), spectrum(added), atol=1e-5, rtol=0)
    assert list(found.classes) == [0, 1, 2]
    for label, level in found.classes.items():
        torch.testing.assert_close(level.double(), spectrum(added[y == label]), atol=1e-5, rtol=0)
    assert (found.images, found.unchanged) == (7, 0)
    assert perturbation_spectrum(model, x, y, fgsm).classes == {}


def test_unchanged_images_are_counted_and_not_meant(model, images):
    x, y = images

    def some(model, x, y):
        return torch.where((y == 2)[:, None, None, None], x, x + 0.1 * randn(*x.shape, dtype=x.dtype))

    found = perturbation_spectrum(model, x, y, some, by_class=True)
    assert (found.images, found.unchanged) == (5, 2)
    assert list(found.classes) == [0, 1]
    assert found.channels.min() > -4
    none = perturbation_spectrum(model, x, y, lambda model, x, y: x)
    assert (none.images, none.unchanged) == (0, 7)
    assert none.channels.shape == (3, 10, 10)
    assert none.channels.isnan().all()


def foolbox_attack(model):
    return pytest.importorskip("foolbox").attacks.LinfFastGradientAttack(), {"epsilon": EPSILON}


def torchattacks_attack(model):
    return vision("torchattacks").FGSM(model, eps=EPSILON), {}


@pytest.mark.parametrize("made", [foolbox_attack, torchattacks_attack])
def test_attacks_of_libraries_are_those_by_hand(model, images, made):
    x, y = images
    attack, options = made(model)
    found, expected = perturbation_spectrum(model, x, y, attack, **options), perturbation_spectrum(model, x, y, fgsm)
    torch.testing.assert_close(found.adversarial, expected.adversarial)
    torch.testing.assert_close(found.channels, expected.channels, atol=1e-4, rtol=0)


def test_the_smallest_perturbation_of_foolbox_leaves_wrong_images_alone(model, images):
    attack = pytest.importorskip("foolbox").attacks.L2DeepFoolAttack()
    x, y = images
    wrong = int((model.eval()(x).argmax(1) != y).sum())
    found = perturbation_spectrum(model, x, y, attack)
    assert 0 < wrong < 7
    assert found.unchanged == wrong


def test_the_model_is_at_rest_meanwhile_and_as_it_was_afterwards(model, images):
    model.train()
    model[0][1].eval()
    model[2].weight.requires_grad_(False)
    seen = []

    def attack(model, x, y):
        seen.append([p.requires_grad for p in model.parameters()] + [m.training for m in model.modules()])
        model(x.clone().requires_grad_()).sum().backward()
        return x + 1

    perturbation_spectrum(model, *images, attack)
    assert not any(seen[0])
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert not model[0][1].training
    assert [p.requires_grad for p in model[2].parameters()] == [False, True]


@pytest.mark.parametrize(
    ("attack", "options", "error", "says"),
    [
        (lambda m, x, y: x[:1], {}, ValueError, r"attack must return images \[7, 3, 10, 10\], got \[1, 3"),
        (lambda m, x, y: None, {}, TypeError, "attack must return a tensor, got NoneType"),
        ("fgsm", {}, TypeError, "attack must be an attack of foolbox or torchattacks, or a function .* got 'fgsm'"),
        (fgsm, {"epsilon": 0.1}, ValueError, "epsilon is for attacks of foolbox alone"),
        (fgsm, {"floor": 0.0}, ValueError, "floor must be a positive number, got 0.0"),
        (fgsm, {"batch_size": 0}, ValueError, "batch_size must be a positive int, got 0"),
    ],
)
def test_wrong_attacks(model, images, attack, options, error, says):
    with pytest.raises(error, match=says):
        perturbation_spectrum(model, *images, attack, **options)


def test_an_attack_for_another_model(model, images):
    attack = vision("torchattacks").FGSM(nn.Sequential(model), eps=EPSILON)
    with pytest.raises(ValueError, match="attack was made for another model, a Sequential"):
        perturbation_spectrum(model, *images, attack)


def test_wrong_images_and_labels(model, images):
    x, y = images
    for wrong, error, says in (
        ((model, x[0], y), ValueError, r"x must be images \[B, C, H, W\], got \[3, 10, 10\]"),
        ((model, x, y[:2]), ValueError, r"y must be int64 \[7\], one label an image, got \[2\]"),
        ((model, x, y.float()), TypeError, r"y must be an int64 tensor \[B\], got torch.float32"),
        ((None, x, y), TypeError, "model must be an nn.Module, got NoneType"),
    ):
        with pytest.raises(error, match=says):
            perturbation_spectrum(*wrong, fgsm)


class Logits(nn.Module):
    """Returns what it is given: images [B, K, 1, 1] that are logits."""

    def forward(self, x):
        return x.flatten(1)


def test_confidence_is_numpys():
    x, labels = 3 * randn(40, 5, 1, 1), torch.arange(40) % 5
    attacked = x.flip(0)
    report = confidence_report(Logits(), x, attacked, labels, batch_size=7)
    for images, found in ((x, report.clean), (attacked, report.adversarial)):
        e = np.exp(images.flatten(1).numpy())
        probabilities = e / e.sum(1, keepdims=True)
        top, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
        expected = (40, right.mean(), top.mean(), top[right].mean(), top[~right].mean())
        assert (found.images, found.accuracy, found.mean, found.right, found.wrong) == pytest.approx(expected, rel=1e-6)


def test_confidence_reads_well_and_of_none_is_none():
    sure = torch.tensor([[20.0, 0.0], [0.0, 20.0]])[:, :, None, None]
    report = confidence_report(Logits(), sure, torch.zeros(2, 2, 1, 1), torch.tensor([0, 1]))
    assert math.isnan(report.clean.wrong)
    assert report.adversarial.mean == 0.5
    assert str(report).splitlines() == [
        "              images  accuracy  confidence  if right  if wrong",
        "clean              2   100.0 %     100.0 %   100.0 %         -",
        "adversarial        2    50.0 %      50.0 %    50.0 %    50.0 %",
    ]


def test_wrong_confidence():
    x, labels = torch.ones(2, 3, 4, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"of the shape of clean, \[2, 3, 4, 4\], got \[2, 3, 2, 2\]"):
        confidence_report(Logits(), x, x[..., :2, :2], labels)
    with pytest.raises(ValueError, match=r"model must return logits \[2, classes\], got \[2, 3, 4, 4\]"):
        confidence_report(nn.Identity(), x, x, labels)
