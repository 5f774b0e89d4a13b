"""Specs of `reports procure`, the runs of their candidates, and what is read of its answer."""

import math
import re

from reports.__main__ import main
from tests.reports.synthetic_run import ranks_of, rewrite_head, write_run

SIZES = (16384, 33554432)
R9700 = "AMD Radeon AI PRO R9700"
MODELS = '[models]\n70b-q4 = {model = "llama-3.1-70b", weights = "q4", context = 0}\n'
BOX = """[candidates.{name}]
runs = ["{name}/*.jsonl"]
gpu = "r9700"
gpus = 2
price = {{amount = 5200, currency = "EUR", date = 2026-11-01}}
"""
ONE_BOX = MODELS + BOX.format(name="box")

PRICE = "price = {amount = 5200, currency = 'EUR', date = 2026-11-01}"


def write_launches(folder, n, first=0, gpu=R9700, slower=1, n_blocks=6, **fields):
    """Launches that differ by 1 %: half of them above the mean and half below it."""
    for number in range(first, first + n):
        made = write_run(
            folder,
            sizes=SIZES,
            algorithms=("library", "auto"),
            n_blocks=n_blocks,
            n=4,
            seed=number,
            run_id=f"2026-11-20T06-15-{number:02}Z-allreduce-1a2b3c",
            scale=slower * math.exp(0.01 * (-1) ** number),
            **fields,
        )
        if gpu:
            rewrite_head(made.path, world__ranks=ranks_of(gpu, made.run.world_size))


def spec(folder, requirements=(), text=ONE_BOX):
    path = folder / "SPEC.toml"
    path.write_text(f"requirements = {list(requirements)}\n{text}")
    return path


def ask(capsys, *arguments):
    """The exit status, the text on one line, and standard error."""
    status = main(["procure", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, " ".join(printed.out.split()), printed.err


def verdict_of(procurement, machine=0):
    """The verdict of the only requirement, and its reason."""
    (verdict,) = procurement.appraisals[machine].verdicts.values()
    return verdict


def figure(procurement, name, machine=0):
    figures = procurement.appraisals[machine].figures.values()
    return next(item for item in figures if item.name == name)


def unmeasured(name, **fields):
    """A candidate without runs, with these fields in place of those of BOX."""
    box = BOX.format(name=name).replace(f'runs = ["{name}/*.jsonl"]\n', "")
    for field, value in fields.items():
        box = re.sub(f"(?m)^{field} = .*\n", "", box) + f"{field} = {value}\n"
    return box
