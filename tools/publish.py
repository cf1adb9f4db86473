"""Publishes the study in results/tables, and copies its overview into the README.

Run `python tools/publish.py STUDY` after `make tables`.
"""

import re
import sys
from pathlib import Path

from hamjepa_audit.bookkeeping.publication import publish
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import write_text
from hamjepa_audit.layout import Layout
from hamjepa_audit.params import load_study
from hamjepa_audit.plans.study import plan_study

README = Path("README.md")


def main() -> None:
    """Publishes the study named on the command line."""
    if len(sys.argv) != 2:
        raise UserError("give one study: python tools/publish.py STUDY")
    layout, study = Layout(), load_study(Layout.params, sys.argv[1])
    folder = publish(plan_study(layout, study), layout.results / "published" / study.name)
    put_overview(folder / layout.tables(study.name).relative_to(layout.results) / "overview.md")


def put_overview(overview: Path) -> None:
    """Replaces the README's copy of an overview, if it has one."""
    begin, end = f"<!-- overview: {overview.as_posix()} -->\n", "<!-- end -->"
    block = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    shown = begin + overview.read_text(encoding="utf-8").strip() + f"\n{end}"
    text, places = block.subn(lambda _: shown, README.read_text(encoding="utf-8"))
    if places:
        write_text(README, text)
    else:
        print(f"{README} shows no overview of {overview}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
