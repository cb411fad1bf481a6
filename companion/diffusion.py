"""SGD as it is, SGD as a diffusion, and the Fokker-Planck equation of that diffusion.

One SGD step of learning rate λ is λ units of the diffusion's time; T = λ/B is the temperature.
"""

from collections.abc import Callable

import numpy as np
from scipy.linalg import lapack, solve_banded
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.special import exprel, logsumexp

from companion import validate
from companion.diffusivity import Noise, derivative

BLOCK = 16384  # paths simulated together: their arrays stay in the processor's cache
RESOLVED = 1e12  # the largest ratio of a relaxation time to the fastest rate that doubles resolve


def simulate_sgd(
    sample,
    start,
    *,
    learning_rate: float,
    batch_size: int,
    steps: int,
    generator: np.random.Generator,
    replacement: bool = True,
) -> np.ndarray:
    """Run mini-batch SGD, θ ← θ - (λ/B) Σ U′ᵢ(θ) over a fresh random batch, on many paths at once.

    Parameters
    ----------
    sample : object with ``size`` and ``gradient(theta, index)``
        The training set, for example :class:`~companion.landscapes.TiltedSample`;
        ``gradient`` takes θ (p, ...) and indices (p, B) to per-sample gradients (p, B, ...).
    start : array_like, shape (p,) or (p, d)
        Where each path starts.
    learning_rate : float
        λ > 0.
    batch_size : int
        B ≥ 1.
    steps : int
        The number of updates.
    generator : numpy.random.Generator
        Where the batches come from.
    replacement : bool, default True
        Draw the batch with replacement (``shift`` eq. 9); without, the batch is a subset, and
        the noise is smaller by the factor (N - B)/(N - 1).

    Returns
    -------
    ndarray, shape of ``start``
        The last θ of each path.

    Raises
    ------
    ValueError
        If an argument is out of range, the batch is larger than a sample drawn without
        replacement, or a path has left every bound.
    """
    theta = validate.finite("start", start).copy()
    learning_rate = validate.positive("learning_rate", learning_rate)
    batch_size, steps = validate.count("batch_size", batch_size), validate.count("steps", steps)
    if theta.ndim == 0:
        raise ValueError("start must hold one entry a path, got a single number")
    generator = validate.generator("generator", generator)
    if not replacement and batch_size > sample.size:
        raise ValueError(f"batch_size must be at most the sample's {sample.size} without replacement, got {batch_size}")
    for _ in range(steps):
        if replacement:
            index = generator.integers(sample.size, size=(len(theta), batch_size))
        else:
            index = generator.random((len(theta), sample.size)).argpartition(batch_size - 1, axis=1)[:, :batch_size]
        theta -= learning_rate * sample.gradient(theta, index).mean(axis=1)
    return _bounded(theta, f"learning_rate = {learning_rate:g}")


def simulate_langevin(
    gradient: Callable,
    start,
    *,
    temperature: float,
    time_step: float,
    steps: int,
    generator: np.random.Generator,
    noise=1.0,
) -> np.ndarray:
    """Euler-Maruyama for dθ = -U′(θ) dt + √(T D(θ)) dW in Itô's sense, on many paths at once.

    Parameters
    ----------
    gradient : callable
        U′, from (p,) to (p,) or from (p, d) to (p, d).
    start : array_like, shape (p,) or (p, d)
        Where each path starts.
    temperature : float
        T = λ/B > 0.
    time_step : float
        dt > 0, in learning rates: one SGD step of learning rate λ is dt = λ.
    steps : int
        The number of steps.
    generator : numpy.random.Generator
        Where the noise comes from.
    noise : float, callable or array of shape (d, d)
        D: a number, a function of θ (one dimension), or a constant covariance matrix.

    Returns
    -------
    ndarray, shape of ``start``
        The last θ of each path.

    Raises
    ------
    ValueError
        If an argument is out of range or a path has left every bound.

    Notes
    -----
    ``shift`` eq. 11.
    """
    theta = validate.finite("start", start).copy()
    if theta.ndim == 0:
        raise ValueError("start must hold one entry a path, got a single number")
    temperature = validate.positive("temperature", temperature)
    time_step, steps = validate.positive("time_step", time_step), validate.count("steps", steps)
    generator = validate.generator("generator", generator)
    kick = _kick(noise, np.sqrt(temperature * time_step), theta.shape)
    for first in range(0, len(theta), BLOCK):
        block = theta[first : first + BLOCK]
        for _ in range(steps):
            random = kick(block, generator.standard_normal(block.shape))
            block -= time_step * gradient(block)
            block += random
    return _bounded(theta, f"time_step = {time_step:g}")


