"""companion/claims.py: when a check passes, when it raises, and what its evidence says."""

import re

import nbformat
import numpy as np
import pytest
import sympy as sp
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from companion import claims
from companion.claims import (
    ClaimError,
    Evidence,
    badge,
    check_counterexample,
    check_less,
    check_numeric,
    check_symbolic,
    collect_evidence,
    find_claim,
    load_claims,
    verdicts,
)

ID = "shift.eq-5"
x = sp.symbols("x", positive=True)
PAPER = sp.Function("U")(x)


def shown(capsys):
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("residual", "count"),
    [
        (sp.sin(x) ** 2 + sp.cos(x) ** 2 - 1, "the residual simplifies"),
        (0, "the residual simplifies"),
        ([x - x, sp.Integer(0)], "2 residuals simplify"),
        (sp.zeros(2, 2), "4 residuals simplify"),
        ([sp.zeros(1, 2), [0]], "3 residuals simplify"),
    ],
)
def test_symbolic_check_passes_where_every_residual_vanishes(capsys, residual, count):
    check_symbolic(ID, residual)
    assert shown(capsys) == f"{ID} | symbolic | claim | {count} to 0"


@pytest.mark.parametrize("residual", [x, [0, x], sp.Matrix([0, x]), sp.nan, 1e-20, sp.Integer(1)])
def test_symbolic_check_raises_where_something_is_left(capsys, residual):
    with pytest.raises(ClaimError, match=f"^{ID}: the residual does not vanish, .* is left"):
        check_symbolic(ID, residual)
    assert shown(capsys) == ""


@pytest.mark.parametrize("residual", [[], (), sp.zeros(0, 2)])
def test_symbolic_check_of_nothing_is_refused(residual):
    with pytest.raises(ValueError, match="residual must hold at least one expression, got none"):
        check_symbolic(ID, residual)


@pytest.mark.parametrize(
    ("measured", "expected", "tolerances", "detail"),
    [
        (1.001, 1.0, {"rtol": 2e-3}, "1 within rtol 0.002"),
        (0.001, 0.0, {"atol": 2e-3}, "0 within atol 0.002"),
        ([1.0, 2.0], [1.1, 2.1], {"standard_error": 0.03}, "(1.1, 2.1) within 4 standard errors"),
        ([1.0, 2.0], 1.5, {"standard_error": [0.2, 0.13]}, "(1.5, 1.5) within 4 standard errors"),
        (
            1.39,
            1.0,
            {"rtol": 0.1, "atol": 0.1, "standard_error": 0.05},
            "1 within rtol 0.1 + atol 0.1 + 4 standard errors",
        ),
        (np.ones(7), 1.0, {"rtol": 1e-9}, "7 values agree within rtol 1e-09"),
        (0.123456, 0.123456, {"rtol": 1e-9}, "0.1235 within rtol 1e-09"),
    ],
)
def test_numeric_check_passes_within_its_tolerances(capsys, measured, expected, tolerances, detail):
    check_numeric(ID, measured, expected, **tolerances)
    assert shown(capsys) == f"{ID} | numeric | claim | {detail}"


@pytest.mark.parametrize(
    ("measured", "expected", "tolerances"),
    [
        (1.003, 1.0, {"rtol": 2e-3}),
        (0.003, 0.0, {"rtol": 1.0, "atol": 2e-3}),
        ([1.0, 1.0], [1.0, 1.1], {"rtol": 1e-3}),
        (1.0, 1.13, {"standard_error": 0.03}),
        (np.nan, 1.0, {"rtol": 1.0}),
        (np.inf, np.inf, {"rtol": 1.0}),
        (1.0, np.inf, {"rtol": 1.0}),
        (1.0, np.nan, {"atol": 1.0}),
    ],
)
def test_numeric_check_raises_outside_its_tolerances(capsys, measured, expected, tolerances):
    with pytest.raises(ClaimError, match=f"^{ID}: measured .*, expected .*"):
        check_numeric(ID, measured, expected, **tolerances)
    assert shown(capsys) == ""


@pytest.mark.parametrize("tolerances", [{}, {"rtol": 0.0}, {"atol": -1.0}])
def test_numeric_check_needs_a_tolerance(tolerances):
    with pytest.raises(ValueError, match="needs a positive rtol or atol, or a standard_error"):
        check_numeric(ID, 1, 1, **tolerances)


