"""Measurements become long tables, and long tables statistics."""

KINDS = ("metrics", "curves", "history")
TABLES = [
    f"{name}.{ending}"
    for name in ("seeds", "summary", "differences", "overview")
    for ending in ("csv", "md", "tex", "parquet")
]

write_if_changed(LAYOUT.studies(), sorted(STUDIES))


def selection(wildcards):
    """Says which runs and measurements a study is made of; it is new only when that changes."""
    return plan(wildcards.study).write_selection()


def measurements(wildcards):
    """All that is known of a study's runs."""
    chosen = plan(wildcards.study)
    return [path for step in STEPS for path in chosen.measurements(step)] + chosen.histories()


rule collect:
    input:
        selection=selection,
        measurements=ancient(measurements),
    output:
        [LAYOUT.study_table("{study}", kind) for kind in KINDS],
    log:
        LAYOUT.results / "logs/collect/{study}.log",
    shell:
        "{AUDIT} collect --study {wildcards.study} > {log} 2>&1"


rule metrics:
    input:
        studies=LAYOUT.studies(),
        tables=[LAYOUT.study_table(name, "metrics") for name in STUDIES],
    output:
        LAYOUT.metrics(),
    log:
        LAYOUT.results / "logs/metrics.log",
    params:
        studies=" ".join(f"--study {name}" for name in STUDIES),
    shell:
        "{AUDIT} metrics {params.studies} > {log} 2>&1"


rule tables:
    input:
        selection=selection,
        metrics=LAYOUT.study_table("{study}", "metrics"),
    output:
        [LAYOUT.tables("{study}") / name for name in TABLES],
    log:
        LAYOUT.results / "logs/tables/{study}.log",
    shell:
        "{AUDIT} tables --study {wildcards.study} > {log} 2>&1"
