"""The first call of MKL's vector functions (tanh, exp, log, …), which one thread has to make."""

import torch


def make_first_call() -> None:
    """Compute one tanh; networks do so when they are made.

    Where two threads make a process's first call together, either may take MKL for set up to be fast and not to be
    exact, and half of a result is off: tanh by 5e-5, exp by 9e-3, in up to one process of six. A training with that
    ends with other bytes than the next. `MKL_CBWR=AUTO` does not change it (torch 2.13, two cores with AVX-512).
    """
    torch.tanh(torch.zeros(1, device="cpu"))
