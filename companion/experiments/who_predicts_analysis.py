"""How well each measure ranks test error: Kendall's τ over pairs of networks, with bootstrap intervals.

The catalogue of measures comes first: what a table calls them, and with which sign they should rise
with test error.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from companion.experiments.who_predicts_measures import DAMPINGS, DENSE_DAMPINGS, EXACT_DAMPINGS

ERROR = "test_error"


def _damped(name: str, label: str, dampings: tuple[float, ...]) -> dict[str, str]:
    return {f"{name}_{e:g}": f"{label}, ε = {e:g}" for e in dampings}


# Known without looking at the weights, or nearly so.
TRIVIAL = {
    "chance": "a random number",
    "attack": "size of the attack set",
    "parameters": "number of parameters",
    "temperature": "-λ/B",
    "epoch": "epochs",
    "steps": "steps",
    "train_loss": "training loss",
    "margin": "-margin",
    "norm": "|θ|",
    "distance": "|θ - θ₀|",
    "gradient_norm": "|∂U|",
}
SHARPNESS = {
    "trace_hessian": "tr H",
    "top_eigenvalue": "‖H‖₂",
    "keskar": "Keskar, box",
    "worst_case": "worst case, ball",
    "worst_case_adaptive": "worst case, adaptive",
    "average": "average",
    "average_adaptive": "average, adaptive",
}
METRIC = {
    **_damped("riemannian_exact", "S_R, exact diagonal", EXACT_DAMPINGS),
    **_damped("riemannian_mc", "S_R, Monte Carlo", DAMPINGS),
    **_damped("riemannian_batch", "S_R, squared batches", DAMPINGS),
    **_damped("riemannian_dense", "S_R, whole matrices", DENSE_DAMPINGS),
    **_damped("noise_metric", "Σ H/(D + ε)", DAMPINGS),
    "adam_adjusted": "Adam-adjusted, batches here",
    "adam_state": "Adam-adjusted, Adam's memory",
    "fisher_rao": "Fisher–Rao norm",
}
NOISE = {"trace_noise": "tr D", **_damped("takeuchi", "Σ D/(H + ε)", DAMPINGS)}
COMPLEXITY = {
    "spectral_over_margin": "∏‖W‖₂ / margin",
    "pac_bayes_isotropic": "PAC-Bayes, isotropic",
    "pac_bayes_laplace": "PAC-Bayes, from H",
    "log_prior": "-log P(f)",
}
# With labels that training has not seen.
HELD_OUT = {
    "shift_curvature": "shift-curvature",
    "shift_curvature_fit": "shift-curvature, fitted",
    "shift_length": "|s|",
    "held_out_error": "held-out error",
    "held_out_loss": "held-out loss",
}
LABELS = {**TRIVIAL, **SHARPNESS, **METRIC, **NOISE, **COMPLEXITY, **HELD_OUT}
SIGNS = {key: -1 if key in ("temperature", "margin", "log_prior") else 1 for key in LABELS}
# One reading of each measure, for a figure.
SHOWN = (
    "chance", "attack", "temperature", "steps", "train_loss", "margin", "norm", "distance",
    "trace_hessian", "top_eigenvalue", "keskar", "worst_case", "worst_case_adaptive", "average_adaptive",
    "riemannian_exact_0", "riemannian_exact_1e-08", "riemannian_exact_0.0001", "riemannian_exact_0.1",
    "riemannian_mc_1e-06", "riemannian_batch_1e-06", "riemannian_dense_0.01", "adam_adjusted", "fisher_rao",
    "trace_noise", "takeuchi_1e-08", "spectral_over_margin", "pac_bayes_laplace", "log_prior",
    "shift_curvature", "shift_curvature_fit", "held_out_error", "held_out_loss",
)  # fmt: skip
DRAWS = 400  # of the bootstrap
SAME_ATTACK = ("attack",)


@dataclass(frozen=True)
class Rank:
    """Kendall's τ-b of one measure with test error, larger meaning better, with a 95 % interval over networks.

    ``networks`` is how many have the measure; ``best`` the share of bootstrap samples in which no other
    measure of the same ranking has a larger τ.  None where there are no pairs to compare.
    """

    key: str
    tau: float | None
    low: float | None
    high: float | None
    networks: int
    best: float

    @property
    def label(self) -> str:
        """The measure's name."""
        return LABELS[self.key]


def networks(records: Iterable[Mapping], moment: str = "first_fit", *, rescaled: bool = False, **chosen) -> list[dict]:
    """The settings and measures of all networks that reached the moment, in one dict each, in the order of their seeds.

    Parameters
    ----------
    records : iterable of dict
    moment : {"first_fit", "equal_loss"}
        A network without training error is what both ask for: others are left out.
    rescaled : bool, default False
        The measures after the rescaling of the layers; networks that cannot be rescaled are left out.
    **chosen
        Settings that must have these values, for instance ``optimizer="adam"``.
    """
    rows = []
    for record in records:
        settings, reached = record["settings"], record["result"]["moments"][moment]
        measures = reached and reached["rescaled" if rescaled else "measures"]
        if not measures or any(settings[name] != value for name, value in chosen.items()):
            continue
        batches = (settings["train_size"] + settings["attack"]) // settings["batch_size"]
        derived = {
            "steps": reached["epoch"] * batches,
            "epoch": reached["epoch"],
            "temperature": settings["learning_rate"] / settings["batch_size"],
            "parameters": record["result"]["parameters"],
            "chance": float(np.random.default_rng(settings["seed"]).random()),
        }
        rows.append({**settings, **measures, **derived})
    return sorted(rows, key=lambda row: row["seed"])


