"""The ledger: its rows, its rules, and whether the committed chapters bear out every verdict."""

import re
from collections import Counter
from pathlib import Path

import pytest

from companion import ledger
from companion.claims import KINDS, SUBJECTS, VERDICTS, Claim, Evidence, collect_evidence, inconsistencies, load_claims

BOOK = Path(__file__).parents[1]
CHAPTERS = BOOK / "chapters"
CLAIMS = load_claims()
SETTLED = [claim for claim in CLAIMS.values() if claim.verdict != "open"]


@pytest.fixture(scope="module")
def evidence():
    return collect_evidence(sorted(CHAPTERS.rglob("*.ipynb")))


@pytest.fixture(scope="module")
def references():
    return set(re.findall(r"^@\w+\{([^,\s]+),", (CHAPTERS / "references.bib").read_text(encoding="utf-8"), re.M))


def test_verdicts_agree_with_the_evidence_in_the_committed_outputs(evidence):
    assert inconsistencies(CLAIMS, evidence) == []


@pytest.mark.parametrize("claim", SETTLED, ids=lambda claim: claim.id)
def test_settled_claim_has_its_evidence_in_its_own_chapter(claim, evidence):
    notebook = CHAPTERS / f"{claim.chapter}.ipynb"
    assert notebook.is_file(), f"{claim.id} is settled in {claim.chapter}, which does not exist"
    if claim.verdict != "untestable":
        assert notebook in {path for path, _ in evidence.get(claim.id, [])}


@pytest.mark.parametrize("claim", SETTLED, ids=lambda claim: claim.id)
def test_settled_claim_has_numbers_where_its_row_asks_for_them(claim, evidence):
    if claim.verdict != "untestable" and "numeric" in claim.checks:
        assert {found.kind for _, found in evidence.get(claim.id, [])} & {"numeric", "inequality", "counterexample"}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.id)
def test_row_is_complete(claim, references):
    assert re.fullmatch(r"[a-z]+\.[a-z0-9.-]+", claim.id)
    assert claim.id.split(".", 1)[0] == ("cross" if claim.paper == "ours" else claim.paper)
    assert claim.paper == "ours" or claim.paper in references
    assert claim.verdict in VERDICTS
    assert claim.checks and set(claim.checks) <= {"symbolic", "numeric", "experiment"}
    assert len(set(claim.checks)) == len(claim.checks)
    assert re.fullmatch(r"[1-5]-[a-z]+/[a-z0-9-]+", claim.chapter)
    for text in (claim.where, claim.says, claim.condition, claim.note):
        assert text == " ".join(text.split())
    assert claim.where and len(claim.says) > 20 and claim.says[-1] in ".?)"
    assert (claim.verdict == "holds-if") >= bool(claim.condition)


def test_no_two_rows_say_the_same():
    sayings = [claim.says for claim in CLAIMS.values()]
    assert len(set(sayings)) == len(sayings)


