"""Spectra of images, of feature maps and of what an attack adds; the confidence of predictions."""

from .confidence import ConfidenceReport, confidence_report
from .images import RadialProfile, radial_profile, spectrum
from .layers import LayerSpectrum, layer_spectra
from .perturbations import PerturbationSpectrum, perturbation_spectrum

__all__ = [
    "ConfidenceReport",
    "LayerSpectrum",
    "PerturbationSpectrum",
    "RadialProfile",
    "confidence_report",
    "layer_spectra",
    "perturbation_spectrum",
    "radial_profile",
    "spectrum",
]
