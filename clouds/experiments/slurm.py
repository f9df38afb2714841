"""Job arrays for SLURM: one array for each row, with one task for each seed, and a script that submits them.

An array whose row starts from another one depends on it seed by seed (`aftercorr`); the report comes after all of them.
A task that a signal has stopped, at the time limit or to make room for others, puts itself back into the queue.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from clouds.errors import UserError
from clouds.experiments.experiment import Experiment
from clouds.experiments.plan import PLAN_FILE, Variant, in_order, job_name
from clouds.experiments.plan_file import write_plan
from clouds.utils.atomic import make_folder, write_atomically

SUBMIT, REPORT = "submit.sh", "report.sh"
"""Names of the script that submits all others, and of the script that writes the report."""

_TASK = """\
#!/bin/bash
#SBATCH --requeue --open-mode=append --signal=B:USR1@120
#SBATCH --job-name={name} --output={log}
cd {folder}
{setup}{command} &
trap "kill -TERM $!" USR1 TERM
wait $!
code=$?
if [ $code -gt 128 ]; then  # the signal has ended the waiting, and the job saves its work
    wait $!
    code=$?
fi
if [ $code -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""

_SUBMIT = """\
#!/bin/bash
# Submits the jobs that were not done when this script was written.
set -eu
submit() {{
    local id
    id=$(sbatch --parsable {options}"$@")
    echo "${{id%%;*}}"
}}
{lines}
"""


def write_arrays(experiment: Experiment, folder: Path, options: str = "", *, gpus_per_job: int = 1) -> Path:
    """Write the scripts of the jobs that are not done, a copy of the plan, and the script that submits them.

    Args:
        experiment: the experiment.
        folder: folder of the scripts and of the output of the jobs.
        options: options of sbatch for every job, such as "--gres=gpu:1 --time=24:00:00".
        gpus_per_job: number of GPUs of each training.

    Returns:
        The script that submits the jobs.

    Raises:
        UserError: `options` is no line of a shell.
        WriteError: a file cannot be written.
    """
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise UserError(f"--sbatch {options!r} cannot be read ({error}): close the quotes.") from error
    folder = folder.absolute()
    make_folder(folder)
    write_plan(experiment.plan, folder / PLAN_FILE)
    flags = ("--gpus-per-job", str(gpus_per_job)) if gpus_per_job > 1 else ()
    base = (sys.executable, "-m", "clouds", "experiment", str(folder / PLAN_FILE))
    open_jobs = {job.name: job for job in experiment.jobs if not job.is_done}
    ids: dict[str, str] = {}  # preparation or row -> variable with the id of its job or array
    lines = []
    for each in experiment.plan.prepare:
        if each.name not in open_jobs:
            continue
        script = folder / f"prepare_{each.name}.sh"
        _write(script, each.name, "%j", "", shlex.join([*base, "--only", each.name, *flags]))
        needs = [f"afterok:${ids[name]}" for name in each.needs if name in ids]
        lines.append(_submitted(ids, each.name, script, needs))
    tasks = {
        each.key: [at for at, seed in enumerate(experiment.plan.seeds) if job_name(each.key, seed) in open_jobs]
        for each in experiment.plan.variants
    }
    setup = f"seeds=({' '.join(map(str, experiment.plan.seeds))})\n"
    for variant in in_order(experiment.plan.variants):
        if not tasks[variant.key]:
            continue
        script = folder / f"train_{variant.key}.sh"
        only = f'--only "{variant.key} ${{seeds[$SLURM_ARRAY_TASK_ID]}}"'
        _write(script, variant.key, "%A_%a", setup, " ".join([shlex.join(base), only, *flags]))
        array = f"--array={','.join(map(str, tasks[variant.key]))}"
        lines.append(_submitted(ids, variant.key, script, _needs(variant, tasks, ids), array))
    report = folder / REPORT
    _write(report, "report", "%j", "", shlex.join([*base, "--report"]))
    after = [f"afterany:{':'.join(f'${name}' for name in ids.values())}"] if ids else []
    lines.append(_submitted(ids, "", report, after))
    content = _SUBMIT.format(options="".join(f"{shlex.quote(word)} " for word in words), lines="\n".join(lines))
    write_atomically(folder / SUBMIT, content)
    return folder / SUBMIT


def _needs(variant: Variant, tasks: Mapping[str, Sequence[int]], ids: Mapping[str, str]) -> list[str]:
    """The dependencies of the array of a row on jobs that are not done."""
    needs = [f"afterok:${ids[name]}" for name in variant.needs if name in ids]
    if variant.after and variant.after in ids:
        # Task by task only if the tasks are the same ones.
        kind = "aftercorr" if tasks[variant.after] == tasks[variant.key] else "afterok"
        needs.append(f"{kind}:${ids[variant.after]}")
    return needs


def _submitted(ids: dict[str, str], name: str, script: Path, needs: Sequence[str], *flags: str) -> str:
    """The line that submits a script; the variable with its id is added to `ids`."""
    variable = f"job_{len(ids)}"
    ids[name] = variable
    # A job whose dependency has failed would wait for ever.
    depends = ["--kill-on-invalid-dep=yes", f'--dependency="{",".join(needs)}"'] if needs else []
    return f"{variable}=$(submit {' '.join([*flags, *depends, shlex.quote(str(script))])})"


def _write(script: Path, name: str, number: str, setup: str, command: str) -> None:
    log = script.with_name(f"{script.stem}_{number}.txt")
    content = _TASK.format(
        name=name, log=shlex.quote(str(log)), folder=shlex.quote(str(Path.cwd())), setup=setup, command=command
    )
    write_atomically(script, content)
