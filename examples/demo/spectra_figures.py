"""Spectra, robustness and confidence with alias_ops.plots: ``python examples/demo/spectra_figures.py FOLDER``.

Trains the demo's network on patches of the photographs that come with scikit-image, once with strided convolutions
and once with FLC pooling, attacks both with foolbox, and draws the figures of docs/spectra.md (``make docs-figures``).
Takes about two minutes on two cores; ``--epochs`` and ``--patches`` train for longer or shorter.
"""

import argparse
import sys
from pathlib import Path

try:
    import foolbox
    import matplotlib as mpl
    import torch
    from matplotlib.figure import Figure
    from torch import nn

    from alias_ops import plots, spectra
    from data import CLASSES, Patches, cut_pixels, normalise
    from train import Run, train
except ModuleNotFoundError as error:
    sys.exit(f"This needs {error.name}, not installed here: pip install 'alias-ops[attacks,demo]'.")

SEED, STEPS = 0, 6
EPSILON, NORMS = 8 / 255, (0, 1, 2, 4, 8)  # of a pixel in 0..1, and in 1/255
SHOWN = ("astronaut", "brick", "coffee", "grass", "gravel")


class Pixels(nn.Module):
    """The demo's network on pixels in 0..1, which an attack moves."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(normalise(x))


class Trained:
    """One variant's training, and its accuracy under attack after every epoch."""

    def __init__(self, variant: str, epochs: int, patches: tuple[Patches, ...], pixels: Patches) -> None:
        self.run, self.pixels = Run.start(variant, epochs, SEED), pixels
        self.model = Pixels(self.run.model)
        self.robust: list[float] = []
        train(self.run, *patches, patches[1].images[:: len(patches[1]) // 100][:100], SEED, self._show)

    def _show(self, run: Run) -> None:
        if run.variant == "strided" and len(run.history) > len(self.robust):
            self.robust.append(self.accuracy(EPSILON / 2))

    def accuracy(self, epsilon: float) -> float:
        attacked = self.attacked(epsilon) if epsilon else self.pixels.images
        report = spectra.confidence_report(self.model, self.pixels.images, attacked, self.pixels.labels)
        return report.adversarial.accuracy

    def attacked(self, epsilon: float) -> torch.Tensor:
        return self.perturbation(epsilon).adversarial

    def perturbation(self, epsilon: float) -> spectra.PerturbationSpectrum:
        torch.manual_seed(SEED)
        attack = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=STEPS)
        x, y = self.pixels.images, self.pixels.labels
        return spectra.perturbation_spectrum(self.model, x, y, attack, epsilon=epsilon, by_class=True)


def layers(strided: Trained) -> Figure:
    """What each strided convolution folds of the patches."""
    return plots.plot_layers(spectra.layer_spectra(strided.model, strided.pixels.images))


def images_and_perturbation(strided: Trained) -> Figure:
    """Rings of photographs and of what PGD adds to them."""
    clean, attacked = strided.pixels.images, strided.attacked(EPSILON)
    profiles = {
        "photographs": spectra.radial_profile(clean),
        "what PGD adds": spectra.radial_profile(attacked - clean),
    }
    return plots.plot_radial_profile(profiles).figure


def of_classes(found: spectra.PerturbationSpectrum) -> Figure:
    """The same, of some classes."""
    some = {label: level for label, level in found.classes.items() if CLASSES[label] in SHOWN}
    chosen = spectra.PerturbationSpectrum(found.channels, some, found.images, found.unchanged, found.adversarial)
    return plots.plot_perturbation(chosen, by="class", names=CLASSES)


def training(strided: Trained) -> Figure:
    """AM over the epochs, and against accuracy under attack."""
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    history = [epoch.aliasing for epoch in strided.run.history]
    epochs = [epoch.epoch for epoch in strided.run.history]
    plots.plot_training(history, epochs=epochs, ax=left)
    am = [sum(layers.values()) / len(layers) for layers in history]
    plots.plot_correlation(am, strided.robust, labels=list(map(str, epochs)), ax=right)
    return figure


def robustness(networks: dict[str, Trained]) -> Figure:
    """Accuracy over the norm of the perturbation, and confidences."""
    figure = Figure(figsize=(9.4, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    accuracies = {name: [one.accuracy(norm / 255) for norm in NORMS] for name, one in networks.items()}
    plots.plot_accuracy(NORMS, accuracies, xlabel="L∞ norm of the perturbation, 1/255", ax=left)
    left.get_legend().remove()
    reports = {
        name: spectra.confidence_report(one.model, one.pixels.images, one.attacked(EPSILON), one.pixels.labels)
        for name, one in networks.items()
    }
    plots.plot_confidence(reports, ax=right)
    for name, report in reports.items():
        print(f"{name}\n{report}")
    return figure


def save(figure: Figure, path: Path) -> None:
    """A PNG of no date or version: the same picture is the same bytes."""
    figure.savefig(path, dpi=90, metadata={"Software": None}, pil_kwargs={"optimize": True})


def main() -> None:
    """Train, attack, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("folder", type=Path, help="for the pictures, which is there")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--patches", type=int, default=64, help="to train on, of each photograph")
    parser.add_argument("--attacked", type=int, default=128, help="patches to attack, of all photographs")
    arguments = parser.parse_args()
    torch.set_num_threads(min(4, torch.get_num_threads()))
    both = cut_pixels(arguments.patches, max(20, arguments.patches // 4), SEED)
    pixels, patches = both[1], tuple(Patches(normalise(part.images), part.labels) for part in both)
    step = max(1, len(pixels) // arguments.attacked)
    some = Patches(pixels.images[::step], pixels.labels[::step])
    networks = {variant: Trained(variant, arguments.epochs, patches, some) for variant in ("strided", "FLC")}
    strided, found = networks["strided"], networks["strided"].perturbation(EPSILON)
    with mpl.rc_context(plots.STYLE):  # of the figures made here; those that plots makes have it anyway
        figures = {
            "spectra_layers.png": layers(strided),
            "spectra_profile.png": images_and_perturbation(strided),
            "spectra_channels.png": plots.plot_perturbation(found),
            "spectra_classes.png": of_classes(found),
            "spectra_training.png": training(strided),
            "spectra_robustness.png": robustness(networks),
        }
    for name, figure in figures.items():
        save(figure, arguments.folder / name)


if __name__ == "__main__":
    main()
