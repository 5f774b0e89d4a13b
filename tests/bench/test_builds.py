"""Builds of a kernel by name, as in `two_shot+nt+128K`."""

from tests.bench.launches import launch, stored

BUILDS = (
    "one_shot_push+nt",
    "two_shot+nt+ntr+64K",
    "ring+32K",
    "ring+ntr",
    "two_shot+slabs",
)


def test_builds_are_measured_by_name_with_right_results(tmp_path):
    """16392 B leave a tail in every build, and no whole number of packs in the receive buffer."""
    options = f"-d half -n 2 --mode isolated --sizes 16392,1M --algorithm {','.join(BUILDS)}"
    done = launch(tmp_path, options)
    assert (done.returncode, done.stderr) == (0, "")
    result = stored(tmp_path)
    measured = [case for case in result.cases if case.status != "unsupported"]
    assert {case.algorithm for case in measured} == {*BUILDS}
    assert {(case.status, case.n_wrong) for case in measured} == {("ok", 0)}
    refused = {
        (case.algorithm, case.size_bytes): case.reason for case in result.cases if case.reason
    }
    whole = "non-temporal stores take whole packs"
    assert refused["ring+ntr", 16392].startswith(whole)
    assert refused["two_shot+nt+ntr+64K", 16392].startswith(whole)
