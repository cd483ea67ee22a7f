"""Trains recipes with several seeds, side by side, and compares them with error bars."""

import argparse
import sys
from collections.abc import Sequence

from runlab._called import called
from runlab._command import command, open_console
from runlab._errors import require_at_least
from runlab._files import within
from runlab._options import as_assignments
from runlab._parser import PlainParser
from runlab.many._plan import plan, record_recipes, study_name
from runlab.many._pool import train_all
from runlab.many._report import write_report
from runlab.many._script import Script, cores


@command
def compare(script: Script, args: Sequence[str] | None = None) -> None:
    """Trains the missing runs of a study and writes its report; exits with status 1 if a run failed."""
    args = sys.argv[1:] if args is None else args
    options, overrides = _parse(args)
    name = options.name or study_name(options.configs, options.grid)
    folder = within(options.runs_dir, "compare", name)
    runs = plan(folder, options.configs, options.grid, range(1, options.seeds + 1), overrides, script.options)
    record_recipes(folder, runs)
    missing = [run for run in runs if run.finished is None]
    trained = train_all(script, missing, options.jobs)
    console = open_console()
    failures = [run for run in trained if run.finished is None]
    for run in missing:
        if run.finished is None and run not in trained:
            console.print(f"skipped: {run.recipe}, seed {run.seed}: another process is training it")
    write_report(folder, runs, failures, [*as_assignments(), *called(), *args], console)
    if failures:
        raise SystemExit(1)


def _parse(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of a study, and the remaining words: overrides for its runs."""
    parser = PlainParser(
        description="Trains every recipe with every seed and compares the losses. All other options are passed "
        "to every run, as for train.py. Repeat the command to resume an interrupted study.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("configs", nargs="+", help="The recipes: YAML files, as for train.py --config.")
    add("--seeds", type=int, default=5, help="The number of seeds, which are 1, 2, ... (default: 5)")
    add("--name", help="The study goes to RUNS_DIR/compare/NAME. (default: named after its recipes)")
    add("--runs_dir", default="runs", help="The folder of all runs. (default: runs)")
    crossing = "Crosses the recipes with these values of an option; may be repeated."
    add("--grid", action="append", default=[], metavar="OPTION=A,B", help=crossing)
    add("--jobs", type=int, default=cores(), help="Runs to train at the same time. (default: one per core)")
    options, overrides = parser.parse_known_args(args)
    require_at_least(1, seeds=options.seeds, jobs=options.jobs)
    return options, overrides
