"""The optimizer's step, from gradients to new weights."""

import math
from collections.abc import Callable

import keras
import torch


def updater(
    optimizer: keras.Optimizer, variables: list[keras.Variable], around: Callable[..., None] | None
) -> Callable[[list[torch.Tensor]], None]:
    """Makes the function that applies gradients to variables, as `optimizer.apply` would.

    Plain SGD, Adam and AdamW run torch's fused kernels, in place on the Keras optimizer's own variables: a pass over
    memory where Keras makes a dozen, and none of its 0.1 ms of Python. Other optimizers run as they are.

    Args:
        optimizer: A built optimizer.
        variables: The trained variables, in the order of the gradients to come.
        around: What a subclass does around the step of its base class, see `accelerate`.
    """
    make = next((make for kind, make in FUSED.items() if isinstance(optimizer, kind)), None)
    if make is None or not _is_plain(optimizer, variables, bool(around)):
        return lambda gradients: optimizer.apply(gradients, variables)
    update = make(optimizer, variables)
    return (lambda gradients: around(update, gradients, variables)) if around else update


def _is_plain(optimizer: keras.Optimizer, variables: list[keras.Variable], known: bool) -> bool:
    return (
        (known or type(optimizer).__module__.startswith("keras.src."))
        and not (optimizer.use_ema or optimizer.gradient_accumulation_steps or optimizer.loss_scale_factor)
        and all(v.dtype in ("float32", "float64") and not v.overwrite_with_gradient for v in variables)
        and not any(v.constraint for v in variables)
        and not getattr(optimizer, "amsgrad", False)
    )


def _fused_sgd(optimizer: keras.Optimizer, variables: list[keras.Variable]) -> Callable[[list[torch.Tensor]], None]:
    values = [variable.value.detach() for variable in variables]
    indices = [optimizer._get_variable_index(variable) for variable in variables]
    momentums = [optimizer.momentums[i].value for i in indices] if optimizer.momentum else []
    iterations, learning_rate = _Number(optimizer.iterations), _LearningRate(optimizer)

    def update(gradients: list[torch.Tensor]) -> None:
        gradients = optimizer._clip_gradients(gradients)
        rate = learning_rate.at(iterations.read())
        optimizer._apply_weight_decay(variables)
        # Keras multiplies gradients by the learning rate on their way into the momentum, torch on the way out of it.
        torch._fused_sgd_(
            values,
            gradients,
            momentums,
            weight_decay=0.0,
            momentum=optimizer.momentum,
            lr=-1.0,
            dampening=0.0,
            nesterov=optimizer.nesterov and optimizer.momentum > 0,
            maximize=True,
            is_first_step=False,
            grad_scale=torch.full((), 1 / rate if rate else torch.inf, device=values[0].device),
        )
        iterations.add(1)

    return update


def _fused_adam(optimizer: keras.Optimizer, variables: list[keras.Variable]) -> Callable[[list[torch.Tensor]], None]:
    values = [variable.value.detach() for variable in variables]
    indices = [optimizer._get_variable_index(variable) for variable in variables]
    momentums = [optimizer._momentums[i].value for i in indices]
    velocities = [optimizer._velocities[i].value for i in indices]
    # Keras and torch correct the bias of the moments at different places, which shows in epsilon. An infinite step
    # switches torch's correction off; the learning rate carries Keras's.
    steps = [torch.full((), torch.inf, device=values[0].device)] * len(values)
    beta_1, beta_2 = float(torch.tensor(optimizer.beta_1)), float(torch.tensor(optimizer.beta_2))  # rounded as Keras's
    decays = bool(optimizer.weight_decay) and all(optimizer._use_weight_decay(variable) for variable in variables)
    iterations, learning_rate = _Number(optimizer.iterations), _LearningRate(optimizer)

    def update(gradients: list[torch.Tensor]) -> None:
        gradients = optimizer._clip_gradients(gradients)
        step = iterations.read()
        correction = math.sqrt(1 - beta_2 ** (step + 1)) / (1 - beta_1 ** (step + 1))
        if not decays:
            optimizer._apply_weight_decay(variables)
        torch._fused_adamw_(
            values,
            gradients,
            momentums,
            velocities,
            [],
            steps,
            lr=learning_rate.at(step) * correction,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            weight_decay=optimizer.weight_decay / correction if decays else 0.0,
            eps=optimizer.epsilon,
            amsgrad=False,
            maximize=False,
        )
        iterations.add(1)

    return update


FUSED = {keras.optimizers.SGD: _fused_sgd, keras.optimizers.Adam: _fused_adam}


class _Number:
    """A variable as a Python number, fetched from its device only after somebody else has assigned it."""

    def __init__(self, variable: keras.Variable):
        self.tensor = variable.value
        self.version = -1

    def read(self) -> float:
        if self.tensor._version != self.version:
            self.number, self.version = self.tensor.item(), self.tensor._version
        return self.number

    def add(self, number: int) -> None:
        self.tensor.add_(number)
        self.number, self.version = self.number + number, self.tensor._version


class _LearningRate:
    """An optimizer's learning rate, be it a number that callbacks may set or a schedule."""

    def __init__(self, optimizer: keras.Optimizer):
        self.optimizer = optimizer
        self.source = optimizer._learning_rate
        self.number = _Number(self.source) if isinstance(self.source, keras.Variable) else None

    def at(self, step: float) -> float:
        source = self.optimizer._learning_rate
        if self.number and source is self.source:
            return self.number.read()
        if isinstance(source, keras.optimizers.schedules.LearningRateSchedule):
            return float(source(step))
        return float(self.optimizer.learning_rate)
