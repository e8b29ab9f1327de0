"""The package as a whole: which backend it chooses, and that its modules keep to the order of the data flow."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_examples

PACKAGE = Path(keras_examples.__file__).parent
ORDER = [
    ["distributed", "files", "formats", "optimizers", "recurrent", "tensors"],
    ["graphs", "updates", "configs", "greeks"],
    ["acceleration", "downloads", "synthetic", "readers", "devices", "reports", "vocabulary", "layers", "images"],
    ["datasets", "layouts", "models", "generation", "plots"],
    ["batches"],
    ["tasks"],
    ["recipes"],
    ["exports"],
    ["weights"],
    ["checkpoints"],
    ["progress"],
    ["logs"],
    ["training", "sampling"],
    ["resuming", "demo"],
]


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


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module == "keras_examples":
                yield from (alias.name for alias in node.names)
            elif module.startswith("keras_examples."):
                yield module.split(".")[1]


def test_modules_import_only_what_comes_before_them_in_the_data_flow():
    modules = {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    level = {name: place for place, names in enumerate(ORDER) for name in names}
    assert set(level) == set(modules)
    for name, path in modules.items():
        for imported in imports(path):
            assert level[imported] < level[name], f"{name} imports {imported}"


def test_torch_is_imported_in_few_places_and_only_where_it_is_the_backend():
    wholly = {"acceleration", "graphs", "recurrent", "updates"}
    in_functions = {"checkpoints", "devices", "distributed", "layers", "logs"}
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text())
        assert path.stem in wholly | in_functions or not imports_torch(ast.walk(tree)), path
        assert path.stem in wholly or not imports_torch(tree.body), path


def imports_torch(nodes):
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return any(name.split(".")[0] == "torch" for name in names)
