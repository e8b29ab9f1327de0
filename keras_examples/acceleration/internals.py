"""The names of Keras and torch that are not public and that this room needs, each with a word why."""

import ctypes
import functools
import inspect
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from keras.src.backend.common.global_state import get_global_attribute  # Keras's generator where no seed is given
from keras.src.backend.common.stateless_scope import in_stateless_scope  # whether variables stand for other values
from keras.src.backend.torch import core as keras_core  # its scatter asks for each index, its cond for its condition
from keras.src.backend.torch.random import torch_seed_generator  # from a Keras seed to a generator of torch's
from keras.src.losses import losses as keras_losses  # those of hinges ask whether labels are binary
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter  # batches without a `DataLoader`
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from torch.nn.modules import module  # has the hooks of all modules
from torch.utils._python_dispatch import TorchDispatchMode  # sees each operation that reaches a kernel
from torch.utils.flop_counter import flop_registry  # counts the work of an operation by its shapes
from torch.utils.weak import WeakTensorKeyDictionary  # knows a tensor again that comes back from the backward pass

__all__ = ["ArrayDataAdapter", "PyDatasetAdapter", "TorchDispatchMode", "WeakTensorKeyDictionary"]
__all__ += ["flop_registry", "get_global_attribute", "in_stateless_scope", "keras_core", "keras_losses"]

aten = torch.ops.aten
seeding = inspect.unwrap(torch_seed_generator).__code__
without_function_modes = torch._C.DisableTorchFunction  # while an operation is written down, nobody else looks on
mkldnn_linear = torch.ops.mkldnn._linear_pointwise  # oneDNN's matrix product, which torch chooses for inference only
lstm_kernel = aten.mkldnn_rnn_layer.default  # what `torch.lstm` runs on CPU, layer by layer
lstm_backward_kernel = aten.mkldnn_rnn_layer_backward.default
fused_sgd, fused_adamw = torch._fused_sgd_, torch._fused_adamw_  # the kernels behind torch.optim's `fused=True`

_library = ctypes.CDLL(None) if sys.platform == "linux" else None
# OpenMP's own call changes the calling thread alone, torch's also what every new thread begins with.
set_threads = getattr(_library, "omp_set_num_threads", torch.set_num_threads)


def keep_freed_memory() -> None:
    """Has glibc keep what a step frees for the next, which otherwise faults in every page of its images anew."""
    if mallopt := getattr(_library, "mallopt", None):
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at the most that glibc allows
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def return_freed_memory() -> None:
    """Has glibc return to the system what it keeps, for after a step that took more than its replays will."""
    if malloc_trim := getattr(_library, "malloc_trim", None):
        malloc_trim(0)


@functools.cache
def mkl_is_slow() -> bool:
    """Whether oneDNN multiplies large matrices faster than MKL, which on AMD's processors leaves AVX-512 unused."""
    cpuinfo = Path("/proc/cpuinfo")
    maker = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    return "AuthenticAMD" in maker and "AVX512" in torch.backends.cpu.get_cpu_capability()


def hooks(tensor: torch.Tensor) -> list[Any]:
    """What is called with a tensor's gradient."""
    return [*(tensor._backward_hooks or {}).values(), *(tensor._post_accumulate_grad_hooks or {}).values()]


def module_hooks() -> list[Any]:
    """What torch calls around every module, and so around every layer of Keras's."""
    kinds = module._global_forward_pre_hooks, module._global_forward_hooks, module._global_backward_hooks
    return [hook for kind in (*kinds, module._global_backward_pre_hooks) for hook in kind.values()]


def modes() -> list[str]:
    """The kinds of modes that answer for torch's functions, as `with torch.device()` is one."""
    return [type(torch._C._get_function_stack_at(i)).__name__ for i in range(torch._C._len_torch_function_stack())]
