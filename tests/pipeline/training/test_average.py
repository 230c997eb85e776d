import copy
from dataclasses import replace

import torch

from models.layers import SpectralNorm, power_iteration
from pipeline.training.step import follow
from tests.pipeline.training.tiny import ALONE, TRAINING, batches, networks, same, train

AVERAGED = replace(TRAINING, average=0.75)


def test_the_average_is_the_weighted_sum_of_what_it_followed():
    generator = networks(1).generator
    average = copy.deepcopy(generator)
    weight, mine = generator.last_conv.weight, average.last_conv.weight
    expected = weight.detach().clone()
    for step, decay in ((1, 1 / 10), (2, 2 / 11), (300, 0.75), (301, 0.75)):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
        follow(average, generator, 0.75, step)
        expected = decay * expected + (1 - decay) * weight.detach()
        assert torch.allclose(mine, expected, atol=1e-6)


def layers(generator):
    return [module for module in generator.modules() if isinstance(module, SpectralNorm)]


def test_the_averages_singular_vectors_are_its_own():
    """With the last G's vectors the average's sigma would be too small."""
    torch.manual_seed(0)
    generator = networks(1).generator
    average = copy.deepcopy(generator)
    start = [p.detach().clone() for p in generator.parameters()]
    for step in range(300, 400):
        with torch.no_grad():
            for parameter, begin in zip(generator.parameters(), start, strict=True):
                parameter.copy_(begin + 0.3 * torch.randn_like(begin))
        power_iteration(generator)
        follow(average, generator, 0.99, step)
    own, copied = [], []
    for mine, theirs in zip(layers(average), layers(generator), strict=True):
        matrix = mine.weight.flatten(1)
        true = torch.linalg.matrix_norm(matrix, 2)
        own.append(1 - torch.dot(mine.u, matrix @ mine.v) / true)
        copied.append(1 - torch.dot(theirs.u, matrix @ theirs.v) / true)
    assert torch.stack(own).mean() < 0.02
    assert torch.stack(copied).mean() > 0.1


def test_the_average_is_published_and_training_is_the_same(tmp_path):
    plain, averaged = networks(1), networks(1)
    without = train(plain, batches(1), TRAINING, ALONE, tmp_path / "plain")
    trained = train(averaged, batches(1), AVERAGED, ALONE, tmp_path / "averaged")
    assert same(plain, averaged)
    assert without.history == trained.history
    assert without.generator is plain.generator
    published = dict(trained.generator.named_parameters())
    assert not any(torch.equal(published[name], value) for name, value in averaged.generator.named_parameters())


def test_an_interrupted_run_has_the_same_average(tmp_path):
    whole = train(networks(1), batches(1), AVERAGED, ALONE, tmp_path / "whole")
    train(networks(1), batches(1), replace(AVERAGED, iterations=4), ALONE, tmp_path / "cut")
    resumed = train(networks(1), batches(1), AVERAGED, ALONE, tmp_path / "cut")
    state = resumed.generator.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.generator.state_dict().items())
