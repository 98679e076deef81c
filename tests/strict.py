"""A device without float64, as Apple's are: the meta device stands for it where there is no GPU.

The rule: index and compute on the CPU in float64, cast, then move. Meta tensors have no values: what asks for one gets
an answer that lets the path go on. A CUDA GPU runs the same for real, under the same rule.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "cuda" if torch.cuda.is_available() else "meta"


class Strict(TorchDispatchMode):
    """Refuses float64 on the device, and the CPU's tensors beside the device's."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        on = [t for t in given if t.device.type == DEVICE]
        if on and any(t.is_cpu and (t.dim() or t.dtype == torch.float64) for t in given) and name != "copy_":
            raise TypeError(f"{name} of tensors on {DEVICE} and on the CPU")
        if on and name == "_to_copy" and torch.device(kwargs.get("device") or DEVICE).type == "cpu":
            if kwargs.get("dtype") == torch.float64:
                raise TypeError(f"float64 is made of what is on {DEVICE}: move it first")
            if DEVICE == "meta":
                return torch.zeros(on[0].shape, dtype=kwargs.get("dtype", on[0].dtype))
        if on and name == "_local_scalar_dense" and DEVICE == "meta":
            return on[0].dtype == torch.bool or 0  # all are finite, and so is their sum
        out = func(*args, **kwargs)
        if any((t.device.type, t.dtype) == (DEVICE, torch.float64) for t in tree_leaves(out) if isinstance(t, Tensor)):
            raise TypeError(f"{name} makes float64 on {DEVICE}")
        return out
