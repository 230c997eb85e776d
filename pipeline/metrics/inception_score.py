"""Inception score (Salimans et al. 2016; Sec. 5.1)."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def inception_score(logits: Shaped[Tensor, "N classes"], splits: int = 1) -> tuple[float, float]:
    """exp E KL(p(y|x) || p(y)): its mean and standard deviation over splits, to which videos are dealt out in turn.

    The deviation of one split is 0; there are no fewer videos than splits.
    """
    assert splits <= len(logits)
    log_p = logits.double().log_softmax(dim=1)
    scores = torch.stack([_divergence(log_p[i::splits]) for i in range(splits)]).exp()
    return scores.mean().item(), scores.std(correction=0).item()


def _divergence(log_p: Float[Tensor, "N classes"]) -> Float[Tensor, ""]:
    """E KL(p(y|x) || p(y)): the entropy of the mean of p(y|x), less the mean of its entropies."""
    p = log_p.exp()
    return torch.special.entr(p.mean(dim=0)).sum() - torch.special.entr(p).sum(dim=1).mean()
