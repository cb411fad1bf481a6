"""The ledger: what the papers claim, our verdict, and the checks that print evidence for it.

A check raises :class:`ClaimError` when it fails.  When it passes it displays an
:class:`Evidence`: one plain-text line (which nbval compares) with an HTML badge beside it.  The
ledger page reads those lines back from the committed notebooks, so no verdict rests on a sentence.
"""

import difflib
import html
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sympy

VERDICTS = {
    "holds": "✓",
    "holds-if": "◐",
    "fails": "✗",
    "untestable": "?",
    "open": "○",
}
KINDS = ("symbolic", "numeric", "counterexample", "inequality")
SUBJECTS = ("claim", "correction")
LEDGER = Path(__file__).with_name("claims.toml")

# White text on each of these has a contrast above 7:1, on a light page and on a dark one.
_BACKGROUND = {
    "holds": "#00573f",
    "holds-if": "#0b4f8a",
    "fails": "#8a1c00",
    "untestable": "#4a4a4a",
    "open": "#555555",
}


class ClaimError(AssertionError):
    """A check of a claim that did not come out."""


@dataclass(frozen=True)
class Claim:
    """One row of ``claims.toml``; ``says`` is the statement in the book's own words."""

    id: str
    paper: str
    where: str
    says: str
    verdict: str
    checks: tuple[str, ...]
    condition: str = ""
    chapter: str = ""
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """One check that passed.  ``subject`` tells the paper's claim from our corrected statement."""

    claim: str
    kind: str
    subject: str
    detail: str

    def __repr__(self) -> str:
        return f"{self.claim} | {self.kind} | {self.subject} | {self.detail}"

    def _repr_html_(self) -> str:
        against = self.kind == "counterexample"
        color = _BACKGROUND["fails" if against else "holds"]
        label = "counterexample to" if against else f"{self.kind} check of"
        what = "the correction of " if self.subject == "correction" else ""
        return (
            f'<div class="evidence">{_pill(f"{label} {what}{self.claim}", color)} '
            f"<code>{html.escape(self.detail)}</code></div>"
        )


_LINE = re.compile(rf"^(\S+) \| ({'|'.join(KINDS)}) \| ({'|'.join(SUBJECTS)}) \| (.*)$")


def load_claims(path: Path = LEDGER) -> dict[str, Claim]:
    """Read the ledger; a claim's id is its paper's key and its own, for example ``shift.eq-5``."""
    claims = {}
    for paper, rows in tomllib.loads(Path(path).read_text(encoding="utf-8")).items():
        for key, row in rows.items():
            row = {**row, "checks": tuple(row["checks"])}
            claims[f"{paper}.{key}"] = Claim(id=f"{paper}.{key}", **row)
    return claims


def find_claim(claim_id: str, claims: Mapping[str, Claim] | None = None) -> Claim:
    """The claim of that id; a ``ValueError`` that offers the nearest ids if there is none."""
    claims = load_claims() if claims is None else claims
    if claim_id not in claims:
        near = difflib.get_close_matches(claim_id, claims, n=3, cutoff=0.4)
        raise ValueError(f"no claim {claim_id!r} in the ledger; nearest: {', '.join(near) or 'none'}")
    return claims[claim_id]


def check_symbolic(claim_id: str, residual, *, subject: str = "claim") -> None:
    """The residual (an expression, matrix or list of them) must simplify to zero."""
    entries = list(sympy.flatten(residual)) if isinstance(residual, list | tuple | sympy.MatrixBase) else [residual]
    if not entries:
        raise ValueError("residual must hold at least one expression, got none")
    left = [s for s in (sympy.simplify(sympy.sympify(entry)) for entry in entries) if s != 0]
    if left:
        raise ClaimError(f"{claim_id}: the residual does not vanish, {left[0]} is left")
    count = "the residual simplifies" if len(entries) == 1 else f"{len(entries)} residuals simplify"
    _show(claim_id, "symbolic", subject, f"{count} to 0")


