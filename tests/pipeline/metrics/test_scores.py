"""Inception score, power spectra and grounding by hand."""

import math

import pytest
import torch

from pipeline.metrics.grounding import grounding_psnr, psnr
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.psd import frame_spectra, over_sets, power_spectrum


def test_inception_score_by_hand():
    assert inception_score(torch.zeros(6, 5))[0] == pytest.approx(1)  # every prediction alike
    certain = torch.eye(4).repeat(3, 1) * 1e4
    assert inception_score(certain)[0] == pytest.approx(4)  # certain, and all classes
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)  # marginal 0.7, 0.3
    kl = [0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3), 0.9 * math.log(0.9 / 0.7) + 0.1 * math.log(0.1 / 0.3)]
    assert inception_score(p.log())[0] == pytest.approx(math.exp(sum(kl) / 2))


def test_inception_score_over_splits():
    logits = torch.cat([torch.zeros(4, 4), torch.eye(4) * 1e4])  # scores 1 and 4
    assert inception_score(logits, 2) == (pytest.approx(2.5), pytest.approx(1.5))
    with pytest.raises(ValueError, match="splits"):
        inception_score(logits, 9)


def test_power_spectrum_of_a_sinusoid():
    size, cycles, amplitude = 32, 5, 100
    x = torch.arange(size)
    wave = (127.5 + amplitude * torch.cos(2 * torch.pi * cycles * x / size)).round().to(torch.uint8)
    frame = wave.expand(3, size, size)
    power = power_spectrum(frame)
    assert power.shape == (17,)
    # |DFT|^2 of a cosine: (a S^2 / 2)^2 at two frequencies; the ring of radius 5 has 32 cells in the plane.
    ring = sum(round(math.hypot(u, v)) == 5 for u in range(-16, 16) for v in range(-16, 16))
    expected = 2 * (amplitude / 255 * size**2 / 2) ** 2 / size**2 / ring
    assert power[5] == pytest.approx(expected, rel=0.01)
    others = torch.cat([power[1:5], power[6:]])
    assert others.max() < 1e-3 * power[5]
    assert power[0] == pytest.approx((frame.double() / 255).mean().item() ** 2 * size**2, rel=1e-6)


def test_frames_are_counted_from_one():
    videos = torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8)
    videos[:, 2] = 255
    spectra = frame_spectra(videos, (1, 3))
    assert spectra.shape == (2, 2, 5)
    assert spectra[0, 0, 0] == 0 and spectra[0, 1, 0] == pytest.approx(64)


def test_deviation_is_over_sets():
    spectra = torch.tensor([1.0, 3, 5, 7]).view(4, 1, 1)  # sets of two: means 2 and 6
    mean, deviation = over_sets(spectra, 2)
    assert mean.item() == 4 and deviation.item() == pytest.approx(math.sqrt(8))
    assert over_sets(spectra, 1)[1].item() == 0
    with pytest.raises(ValueError, match="sets"):
        over_sets(spectra, 5)


def test_psnr_by_hand():
    a = torch.zeros(2, 1, 1, 2, 2, dtype=torch.uint8)
    b = a.clone()
    b[1, ..., 0] = 10  # mean squared error 50
    assert psnr(a, b).tolist() == [100, pytest.approx(10 * math.log10(255**2 / 50))]


def test_grounding_compares_the_view_below():
    condition = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    constant = torch.full((2, 6, 3, 16, 16), 90, dtype=torch.uint8)
    constant[:, 1::2] = 200  # f_t drops these
    assert grounding_psnr(constant, torch.full_like(condition, 90)).tolist() == [100, 100]
    expected = psnr(torch.full_like(condition, 90), condition)
    assert torch.equal(grounding_psnr(constant, condition), expected)
    with pytest.raises(ValueError, match="no view"):
        grounding_psnr(constant, condition[:, [0, 1, 2, 0]])
