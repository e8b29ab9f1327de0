"""The optimizers of the recipes: a one-cycle schedule, Muon, and steps that do not see how bright the pixels are."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_examples.examples import Recipe


def optimizer(recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a run of so many steps, on a one-cycle schedule."""
    kinds: dict[str, Callable[..., keras.Optimizer]] = {
        "sgd": partial(CentredSGD, momentum=0.9, nesterov=True),
        "adam": CentredAdam,
        "muon": partial(CentredMuon, adam_weight_decay=recipe.weight_decay or None, adam_lr_ratio=0.3, rms_rate=None),
    }
    return kinds[recipe.optimizer](
        OneCycle(recipe.learning_rate, steps),
        weight_decay=recipe.weight_decay or None,
        global_clipnorm=recipe.clip_norm or None,
        centre=recipe.centre,
    )


@keras.saving.register_keras_serializable(package="keras_examples")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to its peak, above 0, over the first quarter of all steps, at least 1, then falls to zero.

    Source: Smith and Topin 2018, "Super-Convergence".
    """

    def __init__(self, peak: float, steps: int):
        self.peak, self.steps = peak, steps

    def __call__(self, step: Any) -> Any:
        # Keras's own schedules take a dozen operations on the device each step; Python's numbers cost nothing.
        step, least = (step, min) if isinstance(step, (int, float)) else (ops.cast(step, "float32"), ops.minimum)
        done = (step + 1) / (self.steps + 1)
        return self.peak * least(4 * done, 4 / 3 * (1 - done))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps}


class Centred:
    """Mixed into an optimizer, takes the steps it would take if the first layer's input were `centre` less.

    The mean of the pixels makes the loss much steeper in one direction than in all others, which keeps the learning
    rate low. The model stays as it is: what a step of the kernel adds at the mean input, the bias takes away. The first
    layer has a kernel and a bias. With 0 nothing changes.

    Source: Schraudolph 1998, "Centering Neural Network Gradient Factors".
    """

    def __init__(self, *args: Any, centre: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.centre = centre

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "centre": self.centre}  # type: ignore[misc]

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        variables = trainable_variables or self._trainable_variables  # type: ignore[attr-defined]
        step = super().apply  # type: ignore[misc]
        self.centred(lambda gradients: step(gradients, variables), grads, variables)

    def centred(
        self,
        step: Callable[[list[Any]], None],
        gradients: Sequence[Any],
        variables: Sequence[Any],
        known: dict[str, Any] | None = None,
    ) -> None:
        """Takes a step with centred gradients, and corrects the bias for it.

        With `known`, on torch, it changes gradients in place, and keeps the kernel's sums there for the next step,
        unless somebody else changes the kernel.
        """
        if not self.centre:
            return step([*gradients])
        kernel, bias = variables[:2]
        if known and known["kernel"] is kernel.value and known["version"] == kernel.value._version:
            before = known["sums"]
        else:
            before = _sums(kernel.value)
        mean = self.centre * gradients[1]
        gradient = gradients[0] - mean if known is None else gradients[0].sub_(mean)
        step([gradient, *gradients[1:]])
        after = _sums(kernel.value)
        bias.assign_sub(self.centre * (after - before))
        if known is not None:
            known.update(kernel=kernel.value, version=kernel.value._version, sums=after)


def _sums(kernel: Any) -> Any:
    """What each unit's weights add up to, `(units,)`; the product is three times as fast as a sum."""
    weights = ops.reshape(kernel, (-1, kernel.shape[-1]))
    return ops.matmul(ops.ones(weights.shape[:1]), weights)  # TensorFlow's `@` takes no vector.


@keras.saving.register_keras_serializable(package="keras_examples")
class CentredSGD(Centred, keras.optimizers.SGD):
    """See `Centred`."""


@keras.saving.register_keras_serializable(package="keras_examples")
class CentredAdam(Centred, keras.optimizers.Adam):
    """See `Centred`."""


@keras.saving.register_keras_serializable(package="keras_examples")
class CentredMuon(Centred, keras.optimizers.Muon):
    """See `Centred`. Kernels of convolutions are matrices too; the last kernel and all biases take Adam's steps.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """

    def build(self, variables: list[keras.Variable]) -> None:
        self.last = [variable.path for variable in variables if len(variable.shape) > 1][-1]
        super().build(variables)

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        return len(variable.shape) < 2 or variable.path == self.last

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        matrix = super().zeropower_via_newtonschulz5(ops.reshape(x, (-1, x.shape[-1])), steps)
        return ops.reshape(matrix, x.shape)
