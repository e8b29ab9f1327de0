"""A picture of `throughput`: each peer's time over that of PyTorch by hand."""

import textwrap
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

from benchmarks.contest import medians
from keras_examples.files import whole_file

BASES = {"pytorch": "PyTorch by hand", "keras-torch": "stock Keras"}
PEERS = (
    "ours ours-cuda-graph ours-float32 keras-torch keras-jit keras-jax keras-tensorflow pytorch pytorch-compile limit"
)
# Okabe and Ito's, told apart by colour-blind eyes
COLOURS = "#d55e00 #f0e442 #cc79a7 #e69f00 #0072b2 #0072b2 #56b4e9 #000000 #009e73 #999999"
COLOUR = dict(zip(PEERS.split(), COLOURS.split()))


def draw(path: str, title: str, values: dict[str, dict[str, Any]], about: str, base: str = "pytorch") -> None:
    """Draws a panel for each example, in it a bar for each peer, from 1 to its time over that of `base`, on a log axis.

    Args:
        path: PNG file to write.
        title: What was measured.
        values: For each example and peer, the milliseconds of each round or why there are none.
        about: Small print.
        base: The peer whose time is 1.

    Raises:
        OSError: the file cannot be written.
    """
    rows = [len(measured) for measured in values.values()]
    size = 8, 0.2 * sum(rows) + 0.35 * len(rows) + 0.9  # inches
    figure, axes = plt.subplots(
        len(rows), 1, figsize=size, height_ratios=rows, sharex=True, squeeze=False, layout="constrained"
    )
    for axis, (example, measured) in zip(axes.flat, values.items()):
        found = medians(measured)
        unit = found.get(base)
        for row, (peer, turns) in enumerate(measured.items()):
            ratio = found[peer] / unit if unit and peer in found else 1
            label = turns.split(":")[0] if isinstance(turns, str) else f"{ratio:.2f}" if unit else "–"
            axis.barh(row, ratio - 1, left=1, color=COLOUR[peer])
            axis.annotate(label, (max(ratio, 1), row), (4, 0), textcoords="offset points", va="center", fontsize=7)
        axis.set_yticks(range(len(measured)), [*measured], fontsize=7)
        axis.set_title(f"{example}, {unit:,.4g} ms in {base}" if unit else example, loc="left", fontsize=9, pad=2)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set(xscale="log", ylim=(len(measured) - 0.5, -0.5))
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.tick_params(which="both", length=0)
        axis.spines[:].set_visible(False)
        axis.grid(axis="x", color="#dddddd")
        axis.set_axisbelow(True)
    axes[0, 0].margins(x=0.08)
    figure.suptitle(f"{title}: time over that of {BASES[base]}, less is faster", fontsize=11)
    figure.supxlabel("\n".join(textwrap.wrap(about, 120)), fontsize=7)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
