"""The page: sections as one HTML file that needs no network, in light or dark by the reader's setting.

In: runs. Out: HTML. Style sheet, script, charts and sound are inside; a content policy forbids everything else, and
allows the one script by its hash. All texts are escaped by the template. `SECTIONS` is the order of the page; a new
section is a function and a row there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from titan_speech import __version__
from titan_speech.report.blocks import Paragraph, Section
from titan_speech.report.chart import Chart, as_json, value_text
from titan_speech.report.run import Run
from titan_speech.report.sections.alignment import alignment
from titan_speech.report.sections.checkpoints import checkpoints
from titan_speech.report.sections.evaluation import evaluation
from titan_speech.report.sections.events import events
from titan_speech.report.sections.generation import generation
from titan_speech.report.sections.ledger import ledger
from titan_speech.report.sections.mixture import mixture
from titan_speech.report.sections.overview import STATES, overview
from titan_speech.report.sections.provenance import provenance
from titan_speech.report.sections.tensors import tensors
from titan_speech.report.sections.training_curves import losses, optimization, preference, throughput
from titan_speech.report.sections.validation import validation
from titan_speech.utils.printable import escape_controls

SectionOf: TypeAlias = Callable[[Sequence[Run]], Section | None]

SECTIONS: tuple[SectionOf, ...] = (
    overview,
    losses,
    preference,
    alignment,
    validation,
    generation,
    evaluation,
    optimization,
    tensors,
    throughput,
    ledger,
    mixture,
    checkpoints,
    events,
    provenance,
)


def page(runs: Sequence[Run], sections: Sequence[SectionOf] = SECTIONS, *, refresh_sec: float = 0.0) -> str:
    """Render the page.

    Args:
        runs: at least one; several are drawn over each other.
        sections: what it shows, in order.
        refresh_sec: how often a served page asks for news; 0: a file, which never does.
    """
    shown = [section for make in sections if (section := make(runs)) is not None]
    problems = [f"{run.name}: {problem}" for run in runs for problem in dict.fromkeys(run.problems)]
    if problems:
        text = "Left out of this page. "
        shown.insert(1, Section("problems", "Problems", text, [Paragraph(problem, "warn") for problem in problems]))
    return render(
        "page.html.j2",
        "page.js",
        runs=runs,
        states=STATES,
        title=", ".join(run.name for run in runs),
        sections=shown,
        refresh_sec=refresh_sec,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        version=__version__,
    )


def render(template: str, script: str, **values: object) -> str:
    """A page with the style sheet and one script inside; its content policy allows the script by its hash.

    Args:
        template: name of a file.
        script: name of a file.
        values: what else the template takes.
    """
    code = asset(script)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    inside = {"style": Markup(asset("page.css")), "script": Markup(code), "script_hash": digest}  # noqa: S704  (ours)
    return _environment().get_template(template).render(**inside, **values)


def picture(chart: Chart) -> str:
    """A chart as an SVG file of its own."""
    template = _environment().get_template("picture.svg.j2")
    return template.render(chart=chart, drawing=chart.drawing)


@cache
def _environment() -> Environment:
    """Of the templates: everything is escaped."""
    made = Environment(
        loader=PackageLoader("titan_speech.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["data_of"] = lambda drawing: Markup(as_json(drawing))  # noqa: S704  (escaped there)
    made.filters["value_of"] = lambda value, chart: value_text(value, is_share=chart.is_share)
    return made


def _printable(value: object) -> object:
    """Escape control characters, which browsers hide and terminals act on; what is HTML already stays."""
    return escape_controls(value) if type(value) is str else value


@cache
def asset(name: str) -> str:
    """A style sheet or script of this package."""
    return (files("titan_speech.report") / "templates" / name).read_text(encoding="utf-8")
