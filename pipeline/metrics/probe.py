"""A linear probe: how often a classifier trained on real clips recognises the class of real and of generated ones."""

import torch
import torch.nn.functional as F
from jaxtyping import Int64, Shaped
from torch import Tensor

DECAY = 1e-2  # of the squared weights: features of few clips are separable in any way
STEPS = 200  # of L-BFGS at most


class Probe:
    """Multinomial logistic regression on features, each dimension brought to mean 0 and deviation 1."""

    def __init__(self, features: Shaped[Tensor, "N D"], labels: Int64[Tensor, " N"]) -> None:
        """Train on clips with labels of at least two classes (ValueError otherwise)."""
        self.classes, targets = labels.unique(return_inverse=True)
        if len(self.classes) < 2:
            raise ValueError("a probe takes clips of at least two classes")
        x = features.double()
        self._mean, self._deviation = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
        x = (x - self._mean) / self._deviation
        self._weight = torch.zeros(len(self.classes), x.shape[1], dtype=torch.float64, requires_grad=True)
        self._bias = torch.zeros(len(self.classes), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([self._weight, self._bias], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(F.linear(x, self._weight, self._bias), targets)
            value = value + DECAY / 2 * self._weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)

    @torch.no_grad()
    def accuracy(self, features: Shaped[Tensor, "N D"], labels: Int64[Tensor, " N"]) -> float:
        """The share of clips whose class it names; a class that it was not trained on counts as missed."""
        x = (features.double() - self._mean) / self._deviation
        named = self.classes[F.linear(x, self._weight, self._bias).argmax(dim=1)]
        return (named == labels).double().mean().item()
