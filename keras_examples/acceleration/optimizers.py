"""The optimizer's step, from gradients to new weights."""

import contextlib
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch

from keras_examples.acceleration.internals import fused_adamw, fused_sgd
from keras_examples.acceleration.reasons import is_ours
from keras_examples.acceleration.recording import Recorder
from keras_examples.acceleration.recordings import assign, difference
from keras_examples.acceleration.rewrites import finished
from keras_examples.acceleration.substitutions import Substitutions

Tensors = list[torch.Tensor]
Update = Callable[[Tensors], None]
SMALL = 1 << 20  # elements of the variables, above which an update takes far longer than its Python
TRIAL = 1 << 16  # elements of the variables on copies of which an update is tried


def updater(
    optimizer: keras.Optimizer,
    variables: list[keras.Variable],
    gradients: Tensors,
    around_update: Callable[[Update, Tensors, list[keras.Variable]], None] | None,
) -> Update:
    """Makes the function that applies gradients to variables, as `optimizer.apply` would.

    Plain SGD, Adam and AdamW run torch's fused kernels, in place on the Keras optimizer's own variables: a pass over
    memory where Keras makes a dozen, and none of its Python. Small updates of Keras's other optimizers are recorded, as
    steps are, and so are these if on copies the kernel does not do what Keras does. What is left runs as it is.

    Args:
        optimizer: An optimizer.
        variables: The trained variables.
        gradients: Theirs, to try the kernel with.
        around_update: See `accelerate`.
    """
    own = any(callable(value) and hasattr(type(optimizer), name) for name, value in vars(optimizer).items())
    if own or not (around_update or _is_keras_own(optimizer)):
        return lambda gradients: optimizer.apply(gradients, variables)
    kernel = next((FUSED[kind] for kind in FUSED if isinstance(optimizer, kind)), None)
    fused = kernel and _is_plain(optimizer, variables, gradients) and kernel(optimizer, variables)
    if not (fused and _agree(optimizer, variables, fused, gradients)):
        return _Recorded(optimizer, variables, around_update is not None)
    values = [variable.value.detach() for variable in variables]
    slots = [list(kind) for kind in zip(*([s.value for s in _slots(optimizer, v)] for v in variables))]
    by_columns = [value for value in values if not value.is_contiguous()]
    # The kernels read memory from its beginning to its end, and write to gradients.
    copies = bool(by_columns) or len({gradient.data_ptr() for gradient in gradients}) < len(gradients)

    def update(gradients: Tensors) -> None:
        gradients = optimizer._clip_gradients(gradients)
        if not fused.decays:
            optimizer._apply_weight_decay(variables)
        if copies:
            rows = [value.contiguous() for value in values]
            fused(rows, [gradient.clone(memory_format=torch.contiguous_format) for gradient in gradients], *slots)
            for value, row in zip(values, rows):
                value.copy_(row)
        else:
            fused(values, gradients, *slots)
        fused.iterations.add(1)

    return (lambda gradients: around_update(update, gradients, variables)) if around_update else update


def _is_plain(optimizer: Any, variables: list[keras.Variable], gradients: Sequence[Any]) -> bool:
    return (
        not (optimizer.use_ema or optimizer.gradient_accumulation_steps)
        and not (optimizer.loss_scale_factor or getattr(optimizer, "amsgrad", False))
        and optimizer.built
        and all(id(variable) in optimizer._trainable_variables_indices for variable in variables)
        and not any(v.constraint or v.overwrite_with_gradient for v in variables)
        and all(v.dtype in ("float32", "float64") for v in variables)
        and all(g is not None and g.dtype == v.value.dtype for g, v in zip(gradients, variables))
        and all(
            s.value.is_contiguous() and s.value.dtype == v.value.dtype for v in variables for s in _slots(optimizer, v)
        )
    )


def _slots(optimizer: keras.Optimizer, variable: keras.Variable) -> list[keras.Variable]:
    """What an optimizer keeps for a variable."""
    place = optimizer._get_variable_index(variable)
    if isinstance(optimizer, keras.optimizers.SGD):
        return [optimizer.momentums[place]] if optimizer.momentum else []
    return [optimizer._momentums[place], optimizer._velocities[place]]


