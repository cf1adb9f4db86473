"""Numerical checks of the theorems that the paper relies on; independent of studies and runs."""

THEORY_FILES = [*theory_files(LAYOUT), LAYOUT.theory() / PROVENANCE]
THEORY_VERDICT = LAYOUT.results / "logs/theory_verdict.txt"


rule:
    name:
        "results/theory"
    input:
        theory_numbers(LAYOUT),
        THEORY_FILES,
        THEORY_VERDICT,


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
        "hamjepa-audit theory --threads {threads} --no-verdict > {log} 2>&1"


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


# A separate, last rule, because a failed job loses its outputs: numbers, tables and figures stay.
rule theory_verdict:
    input:
        theory_numbers(LAYOUT),
        THEORY_FILES,
    output:
        THEORY_VERDICT,
    log:
        LAYOUT.results / "logs/theory_verdict.log",
    conda:
        "../../environment.lock.yml"
    shell:
        "hamjepa-audit theory-verdict > {log} 2>&1"
        " && cp {log} {output}.part && mv {output}.part {output}"
