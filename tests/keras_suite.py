"""Keras's own tests, with stock Keras and with `accelerate` after every `compile`: prints which end otherwise.

python tests/keras_suite.py                     # all rooms below
python tests/keras_suite.py trainers models     # some of them

Some of them import JAX and TensorFlow: pip install -e '.[test,jax,tensorflow]'.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

ROOMS = "trainers models callbacks optimizers losses metrics layers/rnn layers/attention layers/normalization saving"
OUTCOMES = {}


def pytest_configure():
    import keras

    from keras_examples.acceleration import accelerate

    if os.environ["SUITE_ACCELERATED"] == "yes":
        trainer = next(kind for kind in keras.Model.__mro__ if "compile" in vars(kind))
        compile = trainer.compile

        def accelerated(self, *args, **kwargs):
            compile(self, *args, **kwargs)
            if isinstance(self, keras.Model):
                accelerate(self)

        trainer.compile = accelerated


def pytest_runtest_logreport(report):
    if report.failed or report.when == "call":
        OUTCOMES[report.nodeid] = report.outcome


def pytest_sessionfinish():
    Path(os.environ["SUITE_OUTCOMES"]).write_text(json.dumps(OUTCOMES))


def main(*rooms):
    import keras

    sources = Path(keras.__file__).parent / "src"
    files = [str(file) for room in rooms or ROOMS.split() for file in sorted((sources / room).rglob("*_test.py"))]
    options = ["-c", os.devnull, "--continue-on-collection-errors", "--tb=no", "-q", "-p", "keras_suite"]
    command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", *files]
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for accelerated in ("no", "yes"):
            outcomes = Path(folder) / accelerated
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
            environment |= {"SUITE_ACCELERATED": accelerated, "SUITE_OUTCOMES": str(outcomes)}
            running[outcomes] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for process in running.values():
            said, _ = process.communicate()
            if process.returncode > 1:  # neither all passed nor some failed
                sys.exit(said)
        stock, ours = (json.loads(outcomes.read_text()) for outcomes in running)
    differ = sorted(test for test in stock | ours if stock.get(test) != ours.get(test))
    for test in differ:
        print(f"{test}: {stock.get(test)} with stock Keras, {ours.get(test)} accelerated")
    passed = sum(outcome == "passed" for outcome in stock.values())
    print(f"{len(stock)} tests, {passed} pass with stock Keras, {len(differ)} end otherwise when accelerated")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
