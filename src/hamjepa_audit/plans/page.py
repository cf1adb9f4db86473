"""Contents of the page besides tables and figures: titles and captions."""

from pathlib import Path
from typing import Any

from hamjepa_audit.layout import Layout
from hamjepa_audit.params import load_study
from hamjepa_audit.params.loading import study_names

CAPTIONS = Path("workflow/report")
"""Folder of the figures' captions, FIGURE.rst."""


def page_selection(layout: Layout) -> dict[str, Any]:
    """The titles of all studies and arms, those of the claims included, and the captions.

    Captions, read from CAPTIONS, are in one line.

    Raises:
        UserError: the parameters of a study are wrong.
    """
    studies = {name: load_study(layout.params, name) for name in study_names(layout.params)}
    return {
        "studies": {name: study.title for name, study in studies.items()},
        "arms": {name: study.arm_titles for name, study in studies.items()},
        "captions": {
            path.stem: " ".join(path.read_text(encoding="utf-8").split())
            for path in sorted(CAPTIONS.glob("*.rst"))
        },
    }