class FokkerPlanck:
    """∂ρ/∂t = ∂(U′ρ + (T/2) ∂(Dρ)) on a uniform grid, by exponentially fitted finite volumes.

    Probability moves between neighbouring cells at rates that keep it positive and conserved
    (Chang and Cooper 1970; Scharfetter and Gummel 1969); no probability leaves the grid.  The
    rates hold the integral of drift over noise from cell to cell, so the scheme's own steady
    state is exact up to that quadrature, and no independent witness for exp(-2v/T).

    Parameters
    ----------
    loss : callable
        U; its ``gradient`` is used if it has one.
    noise : float, callable, or pair of callables
        D > 0: a number, D(θ), or (D, D′).
    temperature : float
        T = λ/B > 0.
    grid : array_like, shape (n,)
        The cells' centres, evenly spaced.

    Raises
    ------
    ValueError
        If the temperature or noise is not positive, the grid is not even, leaves out a minimum
        of the loss, or the loss is not finite on it.

    Notes
    -----
    ``shift`` eq. 10 with time counted in learning rates.  All densities integrate to 1 as
    ``density.sum() * cell``.
    """

    def __init__(self, loss: Callable, noise, temperature: float, grid):
        self.temperature = validate.positive("temperature", temperature)
        self.grid = validate.increasing_grid("grid", grid)
        self.cell = (self.grid[-1] - self.grid[0]) / (self.grid.size - 1)
        if np.abs(np.diff(self.grid) - self.cell).max() > 1e-8 * self.cell:
            raise ValueError("grid must be evenly spaced; np.linspace makes such a grid")
        validate.contains_basins("grid", self.grid, loss)
        noise = Noise(noise)
        faces = (self.grid[:-1] + self.grid[1:]) / 2
        at_cells, at_faces = (self._log_slope(loss, noise, points) for points in (self.grid, faces))
        # How far -log ρ rises from cell to cell when no current flows, by Simpson's rule.
        self._rise = self.cell / 6 * (at_cells[:-1] + 4 * at_faces + at_cells[1:])
        mobility = self.temperature * noise(faces) / (2 * self.cell**2)
        self._right = mobility / exprel(self._rise)  # rate from cell i to i + 1
        self._left = mobility / exprel(-self._rise)  # rate from cell i + 1 to i

    def steady_state(self) -> np.ndarray:
        """The density whose current vanishes at every face, shape (n,)."""
        log_density = -np.concatenate([[0.0], np.cumsum(self._rise)])
        return np.exp(log_density - logsumexp(log_density)) / self.cell

    def evolve(self, density, time: float, steps: int = 100) -> np.ndarray:
        """The density after ``time`` (in learning rates), by ``steps`` equal implicit Euler steps.

        ``density`` (n,) must be non-negative; its integral is conserved, whatever the step.
        """
        density = self._on_grid(density).copy()
        if density.min() < 0:
            raise ValueError(f"density must not be negative, got {density.min():g}")
        time_step = validate.positive("time", time) / validate.count("steps", steps)
        factors = self._implicit_step(time_step)
        for _ in range(steps):
            density, _ = lapack.dgttrs(*factors, density)
        return density

    def current(self, density) -> np.ndarray:
        """The probability current through the n - 1 faces, positive to the right."""
        density = self._on_grid(density)
        return self.cell * (self._right * density[:-1] - self._left * density[1:])

    def relaxation_times(self, count: int = 1) -> np.ndarray:
        """The ``count`` longest relaxation times, longest first, in learning rates.

        They are the inverses of the generator's smallest non-zero eigenvalues; the longest is
        the time in which the basins' masses equilibrate.  A ``ValueError`` if it is so long that
        rounding hides it.
        """
        count = validate.count("count", count)
        size = self.grid.size - 1
        if count >= size:
            raise ValueError(f"count must be below {size}, got {count}")
        # The symmetrized generator is -BᵀB with a bidiagonal B of one row a face.  BBᵀ has the
        # same eigenvalues without the zero of the steady state, so it can be inverted.
        off = -np.sqrt(self._right[1:] * self._left[:-1])
        bands = np.stack([np.append(0.0, off), self._right + self._left, np.append(off, 0.0)])
        inverse = LinearOperator((size, size), matvec=lambda flux: solve_banded((1, 1), bands, flux), dtype=float)
        times = np.sort(eigsh(inverse, k=count, which="LM", v0=np.ones(size), return_eigenvectors=False))[::-1]
        if not 0 < times[0] * bands[1].max() < RESOLVED:
            raise ValueError(f"temperature {self.temperature:g} is too low: rounding hides the slowest relaxation")
        return times

    def first_passage_time(self, origin: float, target: float) -> float:
        """The mean time, in learning rates, from θ = ``origin`` until θ first reaches ``target``."""
        start, end = (self._cell_of(name, value) for name, value in (("origin", origin), ("target", target)))
        forward, backward = self._right, self._left
        if end < start:  # look from the other side
            start, end = self.grid.size - 1 - start, self.grid.size - 1 - end
            forward, backward = backward[::-1], forward[::-1]
        # The time to gain one cell, by recursion from the wall: sums of positive terms only.
        gain = np.empty(end)
        for i in range(end):
            gain[i] = (1 + (backward[i - 1] * gain[i - 1] if i else 0.0)) / forward[i]
        return float(gain[start:].sum())

    def _log_slope(self, loss: Callable, noise: Noise, points: np.ndarray) -> np.ndarray:
        drift = validate.finite("loss gradient", derivative(loss, points))
        spread = validate.finite("noise", noise(points))
        drift = drift + self.temperature / 2 * validate.finite("noise derivative", noise.derivative(points))
        return 2 * drift / (self.temperature * spread)

    def _implicit_step(self, time_step: float) -> tuple:
        # LU factors of I - dt·generator, in LAPACK's tridiagonal form.  Its columns sum to 1, so the
        # pivots are sums of positive terms: nothing cancels and mass is kept even for huge steps.
        right, left = time_step * self._right, time_step * self._left
        pivots = np.append(right, 0.0)
        kept = 1.0
        for i, moved in enumerate(left):
            pivots[i] += kept
            kept = 1.0 + moved * kept / pivots[i]
        pivots[-1] = kept
        rows = np.arange(1, self.grid.size + 1, dtype=np.int32)
        return -right / pivots[:-1], pivots, -left, np.zeros(self.grid.size - 2), rows

    def _on_grid(self, density) -> np.ndarray:
        density = validate.finite("density", density)
        if density.shape != self.grid.shape:
            raise ValueError(f"density must have the grid's shape {self.grid.shape}, got {density.shape}")
        return density

    def _cell_of(self, name: str, value: float) -> int:
        value = validate.number(name, value)
        if not self.grid[0] <= value <= self.grid[-1]:
            raise ValueError(f"{name} must lie on the grid [{self.grid[0]:g}, {self.grid[-1]:g}], got {value:g}")
        return int(np.abs(self.grid - value).argmin())


def _kick(noise, scale: float, shape: tuple) -> Callable:
    """(θ, standard normals) → the random part of one Euler-Maruyama step."""
    if isinstance(noise, np.ndarray | list) and np.ndim(noise) == 2:
        matrix = validate.symmetric_matrix("noise", noise, definite=False)
        if len(shape) != 2 or shape[1] != matrix.shape[0]:
            raise ValueError(f"start must have shape (paths, {matrix.shape[0]}) for this noise, got {shape}")
        values, vectors = np.linalg.eigh(matrix)
        root = scale * vectors * np.sqrt(np.maximum(values, 0.0))
        return lambda theta, normal: normal @ root.T
    noise = Noise(noise)
    if noise.constant:
        amplitude = scale * np.sqrt(float(noise.noise))
        return lambda theta, normal: np.multiply(normal, amplitude, out=normal)
    return lambda theta, normal: normal * scale * np.sqrt(noise(theta))


def _bounded(theta: np.ndarray, cause: str) -> np.ndarray:
    if not np.isfinite(theta).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(theta))} path entries diverged with {cause}; take it smaller")
    return theta