def _agree(optimizer: keras.Optimizer, variables: list[keras.Variable], fused: Any, gradients: Tensors) -> bool:
    """Whether the kernel and Keras take the same step, on copies of the smallest variables."""
    pairs = sorted(zip(variables, optimizer._clip_gradients(gradients)), key=lambda pair: pair[1].numel())
    sizes = itertools.accumulate(gradient.numel() for _, gradient in pairs)
    some = pairs[: max(1, sum(size <= TRIAL for size in sizes))]
    chosen = [variable for variable, _ in some]
    places = [place for variable in chosen for place in (variable, *_slots(optimizer, variable))]
    old, new = [place.value.detach() for place in places], []
    rate = fused.rate.at(fused.iterations.read())
    for by_keras in (True, False):
        rows = [gradient.clone(memory_format=torch.contiguous_format) for _, gradient in some]
        copies = [tensor.clone(memory_format=torch.contiguous_format) for tensor in old]
        with keras.StatelessScope([*zip(places, copies)]) as scope:
            if by_keras or not fused.decays:
                optimizer._apply_weight_decay(chosen)
            if by_keras:
                optimizer._backend_update_step(rows, chosen, rate)
            else:
                slots = zip(*([slot.value for slot in _slots(optimizer, variable)] for variable in chosen))
                fused([variable.value.detach() for variable in chosen], rows, *map(list, slots))
        new.append([scope.get_current_value(place) for place in places])
    # Two changes of a number agree, but for what is rounded when they are added to it.
    close = [1e-3 * (theirs - was).abs() + 1e-6 * was.abs() + 1e-10 for theirs, was in zip(new[0], old)]
    return all(bool(((ours - theirs).abs() <= least).all()) for theirs, ours, least in zip(*new, close))


class _Recorded:
    """An optimizer's own step, replayed after the first if that is as good, as long as nobody changes its settings."""

    def __init__(self, optimizer: Any, variables: list[keras.Variable], is_known: bool):
        self.optimizer, self.variables, rate = optimizer, variables, optimizer._learning_rate
        small = sum(variable.value.numel() for variable in variables) <= SMALL
        self.begins = small and (is_known or isinstance(rate, keras.Variable) or _is_keras_own(rate))
        self.function: Any = None

    def __call__(self, gradients: Tensors) -> None:
        if self.function and all(map(operator.is_, vars(self.optimizer).values(), self.settings)):
            torch._foreach_copy_(self.places, self.function(*gradients, *self.held))
        elif self.begins and all(type(gradient) is torch.Tensor for gradient in gradients):
            self._record(gradients)
        else:
            self.optimizer.apply(gradients, self.variables)

    def _record(self, gradients: Tensors) -> None:
        self.begins = False
        recorder = Recorder(gradients)
        with recorder, Substitutions(recorder):
            self.optimizer.apply(gradients, self.variables)
        if recorder.reason:
            return
        theirs = [(tensor, tensor.clone()) for tensor, *_ in recorder.before]
        with contextlib.suppress(Exception):
            function, self.held, self.places = finished(recorder, [])
            assign(recorder.before)
            torch._foreach_copy_(self.places, function(*gradients, *self.held))
            if difference([tensor for tensor, _ in theirs], [copy for _, copy in theirs], recorder.rough) is None:
                self.function, self.settings = function, [*vars(self.optimizer).values()]
        if not self.function:
            assign(theirs)


class _FusedSGD:
    """SGD's step on values, by gradients, which it changes, and, if there is momentum, momentums."""

    decays = False

    def __init__(self, optimizer: Any, variables: list[keras.Variable]):
        self.optimizer, self.iterations, self.rate = optimizer, _Number(optimizer.iterations), _LearningRate(optimizer)

    def __call__(self, values: Tensors, gradients: Tensors, momentums: Sequence[torch.Tensor] = ()) -> None:
        momentum, rate = self.optimizer.momentum, self.rate.at(self.iterations.read())
        # Keras multiplies gradients by the learning rate on their way into the momentum, torch on the way out of it.
        fused_sgd(
            values,
            gradients,
            list(momentums),
            weight_decay=0.0,
            momentum=momentum,
            lr=-1.0,
            dampening=0.0,
            nesterov=self.optimizer.nesterov and momentum > 0,
            maximize=True,
            is_first_step=False,
            grad_scale=torch.full((), 1 / rate if rate else torch.inf, device=values[0].device),
        )


