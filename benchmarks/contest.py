"""Peers that take turns, each in a process of its own."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

BACKENDS = {"keras-jax": "jax", "keras-tensorflow": "tensorflow"}  # and the packages needed; others run on torch


def alternate(job: list[str], peers: list[str], rounds: int) -> dict[str, Any]:
    """Measures each peer once a round.

    Args:
        job: One of the jobs in `benchmarks.worker`, and its arguments.
        peers: Whom to measure.
        rounds: How often.

    Returns:
        The list of each peer's measurements, or why there are none: `not installed`, or `failed: …`.
    """
    workers = {}
    measured: dict[str, Any] = {}
    with ExitStack() as stack:
        for peer in peers:
            backend = BACKENDS.get(peer, "torch")
            if not find_spec(backend):
                measured[peer] = "not installed"
                continue
            workers[peer] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", peer, *job],
                env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(workers[peer])
        for peer, worker in workers.items():  # one after the other, so that none warms up while another does
            measured[peer] = _turn(worker)  # an empty list, once it is ready
        for _ in range(rounds):
            for peer, worker in workers.items():
                if isinstance(measured[peer], str):
                    continue
                answer = _turn(worker)
                measured[peer] = answer if isinstance(answer, str) else [*measured[peer], answer]
    return measured


def _turn(worker: subprocess.Popen[str]) -> Any:
    assert worker.stdin
    assert worker.stdout
    with contextlib.suppress(BrokenPipeError):  # of one that has ended
        print(file=worker.stdin, flush=True)
    line = worker.stdout.readline()
    return json.loads(line) if line else f"failed: ended with status {worker.wait()}"


def repeat(job: list[str], peers: list[str], rounds: int) -> dict[str, Any]:
    """Does the same in new processes each round, for what can be measured only once in each."""
    measured: dict[str, Any] = {peer: [] for peer in peers}
    for peer in peers * rounds:
        if not isinstance(measured[peer], str):
            answers = alternate(job, [peer], 1)[peer]
            measured[peer] = answers if isinstance(answers, str) else measured[peer] + answers
    return measured


def medians(turns: dict[str, Any]) -> dict[str, float]:
    """The median of each peer that was measured."""
    return {peer: statistics.median(of_peer) for peer, of_peer in turns.items() if not isinstance(of_peer, str)}


def by_figure(names: list[str], measured: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Splits measurements that are lists of figures into one row for each figure."""
    return [
        (name, {peer: got if isinstance(got, str) else [turn[i] for turn in got] for peer, got in measured.items()})
        for i, name in enumerate(names)
    ]
