"""The theorems that the paper rests on, checked numerically: of no study, and no run is needed."""

THEORY_FILES = [*theory_files(LAYOUT), LAYOUT.theory() / PROVENANCE]


rule:
    name:
        "results/theory"
    input:
        THEORY_FILES,


rule theory:
    input:
        theory_selection,
    output:
        theory_numbers(LAYOUT),
    log:
        LAYOUT.results / "logs/theory.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    shell:
        "hamjepa-audit theory --threads {threads} > {log} 2>&1"


rule theory_report:
    input:
        theory_selection,
        theory_numbers(LAYOUT),
    output:
        THEORY_FILES,
    log:
        LAYOUT.results / "logs/theory_report.log",
    conda:
        "../../environment.lock.yml"
    shell:
        "hamjepa-audit theory-report > {log} 2>&1"