class _FusedAdam:
    """Adam's step on values, by gradients, momentums and velocities."""

    def __init__(self, optimizer: Any, variables: list[keras.Variable]):
        self.optimizer, self.iterations, self.rate = optimizer, _Number(optimizer.iterations), _LearningRate(optimizer)
        self.all_decay = all(optimizer._use_weight_decay(variable) for variable in variables)
        # Keras and torch correct the bias of the moments at different places, which shows in epsilon. An infinite step
        # switches torch's correction off; the learning rate carries Keras's.
        self.infinity = torch.full((), torch.inf, device=variables[0].value.device)
        self.betas: dict[float, float] = {}  # rounded as Keras's

    @property
    def decays(self) -> bool:
        return self.all_decay and bool(self.optimizer.weight_decay)

    def __call__(self, values: Tensors, gradients: Tensors, momentums: Tensors, velocities: Tensors) -> None:
        optimizer, step, betas = self.optimizer, self.iterations.read(), self.betas
        for beta in (optimizer.beta_1, optimizer.beta_2):
            if beta not in betas:
                betas[beta] = float(torch.tensor(beta))
        decayed = [1 - betas[beta] ** (step + 1) for beta in (optimizer.beta_1, optimizer.beta_2)]
        correction = math.sqrt(decayed[1]) / decayed[0]
        fused_adamw(
            values,
            gradients,
            momentums,
            velocities,
            [],
            [self.infinity] * len(values),
            lr=self.rate.at(step) * correction,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            weight_decay=optimizer.weight_decay / correction if self.decays else 0.0,
            eps=optimizer.epsilon,
            amsgrad=False,
            maximize=False,
        )


FUSED: dict[Any, Any] = {keras.optimizers.SGD: _FusedSGD, keras.optimizers.Adam: _FusedAdam}


class _Number:
    """A variable as a Python number, fetched from its device only after somebody else has assigned it."""

    def __init__(self, variable: keras.Variable):
        self.tensor = variable.value
        self.version = -1

    def read(self) -> float:
        if self.tensor._version != self.version or self.tensor.device.type == "cpu":  # where it costs next to nothing
            self.number, self.version = self.tensor.item(), self.tensor._version
        return self.number

    def add(self, number: int) -> None:
        self.tensor.add_(number)
        self.number, self.version = self.number + number, self.tensor._version


class _LearningRate:
    """An optimizer's learning rate, be it a number that callbacks may set or a schedule, which is asked once a step."""

    def __init__(self, optimizer: Any):
        self.optimizer, self.source = optimizer, optimizer._learning_rate
        self.number = _Number(self.source) if isinstance(self.source, keras.Variable) else None
        self.asked: tuple[float, float] | None = None  # at which step, and what it was
        self.takes_numbers = is_ours(self.source)  # and not tensors, which take a dozen operations on the device
        if isinstance(self.source, keras.optimizers.schedules.LearningRateSchedule) and _is_keras_own(self.source):
            with contextlib.suppress(Exception):
                by_number = float(self.source(int(optimizer.iterations.value)))
                self.takes_numbers = math.isclose(by_number, float(optimizer.learning_rate), rel_tol=1e-6)

    def at(self, step: float) -> float:
        source = self.optimizer._learning_rate
        if source is not self.source:
            return float(self.optimizer.learning_rate)
        if self.number:
            return self.number.read()
        if self.asked is None or self.asked[0] != step:
            self.asked = step, float(source(step) if self.takes_numbers else self.optimizer.learning_rate)
        return self.asked[1]


def _is_keras_own(thing: Any) -> bool:
    return type(thing).__module__.startswith("keras.src.")