def test_numeric_check_of_nothing_is_refused():
    with pytest.raises(ValueError, match="measured must hold at least one number, got none"):
        check_numeric(ID, [], [], rtol=1)


@pytest.mark.parametrize("error", [0, -1, np.nan, np.inf, [0.1, 0.0]])
def test_standard_error_must_be_positive_and_finite(error):
    with pytest.raises(ValueError, match="standard_error must be positive and finite, got"):
        check_numeric(ID, [1, 1], [5, 5], standard_error=error)
    with pytest.raises(ValueError, match="standard_error must be positive and finite, got"):
        check_counterexample(ID, 1, 5, standard_error=error)


@pytest.mark.parametrize(
    ("left", "right", "detail"),
    [
        (1.0, 1.1, "1 ≠ 1.1"),
        ([0.5, 0.5], [0.5, 0.6], "(0.5, 0.5) ≠ (0.5, 0.6)"),
        (x + x, x, "2*x ≠ x"),
        (sp.Matrix([1, x]), sp.Matrix([1, 0]), "Matrix([[1], [x]]) ≠ Matrix([[1], [0]])"),
        (PAPER.diff(x), sp.Integer(0), "Derivative(U(x), x) ≠ 0"),
    ],
)
def test_counterexample_passes_where_the_sides_differ(capsys, left, right, detail):
    check_counterexample(ID, left, right)
    assert shown(capsys) == f"{ID} | counterexample | claim | {detail}"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1.0, 1.0005),
        (0.0, 0.0),
        (np.nan, 1.0),
        (np.inf, 1.0),
        ((x + 1) ** 2, x**2 + 2 * x + 1),
        (sp.acos(x) + sp.asin(x), sp.pi / 2),
        (sp.eye(2), sp.eye(2)),
        (sp.sqrt(5 + 2 * sp.sqrt(6)), sp.sqrt(2) + sp.sqrt(3)),
    ],
)
def test_counterexample_raises_where_nothing_shows_that_the_sides_differ(capsys, left, right):
    with pytest.raises(ClaimError, match=f"^{ID}: no counterexample"):
        check_counterexample(ID, left, right)
    assert shown(capsys) == ""


def test_counterexample_from_random_numbers_needs_six_standard_errors():
    check_counterexample(ID, 1.0, 1.61, standard_error=0.1)
    with pytest.raises(ClaimError, match=r"no counterexample, 1 against 1\.59"):
        check_counterexample(ID, 1.0, 1.59, standard_error=0.1)


def test_inequality_passes_and_raises(capsys):
    check_less(ID, [1.0, 2.0], 3.0, margin=0.5)
    assert shown(capsys) == f"{ID} | inequality | claim | (1, 2) < 3"
    for smaller, larger, margin in ((3.0, 3.0, 0), (2.0, 3.0, 1.0), ([1.0, 4.0], 3.0, 0), (np.nan, 1.0, 0)):
        with pytest.raises(ClaimError, match=f"{ID}: .* is not below .* by more than {margin:g}"):
            check_less(ID, smaller, larger, margin=margin)


@pytest.mark.parametrize(("smaller", "margin"), [([], 0.0), (0.0, -2.0)])
def test_inequality_between_nothing_or_with_a_negative_margin_is_refused(smaller, margin):
    with pytest.raises(ValueError, match="check_less needs at least one number and a margin of at least 0"):
        check_less(ID, smaller, 1.0, margin=margin)


CHECKS = [
    lambda claim, **rest: check_symbolic(claim, 0, **rest),
    lambda claim, **rest: check_numeric(claim, 1, 1, rtol=1e-9, **rest),
    lambda claim, **rest: check_less(claim, 0, 1, **rest),
]


@pytest.mark.parametrize("check", [*CHECKS, lambda claim: check_counterexample(claim, 0, 1)])
def test_unknown_claim_is_refused_with_the_nearest_ids(check):
    with pytest.raises(ValueError, match=r"no claim 'shift.eq5' in the ledger; nearest: shift.eq-5, "):
        check("shift.eq5")