def check_numeric(
    claim_id: str,
    measured,
    expected,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    standard_error=None,
    subject: str = "claim",
) -> None:
    """Measured and expected must agree within the tolerances, or within 4 standard errors."""
    if rtol <= 0 and atol <= 0 and standard_error is None:
        raise ValueError("check_numeric needs a positive rtol or atol, or a standard_error")
    measured, expected = np.broadcast_arrays(np.asarray(measured, float), np.asarray(expected, float))
    if measured.size == 0:
        raise ValueError("measured must hold at least one number, got none")
    allowed = atol + rtol * np.abs(expected)
    if standard_error is not None:
        allowed = allowed + 4 * _standard_error(standard_error)
    if not np.all(np.isfinite(measured) & np.isfinite(expected)) or not np.all(np.abs(measured - expected) <= allowed):
        raise ClaimError(f"{claim_id}: measured {_digits(measured)}, expected {_digits(expected)}")
    tolerances = [f"rtol {rtol:g}"] * (rtol > 0) + [f"atol {atol:g}"] * (atol > 0)
    tolerances += ["4 standard errors"] * (standard_error is not None)
    what = _digits(expected) if expected.size <= 3 else f"{expected.size} values agree"
    _show(claim_id, "numeric", subject, f"{what} within {' + '.join(tolerances)}")


def check_counterexample(
    claim_id: str, left, right, *, rtol: float = 1e-3, standard_error: float | None = None
) -> None:
    """The two sides, which the claim says are equal, must differ (by 6 standard errors if random)."""
    if isinstance(left, sympy.Basic | sympy.MatrixBase) or isinstance(right, sympy.Basic | sympy.MatrixBase):
        difference = sympy.simplify(sympy.sympify(left) - sympy.sympify(right))
        # What simplify leaves may still vanish: some entry must differ from zero in numbers.
        entries = list(difference) if isinstance(difference, sympy.MatrixBase) else [difference]
        if not any(entry.equals(0) is False for entry in entries):
            raise ClaimError(f"{claim_id}: no counterexample, nothing shows that {left} differs from {right}")
        _show(claim_id, "counterexample", "claim", f"{sympy.simplify(left)} ≠ {sympy.simplify(right)}")
        return
    left, right = np.asarray(left, float), np.asarray(right, float)
    apart = rtol * max(np.abs(left).max(), np.abs(right).max())
    if standard_error is not None:
        apart = max(apart, 6 * _standard_error(standard_error).max())
    if not np.all(np.isfinite(left - right)) or np.abs(left - right).max() <= apart:
        raise ClaimError(f"{claim_id}: no counterexample, {_digits(left)} against {_digits(right)}")
    _show(claim_id, "counterexample", "claim", f"{_digits(left)} ≠ {_digits(right)}")


def check_less(claim_id: str, smaller, larger, *, margin: float = 0.0, subject: str = "claim") -> None:
    """Every entry of ``smaller`` must lie below ``larger`` by more than ``margin``."""
    smaller, larger = np.asarray(smaller, float), np.asarray(larger, float)
    if np.broadcast(smaller, larger).size == 0 or margin < 0:
        raise ValueError(f"check_less needs at least one number and a margin of at least 0, got {margin:g}")
    if not np.all(larger - smaller > margin):
        raise ClaimError(f"{claim_id}: {_digits(smaller)} is not below {_digits(larger)} by more than {margin:g}")
    _show(claim_id, "inequality", subject, f"{_digits(smaller)} < {_digits(larger)}")


def verdicts(*claim_ids: str, chapter: str = "") -> "VerdictTable":
    """The claims a chapter settles, each with its badge, to stand at the chapter's head.

    Name the claims, or the chapter as ``claims.toml`` does, for all that are settled in it.
    """
    claims = load_claims()
    named = [find_claim(claim_id, claims) for claim_id in claim_ids]
    settled = [claim for claim in claims.values() if chapter and claim.chapter == chapter and claim.verdict != "open"]
    if not named and not settled:
        raise ValueError(f"no claim named and none settled in the chapter {chapter!r}")
    return VerdictTable(tuple(named + settled))


@dataclass(frozen=True)
class VerdictTable:
    claims: tuple[Claim, ...]

    def __repr__(self) -> str:
        return "\n".join(f"{c.id}: {c.verdict}" for c in self.claims)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{badge(c.verdict)}</td><td style='text-align:left'>"
            f"<code>{c.id}</code> ({html.escape(c.where)})<br>"
            f"{html.escape(c.says)}{_condition_html(c)}</td></tr>"
            for c in self.claims
        )
        return (
            '<table class="verdicts"><thead><tr><th>verdict</th><th style="text-align:left">what is claimed</th></tr>'
            f"</thead><tbody>{rows}</tbody></table>"
        )


