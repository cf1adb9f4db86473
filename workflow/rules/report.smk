"""Figures and the page, with the targets `results/figures` and `results/report`."""


rule:
    name:
        "results/figures"
    input:
        tables_and_figures(),
        made_from,


# One rule per study, because the names of its figures depend on its numbers of epochs.
for _name in STUDIES:

    rule:
        name:
            f"figures_{_name}"
        input:
            selection=lambda wildcards, name=_name: selection_of(name),
            tables=[LAYOUT.study_table(_name, kind) for kind in LONG_TABLES],
            # Figures along training show the metric that is compared with the paper's effective rank.
            claims=claims_selection if has_trajectories(study(_name)) else [],
        output:
            figure_files(_name),
        log:
            LAYOUT.results / f"logs/figures/{_name}.log",
        conda:
            "../../environment.lock.yml"
        params:
            study=_name,
        shell:
            "hamjepa-audit figures --study {params.study} > {log} 2>&1"

    rule:
        name:
            f"audit_figures_{_name}"
        input:
            claims_selection,
            selection=lambda wildcards, name=_name: selection_of(name),
            verdicts=[LAYOUT.audit_table(table) for table in ("claims", "claim_differences")],
            differences=LAYOUT.tables(_name) / "differences.parquet",
        output:
            audit_figure_files(_name),
        log:
            LAYOUT.results / f"logs/audit_figures/{_name}.log",
        conda:
            "../../environment.lock.yml"
        params:
            study=_name,
        shell:
            "hamjepa-audit audit-figures --study {params.study} > {log} 2>&1"


rule:
    name:
        "results/report"
    input:
        tables_and_figures(),
        made_from,
        LAYOUT.page(),


rule page:
    input:
        claims_selection,
        all_selections,
        page_selection,
        ancient(all_records),
        metrics=LAYOUT.metrics(),
        verdicts=[LAYOUT.audit_table(name) for name in (*VERDICTS, CONSISTENCY)],
        tables=[LAYOUT.tables(name) / table for name in STUDIES for table in TABLE_FILES],
        figures=[
            figure
            for name in STUDIES
            for figure in figure_files(name) + audit_figure_files(name) + gain_files(name)
        ],
    output:
        LAYOUT.page(),
    log:
        LAYOUT.results / "logs/page.log",
    conda:
        "../../environment.lock.yml"
    shell:
        f"hamjepa-audit report {OF_STUDIES} > {{log}} 2>&1"
