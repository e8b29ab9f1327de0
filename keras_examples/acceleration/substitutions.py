"""What Keras asks of torch while a step is recorded, asked better; and what leaves torch meanwhile.

What is asked instead was chosen by measuring the models of this package, and says what it saves.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import torch
from torch.autograd.function import once_differentiable

from keras_examples.acceleration.internals import WeakTensorKeyDictionary, keras_core, keras_losses, seeding
from keras_examples.acceleration.recording import Recorder, flat

NARROW = 16  # columns

# How Keras calls torch's cross-entropy for sparse labels.
AS_KERAS = {"reduction": "none", "weight": None, "ignore_index": -100, "label_smoothing": 0.0}
AS_KERAS |= {"size_average": None, "reduce": None}

_tensor: Any = torch.Tensor
LEAVES_TORCH = "__array__ __deepcopy__ __dlpack__ __reduce_ex__ __repr__ data_ptr numpy share_memory_ storage tolist"
SPLITS = {torch.tensor_split, torch.Tensor.tensor_split}  # which may read where from a tensor
SEES_OFF = {getattr(_tensor, name) for name in (LEAVES_TORCH + " untyped_storage").split()} | SPLITS
SEES_OFF.add(_tensor.data.__set__)
HOOKS = {torch.Tensor.register_hook, torch.Tensor.retain_grad}
BY_VALUE = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}  # of a list, out of dispatch's sight


class Substitutions(torch.overrides.TorchFunctionMode):
    """Answers for torch while a step is recorded."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.recorder = recorder
        self.rectified: Any = None, None, ()  # the last rectified tensor, what it was before, and their versions
        self.passed_by = WeakTensorKeyDictionary()  # rectified tensors that a pooling did without

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, x = kwargs or {}, args[0] if args else None
        if function in BY_VALUE and not self.recorder.reason:
            listed = [part for part in (*args, *kwargs.values()) if isinstance(part, (list, tuple))]
            parts = [part.value if isinstance(part, keras.Variable) else part for part in keras.tree.flatten(listed)]
            if [*flat(parts)]:
                self._see_off(function, parts, {})
        if self.recorder.reason or not isinstance(x, torch.Tensor):
            return function(*args, **kwargs)
        if function is torch.Tensor.__int__ and sys._getframe(1).f_code is seeding:
            return self.recorder.read_seed(x)
        if function in SEES_OFF:
            self._see_off(function, args, kwargs)
        elif function is torch.nn.functional.one_hot:  # reads the largest number back, to check it
            if [*args[1:], kwargs.get("num_classes", -1)][0] < 0:
                self.recorder.fail("the shape that torch's one_hot returns depends on values")
            return self.recorder.call(function, args, kwargs)
        elif function is torch.nn.functional.cross_entropy and self._is_plain(x, args[1], kwargs):
            logits, targets = x.movedim(1, -1), args[1]  # Keras moves the classes to the front
            if _lies_by_time(logits):
                return _CrossEntropy.apply(logits.transpose(0, 1), targets.t()).t()
            return _CrossEntropy.apply(logits, targets)
        elif function is torch.matmul and _lies_by_time(x) and args[1].ndim == 2:
            # As an LSTM's outputs lie, so may what is made of them, which saves copies.
            return function(x.transpose(0, 1), args[1]).transpose(0, 1)
        if function in HOOKS and x in self.passed_by:
            raise RuntimeError("it asks for the gradient of a rectified tensor")
        rectified, before, versions = self.rectified
        if x is rectified and versions == (x._version, before._version) and not x._backward_hooks:
            if function is torch.nn.functional.max_pool2d:
                # The largest of four, rectified, is the largest of four rectified: a quarter of the work.
                self.passed_by[x] = True
                return torch.relu(function(before, *args[1:], **kwargs))
            if function in (torch.permute, torch.Tensor.contiguous):  # which Keras does on its way to a pooling
                result = function(*args, **kwargs)
                before = function(before, *args[1:], **kwargs) if function is torch.permute else before
                self.passed_by[x] = True
                self.rectified = result, before, (result._version, before._version)
                return result
        result = function(*args, **kwargs)
        if function is torch.nn.functional.relu:
            self.rectified = result, x, (result._version, x._version)
        return result

    def _see_off(self, function: Any, args: Any, kwargs: Any) -> None:
        tensors = list(flat((args, kwargs)))
        splits = function in SPLITS and len(tensors) == 1  # at Python's numbers
        if not (splits or all(map(self.recorder.is_literal, tensors))):
            self.recorder.fail(f"values leave torch through {getattr(function, '__name__', 'a property')}")

    def _is_plain(self, logits: torch.Tensor, targets: torch.Tensor, kwargs: Any) -> bool:
        if logits.device.type != "cpu" or kwargs != AS_KERAS or targets.ndim >= logits.ndim:
            return False
        self.recorder.paused = True
        ignored = bool((targets < 0).any())  # -100 is
        self.recorder.paused = False
        return not ignored