def badge(verdict: str) -> str:
    """The verdict as an HTML pill: a mark and a word, never a colour alone."""
    if verdict not in VERDICTS:
        raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {verdict!r}")
    return _pill(f"{VERDICTS[verdict]} {verdict}", _BACKGROUND[verdict])


def collect_evidence(notebooks: Iterable[Path]) -> dict[str, list[tuple[Path, Evidence]]]:
    """The evidence in the notebooks' committed outputs, by claim id, with where it stands."""
    found: dict[str, list[tuple[Path, Evidence]]] = {}
    for path in notebooks:
        for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                text = "".join(output.get("data", {}).get("text/plain", ""))
                if match := _LINE.match(text):
                    found.setdefault(match[1], []).append((Path(path), Evidence(*match.groups())))
    return found


def inconsistencies(claims: Mapping[str, Claim], evidence: Mapping[str, list[tuple[Path, Evidence]]]) -> list[str]:
    """Every way in which the verdicts and the evidence disagree, one sentence each."""
    unknown = [claim_id for claim_id in evidence if claim_id not in claims]
    faults = [f"{claim_id}: evidence for a claim that the ledger does not list" for claim_id in unknown]
    for claim in claims.values():
        kinds = {(e.kind, e.subject) for _, e in evidence.get(claim.id, [])}
        faults += [f"{claim.id}: {fault}" for fault in _faults(claim, kinds)]
    return faults


def _faults(claim: Claim, kinds: set[tuple[str, str]]) -> Iterable[str]:
    against = ("counterexample", "claim") in kinds
    supporting = {kind for kind, subject in kinds if subject == "claim" and kind != "counterexample"}
    if claim.verdict not in VERDICTS:
        yield f"verdict {claim.verdict!r} is not one of {', '.join(VERDICTS)}"
    if claim.verdict == "open" and kinds:
        yield "open, yet there is evidence"
    if claim.verdict not in ("open", "untestable") and not kinds:
        yield f"{claim.verdict}, yet there is no evidence"
    if claim.verdict == "untestable" and not claim.note:
        yield "untestable, yet its note does not say why"
    if claim.verdict == "holds" and against:
        yield "holds, yet there is a counterexample"
    if claim.verdict in ("holds", "holds-if") and not supporting:
        yield f"{claim.verdict}, yet no check supports it"
    if claim.verdict in ("holds", "holds-if") and "symbolic" in claim.checks and "symbolic" not in supporting:
        yield f"{claim.verdict} without the symbolic check that its row asks for"
    if claim.verdict == "holds-if" and not claim.condition:
        yield "holds-if without its condition"
    if claim.verdict == "fails" and not against:
        yield "fails, yet there is no counterexample"
    if claim.verdict == "fails" and supporting:
        yield "fails, yet a check supports the claim as it stands"


def _show(claim_id: str, kind: str, subject: str, detail: str) -> None:
    from IPython.display import display  # only a notebook pays for this import

    find_claim(claim_id)
    if subject not in SUBJECTS:
        raise ValueError(f"subject must be one of {', '.join(SUBJECTS)}, got {subject!r}")
    display(Evidence(claim_id, kind, subject, detail))


def _standard_error(value) -> np.ndarray:
    error = np.asarray(value, float)
    if not np.all(np.isfinite(error) & (error > 0)):
        raise ValueError(f"standard_error must be positive and finite, got {value}")
    return error


def _digits(values: np.ndarray) -> str:
    """Four significant digits: enough to read, too few to differ between machines."""
    flat = np.asarray(values, float).ravel()
    shown = ", ".join(f"{v:.4g}" for v in flat[:4]) + (", …" if flat.size > 4 else "")
    return shown if np.ndim(values) == 0 else f"({shown})"


def _pill(text: str, background: str) -> str:
    return (
        f'<span style="background:{background};color:#fff;padding:0.1em 0.5em;border-radius:0.6em;'
        f'white-space:nowrap;font-size:0.85em">{html.escape(text)}</span>'
    )


def _condition_html(claim: Claim) -> str:
    return f"<br><em>Condition:</em> {html.escape(claim.condition)}" if claim.condition else ""
