"""The page agrees with the tables, is consistent, and needs no external resources."""

import dataclasses
import html
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from hamjepa_audit.metrics import TRAINING_SECONDS
from hamjepa_audit.reporting.names import metric_title, with_unit
from hamjepa_audit.reporting.page import MINUS, PageContent, page_context, write_page
from hamjepa_audit.reporting.page_claims import slug
from hamjepa_audit.reporting.page_studies import to_baseline
from hamjepa_audit.reporting.pictures import LEFT, RIGHT, picture
from hamjepa_audit.statistics.decision_tables import DECISIONS, Verdict
from tests.unit import audited as pages
from tests.unit.audited import COMMIT, LOCK

embedded, audited = pages.embedded, pages.audited


@pytest.fixture(scope="module")
def page(audited: PageContent, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(audited, tmp_path_factory.mktemp("page") / "index.html").read_text()


class Elements(HTMLParser):
    """The start tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def claims(self) -> list[dict[str, str | None]]:
        return [found for found in self.of("details") if found.get("class") == "claim"]


# --- content


def test_every_claim_is_there_with_its_verdict(audited: PageContent, page: str) -> None:
    tables = audited.tables[:3]
    expected = pd.concat([table[["study", "verdict"]] for table in tables])
    found = [(claim["data-study"], claim["data-verdict"]) for claim in Elements(page).claims()]
    assert sorted(found) == sorted((s, slug(v)) for s, v in expected.itertuples(index=False))
    given = set(expected["verdict"])
    assert {str(verdict) for verdict in Verdict} - given <= {"does not carry over"}


def test_the_counts_are_those_of_the_tables(audited: PageContent, page: str) -> None:
    own = re.search(r"On the paper&#39;s own studies</h3>.*?</table>", page, re.DOTALL)
    assert own is not None
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", own[0])
    numbers = {
        re.sub("<.*?>", "", row.split("</th>")[0]): [int(n) for n in re.findall(r">(\d+)<", row)]
        for row in rows
    }
    tables = audited.tables
    telling = tables.statements[tables.statements["statement"] != "norm-pythagoras"]
    frames = (tables.claim_differences, telling, tables.claims.assign(carried=False))
    for verdict, found in numbers.items():
        expected = [int(((f["verdict"] == verdict) & ~f["carried"]).sum()) for f in frames]
        assert found == expected
    assert sum(map(sum, numbers.values())) == 20 + 8 + 93
    assert "Not counted, because it holds by construction: mean norm of qp squared" in page


@pytest.mark.parametrize("audit", ["embedded", "audited"])
def test_repeated_differences_are_told_from_comparisons(
    audit: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    content: PageContent = request.getfixturevalue(audit)
    rows = content.tables.claim_differences
    stated, compared = Counter(), {"own": set(), "carried": set()}
    for row in rows[rows["n"] > 0].to_dict("records"):
        kind = "carried" if row["carried"] else "own"
        stated[kind] += 1
        names = ("study", "epochs", "our_metric", "minuend", "subtrahend")
        compared[kind].add(tuple(row[name] for name in names))
    found = page_context(content)["stated"]
    assert {kind: tuple(found[kind]) for kind in found} == {
        kind: (stated[kind], len(compared[kind])) for kind in ("own", "carried")
    }
    assert found["carried"].comparisons < found["carried"].differences
    text = write_page(content, tmp_path / "index.html").read_text()
    told = [int(number) for number in re.findall(r"The (\d+) differences that were run", text)]
    repeated = [kind for kind in ("own", "carried") if len(compared[kind]) < stated[kind]]
    assert told == [stated[kind] for kind in repeated]
    assert ("own" in repeated) == (audit == "audited")


def test_a_claim_opens_to_seeds_runs_and_provenance(audited: PageContent, page: str) -> None:
    name = "claim-cifar100-e30-knn-top1-20-hamjepa-q-sigreg-all-cifar100-e30-1"
    entry = page[page.index(f'id="{name}"') :].split('<details class="claim"')[0]
    row = audited.tables.claim_differences.iloc[0]
    assert f"{row['mean_difference']:.2f} ± {row['sd']:.2f} (6)" in entry
    metrics = audited.metrics
    for seed in range(6):
        values = [
            metrics[(metrics[list(where)] == list(where.values())).all(axis=1)]["value"].item()
            for where in (
                {"study": "cifar100", "epochs": 30, "metric": "knn_top1@20", "seed": seed}
                | {"arm": arm, "readout": readout}
                for arm, readout in (("hamjepa", "q"), ("sigreg", "all"))
            )
        ]
        cells = [values[0], values[1], values[0] - values[1]]
        shown = "".join(f'<td class="number">{value:.2f}</td>' for value in cells)
        assert f'<th scope="row">{seed}</th>{shown}' in entry
    assert "p <0.001" in html.unescape(entry) and "= <" not in html.unescape(page)
    assert COMMIT[:12] in entry and LOCK[:12] in entry and "NVIDIA H200 (cuda)" in entry
    assert 'href="#runs-cifar100-hamjepa-e30"' in entry and "<svg" in entry
    assert "arm.objective.budget.weight" in page and "62 min 3 s" in page


def test_how_the_paper_words_a_number_stands_beside_it(audited: PageContent, page: str) -> None:
    entries = html.unescape(page).split('<details class="claim"')[1:]
    notes = [claim.note for claim in audited.plan.claims.measurements if claim.note]
    assert "stated as about 0" in notes
    for note in notes:
        (entry,) = (entry for entry in entries if f"{note}</small>" in entry)
        assert f'(1)<small class="note">{note}</small></span>' in entry.split("</summary>")[0]


def test_the_best_of_several_readouts_is_noted_where_it_is_one_sided(page: str) -> None:
    entries = page.split('<details class="claim"')[1:]
    noted = [entry for entry in entries if "the best of several readouts is biased" in entry]
    assert len(noted) == 3 + 3  # on CIFAR-100, and on the studies that stand for it
    assert all("-best-sigreg-all" in entry.split('"')[1] for entry in noted)
    assert "Best of the readouts" in page[page.index('id="method"') :]


def test_other_readings_of_a_statement_have_a_list_of_their_own(
    audited: PageContent, tmp_path: Path
) -> None:
    """Each is one entry, however many parts it has, and is kept apart from the verdict's parts."""
    table = audited.tables.statements
    where = (table["statement"] == "symplectic-drives-knn") & (table["n"] > 0)
    table = table[where].iloc[:1]
    parts = table["found"].item().split("; ")
    readings = [f"With mlp_dt_scaled instead: p = 1; {'; '.join(parts)}", "Not run: frozen"]
    tables = audited.tables._replace(statements=table.assign(other_readings=" | ".join(readings)))
    text = write_page(audited._replace(tables=tables), tmp_path / "index.html").read_text()
    entry = html.unescape(text[text.index(f">{table['says'].item()}<") :]).split("</details>")[0]
    lists = [re.findall("<li>(.*?)</li>", part) for part in entry.split("Other readings")]
    assert lists[0] == [MINUS.sub("−", part) for part in parts] and len(parts) == 4
    assert lists[1][:2] == [MINUS.sub("−", reading) for reading in readings]
    alone = audited._replace(tables=tables._replace(statements=table.assign(other_readings="")))
    assert "Other readings" not in write_page(alone, tmp_path / "alone.html").read_text()


def test_a_page_without_the_papers_studies_says_so_first(
    embedded: PageContent, page: str, tmp_path: Path
) -> None:
    text = write_page(embedded, tmp_path / "index.html").read_text()
    words = "The paper's own studies were not run."
    assert words in text and words not in page
    assert text.index(words) < text.index('id="study-digits"') < text.index('id="claims"')
    assert page.index('id="claims"') < page.index('id="study-cifar100"')
    rows = embedded.studies[0].differences
    sides = ["minuend_arm", "minuend_readout", "subtrahend_arm", "metric"]
    row = rows[(rows[sides] == ["hamjepa", "q", "sigreg", "knn_top1@20"]).all(axis=1)].iloc[0]
    assert f"HamJEPA q is {row['mean_difference']:.2f} points above SIGReg" in text
    assert text.count("data:image/png;base64,") == len(embedded.studies[0].figures) == 2
    assert "Which of the paper's statements carry over" in text


def test_differences_that_are_not_shown_have_no_row(embedded: PageContent) -> None:
    """Training times have the readout `all` for every arm, even if it has no accuracies there."""
    study = embedded.studies[0]
    arms = [arm.name for arm in study.params.arms]
    one = study.differences[study.differences["metric"] == "knn_top1@20"].iloc[:1]
    times = one.assign(metric=TRAINING_SECONDS, minuend_readout="all", unit="seconds")
    with_times = pd.concat([study.differences, times])
    shown = to_baseline(study.differences, arms, embedded.titles)
    assert shown.rows and to_baseline(with_times, arms, embedded.titles) == shown


def test_runs_without_a_record_are_said_to_have_none(embedded: PageContent, tmp_path: Path) -> None:
    text = write_page(embedded._replace(records={}), tmp_path / "index.html").read_text()
    assert text.count("The records of these runs are missing.") == 4
    assert "not recorded" in text


def test_the_paper_against_itself_is_there(page: str) -> None:
    part = page[page.index('id="itself"') : page.index('id="method"')]
    for text in ("4.88", "4.89", "124.5", "125.58", "4.26"):
        assert f">{text}<" in part
    assert part.count("no spread of the difference is given") == 19


# --- consistency


def test_nothing_is_fetched_and_every_link_leads_somewhere(page: str) -> None:
    elements = Elements(page)
    ids = [found["id"] for _, found in elements.tags if "id" in found]
    assert len(ids) == len(set(ids))
    links = [found["href"] or "" for found in elements.of("a")]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    sources = [found.get("src") or found.get("href") for _, found in elements.tags]
    assert all(source is None or source.startswith(("#", "data:")) for source in sources)
    assert "@import" not in page and "url(" not in page and "http" not in page.split("<body>")[0]


def test_the_same_content_gives_the_same_bytes(
    audited: PageContent, page: str, tmp_path: Path
) -> None:
    shuffled = audited._replace(metrics=audited.metrics.sample(frac=1, random_state=3))
    assert write_page(shuffled, tmp_path / "again.html").read_text() == page


def test_a_page_of_one_seed_announces_no_interval(params_folder: Path, tmp_path: Path) -> None:
    alone = pages.content(params_folder, tmp_path, "digits", figures=False, seeds=1)
    text = write_page(alone, tmp_path / "index.html").read_text()
    assert re.findall(r"\b1 (?:seeds|arms)", text) == []
    assert "arms, 1 seed, 12 epochs" in text and "; lock" in text and "seeds 0;" not in text
    study = text[text.index('<section id="study-digits">') :].split("</section>")[0]
    assert "interval" not in study and "p of the paired" not in study
    assert "[–" not in text and "–, 1 seed" not in text


def test_a_page_of_two_seeds_shows_no_difference(params_folder: Path, tmp_path: Path) -> None:
    two = pages.content(params_folder, tmp_path, "digits", figures=False, seeds=2)
    rows = two.studies[0].differences
    assert (rows[rows["metric"] == "knn_top1@20"]["p"] < 0.05).any()
    (study,) = page_context(two)["studies"]
    assert [line.partition(": ")[2] for line in (*study.findings, *study.to_method)] == [
        *["no arm is shown to differ from SIGReg."] * len(study.findings),
        *["no arm is shown to be either."] * len(study.to_method),
    ]
    text = " ".join(write_page(two, tmp_path / "index.html").read_text().split())
    assert "finds with at least 3 seeds" in text and "with fewer than 3 seeds" in text


def test_the_page_needs_as_many_seeds_as_a_verdict(embedded: PageContent, tmp_path: Path) -> None:
    params = embedded.plan.params.model_copy(update={"minimum_seeds": pages.SEEDS + 1})
    stricter = embedded._replace(plan=dataclasses.replace(embedded.plan, params=params))
    shown = [page_context(content)["studies"][0].findings for content in (embedded, stricter)]
    assert ["no arm is shown" in line for line in shown[0]] != [True] * len(shown[0])
    assert ["no arm is shown" in line for line in shown[1]] == [True] * len(shown[1])
    text = " ".join(write_page(stricter, tmp_path / "index.html").read_text().split())
    assert "finds with at least 7 seeds" in text


@pytest.mark.parametrize(("confidence", "narrower"), [(0.95, "90"), (0.8, "60")])
def test_the_interval_that_shows_a_small_difference_is_told_from_the_one_printed(
    embedded: PageContent, tmp_path: Path, confidence: float, narrower: str
) -> None:
    study = embedded.studies[0]
    statistics = study.params.statistics.model_copy(update={"confidence": confidence})
    params = study.params.model_copy(update={"statistics": statistics})
    content = embedded._replace(studies=[study._replace(params=params)])
    text = " ".join(write_page(content, tmp_path / "index.html").read_text().split())
    told = f"the {narrower}% interval; the {100 * confidence:g}% interval may reach"
    assert f"They correspond to {told} slightly beyond the margin." in text


def test_texts_are_escaped(audited: PageContent, tmp_path: Path) -> None:
    odd = audited.titles._replace(arms=audited.titles.arms | {"hamjepa": "<script>x</script>&"})
    text = write_page(audited._replace(titles=odd), tmp_path / "odd.html").read_text()
    assert "<script>x" not in text and "&lt;script&gt;x&lt;/script&gt;&amp;" in text


# --- parts


@pytest.mark.parametrize(
    ("caption", "shown"),
    [
        ("are in the table `gain`.", "are in the table <code>gain</code>."),
        ("``gain`` and ``a<b``", "<code>gain</code> and <code>a&lt;b</code>"),
        ("a ` alone", "a ` alone"),
    ],
)
def test_literals_of_a_caption_are_set_as_code(
    embedded: PageContent, tmp_path: Path, caption: str, shown: str
) -> None:
    study = embedded.studies[0]
    figure = study.figures[0]._replace(caption=caption)
    content = embedded._replace(studies=[study._replace(figures=(figure,))])
    page = write_page(content, tmp_path / "index.html").read_text()
    assert f"<figcaption>{shown}</figcaption>" in page


def test_the_page_shows_the_decision_tables(page: str) -> None:
    tables = re.findall(r'<table class="decisions">.*?</table>', page, re.DOTALL)
    for decisions, table in zip(DECISIONS, tables, strict=True):
        rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td><.*?>(.*?)</span></td></tr>", table)
        assert [tuple(map(html.unescape, row)) for row in rows] == [
            (line.seeds, line.shown, line.verdict) for line in decisions.shown_lines
        ]


def test_a_picture_keeps_order_and_holds_everything() -> None:
    drawn = picture("d", 4.9, float("nan"), 1.0, [1.0, 2.0, -0.5], (-2.0, 3.0), zero=True)
    assert drawn.paper_bounds is None and drawn.zero is not None and drawn.bounds is not None
    places = [drawn.bounds[0], drawn.seeds[2], drawn.zero, drawn.seeds[0], drawn.seeds[1]]
    places += [drawn.bounds[1], drawn.band[0], drawn.paper, drawn.band[1]]
    assert places == sorted(places)
    assert places[0] >= LEFT and places[-1] <= RIGHT
    assert drawn.mean == pytest.approx(
        (drawn.seeds[0] + drawn.seeds[1] + drawn.seeds[2]) / 3, abs=0.1
    )
    lone = picture("d", 1.0, 0.2, 0.1, [1.0], (float("nan"), float("nan")), zero=False)
    assert lone.bounds is None and lone.paper_bounds is not None and lone.zero is None


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("knn_top1@20", "kNN@20 top-1"),
        ("knn_top1@best", "Best kNN top-1"),
        ("knn_top5@20", "kNN@20 top-5"),
        ("effective_rank_lowrank", "Effective rank (randomised)"),
        ("alignment", "Alignment"),
    ],
)
def test_metrics_have_titles(metric: str, title: str) -> None:
    assert metric_title(metric) == title
    assert with_unit(metric, "percent") == f"{title} (%)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-1.25 [-2, -∞]", "−1.25 [−2, −∞]"),
        ("top-1, MLP (width-matched)", "top-1, MLP (width-matched)"),
        ("p = 1e-05", "p = 1e-05"),
    ],
)
def test_minus_signs(text: str, shown: str) -> None:
    assert MINUS.sub("−", text) == shown
