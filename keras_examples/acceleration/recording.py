"""Steps recorded as flat graphs of torch operations, a few of them exchanged for faster ones that compute the same.

`make_fx` runs a function once and writes down every operation that reaches torch's kernels, backward pass included.
What is exchanged was chosen by measuring the models of this package; each exchange says what it saves.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from keras_examples.acceleration.recurrent import in_parts

aten = torch.ops.aten

NARROW = 16  # columns
SMALL = 1e7  # floating-point operations, for which it takes longer to wake threads than to do them
LARGE = 1e8  # floating-point operations of a product that oneDNN does faster than torch's own choice; others slower
WHOLE = (torch.int32, torch.int64)

# Through torch's own binding each of these calls costs a microsecond less than through the operator that is recorded.
DIRECT = (
    "abs add addmm argmax div eq exp exp_ gather log mean mm mul mul_ neg permute pow relu scatter_add_ sigmoid sqrt "
    "squeeze sub sum t tanh transpose unsqueeze where _log_softmax"
).split()


def record(step: Callable[..., Any], inputs: list[torch.Tensor]) -> tuple[Callable[..., Any], bool]:
    """Runs a function once and returns a faster one that does the same without Keras, and nearly without Python.

    Args:
        step: A function of tensors that returns a flat list of tensors and has no other effect.
        inputs: Its arguments: the recording holds for their shapes, types and strides.

    Returns:
        A function of such tensors, which draws random numbers anew at each call; and whether it does so little that it
        should run `on_one_thread`.

    Raises:
        Exception: What the step does depends on the values of its inputs, or torch cannot record it.
    """
    shapes = TracingContext(FakeTensorMode(allow_fallback_kernels=True))  # else one is made for each operation
    # The recorded run must leave no trace, not even in the random numbers.
    with torch.random.fork_rng(), tracing(shapes), FlopCounterMode(display=False) as work:
        module = make_fx(step, decomposition_table={aten.mm.default: _product})(*inputs)
    graph = module.graph
    graph.eliminate_dead_code()
    _fold_constants(module)
    for rewrite in (_give_bias_to_convolutions, _sum_instead_of_means, _scale_in_place, in_parts, _call_directly):
        graph.eliminate_dead_code()
        rewrite(graph)
    graph.eliminate_dead_code()
    graph.set_codegen(torch.fx.graph.CodeGen())  # plain arguments instead of a pytree
    module.recompile()
    module.__dict__.update(module._buffers)  # where Python looks first
    return module.forward, inputs[0].device.type == "cpu" and work.get_total_flops() < SMALL


def on_one_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with torch held to one thread while it runs."""

    def run(*inputs: torch.Tensor) -> Any:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*inputs)
        finally:
            torch.set_num_threads(threads)

    return run


# How Keras calls torch's cross-entropy for sparse labels.
AS_KERAS = {"reduction": "none", "weight": None, "ignore_index": -100, "label_smoothing": 0.0}
AS_KERAS |= {"size_average": None, "reduce": None}


class Substitutions(torch.overrides.TorchFunctionMode):
    """What Keras asks of torch while a step is recorded, asked better."""

    def __init__(self) -> None:
        super().__init__()
        self.before_relu: dict[torch.Tensor, torch.Tensor] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        x: Any = args[0] if args else None
        if function is torch.Tensor.contiguous and x.ndim >= 4:
            # Keras keeps images (N, H, W, C) and copies them to and fro around each convolution and pooling. Its
            # permuted view already is torch's channels-last format, in which CPU kernels are fastest: 6 times for
            # pooling.
            return x
        if function is torch.nn.functional.one_hot:  # torch's own reads the largest index back, to check it
            return (x.unsqueeze(-1) == torch.arange(args[1], device=x.device)).long()
        if function is torch.nn.functional.cross_entropy and kwargs == AS_KERAS and args[1].ndim < x.ndim:
            logits, targets = x.movedim(1, -1), args[1]  # Keras moves the classes to the front
            if _lies_by_time(logits):
                return _CrossEntropy.apply(logits.transpose(0, 1), targets.t()).t()
            return _CrossEntropy.apply(logits, targets)
        if function is torch.matmul and _lies_by_time(x) and args[1].ndim == 2:
            # As an LSTM's outputs lie, so may what is made of them, which saves copies.
            return function(x.transpose(0, 1), args[1]).transpose(0, 1)
        if function is torch.nn.functional.max_pool2d and x in self.before_relu:
            # The largest of four, rectified, is the largest of four rectified: a quarter of the work.
            return torch.relu(function(self.before_relu[x], *args[1:], **(kwargs or {})))
        result = function(*args, **(kwargs or {}))
        if function is torch.nn.functional.relu:
            self.before_relu[result] = x
        elif function is torch.permute and x in self.before_relu:
            self.before_relu[result] = function(self.before_relu[x], *args[1:])
        return result