def tau(values, errors, strata=None, weights=None) -> np.ndarray:
    """Kendall's τ-b over the pairs within a stratum: (concordant - discordant) / √(pairs untied in each).

    Parameters
    ----------
    values, errors : array_like, shape (n,)
        NaN in ``values`` leaves a network out.
    strata : array_like, shape (n,), optional
        Only pairs of networks with equal entries count; all pairs, if left out.
    weights : array_like, shape (draws, n), optional
        How often each network counts in each draw; once in a single draw, if left out.

    Returns
    -------
    ndarray, shape (draws,)
        NaN where there is no untied pair.

    Examples
    --------
    >>> float(tau([1, 2, 3], [1, 3, 2])[0].round(3))
    0.333
    """
    values, errors = np.asarray(values, float), np.asarray(errors, float)
    weights = np.ones((1, len(values))) if weights is None else np.asarray(weights, float)
    counted = np.isfinite(values)[:, None] & np.isfinite(values)
    if strata is not None:
        strata = np.asarray(strata)
        counted &= strata[:, None] == strata
    order, expected = (np.where(counted, np.sign(v[:, None] - v), 0.0) for v in (values, errors))
    both, untied, distinct = (
        np.sum(weights @ matrix * weights, axis=1) for matrix in (order * expected, np.abs(order), np.abs(expected))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return both / np.sqrt(untied * distinct)


def ranking(
    rows: Sequence[Mapping],
    keys: Sequence[str] = SHOWN,
    *,
    strata: Sequence[str] = SAME_ATTACK,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Rank]:
    """The measures in the order of their τ.

    Parameters
    ----------
    rows : sequence of dict
        From :func:`networks`.
    keys : sequence of str
        Measures of the catalogue, each taken with the sign with which it should rise with test error.
    strata : sequence of str, default ("attack",)
        Settings that both networks of a pair must share; none for all pairs.
    draws, seed : int
        Bootstrap over networks, the same draws for all measures.
    """
    weights = bootstrap_weights(len(rows), draws, seed)
    samples = np.stack([taus(rows, key, strata, weights) for key in keys])
    finite = np.where(np.isfinite(samples), samples, -np.inf)
    best = np.bincount(finite.argmax(axis=0)[np.isfinite(finite.max(axis=0))], minlength=len(keys)) / draws
    ranks = []
    for key, sample, share in zip(keys, samples, best, strict=True):
        value = taus(rows, key, strata)[0]
        low, high = np.nanquantile(sample, [0.025, 0.975]) if np.isfinite(sample).any() else (np.nan, np.nan)
        known = int(np.isfinite(_column(rows, key)).sum())
        ranks.append(Rank(key, *(_number(v) for v in (value, low, high)), known, float(share)))
    return sorted(ranks, key=lambda rank: -2.0 if rank.tau is None else rank.tau, reverse=True)


def difference(
    rows: Sequence[Mapping],
    one: str,
    other: str,
    *,
    other_rows: Sequence[Mapping] | None = None,
    strata: Sequence[str] = SAME_ATTACK,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float, float]:
    """τ of one measure minus τ of another, with its 95 % interval; paired, for it takes the same networks.

    ``other_rows``, in the order of ``rows``, are where the other measure is taken, for instance after
    the rescaling.
    """
    other_rows = rows if other_rows is None else other_rows
    if [row["seed"] for row in rows] != [row["seed"] for row in other_rows]:
        raise ValueError("other_rows must be the networks of rows, in their order, got others")
    weights = bootstrap_weights(len(rows), draws, seed)
    sample = taus(rows, one, strata, weights) - taus(other_rows, other, strata, weights)
    value = taus(rows, one, strata)[0] - taus(other_rows, other, strata)[0]
    return float(value), *(float(q) for q in np.nanquantile(sample, [0.025, 0.975]))


def taus(rows: Sequence[Mapping], key: str, strata: Sequence[str], weights=None) -> np.ndarray:
    """:func:`tau` of a measure of the catalogue, with its sign, within the strata of these settings."""
    groups = [tuple(row[name] for name in strata) for row in rows]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    errors = [row[ERROR] for row in rows]
    return tau(SIGNS[key] * _column(rows, key), errors, [numbers[group] for group in groups], weights)


def _column(rows: Sequence[Mapping], key: str) -> np.ndarray:
    return np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=float)


def bootstrap_weights(size: int, draws: int, seed: int) -> np.ndarray:
    """How often each of ``size`` networks counts in each draw, shape (draws, size)."""
    if not size:
        return np.zeros((draws, 0))
    return np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), draws).astype(float)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
