import numpy as np
import pytest
import torch

from models.hierarchy import f_s, f_t
from pipeline.data.pixels import to_bytes, to_unit
from pipeline.errors import UserError
from pipeline.training.clips import Clips
from pipeline.workers import Workers
from tests.pipeline.training.tiny import ALONE, TRAINING, MemoryReader, batches, views


def test_grey_levels_go_to_the_unit_range_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    unit = to_unit(levels)
    assert unit.shape == (1, 3, 16, 16)
    assert (unit.min(), unit.max()) == (-1, 1)
    assert np.array_equal(to_bytes(unit), levels)
    assert to_bytes(torch.tensor([[[[-2.0]], [[0.0]], [[2.0]]]])).flatten().tolist() == [0, 128, 255]


def test_real_pairs_are_views_of_the_same_window():
    clips = batches(2).real_clips(5, range(8))
    assert clips.video is not None
    assert clips.condition is not None
    assert clips.video.shape == (8, 4, 3, 16, 16)
    assert clips.condition.shape == (8, 2, 3, 8, 8)
    rounded = f_s(f_t(clips.video, 2), 8) - clips.condition
    assert rounded.abs().max() <= 1.01 / 127.5  # f_s on whole grey levels rounds twice


def test_fakes_are_made_from_the_generated_videos_with_their_labels():
    low, _, labels = views()
    marked = np.zeros_like(low)
    marked[:] = (np.arange(6) * 40)[:, None, None, None, None]
    clips = batches(2, generated=MemoryReader(marked, labels[::-1].copy())).fake_clips(0, range(32))
    assert clips.video is None
    assert clips.condition is not None
    assert clips.labels is not None
    videos = to_bytes(clips.condition)[:, 0, 0, 0, 0] // 40
    assert clips.labels.tolist() == [int(labels[::-1][v]) for v in videos]
    assert len(set(videos.tolist())) == 6


def test_level_1_draws_labels_in_the_datas_proportions():
    clips = batches(1).fake_clips(0, range(300))
    assert clips.condition is None
    assert clips.labels is not None
    assert np.bincount(clips.labels.numpy(), minlength=3) == pytest.approx([100, 100, 100], abs=35)


def test_draws_do_not_depend_on_how_a_batch_is_shared():
    b = batches(2)
    whole = b.fake_clips(9, range(4))
    halves = [b.fake_clips(9, Workers(rank=r, count=2, device=ALONE.device).positions(4)) for r in (0, 1)]
    for name in ("noise", "condition", "labels", "frames", "rounding"):
        together = torch.cat([getattr(half, name) for half in halves])
        assert torch.equal(together, getattr(whole, name)), name


def test_the_spatial_discriminator_sees_different_frames_of_each_clip():
    frames = batches(1).real_clips(0, range(20)).frames
    assert frames.shape == (20, 3)
    assert all(len(set(row)) == 3 for row in frames.tolist())
    assert set(frames.flatten().tolist()) == {0, 1, 2, 3}


def test_rounding_noise_is_one_grey_level_wide():
    rounding = batches(2).real_clips(0, range(8)).rounding
    assert rounding is not None
    assert rounding.shape == (8, 2, 6, 8, 8)
    assert 0.95 / 255 < rounding.abs().max() <= 1 / 255  # 0.5 of 255 grey levels in a range of 2


def test_too_long_a_window_and_an_uneven_batch_are_refused():
    with pytest.raises(
        UserError, match=r"levels\.2\.training\.window: 9 frames span 18 of the top view, and the longest .* has 12"
    ):
        batches(2, window=9)
    with pytest.raises(UserError, match="a batch of 5 cannot be shared equally by 2 workers"):
        Workers(rank=0, count=2, device=ALONE.device).positions(5)


def test_a_training_video_without_a_class_is_refused():
    low, top, labels = views()
    unknown = np.where(np.arange(6) == 4, -1, labels)
    with pytest.raises(UserError, match=r"data\.classes: 1 training videos have no class"):
        batches(2, real=MemoryReader(top, unknown), real_condition=MemoryReader(low, unknown, 2))


def tensors(clips: Clips) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in vars(clips).items() if tensor is not None}


def same(clips: Clips, others: Clips) -> bool:
    a, b = tensors(clips), tensors(others)
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_an_iteration_has_fresh_clips_for_each_update():
    source, positions = batches(2), range(4)
    fifth, sixth = source.iterations(4, TRAINING, ALONE)  # of 6, each of 2 updates of D and one of G
    assert not same(fifth.generator, sixth.generator)
    for update, (real, fake) in zip((15, 16), sixth.discriminator, strict=True):
        assert same(real, source.real_clips(update, positions)) and same(fake, source.fake_clips(update, positions))
    assert same(sixth.generator, source.fake_clips(17, positions))
    assert not list(source.iterations(6, TRAINING, ALONE))


def test_clips_are_cut_and_put_together_again():
    real, fake = batches(2).real_clips(0, range(4)), batches(2).fake_clips(0, range(4))
    halves = real.chunk(2)
    assert torch.equal(tensors(halves[1])["video"], tensors(real)["video"][2:])
    assert same(Clips.cat(halves), real)
    both = tensors(Clips.cat((real, fake)))
    assert both.keys() == tensors(real).keys() & tensors(fake).keys()  # neither video nor noise
    assert torch.equal(both["labels"], torch.cat((tensors(real)["labels"], tensors(fake)["labels"])))


def test_a_mirror_turns_a_clip_and_its_condition_and_nothing_else():
    plain, mirrored = batches(2).real_clips(3, range(64)), batches(2, mirror=True).real_clips(3, range(64))
    assert plain.video is not None and mirrored.video is not None
    assert plain.condition is not None and mirrored.condition is not None
    assert plain.labels is not None and mirrored.labels is not None
    assert torch.equal(plain.labels, mirrored.labels)
    turned = 0
    for place in range(64):
        same = torch.equal(plain.video[place], mirrored.video[place])
        turned += not same
        for before, after in ((plain.video, mirrored.video), (plain.condition, mirrored.condition)):
            assert torch.equal(before[place] if same else before[place].flip(-1), after[place])
    assert 16 < turned < 48
    fake, other = batches(2).fake_clips(3, range(8)), batches(2, mirror=True).fake_clips(3, range(8))
    assert fake.condition is not None and other.condition is not None
    assert torch.equal(fake.condition, other.condition)