def _lies_by_time(x: torch.Tensor) -> bool:
    """Whether what is shaped (batch, time, features) lies in memory as (time, batch, features)."""
    return x.ndim == 3 and not x.is_contiguous() and x.transpose(0, 1).is_contiguous()


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of each sample or character; its backward pass takes no buffer more, torch's own three.

    Logits are `(..., classes)`, targets `(...)` int64, the result `(...)`.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # Turned over, so that it runs along the batch, a narrow softmax is 10 times faster, and so is its gradient.
        turned = logits.device.type == "cpu" and logits.ndim == 2 and logits.shape[1] < NARROW
        ctx.classes, logits = (0, logits.t().contiguous()) if turned else (-1, logits)
        log_probabilities = logits.log_softmax(ctx.classes)
        targets = targets.unsqueeze(ctx.classes)
        ctx.save_for_backward(log_probabilities, targets)
        return log_probabilities.gather(ctx.classes, targets).squeeze(ctx.classes).neg()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        log_probabilities, targets = ctx.saved_tensors
        logits_gradient = log_probabilities.exp_()
        logits_gradient.scatter_add_(ctx.classes, targets, gradient.new_full((1,), -1.0).expand(targets.shape))
        logits_gradient.mul_(gradient.unsqueeze(ctx.classes))
        return logits_gradient.t() if ctx.classes == 0 else logits_gradient, None


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.device.type != "cpu":
        return NotImplemented
    # Matrix products on CPU fall off a cliff below 16 columns; turned over, a head of 10 classes is 4 times faster.
    if b.shape[1] < NARROW <= a.shape[0]:
        return torch.mm(b.t(), a.t()).t().contiguous()
    if a.dtype == torch.float32 and 2 * a.numel() * b.shape[1] > LARGE and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return NotImplemented


def _fold_constants(module: torch.fx.GraphModule) -> None:
    """Computes what depends on literals alone, and drops what changes nothing."""
    literals = (aten.lift_fresh_copy.default, aten.scalar_tensor.default, aten.full.default, aten.arange.default)
    constants: dict[torch.fx.Node, torch.Tensor] = {}

    def constant(node: torch.fx.Node) -> Any:
        return constants[node] if node in constants else getattr(module, str(node.target))

    for node in list(module.graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target._schema.is_mutable and node.args[0] in constants:
            raise ValueError(f"{node.target} changes a constant in place")
        known = [i in constants for i in node.all_input_nodes]
        if repeated := _repeated(node, constants):
            node.replace_all_uses_with(repeated)
            continue
        if node.target is aten.ones_like.default and node.meta["val"].ndim == 0:  # the gradient of a loss
            value = torch.ones((), dtype=node.meta["val"].dtype, device=node.meta["val"].device)
        elif node.target in literals or (
            known and all(known) and torch.Tag.nondeterministic_seeded not in node.target.tags
        ):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), constant)
            value = node.target(*args, **kwargs)
        else:
            continue
        name = f"constant_{node.name}"
        module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            folded = module.graph.get_attr(name)
        folded.meta["val"] = value
        constants[folded] = value
        node.replace_all_uses_with(folded)


def _repeated(node: Any, constants: dict[torch.fx.Node, torch.Tensor]) -> torch.fx.Node | None:
    """The node whose value this one only repeats, or None."""
    target, args = node.target, node.args
    known = [constants[arg] if isinstance(arg, torch.fx.Node) and arg in constants else None for arg in args]
    if target in (aten.detach.default, aten.alias.default):
        return args[0]
    if target is aten.add.Tensor and known[1] is not None and not known[1].any():  # the offset of Rescaling
        source = args[0]
    elif target is aten.where.self and known[0] is not None and known[0].ndim == 0:
        source = args[1] if known[0] else args[2]
    elif target is aten.permute.default and args[1] == sorted(args[1]):
        source = args[0]
    elif target is aten.t.default and _is_call(args[0], target):
        source = args[0].args[0]
    elif target is aten.sum.default:  # of one number
        source = args[0]
    elif target is aten._to_copy.default and _is_cast(node) and _is_cast_of_whole(args[0]):
        node.args = args[0].args
        return None
    elif target is aten.eq.Tensor and all(_is_cast_of_whole(arg) for arg in args):
        node.args = tuple(arg.args[0] for arg in args)
        return None
    else:
        return None
    same = source.meta["val"].shape == node.meta["val"].shape and source.meta["val"].dtype == node.meta["val"].dtype
    return source if same else None


