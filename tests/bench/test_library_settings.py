"""What a user sets for NCCL or RCCL: each table names it, and what voids a search ends the run with
a sentence. Commands on GPUs in software, and archived runs."""

from typing import Any

import pytest

from reports.site.run_page import banner_of
from reports.tables.table import render
from tests.bench.launches import launch, run
from tests.fake_gpu import fake_nccl
from tests.reports.archived import unpack
from tests.reports.synthetic_run import ONE, write_run
from wiretax.record.result import read

QUICK = "--sizes 4K --mode isolated --algorithm library -n 2 -w 0 -G 0 --max-time 100 --quiet"


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_a_variable_that_voids_the_search_is_an_error_and_without_a_search_is_named(tmp_path):
    """NCCL_MAX_CTAS outweighs the number of blocks that a communicator is asked for."""
    tied = fake_nccl.environment() | {"NCCL_MAX_CTAS": "32", "NCCL_CTA_POLICY": "1"}
    done = launch(tmp_path / "search", QUICK, **tied)
    assert (done.returncode, done.stdout.strip(), done.stderr.count("\n")) == (2, "", 1)
    assert "NCCL_MAX_CTAS=32 is set, and outweighs the numbers of blocks" in done.stderr

    text, result = run(tmp_path / "plain", QUICK, "--library plain,registered", **tied)
    assert {case.variant for case in result.cases} == {"plain", "registered"}
    assert "NCCL 2.32.3 ran with NCCL_CTA_POLICY=1 NCCL_MAX_CTAS=32, set by the user" in words_of(
        text
    )
    assert {*result.run.world["library"]["channels"]} == {"plain", "registered"}


def test_what_wiretax_sets_for_rccl_is_named_as_its_own(tmp_path):
    """RCCL 2.27.7 chooses LL on gfx12, where it may never end."""
    library: dict[str, Any] = {"version": 22707, "chooses": "LL", "stands_still": "LL"}
    variables = fake_nccl.environment("hip", **library)
    text, result = run(tmp_path, QUICK, "--library plain", **variables)
    assert [case.status for case in result.cases] == ["ok"]
    assert "RCCL 2.27.7 ran with NCCL_PROTO=Simple, set by Wiretax" in words_of(text)
    assert "set by the user" not in text


def test_a_file_of_nccls_that_ties_it_is_named(tmp_path):
    variables = fake_nccl.environment(conf_max_ctas=1)
    text, _ = run(tmp_path, QUICK, "--library plain", **variables)
    assert "ran with NCCL_MAX_CTAS=1, set by its configuration file" in words_of(text)


@pytest.mark.unit
def test_an_archived_run_says_what_tied_its_library(tmp_path):
    """Its `tuned` searched over 1 to 32 blocks, and all its communicators had 32 channels."""
    tied, free = (
        read(next(unpack(tmp_path / archive, archive).glob(f"*{digits}.jsonl")))
        for archive, digits in (("h200-card", "e85ca1"), ("h100-nccl", "1f7ef1"))
    )
    said = (
        "NCCL 2.32.3 ran with NCCL_MAX_CTAS=32 NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_NVLS_ENABLE=0 "
        "NCCL_P2P_DISABLE=1, set by the user"
    )
    untrue = "`tuned` also tried settings that NCCL 2.32.3 did not follow, by its channels: "
    for text in (render(tied), render(tied, long=True), " ".join(map(str, banner_of(tied).facts))):
        assert said in words_of(text)
        assert f"{untrue}NCCL_PROTO=LL CTAs=1 (32), " in words_of(text)
    # With the H100's the labels were true.
    assert "ran with NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_NVLS_ENABLE=0, set" in words_of(render(free))
    assert untrue not in words_of(render(free))


@pytest.mark.unit
def test_a_table_names_the_variables_of_mpi_and_of_no_other_library(tmp_path):
    result = write_run(tmp_path, **ONE)
    for name in ("MPIR_CVAR_CH4_CMA_ENABLE", "NCCL_MAX_CTAS"):
        result.run.environment[f"env.{name}"] = {"value": "0", "source": "", "status": "ok"}
    assert "MPICH 5.0.2 ran with MPIR_CVAR_CH4_CMA_ENABLE=0, set by the user" in render(result)
    assert "NCCL" not in render(result)
