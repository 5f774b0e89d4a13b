"""How texts name our commands: `python -m bench.tune` in a checkout, which an editable installation
runs too, and `wiretax tune` where a wheel has put all folders inside the package `wiretax`."""

IS_CHECKOUT = __name__ == "reports.store.program"
RUN, BENCH, REPORTS = (
    ("python -m ", "bench.", "reports") if IS_CHECKOUT else ("", "wiretax ", "wiretax")
)


def on_ranks(ranks: object, command: str) -> str:
    """How a user starts the ranks of a benchmark; `wiretax` starts them itself."""
    if IS_CHECKOUT:
        return f"mpirun -n {ranks} {RUN}{BENCH}{command}"
    return f"{BENCH}{command} -n {ranks}"