def _is_cast(node: Any) -> bool:
    return _is_call(node, aten._to_copy.default) and node.kwargs.keys() == {"dtype"}


def _is_cast_of_whole(node: Any) -> bool:
    """Whether class numbers or ids, far below 2**24, come through a cast unharmed."""
    wide = (*WHOLE, torch.float32)
    return _is_cast(node) and node.args[0].meta["val"].dtype in WHOLE and node.meta["val"].dtype in wide


def _scale_in_place(graph: torch.fx.Graph) -> None:
    """Has what was just cast, as pixels are, scaled where it lies."""
    for scaled in graph.find_nodes(op="call_function", target=aten.mul.Tensor):
        cast: Any = scaled.args[0]
        before = scaled.meta["val"]
        if (
            _is_cast(cast)
            and len(cast.users) == 1
            and cast.args[0].meta["val"].dtype != cast.meta["val"].dtype
            and (cast.meta["val"].shape, cast.meta["val"].dtype) == (before.shape, before.dtype)
        ):
            scaled.target = torch.Tensor.mul_


def _give_bias_to_convolutions(graph: torch.fx.Graph) -> None:
    """Has a convolution add the bias that Keras adds afterwards, which is one pass over the images less."""
    for add in graph.find_nodes(op="call_function", target=aten.add.Tensor):
        permute, bias = add.args
        if not (_is_call(permute, aten.permute.default) and _is_call(bias, aten.view.default)):
            continue
        convolution, shape = permute.args[0], bias.args[1]
        if (
            _is_call(convolution, aten.convolution.default)
            and convolution.args[2] is None
            and len(permute.users) == len(convolution.users) == 1
            and all(size == 1 for size in shape[:-1])
        ):
            with graph.inserting_before(add):
                vector = graph.call_function(torch.flatten, (bias,))
                arguments = (*convolution.args[:2], vector, *convolution.args[3:])
                biased = graph.call_function(convolution.target, arguments)
                add.replace_all_uses_with(graph.call_function(permute.target, (biased, permute.args[1])))


def _sum_instead_of_means(graph: torch.fx.Graph) -> None:
    """Has a sum of means divide once: means over a few channels are slow."""
    for total in graph.find_nodes(op="call_function", target=aten.sum.default):
        values, count = total.args[0], 1
        while _is_call(values, aten.mean.dim) and len(values.args) == 2 and not values.kwargs:
            values, dimensions = values.args
            count *= math.prod(values.meta["val"].shape[dimension] for dimension in dimensions)
        if count > 1:
            with graph.inserting_before(total):
                whole = graph.call_function(total.target, (values,))
                total.replace_all_uses_with(graph.call_function(aten.div.Scalar, (whole, count)))


def _is_call(node: Any, target: Any) -> bool:
    return isinstance(node, torch.fx.Node) and node.target is target


def _call_directly(graph: torch.fx.Graph) -> None:
    for node in graph.nodes:
        name = getattr(node.target, "_schema", None) and node.target._schema.name.removeprefix("aten::")
        if name in DIRECT:
            node.target = getattr(torch.Tensor if name.endswith("_") else torch, name)
        elif name in ("view", "_unsafe_view"):
            node.target = torch.reshape
        elif name == "clone" and _compacts(node):
            node.target, node.kwargs = torch.Tensor.contiguous, {}
        elif name == "_to_copy" and node.kwargs.keys() == {"dtype"}:
            node.target = torch.Tensor.to


def _compacts(clone: Any) -> bool:
    contiguous = clone.args[0].meta["val"].is_contiguous()
    return clone.kwargs.get("memory_format") is torch.contiguous_format and not contiguous


def cuda_graph(graph: Callable[..., Any], values: list[torch.Tensor], batch: list[torch.Tensor]) -> Callable[..., Any]:
    """Records the kernels of a recorded step on an NVIDIA GPU, so that a replay is a single launch.

    Args:
        graph: The step.
        values: Its first arguments, which stay where they are.
        batch: Its other arguments; later ones are copied over them.

    Returns:
        A function of the same arguments; its outputs are overwritten by the next call.
    """
    held = [tensor.clone() for tensor in batch]
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording):
        outputs = graph(*values, *held)

    def replay(*inputs: torch.Tensor) -> Any:
        torch._foreach_copy_(held, list(inputs[len(values) :]))
        recording.replay()
        return outputs

    return replay
