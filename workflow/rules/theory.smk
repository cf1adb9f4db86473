"""The theorems that the paper rests on, checked numerically: of no study, and no run is needed."""

from hamjepa_audit.theory_numbers import NUMBERS

THEORY_PARAMS = [LAYOUT.params / "theory.yaml", LAYOUT.claims()]
THEORY_TABLES = [
    LAYOUT.theory() / f"{name}.{ending}"
    for name in ("theory", "toy_transport", "toy_transport_setups")
    for ending in ("csv", "md", "tex", "parquet")
]
THEORY_FIGURES = [
    LAYOUT.theory() / f"{name}.{ending}"
    for name in (
        "toy_transport",
        "energy_drift",
        "area_preservation",
        "reversibility",
        "symplecticity_defect",
    )
    for ending in ("png", "pdf")
]


rule:
    name:
        "results/theory"
    input:
        THEORY_TABLES,
        THEORY_FIGURES,


rule theory:
    input:
        THEORY_PARAMS,
    output:
        [LAYOUT.theory_numbers(name) for name in NUMBERS],
    log:
        LAYOUT.results / "logs/theory.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    shell:
        "hamjepa-audit theory --threads {threads} > {log} 2>&1"


rule theory_report:
    input:
        THEORY_PARAMS,
        [LAYOUT.theory_numbers(name) for name in NUMBERS],
    output:
        THEORY_TABLES,
        THEORY_FIGURES,
    log:
        LAYOUT.results / "logs/theory_report.log",
    conda:
        "../../environment.lock.yml"
    shell:
        "hamjepa-audit theory-report > {log} 2>&1"
