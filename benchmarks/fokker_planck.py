"""The Fokker-Planck equation on the wells of shift's figure 4 (left), T = 0.05, D = 1, θ from -20 to 20.

Both sides solve ∂ρ/∂t = ∂(U′ρ) + (T/2) ∂²ρ with no current through the ends.  py-pde gets it as an
expression with central differences.  The way to the steady state that suits it best is SciPy's
stiff LSODA, told that the equation is tridiagonal: py-pde's explicit solvers would take minutes,
and its implicit ones converge only at steps that an explicit one can make too.  py-pde's set-up
and compilation are in its first run but not in its time; ours is in both.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pde
from scipy.integrate import quad

from benchmarks.landscape import TEMPERATURE, WELLS
from benchmarks.table import Row, duration, timed, verdict
from benchmarks.timing import measure
from companion.diffusion import FokkerPlanck

REACH = 20.0
CELLS = 2001
REFINED = 9 * CELLS
CENTRES = slice(4, None, 9)  # the fine cells that have a coarse cell's centre
GRID = np.linspace(-REACH, REACH, CELLS)
CELL = GRID[1] - GRID[0]
UNIFORM = np.full(CELLS, 1 / (CELLS * CELL))
LONG, SHORT = 10_000, 100  # in learning rates; the basins equilibrate in 446
EXPLICIT_STEP = 0.007  # the explicit scheme is unstable from 0.008 on
STIFF = {"solver": "scipy", "method": "LSODA", "lband": 1, "uband": 1}
TARGET_SECONDS, TARGET_ERROR = 0.01, 1e-4


def rows() -> list[Row]:
    exact = quadrature(GRID)
    return [*steady_rows(exact), *long_rows(exact), *short_rows()]


def steady_rows(exact: np.ndarray) -> list[Row]:
    (steady,) = measure(lambda: solver().steady_state(), repeats=21)
    error = distance(steady.result, exact)
    target = verdict(steady.seconds, TARGET_SECONDS, duration(TARGET_SECONDS))
    return [
        timed(f"FokkerPlanck.steady_state, {CELLS} cells", steady, target=target),
        Row("  its distance", found=f"L1 {error:.1e} to quadrature", target=verdict(error, TARGET_ERROR, "1e-04")),
    ]


def long_rows(exact: np.ndarray) -> list[Row]:
    """The steady state reached in time, on our grid and on one where py-pde is as exact as the target."""
    ours, same, fine = measure(
        lambda: solver().evolve(UNIFORM, LONG, steps=50),
        Competitor(CELLS, LONG, **STIFF),
        Competitor(REFINED, LONG, **STIFF),
        repeats=7,
    )
    errors = [distance(density, exact) for density in (ours.result, same.result, fine.result[CENTRES])]
    found = [f"L1 {error:.1e} to quadrature" for error in errors]
    return [
        timed(f"FokkerPlanck.evolve, uniform to t = {LONG}, 50 steps", ours, found=found[0]),
        timed(f"py-pde, LSODA, the same, {CELLS} cells", same, ours=ours, found=found[1]),
        timed(f"py-pde, LSODA, the same, {REFINED} cells", fine, ours=ours, found=found[2]),
    ]


def short_rows() -> list[Row]:
    """A shorter time, which py-pde's explicit solver reaches in seconds; judged by py-pde on the finer grid."""
    ours, theirs = measure(
        lambda: solver().evolve(UNIFORM, SHORT, steps=200),
        Competitor(CELLS, SHORT, solver="euler", dt=EXPLICIT_STEP),
        repeats=3,
    )
    judge = Competitor(REFINED, SHORT, rtol=1e-8, atol=1e-11, **STIFF)()[CENTRES]
    found = [f"L1 {distance(side.result, judge):.1e} to a finer grid" for side in (ours, theirs)]
    return [
        timed(f"FokkerPlanck.evolve, uniform to t = {SHORT} only, 200 steps", ours, found=found[0]),
        timed(f"py-pde, explicit, the same, {SHORT / EXPLICIT_STEP:.0f} steps", theirs, ours=ours, found=found[1]),
    ]


def solver() -> FokkerPlanck:
    return FokkerPlanck(WELLS, 1.0, TEMPERATURE, GRID)


class Competitor:
    """py-pde solving the same equation from the same uniform start; set up at the first call."""

    def __init__(self, cells: int, time: float, **options):
        self.cells, self.time, self.options = cells, time, options
        self.solve: Callable | None = None

    def __call__(self) -> np.ndarray:
        if self.solve is None:
            equation, start = py_pde(self.cells)
            self.solve = lambda: equation.solve(start, t_range=self.time, tracker=None, **self.options)
        return self.solve().data


def py_pde(cells: int) -> tuple[pde.PDE, pde.ScalarField]:
    """The equation and its uniform start, on ``cells`` cells over the same line as ours."""
    end = REACH + CELL / 2
    grid = pde.CartesianGrid([[-end, end]], cells, periodic=False)
    drift = pde.ScalarField(grid, WELLS.gradient(grid.axes_coords[0]))
    # No current: the density's outward slope is -2U′/T times the density, with U′ seen outward.
    left, right = (sign * 2 * float(WELLS.gradient(sign * end)) / TEMPERATURE for sign in (-1, 1))
    walls = {"x-": {"type": "mixed", "value": left}, "x+": {"type": "mixed", "value": right}}
    constants = {"drift": drift, "spread": TEMPERATURE / 2}
    equation = pde.PDE({"c": "d_dx(drift * c) + spread * laplace(c)"}, bc=walls, consts=constants)
    return equation, pde.ScalarField(grid, 1 / (2 * end))


def quadrature(points: np.ndarray) -> np.ndarray:
    """exp(-2U/T)/Z with Z over the whole line by adaptive quadrature, which uses nothing of the solver's."""

    def weight(theta):
        return np.exp(-2 * WELLS(theta) / TEMPERATURE)

    edges = [-np.inf, -2, -1, *WELLS.local_maxima(), 1, 2, np.inf]
    total = sum(quad(weight, *ends, epsabs=0, epsrel=1e-12, limit=500)[0] for ends in pairwise(edges))
    return weight(points) / total


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """∫ |ρ₁ - ρ₂| dθ on the coarse grid."""
    return float(np.abs(one - other).sum() * CELL)
