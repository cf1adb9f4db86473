"""The audit: data -> runs -> features -> measurements -> tables and figures.

`snakemake --cores all results/tables` audits the studies listed in params/config.yaml, or others
given by `--config studies='[cifar100]'`.
"""

from snakemake.utils import min_version

min_version("9.27")


configfile: "params/config.yaml"


onerror:
    print(
        "The failure is shown above. Fix it and give the same command again: finished steps are "
        "kept, and a run resumes from its last state. Exit status 137 means that a job was "
        "killed, most often because the machine ran out of memory."
    )


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/theory.smk"
include: "workflow/rules/gain.smk"


# Here, because Snakemake ignores a default target in an included file.
rule:
    name:
        "results/tables"
    default_target: True
    input:
        tables_and_figures(),
        made_from,