def _lies_by_time(x: torch.Tensor) -> bool:
    """Whether what is shaped (batch, time, features) lies in memory as (time, batch, features)."""
    return x.ndim == 3 and not x.is_contiguous() and x.transpose(0, 1).is_contiguous()


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of each sample or character; its backward pass takes no buffer more, torch's own three.

    Logits are `(..., classes)`, targets `(...)` int64 in 0 … classes - 1, the result `(...)`.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # Turned over, so that it runs along the batch, a narrow softmax is 10 times faster, and so is its gradient.
        turned = logits.ndim == 2 and logits.shape[1] < NARROW
        ctx.classes, logits = (0, logits.t().contiguous()) if turned else (-1, logits)
        log_probabilities = logits.log_softmax(ctx.classes)
        targets = targets.unsqueeze(ctx.classes)
        ctx.save_for_backward(log_probabilities, targets)
        return log_probabilities.gather(ctx.classes, targets).squeeze(ctx.classes).neg()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        log_probabilities, targets = ctx.saved_tensors
        logits_gradient = log_probabilities.exp_()
        logits_gradient.scatter_add_(ctx.classes, targets, gradient.new_full((1,), -1.0).expand(targets.shape))
        logits_gradient.mul_(gradient.unsqueeze(ctx.classes))
        return logits_gradient.t() if ctx.classes == 0 else logits_gradient, None


@contextmanager
def in_place_of(thing: Any, name: str, function: Any) -> Iterator[None]:
    """Gives an object another method until the block ends."""
    own, before = vars(thing), vars(thing).get(name)
    own[name] = function
    try:
        yield
    finally:
        if before is None:
            del own[name]
        else:
            own[name] = before


def _scatter(indices: Any, values: Any, shape: tuple[int, ...]) -> Any:
    """Keras's `scatter`, which adds one value after the other, and so counts a confusion matrix a pixel at a time."""
    indices, values = map(keras.ops.convert_to_tensor, (indices, values))
    places, rest = indices.reshape(-1, indices.shape[-1]).long(), shape[indices.shape[-1] :]
    zeros = torch.zeros(shape, dtype=values.dtype, device=values.device)
    return zeros.index_put_(places.unbind(1), values.reshape(-1, *rest), accumulate=True)


def _hinge_labels(labels: torch.Tensor) -> torch.Tensor:
    """Labels of 0 and 1 as -1 and 1; others as they are."""
    return torch.where(((labels == 0) | (labels == 1)).all(), 2.0 * labels - 1.0, labels)


_by_branch = keras_core.cond


def _cond(condition: Any, if_true: Any, if_false: Any) -> Any:
    """Keras's `cond`, which runs one branch, except that of `SpectralNormalization`: nobody asks for its gradients."""
    if getattr(if_false, "__func__", None) is not keras.layers.SpectralNormalization.normalized_weights:
        return _by_branch(condition, if_true, if_false)
    return [torch.where(condition, a, b) for a, b in zip(if_true(), if_false())]


_lock, _recordings, _exchanges = threading.Lock(), 0, ExitStack()
EXCHANGES: Any = (keras_core, "scatter", _scatter), (keras_core, "cond", _cond)
EXCHANGES += ((keras_losses, "convert_binary_labels_to_hinge", _hinge_labels),)


@contextmanager
def asking_nothing() -> Iterator[None]:
    """Has functions of Keras's that read numbers out of tensors compute the same without, while any thread records."""
    global _recordings
    with _lock:
        _recordings += 1
        for module, name, function in EXCHANGES if _recordings == 1 else ():
            if getattr(module, name).__module__ == module.__name__:  # and nobody has replaced it
                _exchanges.enter_context(in_place_of(module, name, function))
    try:
        yield
    finally:
        with _lock:
            _recordings -= 1
            if not _recordings:
                _exchanges.close()
