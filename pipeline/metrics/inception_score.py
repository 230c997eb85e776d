"""Inception score (Salimans et al. 2016; Sec. 5.1)."""

import torch
from jaxtyping import Float
from torch import Tensor


def inception_score(logits: Float[Tensor, "N classes"], splits: int = 1) -> tuple[float, float]:
    """exp E KL(p(y|x) || p(y)): its mean and standard deviation over equal splits of the set, in their order.

    Raises ValueError where a split would be empty. The deviation of one split is 0.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{len(logits)} videos cannot make {splits} splits")
    log_p = logits.double().log_softmax(dim=1)
    scores = []
    for part in log_p.tensor_split(splits):
        log_marginal = part.logsumexp(dim=0) - torch.tensor(float(len(part)), dtype=torch.float64).log()
        scores.append((part.exp() * (part - log_marginal)).sum(dim=1).mean().exp())
    score = torch.stack(scores)
    return score.mean().item(), score.std(correction=0).item()