def test_chapters_of_settled_claims_are_in_the_table_of_contents():
    contents = (BOOK / "_toc.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"file: chapters/(\S+)", contents))
    assert {claim.chapter for claim in SETTLED} <= listed


def row(verdict, *, checks=("numeric",), condition="", note=""):
    return Claim("p.c", "p", "eq. 1", "It is so.", verdict, checks, condition, "1-noise/x", note)


def faults(claim, *kinds):
    found = [(Path("x.ipynb"), Evidence("p.c", *kind.split(), "1")) for kind in kinds]
    return inconsistencies({"p.c": claim}, {"p.c": found} if found else {})


@pytest.mark.parametrize(
    ("claim", "kinds"),
    [
        (row("open"), []),
        (row("untestable", note="no data exists"), []),
        (row("holds"), ["numeric claim"]),
        (row("holds"), ["inequality claim"]),
        (row("holds", checks=("symbolic", "numeric")), ["symbolic claim", "numeric claim"]),
        (row("holds-if", condition="T < 1"), ["numeric claim", "counterexample claim"]),
        (row("fails"), ["counterexample claim"]),
        (row("fails", checks=("symbolic",)), ["counterexample claim", "symbolic correction", "numeric correction"]),
    ],
)
def test_verdict_that_its_evidence_bears_out_has_no_fault(claim, kinds):
    assert faults(claim, *kinds) == []


@pytest.mark.parametrize(
    ("claim", "kinds", "fault"),
    [
        (row("maybe"), ["numeric claim"], "verdict 'maybe' is not one of holds, holds-if, fails, untestable, open"),
        (row("open"), ["numeric claim"], "open, yet there is evidence"),
        (row("open"), ["numeric correction"], "open, yet there is evidence"),
        (row("holds"), [], "holds, yet there is no evidence"),
        (row("fails"), [], "fails, yet there is no evidence"),
        (row("untestable"), [], "untestable, yet its note does not say why"),
        (row("holds"), ["numeric claim", "counterexample claim"], "holds, yet there is a counterexample"),
        (row("holds"), ["numeric correction"], "holds, yet no check supports it"),
        (row("holds-if", condition="T < 1"), ["counterexample claim"], "holds-if, yet no check supports it"),
        (
            row("holds", checks=("symbolic",)),
            ["numeric claim", "symbolic correction"],
            "holds without the symbolic check that its row asks for",
        ),
        (row("holds-if"), ["numeric claim"], "holds-if without its condition"),
        (row("fails"), ["numeric correction"], "fails, yet there is no counterexample"),
        (row("fails"), ["counterexample claim", "numeric claim"], "fails, yet a check supports the claim as it stands"),
    ],
)
def test_verdict_that_its_evidence_contradicts_is_a_fault(claim, kinds, fault):
    assert f"p.c: {fault}" in faults(claim, *kinds)


def test_evidence_for_a_claim_that_is_not_listed_is_a_fault():
    stray = {"p.d": [(Path("x.ipynb"), Evidence("p.d", "numeric", "claim", "1"))]}
    assert inconsistencies({}, stray) == ["p.d: evidence for a claim that the ledger does not list"]


def test_every_line_of_evidence_in_the_book_is_well_formed(evidence):
    for found in evidence.values():
        for _, line in found:
            assert line.kind in KINDS and line.subject in SUBJECTS and line.detail


def test_summary_counts_every_claim_once():
    *papers, totals = ledger.summary(CLAIMS).rows
    assert {name for name, *_ in papers} == {claim_id.split(".")[0] for claim_id in CLAIMS}
    counted = Counter(claim.verdict for claim in CLAIMS.values())
    assert [cell.strip("*") for cell in totals[1:]] == [str(counted[v]) for v in VERDICTS] + [str(len(CLAIMS))]
    for column in range(1, len(totals)):
        assert sum(int(row[column]) for row in papers) == int(totals[column].strip("*"))


def test_table_puts_settled_claims_first_and_links_their_evidence(tmp_path):
    claims = {
        "p.a": Claim("p.a", "p", "eq. 1", "Open.", "open", ()),
        "p.c": row("holds-if", condition="T < 1", note="n"),
    }
    found = [(tmp_path / "1-noise/x.ipynb", Evidence("p.c", kind, "claim", "1")) for kind in ("numeric", "numeric")]
    (first, says), (second, _) = ledger.table(claims, {"p.c": found}, "p", tmp_path).rows
    assert "holds-if" in first and "open" in second
    assert says == (
        "`p.c` (eq. 1)<br>It is so.<br>*Condition:* T < 1<br>*Note:* n<br>*Evidence:* [x](1-noise/x.ipynb): 2 numeric"
    )


def test_table_is_markdown_whose_cells_may_hold_a_bar():
    table = ledger.MarkdownTable(("a", "b"), (("|x|", "y"),))
    assert table._repr_markdown_() == "| a | b |\n| --- | --- |\n| \\|x\\| | y |"
    assert repr(table) == "table of 1 rows"


def test_unknown_group_of_claims_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="group must be one of p, got 'q'"):
        ledger.table({"p.c": row("open")}, {}, "q", Path())
