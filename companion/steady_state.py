"""The steady state of dθ = -U′(θ) dt + √(T D(θ)) dW, the diffusion that stands for SGD.

In one dimension: the effective potential, the density, the basin weights and averages.  In d
dimensions: the covariance and the stationary current of the linear diffusion, for which the
density exp(-2U/T) is in general wrong.  Time is counted in learning rates (t = λ n for n steps)
and T = λ/B is the temperature.
"""

from collections.abc import Callable

import numpy as np
from scipy.linalg import solve_continuous_lyapunov
from scipy.optimize import brentq
from scipy.special import logsumexp

from companion import validate
from companion.diffusivity import Noise, derivative, second_derivative
from companion.quadrature import panel_nodes
from companion.whole_line import critical_points, line_edges, line_measure


def effective_potential(loss: Callable, noise, temperature: float, grid) -> np.ndarray:
    """v(θ) = ∫ D⁻¹ (U′ + (T/2) D′) dθ, whose Boltzmann density exp(-2v/T) is the steady state.

    Parameters
    ----------
    loss : callable
        U; its ``gradient`` is used if it has one.
    noise : float, callable, or pair of callables
        The gradient variance D > 0: a number, D(θ), or (D, D′).
    temperature : float
        T = λ/B > 0.
    grid : array_like, shape (n,)
        Increasing points θ.

    Returns
    -------
    ndarray, shape (n,)
        v on the grid, in units of U/D.  Its free constant is fixed so that v = U/D for constant
        D, and v = U/D at the first point of the grid otherwise.

    Raises
    ------
    ValueError
        If the temperature or the noise is not positive, the grid is not increasing, or the loss
        is NaN or infinite on it.

    Notes
    -----
    ``shift`` eq. 5.  In one dimension the second part integrates in closed form:
    v = ∫ U′/D dθ + (T/2) log D.
    """
    temperature = validate.positive("temperature", temperature)
    noise = Noise(noise)
    grid = validate.increasing_grid("grid", grid)
    value = validate.finite("loss", loss(grid))
    if noise.constant:
        return value / noise(grid)
    nodes, weights = panel_nodes(grid)
    slope = validate.finite("loss gradient", derivative(loss, nodes))
    rise = np.concatenate([[0.0], np.cumsum((slope / noise(nodes) * weights).sum(axis=1))])
    log_noise = np.log(validate.finite("noise", noise(grid)))
    return value[0] / noise(grid)[0] + rise + temperature / 2 * (log_noise - log_noise[0])


def stationary_density(loss: Callable, noise, temperature: float, grid) -> np.ndarray:
    """ρ(θ) = exp(-2v(θ)/T) / Z on a grid, with the trapezoidal integral over the grid equal to 1.

    Parameters, units and source are those of :func:`effective_potential`.

    Raises
    ------
    ValueError
        Also if the grid leaves out a minimum of the loss, ends where the density is largest, or
        is too coarse for the peak of the density.
    """
    temperature = validate.positive("temperature", temperature)
    grid = validate.increasing_grid("grid", grid)
    validate.contains_basins("grid", grid, loss)
    exponent = -2 / temperature * effective_potential(loss, noise, temperature, grid)
    density = np.exp(exponent - exponent.max())
    if density.argmax() in (0, grid.size - 1):
        ends = f"[{grid[0]:g}, {grid[-1]:g}]"
        raise ValueError(f"grid must contain the basins; on {ends} the density is largest at an end")
    if np.count_nonzero(density > 0.1) < 4:
        raise ValueError(f"grid is too coarse for temperature {temperature:g}: the peak has fewer than 4 points")
    return density / np.trapezoid(density, grid)


def basin_probabilities(loss, temperature: float, noise=1.0) -> np.ndarray:
    """The steady state's mass in each basin of the loss, integrated over the whole line.

    Parameters
    ----------
    loss : callable with ``local_minima()`` and ``local_maxima()``
        U; a basin lies between two neighbouring maxima of U (``shift``, details of figure 4).
    temperature, noise
        As in :func:`effective_potential`.

    Returns
    -------
    ndarray
        One probability a local minimum, left to right; they sum to 1.

    Raises
    ------
    ValueError
        If the temperature or the noise is not positive, the loss cannot name its minima, or the
        density does not decay at infinity, so that there is no steady state.
    """
    measure = line_measure(loss, Noise(noise), validate.positive("temperature", temperature))
    minima, maxima = critical_points(loss)
    basin = np.searchsorted(maxima, (measure.edges[:-1] + measure.edges[1:]) / 2)
    log_weights = np.array([logsumexp(measure.log_mass[basin == k]) for k in range(minima.size)])
    return np.exp(log_weights - logsumexp(log_weights))


def expected_loss(function: Callable, loss, temperature: float, noise=1.0) -> float:
    """The average of ``function`` under the steady state of ``loss``, over the whole line.

    ``function`` maps an array of θ to an array of the same shape: the loss itself, a shifted
    test loss, a power of θ.  The other arguments and the errors are those of
    :func:`basin_probabilities`.  Source: ``shift``, details of figure 4.
    """
    measure = line_measure(loss, Noise(noise), validate.positive("temperature", temperature))
    mass = np.exp(measure.log_mass - logsumexp(measure.log_mass))
    inside = mass > 0  # elsewhere the function may overflow
    nodes = measure.nodes[inside]
    values = validate.finite("function", function(nodes))
    if values.shape not in ((), nodes.shape):
        raise ValueError(f"function must keep the shape of its argument, got {values.shape} for {nodes.shape}")
    return float(np.sum(mass[inside] * values))


