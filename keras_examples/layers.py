"""The Keras layers of our own: a lean one-hot encoding, and an LSTM that runs torch's kernel on the torch backend."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_examples")
class OneHot(keras.layers.Layer):
    """Ids to one-hot vectors, without the two int64 copies that `CategoryEncoding` makes on torch.

    Args:
        num_classes: Length of each vector, at least 1.

    Call arguments:
        ids: Integers of any shape, 0 ≤ id < `num_classes`. Other ids become zeros.

    Returns:
        The layer's compute dtype, shape `(*ids.shape, num_classes)`.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes

    def call(self, ids: Any) -> Any:
        encoded = ops.expand_dims(ids, -1) == ops.arange(self.num_classes, dtype=ids.dtype)
        encoded = ops.cast(encoded, self.compute_dtype)
        if keras.backend.backend() == "torch":
            encoded.ids = ids  # for an LSTM right behind
        return encoded

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape, self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes}


@keras.saving.register_keras_serializable(package="keras_examples")
class LSTM(keras.layers.LSTM):
    """`keras.layers.LSTM`, computed by torch's own kernel wherever that is the same function.

    On the torch backend the stock layer is a Python loop over time, except on CUDA. Arguments, variables and saved
    weights are the stock layer's: weights load into a `keras.layers.LSTM` and back. On other backends, with
    activations other than tanh and sigmoid, a mask, dropout of inputs or states in training, `unroll=True` or
    `use_cudnn=False` the stock layer runs.

    Args:
        units: Width of the output, at least 1.
        weight_dropout: Fraction of the recurrent weights dropped in training, in [0, 1), anew for each batch and the
            same at every time step, so that the kernel's speed is kept.
        kwargs: Other arguments of the stock layer.

    Raises:
        ValueError: `weight_dropout` is out of its range.

    Source of the weights' dropout: Merity et al. 2017, "Regularizing and Optimizing LSTM Language Models".
    """

    def __init__(self, units: int, weight_dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if not 0 <= weight_dropout < 1:
            raise ValueError(f"Impossible fraction. Received: weight_dropout={weight_dropout}. Give less than 1.")
        self.weight_dropout = weight_dropout

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight_dropout": self.weight_dropout}

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        if not (training and self.weight_dropout):
            return self._inner_loop(sequences, initial_state, mask, training)
        kernel = self.cell.recurrent_kernel
        dropped = keras.random.dropout(kernel.value, self.weight_dropout, seed=self.cell.seed_generator)
        # A scope hides the one around it, so it has to know the values of the other variables too.
        values = [(variable, variable.value) for variable in self.cell.variables if variable is not kernel]
        with keras.StatelessScope([(kernel, dropped), *values]):
            return self._inner_loop(sequences, initial_state, mask, training)

    def _inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool) -> Any:
        if mask is None and self._torch_can(training):
            return self._torch_lstm(sequences, *initial_state)
        return super().inner_loop(sequences, initial_state, mask, training)

    def _torch_can(self, training: bool) -> bool:
        return (
            keras.backend.backend() == "torch"
            and self.activation is keras.activations.tanh
            and self.recurrent_activation is keras.activations.sigmoid
            and not (training and (self.dropout or self.recurrent_dropout))
            and not self.unroll
            and self.use_cudnn is not False
        )

    def _torch_lstm(self, sequences: Any, hidden: Any, carry: Any) -> tuple[Any, Any, list[Any]]:
        import torch

        kernel, recurrent_kernel = self.cell.kernel.value, self.cell.recurrent_kernel.value
        sequences = sequences.to(kernel.dtype)
        if sequences.shape[-1] > 4 * self.units:
            # The CPU kernel makes several copies as wide as its input, so a wide input is projected before it. One-hot
            # vectors pick rows: with 5,000 characters that saves two thirds of the layer's time.
            ids = getattr(sequences, "ids", None)
            sequences = sequences @ kernel if ids is None else torch.nn.functional.embedding(ids.long(), kernel)
            kernel = torch.eye(4 * self.units, dtype=kernel.dtype, device=kernel.device)
        if self.go_backwards:
            sequences = sequences.flip(1)
        if self.stateful:
            # The new state is written into these tensors before the backward pass reads the old one.
            hidden, carry = hidden.clone(), carry.clone()
        # Both order the gates i, f, c, o; Keras multiplies from the left, and torch has a second bias. CUDA's kernel
        # reads contiguous weights only.
        weights = [kernel.T.contiguous(), recurrent_kernel.T.contiguous()]
        if self.use_bias:
            weights += [self.cell.bias.value, torch.zeros_like(self.cell.bias.value)]
        outputs, hidden, carry = torch.lstm(
            sequences,
            (hidden[None], carry[None]),
            weights,
            has_biases=self.use_bias,
            num_layers=1,
            dropout=0.0,
            train=torch.is_grad_enabled(),
            bidirectional=False,
            batch_first=True,
        )
        last = outputs[:, -1]
        return last, outputs if self.return_sequences else last[:, None], [hidden[0], carry[0]]
