"""Peers that take turns, each in a process of its own."""

import os
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec

BACKENDS = {"keras-jax": "jax", "keras-tensorflow": "tensorflow"}  # and the packages needed; others run on torch


def alternate(job: list[str], peers: list[str], rounds: int) -> dict[str, list[float]]:
    """Measures each peer once a round.

    Args:
        job: One of the jobs in `benchmarks.worker`, and its arguments.
        peers: Whom to measure.
        rounds: How often.

    Returns:
        The measurements of each peer that is installed; none of one that fails, which says why on standard error.
    """
    workers = {}
    measured: dict[str, list[float]] = {}
    with ExitStack() as stack:
        for peer in peers:  # one after the other, so that none warms up while another does
            backend = BACKENDS.get(peer, "torch")
            if not find_spec(backend):
                continue
            worker = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", peer, *job],
                env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(worker)
            assert worker.stdin
            assert worker.stdout
            measured[peer] = []
            if worker.stdout.readline() == "ready\n":
                workers[peer] = worker.stdin, worker.stdout
        for _ in range(rounds):
            for peer, (stdin, stdout) in workers.items():
                print(file=stdin, flush=True)
                measured[peer].append(float(stdout.readline()))
    return measured


def repeat(job: list[str], peers: list[str], rounds: int) -> dict[str, list[float]]:
    """Does the same in new processes each round, for what can be measured only once in each."""
    measured: dict[str, list[float]] = {}
    for peer in peers * rounds:
        for values in alternate(job, [peer], 1).values():
            measured.setdefault(peer, []).extend(values)
    return measured