def laplace_weights(loss, temperature: float, noise=1.0) -> np.ndarray:
    """The basin masses to leading order in T: w ∝ exp(-2v(μ)/T) · v″(μ)^(-1/2), ``shift`` eq. 6.

    μ is the minimum of the effective potential that lies in the basin and nearest to the loss's
    own.  Arguments, return value and errors are those of :func:`basin_probabilities`.

    Raises
    ------
    ValueError
        Also if in some basin the effective potential has no minimum at this temperature.
    """
    temperature = validate.positive("temperature", temperature)
    noise = Noise(noise)
    modes = effective_minima(loss, temperature, noise.noise)
    curvature = (second_derivative(loss, modes) + temperature / 2 * derivative(noise.derivative, modes)) / noise(modes)
    if not np.all(curvature > 0):
        flat = modes[~(curvature > 0)][0]
        raise ValueError(f"loss must be curved where the effective potential is lowest; at θ = {flat:g} it is not")
    path = np.unique(np.concatenate([modes, np.linspace(modes[0] - 1, modes[-1] + 1, 4001)]))
    depth = effective_potential(loss, noise.noise, temperature, path)[np.searchsorted(path, modes)]
    log_weights = -2 * depth / temperature - 0.5 * np.log(curvature)
    return np.exp(log_weights - logsumexp(log_weights))


def effective_minima(loss, temperature: float, noise=1.0) -> np.ndarray:
    """The minimum of the effective potential in each basin of the loss, left to right.

    Where U′ + (T/2) D′ = 0; for constant noise these are the loss's own minima.  Arguments and
    errors as in :func:`laplace_weights`.
    """
    temperature = validate.positive("temperature", temperature)
    noise = Noise(noise)
    minima, maxima = critical_points(loss)
    if noise.constant:
        return minima
    walls = np.concatenate([[-np.inf], maxima, [np.inf]])
    edges = line_edges(loss, noise, temperature)
    slope = derivative(loss, edges) + temperature / 2 * noise.derivative(edges)

    def force(theta: float) -> float:
        return float(derivative(loss, theta) + temperature / 2 * noise.derivative(theta))

    modes = []
    for k, minimum in enumerate(minima):
        inside = (edges[:-1] >= walls[k]) & (edges[1:] <= walls[k + 1])
        starts = np.flatnonzero(inside & (slope[:-1] <= 0) & (slope[1:] > 0))
        if starts.size == 0:
            raise ValueError(
                f"at temperature {temperature:g} the effective potential has no minimum in the basin of θ = {minimum:g}"
            )
        roots = np.array([brentq(force, edges[i], edges[i + 1], xtol=1e-13) for i in starts])
        modes.append(roots[np.abs(roots - minimum).argmin()])
    return np.array(modes)


def stationary_covariance(hessian, noise_covariance, temperature: float) -> np.ndarray:
    """The covariance Σ of dθ = -H θ dt + √T D^(1/2) dW, from HΣ + ΣH = T D.

    Parameters
    ----------
    hessian : array_like, shape (d, d)
        H, symmetric positive definite.
    noise_covariance : array_like, shape (d, d)
        D, symmetric positive semidefinite.
    temperature : float
        T = λ/B > 0.

    Returns
    -------
    ndarray, shape (d, d)
        Σ.  It equals (T/2) H⁻¹ D exactly when H and D commute.

    Raises
    ------
    ValueError
        If a matrix is not square, symmetric or definite enough, their shapes differ, or the
        temperature is not positive.
    """
    hessian, noise_covariance = _matrices(hessian, noise_covariance)
    temperature = validate.positive("temperature", temperature)
    covariance = solve_continuous_lyapunov(hessian, temperature * noise_covariance)
    return (covariance + covariance.T) / 2


def probability_current(hessian, noise_covariance, temperature: float, points) -> np.ndarray:
    """The stationary probability current j(θ) of the linear diffusion, where probability flows to.

    j = -H θ ρ - (T/2) D ∇ρ = ((T/2) D - HΣ) Σ⁻¹ θ ρ(θ), with ρ the Gaussian of covariance Σ
    from :func:`stationary_covariance`.  It vanishes everywhere if and only if H and D commute.

    Parameters
    ----------
    hessian, noise_covariance, temperature
        As in :func:`stationary_covariance`, with D positive definite.
    points : array_like, shape (..., d)
        Where to evaluate the current, measured from the minimum.

    Returns
    -------
    ndarray, shape (..., d)
        j, with ∂ρ/∂t = -∇·j; ``shift`` eq. 10 writes J for -j.

    Raises
    ------
    ValueError
        Also if the points' last axis is not d or D is singular.
    """
    hessian, noise_covariance = _matrices(hessian, noise_covariance)
    validate.symmetric_matrix("noise_covariance", noise_covariance, definite=True)
    points = validate.finite("points", points)
    size = hessian.shape[0]
    if points.ndim == 0 or points.shape[-1] != size:
        raise ValueError(f"points must have last axis {size}, got shape {points.shape}")
    covariance = stationary_covariance(hessian, noise_covariance, temperature)
    precision = np.linalg.inv(covariance)
    density = np.exp(-0.5 * np.einsum("...i,ij,...j->...", points, precision, points))
    density /= np.sqrt(np.linalg.det(2 * np.pi * covariance))
    rotation = (temperature / 2 * noise_covariance - hessian @ covariance) @ precision
    return points @ rotation.T * density[..., None]


def _matrices(hessian, noise_covariance) -> tuple[np.ndarray, np.ndarray]:
    hessian = validate.symmetric_matrix("hessian", hessian, definite=True)
    noise_covariance = validate.symmetric_matrix("noise_covariance", noise_covariance, definite=False)
    if hessian.shape != noise_covariance.shape:
        raise ValueError(
            f"hessian and noise_covariance must have one shape, got {hessian.shape} and {noise_covariance.shape}"
        )
    return hessian, noise_covariance
