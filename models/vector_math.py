"""Makes MKL's vector functions (tanh, exp, log, …) ready when it is imported: a process's first call is of one thread.

Where two threads make the first call together, either may take MKL for set up to be fast and not to be exact, and half
of a result is off: tanh by 5e-5, exp by 9e-3, in up to one process of six, and a training with that ends with other
bytes than the next. `MKL_CBWR=AUTO` does not change it (seen with torch 2.13 on two cores with AVX-512).
"""

import torch

torch.tanh(torch.zeros(1))
