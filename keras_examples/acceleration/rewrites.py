"""From the graph of a recorded step to a function that does the same without Keras, and nearly without Python.

What is rewritten was chosen by measuring. No rewrite touches what is changed in place, nor drops what is checked.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch

from keras_examples.acceleration.internals import aten, mkl_is_slow, mkldnn_linear
from keras_examples.acceleration.recording import Recorder, described
from keras_examples.acceleration.recurrent import in_parts
from keras_examples.acceleration.substitutions import NARROW

Graph = torch.fx.Graph
Node: TypeAlias = Any  # a torch.fx.Node, whose arguments may be of many types
LARGE = 1e8  # floating-point operations of a product that oneDNN may do faster than MKL
WHOLE = (torch.int32, torch.int64)
EXACT = 2**24  # whole numbers up to which float32 holds exactly

# Through torch's own binding each of these calls costs a microsecond less than through the operator that is recorded.
DIRECT = (
    "abs add addmm argmax div eq exp exp_ gather log mean mm mul mul_ neg permute pow relu scatter_add_ sigmoid sqrt "
    "squeeze sub sum t tanh transpose unsqueeze where _log_softmax"
).split()
# These take images in any memory layout, and are fastest where the channels lie last.
IMAGES = {
    getattr(aten, kind + backward).default
    for kind in ("avg_pool2d", "convolution", "max_pool2d_with_indices", "max_pool3d_with_indices")
    for backward in ("", "_backward")
}


def finished(recorder: Recorder, results: Sequence[torch.Tensor]) -> tuple[Callable[..., Any], list[Any], list[Any]]:
    """Makes a function of what was recorded.

    Args:
        recorder: What recorded a step.
        results: Tensors of that step.

    Returns:
        A function of a batch's tensors and of those it holds, which returns the results and new values; the tensors
        that it holds; those that the values are for. What else the step changes in place, the function changes.
    """
    graph, written, nodes = recorder.graph, recorder.written, [recorder.node(tensor) for tensor in results]
    # What is handed out must not be what is held, nor the batch: an optimizer may change it.
    kept = ["value" in n.meta or n.meta["root"].op == "placeholder" for n in nodes]
    copied = [_insert(graph, aten.clone.default, (n,), n) if keep else n for n, keep in zip(nodes, kept)]
    places, values = _late_assignments(graph, written)
    graph.output(copied + values)
    rewrites = [_choose_products] if recorder.on_cpu else []
    rewrites += [_fold_literals, _drop_repeats, _keep_channels_last, _give_bias_to_convolutions, _sum_instead_of_means]
    rewrites += [_scale_in_place, _lay_out_gradients, in_parts, _call_directly]
    for rewrite in rewrites:
        rewrite(graph, written)
        _drop_unused(graph)
    for node in graph.find_nodes(op="placeholder"):
        if not (node.users or node.meta["input"]):
            graph.erase_node(node)
    held = [node.meta["held"] for node in graph.find_nodes(op="placeholder") if not node.meta["input"]]
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<recorded step>", "exec"), names)
    return partial(names["forward"], None), held, [place.meta["held"] for place in places]


def _drop_unused(graph: Graph) -> None:
    """Drops operations that nobody needs, without the checks of the whole graph that torch makes each time."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not (node.users or node.meta.get("impure")):
            graph.erase_node(node)


