"""What carries the gain: a table and figures for the studies that have the arms for it."""

for _name in STUDIES:
    if gain_files(_name):

        rule:
            name:
                f"gain_{_name}"
            input:
                claims_selection,
                selection=lambda wildcards, name=_name: selection_of(name),
                metrics=LAYOUT.study_table(_name, "metrics"),
            output:
                gain_files(_name),
            log:
                LAYOUT.results / f"logs/gain/{_name}.log",
            conda:
                "../../environment.lock.yml"
            params:
                study=_name,
            shell:
                "hamjepa-audit gain --study {params.study} > {log} 2>&1"
