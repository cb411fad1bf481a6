"""The ledger page: every claim, its verdict and where its evidence stands, as Markdown tables."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from companion.claims import VERDICTS, Claim, Evidence, badge

Found = Mapping[str, list[tuple[Path, Evidence]]]


@dataclass(frozen=True)
class MarkdownTable:
    """A table that a notebook shows as Markdown, so that its links work there and in the book."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def _repr_markdown_(self) -> str:
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    def __repr__(self) -> str:
        return f"table of {len(self.rows)} rows"


def summary(claims: Mapping[str, Claim]) -> MarkdownTable:
    """How many claims of each paper have each verdict."""
    groups = _groups(claims)
    rows = []
    for name, members in groups.items():
        counts = Counter(claim.verdict for claim in members)
        rows.append((name, *(str(counts[verdict]) for verdict in VERDICTS), str(len(members))))
    totals = Counter(claim.verdict for claim in claims.values())
    rows.append(("**all**", *(f"**{totals[verdict]}**" for verdict in VERDICTS), f"**{len(claims)}**"))
    return MarkdownTable(("paper", *VERDICTS, "claims"), tuple(rows))


def table(claims: Mapping[str, Claim], evidence: Found, group: str, chapters: Path) -> MarkdownTable:
    """The claims of one group (a paper's key, or ``cross``), settled ones first; links from ``chapters``."""
    members = _groups(claims).get(group)
    if members is None:
        raise ValueError(f"group must be one of {', '.join(_groups(claims))}, got {group!r}")
    settled_first = sorted(members, key=lambda claim: claim.verdict == "open")
    rows = tuple(
        (badge(c.verdict), f"`{c.id}` ({c.where})<br>{_statement(c)}{_places(c, evidence, chapters)}")
        for c in settled_first
    )
    return MarkdownTable(("verdict", "what is claimed, and where the evidence stands"), rows)


def _groups(claims: Mapping[str, Claim]) -> dict[str, list[Claim]]:
    groups: dict[str, list[Claim]] = {}
    for claim in claims.values():
        groups.setdefault(claim.id.partition(".")[0], []).append(claim)
    return groups


def _statement(claim: Claim) -> str:
    condition = f"<br>*Condition:* {claim.condition}" if claim.condition else ""
    note = f"<br>*Note:* {claim.note}" if claim.note else ""
    return claim.says + condition + note


def _places(claim: Claim, evidence: Found, chapters: Path) -> str:
    counts = Counter((path, found.kind) for path, found in evidence.get(claim.id, []))
    by_chapter: dict[Path, list[str]] = {}
    for (path, kind), count in sorted(counts.items()):
        by_chapter.setdefault(path, []).append(f"{count} {kind}")
    links = [
        f"[{path.stem}]({path.relative_to(chapters).as_posix()}): {', '.join(kinds)}"
        for path, kinds in by_chapter.items()
    ]
    return f"<br>*Evidence:* {'; '.join(links)}" if links else ""
