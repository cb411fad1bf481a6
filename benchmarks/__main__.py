"""Run every benchmark in this one process and print one table.  A missed target is printed, not an error."""

import os
import platform
import sys
from importlib.metadata import version

import torch

from benchmarks import curvature, fokker_planck, function_prior, langevin, linear_network, pages, sam, sgd
from benchmarks.table import Row, lines

SUBJECTS = (fokker_planck, langevin, sgd, curvature, function_prior, linear_network, sam, pages)
PACKAGES = (
    "numpy", "scipy", "torch", "torchsde", "py-pde", "numba",
    "backpack-for-pytorch", "curvlinops-for-pytorch", "PyHessian",
)  # fmt: skip
LEGEND = """
time   median of the runs after a first one, the sides of a comparison in turns
first  that first run, with all set-up and compilation
peak   memory on top of what the process held before
ratio  of the time to that of our row above
"""


def main() -> None:
    # As ours: on two idle cores a second thread takes a tenth to a quarter off torch's times, and
    # where another process wants a core the two threads wait for each other, up to fifty times as long.
    torch.set_num_threads(1)
    print(machine(), flush=True)
    rows: list[Row] = []
    for subject in SUBJECTS:
        print(f"measuring {subject.__name__.rpartition('.')[2]} ...", file=sys.stderr)
        rows += [Row(subject.__doc__.splitlines()[0].removesuffix(".")), *subject.rows()]
    print(LEGEND, *lines(rows), sep="\n")


def machine() -> str:
    """The facts about this machine that the numbers depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    cores = f"{os.cpu_count()} cores ({platform.machine()}), torch on {torch.get_num_threads()} thread as ours"
    return f"{cores}, Python {platform.python_version()}\n{packages}"


if __name__ == "__main__":
    main()
