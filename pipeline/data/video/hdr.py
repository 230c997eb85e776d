"""High dynamic range brought to what networks and other clips know: BT.709, made to be seen at 100 nits."""

import functools

import numpy as np
from jaxtyping import UInt8

from pipeline.data.video.source import Transfer

WHITE_NITS = 203  # of paper in such a picture (BT.2408)
HLG_NITS = 1000  # of the brightest, on the screen that HLG is graded on (BT.2100)
KNEE = 0.75  # of white: up to here light stays as it is, what is brighter is pressed together
BT709_OF_BT2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593])
DISPLAY_GAMMA = 2.4  # BT.1886


def tone_mapped(frame: UInt8[np.ndarray, "H W 3"], transfer: Transfer) -> UInt8[np.ndarray, "H W 3"]:
    """A frame of BT.2020's colours in a transfer function of BT.2100 as one of BT.709.

    Colours keep their ratio of red, green and blue where they are too bright; those that BT.709 has not are clipped.
    """
    light = _light(transfer)[frame]  # 1: white
    if transfer == "HLG":  # the screen's own gamma, of what the camera saw
        seen = light @ BT2020_LUMA
        light = light * (seen ** (1.2 - 1) * HLG_NITS / WHITE_NITS)[..., None]
    light = np.maximum(light @ BT709_OF_BT2020.T, 0)
    brightest = light.max(-1, keepdims=True)
    above = np.maximum(brightest - KNEE, 0) / (1 - KNEE)
    pressed = KNEE + (1 - KNEE) * (1 - np.exp(-above))
    light = np.where(above > 0, light * pressed / np.maximum(brightest, KNEE), light)
    return np.rint(255 * light ** (1 / DISPLAY_GAMMA)).astype(np.uint8)


@functools.cache
def _light(transfer: Transfer) -> np.ndarray:
    """The light of each grey level: of PQ shown, 1 for white (ST 2084); of HLG as the camera saw it, 0 to 1."""
    signal = np.arange(256) / 255
    if transfer == "PQ":
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = signal ** (1 / m2)
        return (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * 10000 / WHITE_NITS
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
