"""Inception score, power spectra, motion, probe and grounding by hand."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.metrics.grounding import grounding_psnr, psnr
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.motion import frame_differences
from pipeline.metrics.probe import Probe
from pipeline.metrics.psd import frame_spectra, power_spectrum
from pipeline.metrics.tables import over_sets


def test_inception_score_by_hand():
    assert inception_score(torch.zeros(6, 5))[0] == pytest.approx(1)  # every prediction alike
    certain = torch.eye(4).repeat(3, 1) * 1e4
    assert inception_score(certain)[0] == pytest.approx(4)  # certain, and all classes
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)  # marginal 0.7, 0.3
    kl = [0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3), 0.9 * math.log(0.9 / 0.7) + 0.1 * math.log(0.1 / 0.3)]
    assert inception_score(p.log())[0] == pytest.approx(math.exp(sum(kl) / 2))


def test_inception_score_over_splits():
    logits = torch.zeros(8, 4)
    logits[1::2] = torch.eye(4) * 1e4  # dealt out in turn: scores 1 and 4
    assert inception_score(logits, 2) == (pytest.approx(2.5), pytest.approx(1.5))


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
    grey = torch.tensor([0, 51, 102, 255], dtype=torch.uint8)  # powers of frequency 0: grey^2 S^2
    videos = grey.view(4, 1, 1, 1, 1).expand(4, 1, 3, 8, 8)
    spectra = frame_spectra(videos, (1,))
    # dealt out in turn: {0, 0.4} and {0.2, 1}
    means = [64 * (0 + 0.16) / 2, 64 * (0.04 + 1) / 2]
    mean, deviation = over_sets(spectra, 2)
    assert mean.shape == deviation.shape == (1, 5)
    assert mean[0, 0].item() == pytest.approx(sum(means) / 2)
    assert deviation[0, 0].item() == pytest.approx((means[1] - means[0]) / math.sqrt(2))
    assert over_sets(spectra, 1)[1].max() == 0


def test_a_set_of_spectra_takes_600_videos():
    spectra = torch.zeros(610, 1, 2)
    spectra[599:] = 4
    assert over_sets(spectra, 1)[0][0, 0].item() == pytest.approx(4 / 600)
    assert over_sets(spectra, 2)[0][0, 0].item() == pytest.approx(4 * 11 / 610)


def test_motion_by_hand():
    videos = torch.zeros(2, 3, 3, 1, 2, dtype=torch.uint8)
    videos[0, 1, :, 0, 0] = 200  # half of the pixels change by 200, and back
    videos[1, 2] = 50
    assert frame_differences(videos).tolist() == [[100, 100], [0, 50]]
    assert frame_differences(videos[:0]).shape == (0, 2)
    assert frame_differences(videos[:, :1]).shape == (2, 0)


class _Largest(TorchDispatchMode):
    """The bytes of the largest new tensor."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made._base is None:
            self.bytes = max(self.bytes, made.nbytes)
        return made


def test_motion_takes_less_memory_than_its_videos_and_is_exact():
    videos = torch.randint(0, 256, (4, 8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with _Largest() as largest:
        found = frame_differences(videos)
    assert 0 < largest.bytes < videos.nbytes / 8
    wide = videos.double()
    assert torch.equal(found, (wide[:, 1:] - wide[:, :-1]).abs().mean(dim=(2, 3, 4)))


def test_the_probe_tells_what_is_separable_and_no_more():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centers = torch.tensor([[4.0, 0], [-4, 4], [-4, -4]])
    features = centers[labels] + torch.randn(60, 2, generator=draw)
    probe = Probe(features[:30], labels[:30] + 7)
    assert probe.accuracy(features[30:], labels[30:] + 7) == 1
    assert probe.accuracy(features[30:], (labels[30:] + 1) % 3 + 7) == 0
    assert probe.accuracy(features[30:], labels[30:]) == 0  # classes that it does not know
    noise = torch.randn(300, 2, generator=draw)
    assert 0.15 < Probe(noise, torch.arange(300) % 3).accuracy(noise, torch.arange(300) % 3) < 0.55
    with pytest.raises(ValueError, match="two classes"):
        Probe(features[:3], torch.zeros(3, dtype=torch.int64))


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
