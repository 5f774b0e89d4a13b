"""ReFrame check: `wiretax allreduce` on each system, or on each node of a fleet.

    reframe -c reframe_wiretax.py -r -S options='-e 8M' -S store=$PWD/store
    reframe -c reframe_wiretax.py -r -S store=$PWD/store --distribute=idle -J gpus-per-node=2

`wiretax` comes from the environment that ReFrame loads. Each measured case is a performance
variable, such as all_reduce_auto_16KiB_us. The check fails if a result is wrong, if the run is
incomplete, if a reference names no measured case, or if a variable is above its reference by more
than `tolerance`. `reports` reads the runs in `store`.
"""

import json
import re
from pathlib import Path
from shlex import quote

import reframe as rfm
import reframe.utility.sanity as sn
import reframe.utility.typecheck as typ
from reframe.core.builtins import run_after, run_before, sanity_function, variable

FILES = "results"  # in the stage folder
MOST_NAMES = 8  # of measured cases in a message
DEFAULTS = {
    "mode": ["isolated"],
    "variant": ["copied", "plain"],
    "datatype": ["float32"],
    "redop": ["sum"],
}
UNITS = ("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30)


@rfm.simple_test
class WiretaxAllReduce(rfm.RunOnlyRegressionTest):
    """Two tasks on one node; for two nodes of eight -S num_tasks=16 -S num_tasks_per_node=8."""

    descr = "Wiretax: all-reduce, checked and timed"
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    executable = "wiretax"
    num_tasks = 2
    num_tasks_per_node = 2
    exclusive_access = True
    time_limit = "15m"
    keep_files = [FILES]

    options = variable(str, value="")  # of `wiretax allreduce`
    store = variable(str, value="")  # a folder that also receives the run
    references = variable(typ.Dict[str, float], value={})  # us by performance variable
    tolerance = variable(float, value=0.1)
    mpi = variable(str, value="pmi2")  # of srun; pmix for Open MPI

    @run_before("run")
    def set_command(self):
        self.executable_opts = ["allreduce", self.options, "--out", FILES]
        if self.store:
            store = quote(self.store)
            copy = f"mkdir -p {store} && cp {FILES}/*.jsonl {store}"
            self.postrun_cmds = [f"if [ -d {FILES} ]; then {copy}; fi"]

    @run_after("setup")
    def set_launcher(self):
        if self.current_partition.launcher_type.registered_name.startswith("srun"):
            self.job.launcher.options = [f"--mpi={self.mpi}"]

    @sanity_function
    def results_are_right(self):
        records = self.records()
        if not records:
            return sn.assert_true(False, msg=f"no run was stored: {self.last_words()}")
        end, cases = records[-1], measured(records)
        ok = [name for name, case in cases.items() if case["status"] == "ok"]
        if end["kind"] != "end":
            return sn.assert_true(False, msg=f"the run was cut: {self.last_words()}")
        problems = [
            f"{name}: {case['reason'] or case['status']}"
            for name, case in cases.items()
            if case["status"] in ("wrong", "not measured")
        ]
        if end["status"] != "complete":
            problems.insert(0, f"the run is {end['status']}: {end['reason']}")
        if not ok:
            problems.append("no case was measured")
        elif unknown := sorted(self.references.keys() - set(ok)):
            problems.append(
                f"references name no measured case: {', '.join(unknown)}; "
                f"measured were {', '.join(ok[:MOST_NAMES])}"
                f"{', ...' if len(ok) > MOST_NAMES else ''}"
            )
        return sn.assert_false(problems, msg="; ".join(problems))

    @run_before("performance")
    def set_variables(self):
        for name, case in measured(self.records()).items():
            if case["status"] == "ok":
                times = (case["mode"] != "chained" and case["total_us"]) or case["time_us"]
                us = sn.defer(times["median"])
                self.perf_variables[name] = sn.make_performance_function(us, "us")
        self.reference = {
            "*": {name: (us, None, self.tolerance, "us") for name, us in self.references.items()}
        }

    def records(self):
        """The lines of the run, none if there is no run."""
        runs = sorted(Path(self.stagedir, FILES).glob("*.jsonl"))
        lines = runs[-1].read_text().splitlines() if runs else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def last_words(self):
        """The last line on standard error, of the launcher if nobody else wrote one."""
        text = Path(self.stagedir, sn.evaluate(self.stderr)).read_text(errors="replace")
        lines = [line for line in text.splitlines() if line]
        lines = [line for line in lines if not line.startswith("srun: ")] or lines
        return lines[-1] if lines else "nothing on standard error"


def measured(records):
    """The cases by the name of their performance variable: collective, algorithm and size, each
    field that is not in DEFAULTS, and the parts of the shape. Of cases with one name the second
    and later ones end with their number, so that none hides another."""
    names = {}
    for case in (record for record in records if record["kind"] == "case"):
        size = case["size_bytes"]
        unit, shift = [each for each in UNITS if max(size, 1) % (1 << each[1]) == 0][-1]
        parts = [case["collective"], case["algorithm"], f"{size >> shift}{unit}"]
        parts += [case[field] for field in DEFAULTS if case[field] not in DEFAULTS[field]]
        parts += ["in_place"] * case["in_place"]
        for key, value in (case.get("shape") or {}).items():
            parts += re.findall(r"\w+", f"{key}_{value}")
        if "_".join([*parts, "us"]) in names:
            parts.append(f"case{case['case']}")
        names["_".join([*parts, "us"])] = case
    return names
