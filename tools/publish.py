"""Copies a study's overview, pictures and provenance to results/published, and to the README.

`python tools/publish.py STUDY` after `make tables`, so that nothing in the README is typed by hand.
"""

import re
import shutil
import sys
from pathlib import Path

from hamjepa_audit.files import read_sealed_json, sha256_file, write_sealed_json

REPOSITORY = Path(__file__).resolve().parents[1]


def publish(study: str) -> None:
    """Publishes one study.

    Raises:
        SystemExit: the study has no tables yet.
    """
    results = REPOSITORY / "results"
    overview = results / "tables" / study / "overview.md"
    if not overview.exists():
        print(f"error: missing {overview}; run the study first", file=sys.stderr)
        raise SystemExit(2)
    target = results / "published" / study
    target.mkdir(parents=True, exist_ok=True)
    published = [overview, *sorted((results / "figures" / study).glob("*.png"))]
    for source in published:
        shutil.copyfile(source, target / source.name)
    # It names what lies beside it, and only that.
    provenance = read_sealed_json(overview.with_name("provenance.json"))
    digests = {source.name: sha256_file(source) for source in published}
    write_sealed_json(target / "provenance.json", provenance | {"files": digests})
    name = f"results/published/{study}/overview.md"
    readme = REPOSITORY / "README.md"
    block = rf"(<!-- overview: {re.escape(name)} -->\n).*?(<!-- end -->)"
    text = re.sub(
        block,
        lambda match: f"{match[1]}{overview.read_text().strip()}\n{match[2]}",
        readme.read_text(),
        flags=re.DOTALL,
    )
    readme.write_text(text)


if __name__ == "__main__":
    publish(sys.argv[1])
