"""Figures: what is in them, not only that they are drawn; single points, NaN and names with markup in them."""

import io
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from helpers import randn, run_python

from alias_ops import plots
from alias_ops.spectra import (
    ConfidenceReport,
    LayerSpectrum,
    PerturbationSpectrum,
    RadialProfile,
    radial_profile,
    spectrum,
)
from alias_ops.spectra.confidence import Confidence

mpl = pytest.importorskip("matplotlib")

NAN = math.nan


def drawn(figure) -> bytes:
    """Drawing finds what building does not: formulas, sizes, NaN."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    return file.getvalue()


def labels(ax) -> tuple[str, str]:
    return ax.get_xlabel(), ax.get_ylabel()


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def layer(name="layer", size=8, scale=1.0, stride=(2, 2)) -> LayerSpectrum:
    before = scale * randn(size, size).abs()
    folded = scale * randn(-(-size // stride[0]), -(-size // stride[1])).abs()
    return LayerSpectrum(name, "conv 3x3 /2", stride, before, folded, 4)


def confidence(wrong=0.4) -> Confidence:
    return Confidence(10, 0.8, 0.7, 0.9, wrong)


def test_am_over_training_with_its_stop():
    ax = plots.plot_training([0.5, 0.6, 1.2], stop=3)
    assert labels(ax) == ("epoch", "aliasing measure (AM)")
    line, stop = ax.get_lines()
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1, 2, 3], [0.5, 0.6, 1.2])
    assert list(stop.get_xdata()) == [3, 3]
    assert legend(ax) == ["aliasing measure", "stop: epoch 3"]
    assert drawn(ax.figure)


def test_blocks_and_their_mean():
    ax = plots.plot_training([{"a": 1.0, "b": 3.0}, {"a": NAN, "b": 5.0}, {"b": None}], first=0)
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.get_lines()}
    np.testing.assert_equal(lines, {"a": [1, NAN, NAN], "b": [3, 5, NAN], "mean": [2, 5, NAN]})
    assert ax.get_lines()[0].get_xdata().tolist() == [0, 1, 2]
    assert drawn(ax.figure)


def test_correlation_is_numpys():
    am, accuracy = [1.0, 1.2, 0.7, 0.5, NAN], [0.1, 0.05, 0.3, 0.6, 0.2]
    ax = plots.plot_correlation(am, torch.tensor(accuracy), labels=list("abcde"))
    r = np.corrcoef(am[:4], accuracy[:4])[0, 1]
    assert ax.get_title(loc="left") == f"Pearson r = {r:.2f}, n = 4"
    assert labels(ax) == ("aliasing measure (AM)", "robust accuracy (%)")
    points, fit = ax.get_lines()
    np.testing.assert_allclose(points.get_ydata(), [10, 5, 30, 60], rtol=1e-6)
    assert fit.get_ydata()[0] > fit.get_ydata()[1]
    assert [text.get_text() for text in ax.texts] == list("abcd")
    assert drawn(ax.figure)


@pytest.mark.parametrize(("am", "accuracy"), [([1.0], [0.5]), ([1.0, 1.0], [0.2, 0.3]), ([NAN, 1], [0.2, 0.3])])
def test_no_correlation_where_there_is_none(am, accuracy):
    ax = plots.plot_correlation(am, accuracy)
    assert ax.get_title(loc="left").startswith("r is not defined, n = ")
    assert len(ax.get_lines()) == 1
    assert drawn(ax.figure)


def test_accuracy_over_norm():
    ax = plots.plot_accuracy([0, 4, 8], {"strided": [0.9, 0.5, None], "FLC": [0.9, 0.7, 0.6]}, xlabel="L2 norm, 1/255")
    assert labels(ax) == ("L2 norm, 1/255", "accuracy (%)")
    assert legend(ax) == ["strided", "FLC"]
    np.testing.assert_equal(ax.get_lines()[0].get_ydata(), [90, 50, NAN])
    assert drawn(ax.figure)


def test_confidences_and_those_of_no_prediction():
    report = ConfidenceReport(confidence(wrong=NAN), confidence())
    ax = plots.plot_confidence({"strided": report, "FLC": report})
    assert [len(bars) for bars in ax.containers] == [4, 4]
    assert [bar.get_height() for bar in ax.containers[0]] == pytest.approx([70, 70, 0, 40])
    assert [text.get_text() for text in ax.texts][:4] == ["70", "70", "none", "40"]
    assert [text.get_text().replace("\n", " ") for text in ax.get_xticklabels()] == [
        "clean",
        "adversarial",
        "wrong, clean",
        "wrong, adversarial",
    ]
    assert ax.get_ylabel() == "mean confidence (%)"
    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for bars in ax.containers for bar in bars]
    assert all(a[1] <= b[0] or b[1] <= a[0] for a, b in combinations(edges, 2)), "no bar covers another"
    assert plots.plot_confidence(report).get_legend() is None
    assert drawn(ax.figure)


def test_spectra_have_one_scale_and_cycles_a_sample():
    levels = spectrum(randn(2, 3, 8, 12))
    figure = plots.plot_spectrum(levels)
    *pictures, bar = figure.axes
    assert [ax.get_title(loc="left") for ax in pictures] == ["red", "green", "blue"]
    assert figure.get_supxlabel() == "horizontal frequency, cycles/sample"
    assert bar.get_ylabel() == "log10 magnitude"
    for ax, level in zip(pictures, levels, strict=True):
        (image,) = ax.get_images()
        np.testing.assert_array_equal(image.get_array(), level.numpy())
        assert image.get_clim() == (levels.min().item(), levels.max().item())
        # Zero frequency at the middle of its bin, the first bin at -0.5.
        assert image.get_extent() == pytest.approx([-6.5 / 12, 5.5 / 12, 3.5 / 8, -4.5 / 8])
    assert drawn(figure)


def test_perturbations_by_channel_and_by_class():
    found = PerturbationSpectrum(randn(2, 4, 4), {3: randn(2, 4, 4), 7: randn(2, 4, 4)}, 5, 0, randn(5, 2, 4, 4))
    figure = plots.plot_perturbation(found)
    assert [ax.get_title(loc="left") for ax in figure.axes[:-1]] == ["channel 0", "channel 1"]
    figure = plots.plot_perturbation(found, by="class", names={3: "cat", 7: "dog"})
    assert [ax.get_title(loc="left") for ax in figure.axes[:-1]] == ["cat", "dog"]
    np.testing.assert_array_equal(figure.axes[1].get_images()[0].get_array(), found.classes[7].mean(0).numpy())
    assert drawn(figure)


def test_profiles():
    profiles = {"images": radial_profile(randn(2, 3, 16, 16)), "other": radial_profile(randn(2, 1, 8, 8))}
    ax = plots.plot_radial_profile(profiles)
    assert labels(ax) == ("frequency, cycles/sample", "mean log10 magnitude")
    assert legend(ax) == list(profiles)
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), profiles["images"].level.mean(0).numpy())
    assert drawn(ax.figure)


def test_the_strip_of_layers():
    layers = [layer(f"block{i}.conv", 8 + i, 10.0**-i, (2, 1 + i % 2)) for i in range(8)]
    figure = plots.plot_layers(layers)
    pictures = [ax for ax in figure.axes if ax.get_images()]
    titles = [ax.get_title(loc="left") for ax in pictures]
    assert [t for t in titles if "\n" in t] == [f"{one.name}\n{one.kind}" for one in layers]
    assert [t for t in titles if t.startswith("AM")] == [f"AM {one.folded.sum():.3g}" for one in layers]
    assert len(pictures) == 16
    assert len({ax.get_images()[0].get_clim() for ax in pictures}) == 1
    above, below = (
        next(ax for ax in pictures if test(ax)) for test in (lambda ax: ax.patches, lambda ax: not ax.patches)
    )
    (box,) = above.patches
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (-0.5, -0.25, 1, 0.5)
    left, right, bottom, top = below.get_images()[0].get_extent()
    assert (right - left, bottom - top) == pytest.approx((1, 0.5)), "folded onto the half-band"
    assert (above.get_xlim(), above.get_ylim()) == (below.get_xlim(), below.get_ylim())
    assert "cycles/sample" in figure.get_supxlabel()
    assert drawn(figure)


SINGLE = {
    "training": lambda v: plots.plot_training([v]).figure,
    "blocks": lambda v: plots.plot_training([{"a": v}], stop=1).figure,
    "correlation": lambda v: plots.plot_correlation([v], [v]).figure,
    "accuracy": lambda v: plots.plot_accuracy([v], {"a": [v]}).figure,
    "confidence": lambda v: plots.plot_confidence(ConfidenceReport(*2 * [Confidence(1, v, v, v, v)])).figure,
    "spectrum": lambda v: plots.plot_spectrum(torch.full((1, 1, 1), v)),
    "profile": lambda v: plots.plot_radial_profile(RadialProfile(torch.zeros(1), torch.full((1, 1), v))).figure,
    "layers": lambda v: plots.plot_layers(
        [LayerSpectrum("", "max pool 2x2 /2", (2, 2), torch.full((1, 1), v), torch.full((1, 1), v), 1)]
    ),
}


@pytest.mark.parametrize("value", [0.5, 0.0, NAN])
@pytest.mark.parametrize("name", SINGLE)
def test_one_point_and_none(name, value):
    assert drawn(SINGLE[name](value))


def test_names_are_text_and_no_formulas():
    name = r"$\frac{$ <b>_x_"
    figures = [
        plots.plot_training([{name: 1.0}]).figure,
        plots.plot_accuracy([1], {name: [1]}, xlabel=name).figure,
        plots.plot_spectrum(randn(1, 2, 2), names=[name]),
        plots.plot_layers([layer(name)]),
        plots.plot_correlation([1], [1], labels=[name]).figure,
    ]
    assert all(map(drawn, figures))


def test_axes_that_are_given_are_used():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots(2, 2)
    assert plots.plot_training([1.0], ax=axes[0, 0]) is axes[0, 0]
    assert plots.plot_correlation([1.0], [1.0], ax=axes[0, 1]) is axes[0, 1]
    assert plots.plot_spectrum(randn(2, 4, 4), axes=axes[1]) is figure
    assert [len(ax.get_images()) for ax in axes[1]] == [1, 1]
    with pytest.raises(ValueError, match="axes must be 3, one a picture, got 2"):
        plots.plot_spectrum(randn(3, 4, 4), axes=axes[1])


# Brettel, Vienot & Mollon (1997) as Vienot, Brettel & Mollon (1999) simplify it, in linear RGB.
DICHROMATS = {
    "normal": np.eye(3),
    "protan": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deutan": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
}


@pytest.mark.parametrize("vision", DICHROMATS)
def test_colours_are_told_apart(vision):
    from matplotlib.colors import to_rgb

    rgb = np.array([to_rgb(colour) for colour in plots.COLOURS.values()])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ DICHROMATS[vision].T, 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 0.008856))
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)
    closest = min(np.linalg.norm(a - b) for a, b in combinations(lab, 2))
    assert closest > 10, "CIE Lab; 2.3 is a just noticeable difference"


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: plots.plot_training([]), ValueError, "history must have at least one epoch"),
        (lambda: plots.plot_training([1.0, {"a": 1.0}]), TypeError, "either a number or a mapping for every epoch"),
        (lambda: plots.plot_training(["x"]), TypeError, "history must be a sequence of numbers, got"),
        (lambda: plots.plot_correlation([1], [1, 2]), ValueError, "must be of one length, got 1, 2"),
        (lambda: plots.plot_accuracy([1], {"a": [1, 2]}), ValueError, r"one a norm, got accuracies\['a'\] of 2"),
        (lambda: plots.plot_accuracy([1], {}), ValueError, "got no accuracies"),
        (lambda: plots.plot_confidence({}), ValueError, "reports must have at least one report"),
        (lambda: plots.plot_spectrum(randn(4, 4)), ValueError, r"levels must be \[C, H, W\], not empty, got \[4, 4\]"),
        (lambda: plots.plot_spectrum([1]), TypeError, "levels must be a tensor"),
        (lambda: plots.plot_spectrum(randn(2, 4, 4), names=["a"]), ValueError, "names must be 2, one a channel, got 1"),
        (lambda: plots.plot_layers([]), ValueError, "layers must have at least one layer"),
        (lambda: plots.plot_radial_profile({}), ValueError, "profiles must have at least one profile"),
        (
            lambda: plots.plot_perturbation(PerturbationSpectrum(randn(1, 2, 2), {}, 1, 0, randn(1)), by="class"),
            ValueError,
            r"needs perturbation_spectrum\(..., by_class=True\)",
        ),
        (
            lambda: plots.plot_perturbation(PerturbationSpectrum(randn(1, 2, 2), {}, 1, 0, randn(1)), by="x"),
            ValueError,
            'by must be "channel" or "class", got \'x\'',
        ),
    ],
)
def test_wrong_calls(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_without_matplotlib_the_line_for_pip_is_named():
    done = run_python(
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "import alias_ops\n"
        "try: alias_ops.plots.plot_training([1.0])\n"
        "except ImportError as error: print(error)"
    )
    assert done.stdout == "alias_ops.plots needs matplotlib: pip install 'alias-ops[plots]'\n", done.stderr


def test_the_users_own_style_is_as_it_was():
    before = dict(mpl.rcParams)
    plots.plot_training([1.0])
    assert dict(mpl.rcParams) == before
