"""The package as a whole: which backend it chooses, and that its modules keep to the order of the data flow."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import keras_examples

PACKAGE = Path(keras_examples.__file__).parent
# From the data to what a person sees, and above that the training, which goes through all of them.
ROOMS = ["data", "weights", "show", "training"]


def python(code, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KERAS")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean | environment)


def test_torch_is_chosen_also_for_a_later_import_of_keras_whose_own_file_says_otherwise(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    code = "import keras_examples, sys; print('keras' in sys.modules); import keras; print(keras.backend.backend())"
    assert python(code, KERAS_HOME=str(tmp_path)).stdout.split() == ["False", "torch"]


def test_the_environment_chooses_another_backend():
    code = "import keras_examples, os; print(os.environ['KERAS_BACKEND'])"
    assert python(code, KERAS_BACKEND="jax").stdout.split() == ["jax"]


def test_keras_on_another_backend_is_an_error():
    result = python(
        "import keras, os; os.environ['KERAS_BACKEND'] = 'jax'; import keras_examples", KERAS_BACKEND="torch"
    )
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError: Keras already runs on another backend")
    assert "Received: asked for 'jax', running on 'torch'" in message


def test_keras_imported_first_on_torch_is_fine():
    result = python(
        "import keras; from keras_examples import mnist_cnn; print(mnist_cnn().name)", KERAS_BACKEND="torch"
    )
    assert result.stdout.split() == ["mnist_cnn"]


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'mnist_transformer'"):
        _ = keras_examples.mnist_transformer
    assert set(keras_examples.__all__) <= set(dir(keras_examples))


def imported(path):
    """The modules of ours that a file imports, by their names below the package, as `training.run`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (module := node.module or "").split(".")[0] == "keras_examples":
            inside = module.removeprefix("keras_examples").lstrip(".")
            yield from ([inside] if inside else [alias.name for alias in node.names])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_itself_and_from_those_before_it(path):
    """`acceleration` works alone, what lies outside of the rooms needs none, and nobody needs the command line."""
    place = path.relative_to(PACKAGE)
    room = place.parts[0] if len(place.parts) > 1 else ""
    for module in imported(path):
        other = module.split(".")[0]
        assert other != "console"
        if room in ROOMS:
            assert other not in ROOMS[ROOMS.index(room) + 1 :]
        elif room:
            assert other == room
        else:
            assert other not in (*ROOMS, "acceleration")


def test_torch_is_imported_in_few_places_and_only_where_it_is_the_backend():
    in_functions = {
        "devices.py",
        "layers.py",
        *(f"training/{name}.py" for name in ("checkpoints", "logs", "processes")),
    }
    for path in PACKAGE.rglob("*.py"):
        place, tree = path.relative_to(PACKAGE), ast.parse(path.read_text())
        if place.parts[0] != "acceleration":
            assert str(place) in in_functions or not imports_torch(ast.walk(tree)), place
            assert not imports_torch(tree.body), place


def imports_torch(nodes):
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return any(name.split(".")[0] == "torch" for name in names)


# What a run goes through in one process, where nothing interrupts it.
CORE = ["../cli", "examples", "models", "layers", "data/__init__", "data/batches"]
CORE += [f"training/{name}" for name in ("__init__", "run", "tasks", "callbacks", "optimizers")]


def code_lines(function):
    """Lines of a function without its docstring and the functions in it."""
    nodes = [node for node in function.body if not isinstance(node, ast.FunctionDef)]
    nodes = nodes[bool(ast.get_docstring(function)) :]
    return sum(node.end_lineno - node.lineno + 1 for node in nodes)


def test_the_house_stays_small():
    """As docs/developing.md promises: a core to read in an evening, and nothing that does not fit on a few screens."""
    assert sum(len((PACKAGE / f"{name}.py").read_text().splitlines()) for name in CORE) <= 2000
    for path in [ROOT / "cli.py", *PACKAGE.rglob("*.py")]:
        text = path.read_text()
        assert len(text.splitlines()) <= (430 if path.name == "cli.py" else 300), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert code_lines(node) <= 60, f"{path.name}: {node.name}"
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len(arguments) <= 10, f"{path.name}: {node.name}"
