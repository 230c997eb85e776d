"""Inception score (Salimans et al. 2016; Sec. 5.1)."""

import torch
from jaxtyping import Shaped
from torch import Tensor, nn


class InceptionScore(nn.Module):
    """exp E KL(p(y|x) || p(y)) over splits of a set seen a few at a time; memory does not grow with their number.

    Videos are dealt out to the splits in turn. E KL is the mean of -H(p(y|x)) plus H of the mean of p(y|x).
    """

    _n: Tensor
    _p: Tensor
    _negentropy: Tensor

    def __init__(self, classes: int, splits: int = 1) -> None:
        super().__init__()
        self.register_buffer("_n", torch.zeros(splits, dtype=torch.float64))
        self.register_buffer("_p", torch.zeros(splits, classes, dtype=torch.float64))
        self.register_buffer("_negentropy", torch.zeros(splits, dtype=torch.float64))

    @property
    def splits(self) -> int:
        return len(self._n)

    def update(self, logits: Shaped[Tensor, "N classes"], first: int = 0) -> None:
        """Add some videos' logits; `first` is the place of the first of them in its set."""
        log_p = logits.double().log_softmax(dim=1)
        split = torch.arange(first, first + len(logits)) % len(self._n)
        self._n.index_add_(0, split, torch.ones(len(logits), dtype=torch.float64))
        self._p.index_add_(0, split, log_p.exp())
        self._negentropy.index_add_(0, split, (log_p.exp() * log_p).sum(dim=1))

    def score(self) -> tuple[float, float]:
        """Its mean and standard deviation over the splits. Raises ValueError where one is empty.

        The deviation of one split is 0.
        """
        if not self._n.all():
            raise ValueError(f"{int(self._n.sum())} videos cannot make {len(self._n)} splits")
        entropy = torch.special.entr(self._p / self._n[:, None]).sum(dim=1)
        scores = (self._negentropy / self._n + entropy).exp()
        return scores.mean().item(), scores.std(correction=0).item()


def inception_score(logits: Shaped[Tensor, "N classes"], splits: int = 1) -> tuple[float, float]:
    """Its mean and standard deviation over splits of a set held whole."""
    score = InceptionScore(logits.shape[1], splits)
    score.update(logits)
    return score.score()
