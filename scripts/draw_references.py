"""Draw the reference curves that come with the package as pictures of the documents.

    python scripts/draw_references.py

In: titan_speech/report/references/*.json. Out: docs/pictures/NAME.svg, the training loss of each with its band, and the
validation loss where there is one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from titan_speech.report.chart import Chart, Line
from titan_speech.report.metrics_log import Curve
from titan_speech.report.page import picture
from titan_speech.report.reference import RecipeReference, names, open_reference
from titan_speech.report.sections.comparison import band

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def chart_of(reference: RecipeReference) -> Chart:
    """The training loss of a reference, and the first validation loss."""
    validation = [name for name in reference.curves if name.startswith("validation/") and name.endswith("/loss")]
    lines = []
    for color, metric in enumerate(["loss", *validation[:1]]):
        curve = reference.curves[metric]
        mean_P = np.array(curve.mean)
        lines.append(Line(metric, Curve(np.array(curve.steps, float), mean_P, mean_P, mean_P), color))
    bands = (band(reference.curves["loss"]),)
    note = "loss in nats per token, by step" + ("; orange: validation" if validation else "")
    return Chart(reference.name, "nats per token", tuple(lines), bands=bands, note=note)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name in names():
        (PICTURES / f"{name}.svg").write_text(picture(chart_of(open_reference(name))), encoding="utf-8")


if __name__ == "__main__":
    main()
