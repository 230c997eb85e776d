import numpy as np
import torch
from PIL import Image

from models.hierarchy import f_s, f_t


def test_f_s_is_pils_bilinear_to_one_grey_level():
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    ours = f_s(torch.from_numpy(frame).permute(2, 0, 1)[None, None], 8)[0, 0].permute(1, 2, 0).numpy()
    pil = np.asarray(Image.fromarray(frame).resize((8, 8), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - pil).max() <= 1


def test_f_s_keeps_a_constant_and_a_size():
    x = torch.full((1, 2, 3, 8, 8), 0.25)
    assert torch.allclose(f_s(x, 4), torch.full((1, 2, 3, 4, 4), 0.25))
    assert f_s(x, 8) is x


def test_f_t_keeps_every_kth_frame():
    x = torch.arange(7).view(1, 7, 1, 1, 1)
    assert f_t(x, 3).flatten().tolist() == [0, 3, 6]
