"""What a network computes, by Keras's description of it in JSON, and how two of them differ."""

import json
import re
from typing import Any

# Layers that only training knows, and settings that change no prediction.
IDLE = re.compile(r"InputLayer|\w*Dropout\w*|Gaussian\w*|ActivityRegularization")
UNIMPORTANT = re.compile(r"\w*(name|initializer|regularizer|constraint|dropout|seed)|dtype|trainable|rate|unroll")

Network = list[tuple[str, dict[str, Any]]]  # class and settings of each layer that computes something


def layers_in(description: dict[str, Any]) -> Network:
    """Lists the layers of a model, and `branch` where it is no chain; of no model it raises errors of any kind."""
    layers: Network = []
    before: list[str] = []
    for layer in description["config"]["layers"]:
        kind, settings = layer["class_name"], layer["config"]
        if description["class_name"] != "Sequential":
            if before != re.findall(r'"keras_history": \["([^"]*)"', json.dumps(layer["inbound_nodes"])):
                layers.append(("branch", {}))
            before = [settings["name"]]
        if not IDLE.fullmatch(kind) and (kind, settings.get("activation")) != ("Activation", "linear"):
            module = layer["module"].removeprefix("keras.layers").removeprefix("keras_examples.layers")
            # Versions of Keras differ in what they leave out of what is not set.
            important = {name: value for name, value in settings.items() if value and not UNIMPORTANT.fullmatch(name)}
            layers.append((f"{module}.{kind}".strip("."), important))
    return layers


def difference(found: Network, expected: Network) -> str:
    """What the first difference of two networks is; '' if they compute the same."""
    if [kind for kind, _ in found] != [kind for kind, _ in expected]:
        return f"its network is {', '.join(kind for kind, _ in found)!a:.300}"
    for (kind, theirs), (_, ours) in zip(found, expected):
        for name in theirs.keys() | ours.keys():
            if theirs.get(name) != ours.get(name):
                return f"{name!a} of its {kind} is {theirs.get(name)!r:.60}, not {ours.get(name)!r:.60}"
    return ""