def test_claim_like_no_other_has_no_nearest():
    with pytest.raises(ValueError, match=r"no claim '@@@' in the ledger; nearest: none"):
        find_claim("@@@")


@pytest.mark.parametrize("check", CHECKS)
def test_subject_is_claim_or_correction(capsys, check):
    check(ID, subject="correction")
    assert f"{ID} | " in (line := shown(capsys)) and " | correction | " in line
    with pytest.raises(ValueError, match="subject must be one of claim, correction, got 'paper'"):
        check(ID, subject="paper")


def test_claim_carries_its_row(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text('[p."a.b"]\npaper = "p"\nwhere = "eq. 1"\nsays = "s"\nverdict = "open"\nchecks = ["numeric"]\n')
    claim = load_claims(path)["p.a.b"]
    assert (claim.id, claim.paper, claim.where, claim.checks) == ("p.a.b", "p", "eq. 1", ("numeric",))
    assert (claim.condition, claim.chapter, claim.note) == ("", "", "")


@pytest.mark.parametrize("split", [False, True])
def test_printed_evidence_is_read_back_from_a_notebook(capsys, tmp_path, split):
    check_symbolic(ID, 0)
    check_numeric(ID, 1, 1, rtol=1e-9, subject="correction")
    check_counterexample("shift.curl", sp.Matrix([1]), sp.Matrix([2]))
    check_less("shift.curl", 0, 1)
    lines = shown(capsys).splitlines()
    outputs = [new_output("display_data", {"text/plain": [line[:9], line[9:]] if split else line}) for line in lines]
    noise = [new_output("stream", text=lines[0]), new_output("execute_result", {"text/plain": f"see {lines[0]}"})]
    path = tmp_path / "chapter.ipynb"
    cells = [new_markdown_cell(lines[0]), new_code_cell("1", outputs=outputs + noise), new_code_cell("2")]
    nbformat.write(new_notebook(cells=cells), path)
    found = collect_evidence([path])
    assert found == {
        ID: [
            (path, Evidence(ID, "symbolic", "claim", "the residual simplifies to 0")),
            (path, Evidence(ID, "numeric", "correction", "1 within rtol 1e-09")),
        ],
        "shift.curl": [
            (path, Evidence("shift.curl", "counterexample", "claim", "Matrix([[1]]) ≠ Matrix([[2]])")),
            (path, Evidence("shift.curl", "inequality", "claim", "0 < 1")),
        ],
    }
    assert [repr(evidence) for _, evidence in found[ID]] == lines[:2]


def test_evidence_shows_a_badge_and_escapes_what_it_found():
    shown = Evidence(ID, "counterexample", "claim", "a < b & c")._repr_html_()
    assert "counterexample to shift.eq-5" in shown and "<code>a &lt; b &amp; c</code>" in shown
    assert "check of the correction of" in Evidence(ID, "numeric", "correction", "1")._repr_html_()


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("verdict", claims.VERDICTS)
def test_badge_says_its_verdict_in_words_with_enough_contrast(verdict):
    pill = badge(verdict)
    assert f"{claims.VERDICTS[verdict]} {verdict}</span>" in pill and "color:#fff" in pill
    background = re.search(r"background:(#[0-9a-f]{6})", pill)[1]
    assert 1.05 / (luminance(background) + 0.05) > 7


def test_unknown_verdict_has_no_badge():
    with pytest.raises(ValueError, match="verdict must be one of holds, holds-if, fails, untestable, open, got 'true'"):
        badge("true")


def test_table_of_verdicts_names_each_claim_and_its_condition():
    table = verdicts(ID, "shift.curl")
    claim = find_claim(ID)
    assert repr(table) == f"{ID}: {claim.verdict}\nshift.curl: {find_claim('shift.curl').verdict}"
    assert claim.where in table._repr_html_() and "Condition:" in table._repr_html_()


def test_table_of_a_chapter_holds_its_settled_claims_and_no_open_one():
    chapter = "1-noise/steady-state"
    settled = {c.id for c in load_claims().values() if c.chapter == chapter and c.verdict != "open"}
    assert {c.id for c in verdicts(chapter=chapter).claims} == settled


def test_table_of_no_claim_is_refused():
    with pytest.raises(ValueError, match="no claim named and none settled in the chapter 'nowhere'"):
        verdicts(chapter="nowhere")
