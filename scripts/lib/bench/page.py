"""The report of a run as two files that a README can show: a table, and a plot of the table's main rows.

    report.md     machine, versions and date; one line for each goal: what, Tulle, reference, ratio, goal, met
    report.svg    bars, Tulle beside the reference; no script, no font of its own, readable on white and on black

Pure but for `write`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from scripts.lib.bench.agent import MASQ, PLAIN, TULLE
from scripts.lib.bench.report import Goal, Report, Series, number

WIDTH, LABELS, FIGURES = 760, 190, 80
BAR, GAP, GROUP, TITLE = 18, 4, 14, 34
MARGIN = 16
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .small { font-size: 11px; fill: #59636e }
  .tulle { fill: #0969da } .masq { fill: #8c959f } .plain { fill: #c8cfd6 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 }
    .tulle { fill: #4493f8 } .masq { fill: #7d8590 } .plain { fill: #484f58 }
  }
"""


class Bar(NamedTuple):
    """One bar: its label, the series that it shows and the class of its colour."""

    label: str
    series: Series
    style: str


class Panel(NamedTuple):
    """Bars on one scale, in groups."""

    title: str
    groups: list[list[Bar]]


def write(report: Report, directory: Path) -> None:
    """Both files, the directory too. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.svg").write_text(svg(report))
    (directory / "report.md").write_text(markdown(report))


def markdown(report: Report) -> str:
    """The table, what it was measured on, and the notes."""
    facts = [f"- {name}: {value}" for name, value in report.facts.items()]
    rows = ["| what | Tulle | reference | ratio | goal | met |", "|---|--:|--:|--:|--:|---|"]
    rows += [_row(report, goal) for goal in report.goals]
    notes = [f"- {report.sections[where]}: {text}" for where, text in report.remarks]
    missing = [f"- not measured: {report.sections[where]}: {text}" for where, text in report.skipped + report.failed]
    parts = [
        "# Tulle beside the reference plugins", "![bars](report.svg)", "\n".join(rows),
        "Medians of one run of `scripts/bench`, both sides by turns; times are this machine's own, ratios travel.",
        "\n".join(facts), "\n".join(notes + missing),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(report: Report, goal: Goal) -> str:
    ours, theirs = [*(report.find(goal.section, name) for name in goal.pair), None, None][:2]
    figures = [f"{number(each.median)} {each.unit}" if each else "" for each in (ours, theirs)]
    if not ours:
        figures[0] = f"{number(goal.value)} {goal.unit}"
    ratio = f"{number(goal.value)}" if theirs or goal.unit == "x" else ""
    return f"| {' | '.join([goal.text, *figures, ratio, goal.bound, 'yes' if goal.met else 'no'])} |"


def panels(report: Report) -> list[Panel]:
    """What is plotted, as far as it was measured."""
    sides = ((TULLE, "Tulle, ipMasq", "tulle"), (MASQ, "reference, ipMasq", "masq"),
             (PLAIN, "reference, no ipMasq", "plain"))
    made = [
        Panel(title, [
            [Bar(f"{verb}: {label}", row, style) for name, label, style in sides
             if (row := report.find(section, f"{verb}: {name}"))]
            for verb in ("ADD", "DEL")
        ])
        for section, title in (
            ("agent", "One pod alone, milliseconds (less is better)"),
            ("burst", "Many pods, 16 at a time, pods a second (more is better)"),
        )
    ]
    dense = [report.find("density", f"ADD of the {name} pod") for name in ("tenth", "thousandth")]
    bars = [Bar(f"ADD: {label}", row, "tulle") for row, label in
            zip(dense, ("Tulle, the 10th pod", "Tulle, the 1,000th pod"), strict=True) if row]
    made.append(Panel("One more pod on a node, milliseconds (less is better)", [bars]))
    found = [panel._replace(groups=[group for group in panel.groups if group]) for panel in made]
    return [panel for panel in found if panel.groups]


def svg(report: Report) -> str:
    """The plot."""
    y = MARGIN
    lines: list[str] = []
    for panel in panels(report):
        part, y = _panel(panel, y)
        lines += part
    foot = f"{report.facts.get('cpus', '')}, {report.facts.get('kernel', '')}, {report.facts.get('date', '')}"
    versions = f"Tulle {report.facts.get('tulle', '').partition(' (')[0]}, {report.facts.get('reference', '')}"
    for text in (foot, versions):
        y += 16
        lines.append(f'<text class="small" x="{MARGIN}" y="{y}">{escape(text)}</text>')
    height = y + MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head += f' role="img" aria-label="{_summary(report)}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *lines, "</svg>\n"])


def _panel(panel: Panel, top: int) -> tuple[list[str], int]:
    """Its elements, and where the next one may begin."""
    longest = max(bar.series.median for group in panel.groups for bar in group) or 1.0
    lines = [f'<text class="title" x="{MARGIN}" y="{top + 14}">{escape(panel.title)}</text>']
    y = top + TITLE
    for group in panel.groups:
        for bar in group:
            lines += _bar(bar, y, longest)
            y += BAR + GAP
        y += GROUP
    return lines, y


def _bar(bar: Bar, y: int, longest: float) -> Iterator[str]:
    left = MARGIN + LABELS + 2 * GAP
    room = WIDTH - left - FIGURES - MARGIN
    length = max(1.0, bar.series.median / longest * room)
    text = f"{number(bar.series.median)} {bar.series.unit}"
    middle = y + BAR - 4
    yield f'<text x="{MARGIN + LABELS}" y="{middle}" text-anchor="end">{escape(bar.label)}</text>'
    yield f'<rect class="{bar.style}" x="{left}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>'
    yield f'<text x="{left + length + 6:.1f}" y="{middle}">{escape(text)}</text>'


def _summary(report: Report) -> str:
    shown: Sequence[Bar] = [bar for panel in panels(report) for group in panel.groups for bar in group]
    said = "; ".join(f"{bar.label} {number(bar.series.median)} {bar.series.unit}" for bar in shown)
    return escape(said, {'"': "&quot;"})
