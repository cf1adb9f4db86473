"""Collects measurements into long tables, and computes statistics from these."""


# By modification times, because a run that was trained again has the same name.
rule collect:
    input:
        records,
        measurements,
        selection=selection,
    output:
        [LAYOUT.study_table("{study}", kind) for kind in LONG_TABLES],
    log:
        LAYOUT.results / "logs/collect/{study}.log",
    conda:
        "../../environment.lock.yml"
    shell:
        "hamjepa-audit collect --study {wildcards.study} > {log} 2>&1"


rule metrics:
    input:
        studies=studies_selection,
        tables=[LAYOUT.study_table(name, "metrics") for name in STUDIES],
    output:
        LAYOUT.metrics(),
        LAYOUT.headlines(),
        LAYOUT.accuracies(),
    log:
        LAYOUT.results / "logs/metrics.log",
    conda:
        "../../environment.lock.yml"
    shell:
        f"hamjepa-audit metrics {OF_STUDIES} > {{log}} 2>&1"


rule tables:
    input:
        selection=selection,
        metrics=LAYOUT.study_table("{study}", "metrics"),
    output:
        [LAYOUT.tables("{study}") / name for name in TABLE_FILES],
    log:
        LAYOUT.results / "logs/tables/{study}.log",
    conda:
        "../../environment.lock.yml"
    shell:
        "hamjepa-audit tables --study {wildcards.study} > {log} 2>&1"


rule provenance:
    input:
        claims_selection,
        ancient(records),
        selection=selection,
        tables=lambda wildcards: plan(wildcards.study).tables(),
    output:
        LAYOUT.tables("{study}") / PROVENANCE,
    log:
        LAYOUT.results / "logs/provenance/{study}.log",
    conda:
        "../../environment.lock.yml"
    shell:
        "hamjepa-audit provenance --study {wildcards.study} > {log} 2>&1"


rule paper_consistency:
    input:
        claims_selection,
    output:
        audit_files(CONSISTENCY),
    log:
        LAYOUT.results / "logs/paper_consistency.log",
    conda:
        "../../environment.lock.yml"
    params:
        claims=LAYOUT.claims(),
        folder=LAYOUT.audit_tables(),
    shell:
        "hamjepa-audit consistency --claims {params.claims} --out {params.folder} > {log} 2>&1"


rule audit:
    input:
        claims_selection,
        metrics=LAYOUT.metrics(),
    output:
        audit_files(*VERDICTS),
    log:
        LAYOUT.results / "logs/audit.log",
    conda:
        "../../environment.lock.yml"
    params:
        claims=LAYOUT.claims(),
        folder=LAYOUT.audit_tables(),
    shell:
        "hamjepa-audit audit --metrics {input.metrics} --claims {params.claims}"
        " --out {params.folder} --without-consistency > {log} 2>&1"


rule audit_provenance:
    input:
        claims_selection,
        all_selections,
        ancient(all_records),
        studies=studies_selection,
        tables=joint_tables(LAYOUT),
    output:
        LAYOUT.audit_tables() / PROVENANCE,
    log:
        LAYOUT.results / "logs/audit_provenance.log",
    conda:
        "../../environment.lock.yml"
    shell:
        f"hamjepa-audit provenance {OF_STUDIES} --verdicts > {{log}} 2>&1"