def _late_assignments(graph: Graph, written: set[Node]) -> tuple[list[Node], list[Node]]:
    """Takes assignments that nothing in the step reads out of it: a step that fails has then changed nothing."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    sharing: dict[Node, list[Node]] = {}
    for node in order:
        sharing.setdefault(node.meta.get("root"), []).append(node)
    last: dict[Node, Node] = {}
    for copy in graph.find_nodes(op="call_function", target=aten.copy_.default):
        place, value = copy.args[:2]
        mine = sharing[place.meta["root"]] if place in written else []
        uses = [user for node in mine for user in node.users]
        early = all(order[user] <= order[copy] for user in uses) and not any(
            u.meta.get("impure") for u in uses if u is not copy
        )
        same = (
            isinstance(value, torch.fx.Node)
            and value.meta["root"] not in written
            and value.meta["val"].shape == place.meta["val"].shape
        )
        if place.op == "placeholder" and not place.meta["input"] and early and same:
            last[place] = value
            graph.erase_node(copy)
    for place in last:
        written.discard(place)
    return [*last], [*last.values()]


def _fold_literals(graph: Graph, written: set[Node]) -> None:
    """Holds what depends on literals alone, instead of computing it at each step."""
    for node in list(graph.nodes):
        if node.op == "call_function" and "value" in node.meta and node.meta["root"] not in written:
            with graph.inserting_before(node):
                held = graph.placeholder(f"literal_{node.name}")
            value = node.meta["value"]
            held.meta |= {"held": value, "val": described(value), "root": held, "input": False, "value": value}
            node.replace_all_uses_with(held)


def _drop_repeats(graph: Graph, written: set[Node]) -> None:
    for node in list(graph.nodes):
        if node.op == "call_function" and (repeated := _repeated(node, written)):
            node.replace_all_uses_with(repeated)


def _repeated(node: Node, written: set[Node]) -> Node | None:
    """The node whose value this one only repeats, or None."""
    target, args = node.target, node.args
    if target in (aten.detach.default, aten.alias.default):
        return args[0]
    if target is aten.t.default and _is_call(args[0], target):
        return args[0].args[0]
    if target is aten.permute.default and [axis % len(args[1]) for axis in args[1]] == [*range(len(args[1]))]:
        return args[0]
    if any(other.meta.get("root") in written for other in (node, *node.all_input_nodes)):
        return None
    known = [arg.meta.get("value") if isinstance(arg, torch.fx.Node) else None for arg in args]
    if target is aten.add.Tensor and known[1] is not None and not known[1].any():  # the offset of Rescaling
        source = args[0]
    elif target is aten.where.self and known[0] is not None and known[0].ndim == 0:
        source = args[1] if known[0] else args[2]
    elif target is aten.sum.default:  # of one number
        source = args[0]
    elif target is aten._to_copy.default and _is_cast(node) and _is_cast_of_whole(args[0], written):
        # To pick a class: those of so many that a float32 rounds them are no classes in either type.
        if all(_is_call(user, aten.unsqueeze.default) and _picks(user) for user in node.users):
            node.args = args[0].args
        return None
    elif target is aten.eq.Tensor:
        before = tuple(arg.args[0] if _is_cast_of_whole(arg, written) else arg for arg in args)
        if all(arg.meta["val"].dtype in WHOLE for arg in before) and any(map(_is_place, before)):
            node.args = before
        return None
    else:
        return None
    same = source.meta["val"].shape == node.meta["val"].shape and source.meta["val"].dtype == node.meta["val"].dtype
    return source if same else None


def _is_cast(node: Any) -> bool:
    return _is_call(node, aten._to_copy.default) and node.kwargs.keys() == {"dtype"}


def _is_cast_of_whole(node: Any, written: set[Node]) -> bool:
    """Whether whole numbers are cast to a type that holds them exactly if they are less than 2**24."""
    if not _is_cast(node) or node.args[0].meta["root"] in written:
        return False
    return node.args[0].meta["val"].dtype in WHOLE and node.meta["val"].dtype in (*WHOLE, torch.float32)


def _picks(indices: Node) -> bool:
    targets = (aten.gather.default, aten.expand.default, aten.scatter_add_.default)
    return all(user.target in targets and user.args[0].meta["val"].numel() < EXACT for user in indices.users)


def _is_place(node: Any) -> bool:
    """Whether a node's numbers are the places of the largest, and less than 2**24."""
    while _is_cast(node):
        node = node.args[0]
    return _is_call(node, aten.argmax.default) and node.args[0].meta["val"].numel() < EXACT


def _keep_channels_last(graph: Graph, written: set[Node]) -> None:
    """Leaves images as Keras keeps them, (N, H, W, C), which is torch's channels-last format.

    Keras copies them to and fro around each convolution and pooling. CPU kernels are fastest without: 6 times for
    pooling.
    """
    for copy in reversed(list(graph.find_nodes(op="call_function", target=aten.clone.default))):
        images = copy.args[0]
        laid_out = images.meta["val"].ndim >= 4 and "memory_format" in copy.kwargs
        if laid_out and not {images.meta["root"], copy} & written and all(user.target in IMAGES for user in copy.users):
            copy.replace_all_uses_with(images)
            graph.erase_node(copy)


def _give_bias_to_convolutions(graph: Graph, written: set[Node]) -> None:
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
            and permute.args[1][-1] == 1  # the axis of the convolution's channels
            and bias.meta["val"].dtype == convolution.meta["val"].dtype
            and not {convolution, add, bias.meta["root"]} & written
        ):
            with graph.inserting_before(add):
                vector = graph.call_function(torch.flatten, (bias,))
                arguments = (*convolution.args[:2], vector, *convolution.args[3:])
                biased = _insert(graph, convolution.target, arguments, convolution)
                add.replace_all_uses_with(_insert(graph, permute.target, (biased, permute.args[1]), add))


