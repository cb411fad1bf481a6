"""τ together with its bootstrap draws: differences of τ then have standard errors, and many can be judged at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from companion.experiments.who_predicts_analysis import LABELS, SAME_ATTACK, bootstrap_weights, taus

DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number and what it is in each draw of the bootstrap.

    Subtract estimates that were made from the same networks (before and after a rescaling, for
    instance), or from parts of them: their draws belong together.
    """

    value: float
    draws: np.ndarray

    @property
    def error(self) -> float:
        """Standard error, from the draws that have a value; a little large, for a draw has fewer distinct pairs.

        By a tenth with 36 networks a stratum, by a quarter with 12.
        """
        return float(np.nanstd(self.draws))

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.draws - other.draws)

    def __str__(self) -> str:
        return f"{self.value:+.2f} ± {self.error:.2f}"


def estimate(
    rows: Sequence[Mapping],
    key: str,
    *,
    strata: Sequence[str] = SAME_ATTACK,
    draws: int = DRAWS,
    seed: int = 0,
    **chosen,
) -> Estimate:
    """τ of one measure with test error, among the networks that have the chosen settings.

    Parameters
    ----------
    rows : sequence of dict
        From :func:`~companion.experiments.who_predicts_analysis.networks`.  All of them are drawn from,
        the chosen and the others, so that estimates of two parts of one list are as independent as the
        parts are.
    key : str
        Measure of the catalogue, taken with the sign with which it should rise with test error.
    strata : sequence of str, default ("attack",)
        Settings that both networks of a pair must share.
    draws, seed : int
    **chosen
        Settings that must have these values, for instance ``optimizer="adam"``.

    Raises
    ------
    ValueError
        For a measure that the catalogue lacks, and where no pair of networks can be ranked.
    """
    if key not in LABELS:
        raise ValueError(f"key must be a measure of the catalogue, got {key!r}")
    picked = [i for i, row in enumerate(rows) if all(row[name] == value for name, value in chosen.items())]
    part = [rows[i] for i in picked]
    value = taus(part, key, strata)[0]
    if not np.isfinite(value):
        raise ValueError(f"key {key!r} differs between no two of the {len(part)} networks within strata {strata!r}")
    weights = bootstrap_weights(len(rows), draws, seed)[:, picked]
    return Estimate(float(value), taus(part, key, strata, weights))


def critical_value(family: Sequence[Estimate], level: float = 0.95) -> float:
    """How many standard errors wide a family of intervals must be to hold together, all in one, with this confidence.

    In the fraction ``level`` of the draws no estimate of the family is farther from its value than so
    many of its standard errors.  For one estimate that is about 1.96, for more of them it is larger, and
    less so the more they go together.  Estimates that never vary, as the difference that an exact
    invariance makes, do not count.

    Raises
    ------
    ValueError
        If no estimate varies, or if the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    varying = [one for one in family if one.error > 1e-12]
    if not varying:
        raise ValueError(f"family must hold an estimate that varies, got {len(family)} that do not")
    deviations = np.stack([np.abs(one.draws - one.value) / one.error for one in varying])
    return float(np.quantile(np.nanmax(deviations, axis=0), level))


def candidates(known: Mapping[str, Estimate], level: float = 0.95) -> tuple[list[str], float]:
    """Which of these cannot be ruled out as the largest, judged by all pairs at once, and the number c for them.

    One is ruled out if some other is above it by more than c standard errors of their difference, with c
    the :func:`critical_value` of the differences of all pairs.  So none is singled out by the data
    before it is judged, and with this confidence the truly largest is among those that are left.
    """
    gaps = {pair: known[pair[0]] - known[pair[1]] for pair in combinations(known, 2)}
    c = critical_value(list(gaps.values()), level)
    beaten = {pair[gap.value > 0] for pair, gap in gaps.items() if abs(gap.value) > c * gap.error}
    return [key for key in known if key not in beaten], c