def _sum_instead_of_means(graph: Graph, written: set[Node]) -> None:
    """Has a sum of means divide once: means over a few channels are slow."""
    for total in graph.find_nodes(op="call_function", target=aten.sum.default):
        values, count = total.args[0], 1
        while _is_call(values, aten.mean.dim) and len(values.args) == 2 and not values.kwargs and values not in written:
            values, dimensions = values.args
            count *= math.prod(values.meta["val"].shape[dimension] for dimension in dimensions)
        if count > 1 and not {total, values.meta["root"]} & written:
            with graph.inserting_before(total):
                whole = _insert(graph, total.target, (values,), total)
                total.replace_all_uses_with(_insert(graph, aten.div.Scalar, (whole, count), total))


def _scale_in_place(graph: Graph, written: set[Node]) -> None:
    """Has what was just cast, as pixels are, scaled where it lies."""
    for scaled in graph.find_nodes(op="call_function", target=aten.mul.Tensor):
        cast: Any = scaled.args[0]
        if _is_cast(cast) and len(cast.users) == 1 and cast not in written:
            before, after = cast.meta["val"], scaled.meta["val"]
            new = cast.args[0].meta["val"].dtype != before.dtype
            if new and (before.shape, before.dtype) == (after.shape, after.dtype):
                scaled.target = torch.Tensor.mul_


def _lay_out_gradients(graph: Graph, written: set[Node]) -> None:
    """Has a gradient copied only if it does not lie as its variable does."""
    for empty in graph.find_nodes(op="call_function", target=aten.new_empty_strided.default):
        copies = [user for user in empty.users if _is_call(user, aten.copy_.default) and user.args[0] is empty]
        if len(copies) == 1 and copies[0].args[1] is empty.args[0] and empty.meta["val"].is_contiguous():
            with graph.inserting_before(copies[0]):
                gradient = _insert(graph, torch.Tensor.contiguous, (empty.args[0],), empty)
            graph.erase_node(copies[0])
            empty.replace_all_uses_with(gradient)


def _choose_products(graph: Graph, written: set[Node]) -> None:
    for node in graph.find_nodes(op="call_function", target=aten.mm.default):
        a, b = node.args
        if {a.meta["root"], b.meta["root"]} & written:  # then shapes may be others, as vmap's `unsqueeze_` makes them
            continue
        (rows, inner), columns = a.meta["val"].shape, b.meta["val"].shape[1]
        dtypes = {a.meta["val"].dtype, b.meta["val"].dtype}
        with graph.inserting_before(node):
            # Products on CPU fall off a cliff below 16 columns; turned over, a head of 10 classes is 4 times faster.
            if columns < NARROW <= rows:
                turned = graph.call_function(torch.mm, tuple(graph.call_function(aten.t.default, (x,)) for x in (b, a)))
                result = _insert(graph, torch.Tensor.contiguous, (graph.call_function(torch.t, (turned,)),), node)
            elif (
                2 * rows * inner * columns > LARGE
                and dtypes == {torch.float32}
                and torch.backends.mkldnn.is_available()
                and mkl_is_slow()
            ):
                arguments: Any = (a, graph.call_function(aten.t.default, (b,)), None, "none", [], "")
                result = _insert(graph, mkldnn_linear, arguments, node)
            else:
                continue
        node.replace_all_uses_with(result)


def _call_directly(graph: Graph, written: set[Node]) -> None:
    for node in graph.nodes:
        name = getattr(node.target, "_schema", None) and node.target._schema.name.removeprefix("aten::")
        if name in DIRECT:
            node.target = getattr(torch.Tensor if name.endswith("_") else torch, name)
        elif node.target in (aten.view.default, aten._unsafe_view.default) and node.meta["root"] not in written:
            node.target = torch.reshape  # since the layout may be another than at recording
        elif name == "clone" and _compacts(node) and not {node.args[0].meta["root"], node} & written:
            node.target, node.kwargs = torch.Tensor.contiguous, {}
        elif name == "_to_copy" and node.kwargs.keys() == {"dtype"} and node not in written:
            node.target = torch.Tensor.to


def _compacts(clone: Node) -> bool:
    contiguous = clone.args[0].meta["val"].is_contiguous()
    return clone.kwargs.get("memory_format") is torch.contiguous_format and not contiguous


def _insert(graph: Graph, target: Any, arguments: tuple[Any, ...], like: Node) -> Node:
    node = graph.call_function(target, arguments)
    node.meta |= {"val": like.meta["val"], "root": node}
    return node


def _is_call(node: Any, target: Any) -> bool:
    return isinstance(node, torch.fx.Node) and node.target is target
