"""The mutants of `mutants`: small errors that a person could make, and the tests that notice them.

A mutant replaces `old` by `new` in the file `path`, which has `old` exactly once. `tests` are node
ids of pytest that notice the mutant, the fastest first.
"""

from dataclasses import dataclass

CPU, CUDA, EXCHANGE, PACK, SYNC = (
    f"kernels/include/{name}.h"
    for name in ("platform_cpu", "platform_cuda", "exchange", "pack", "sync")
)
LL = "kernels/allreduce_one_shot_ll.cu"


@dataclass(frozen=True)
class Mutant:
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


COLLECTIVES = "tests/collectives/test_collectives.py"
FIXED = f"{COLLECTIVES}::test_every_algorithm_is_right_for_fixed_messages"
EVERY = f"{COLLECTIVES}::test_every_collective_is_correct_and_equal_results_have_equal_bits"
FENCES = f"{COLLECTIVES}::test_streaming_stores_are_fenced_before_a_flag_and_at_the_end_of_a_launch"
EXPECTED = f"{COLLECTIVES}::test_the_expected_result_is_exact_and_no_error_matches_it"
ROUTED = "tests/collectives/test_routed.py::test_tokens_reach_their_experts_and_return_bit_by_bit"
STRESS = "tests/bench/test_stress.py::test_back_to_back_launches_are_right_when_the_epoch_wraps"
RACES = "tests/kernels/test_sanitizers.py::test_a_sanitizer_finds_nothing_in_one_whole_kernel"
BFLOAT16 = "tests/kernels/test_bfloat16.py"
FUSED = (
    "tests/collectives/test_fused.py::"
    "test_every_element_is_correct_and_bit_identical_to_two_launches"
)
CODE = (
    "tests/kernels/test_kernels_compile.py::"
    "test_flags_are_released_and_acquired_in_the_order_of_the_memory_model"
)
LOOP = "tests/kernels/test_device_cpu.py"
EPOCHS = "tests/kernels/test_epochs.py"
REACHED = "return seen - wanted < (2ull << 32) - (unsigned)wanted;"
MARK = "return epoch ? epoch : 1;"
MEASURE = "tests/bench/harness/test_measure.py"
FAULTS = "tests/bench/test_faults.py"
CORRUPTION = "tests/bench/test_corruption.py"
BETWEEN = "tests/collectives/test_hierarchical.py::test_every_collective_between_hosts_is_right"
STATS, CASE, STORED = (
    f"tests/reports/store/test_{name}.py" for name in ("stats", "case", "result")
)
VERDICT, REGRESS = (f"tests/reports/verdicts/test_{name}.py" for name in ("verdict", "regress"))
FORMATS = "tests/reports/imports/test_import_formats.py"

KERNELS = {
    "sum-from-own-input": Mutant(
        PACK,
        "inputs.at[r] = r == rank ? own : from_peer(r);",
        "inputs.at[(r - rank + WT_WORLD) % WT_WORLD] = r == rank ? own : from_peer(r);",
        (FIXED,),
    ),
    "packets-from-own-input": Mutant(
        "kernels/include/packets.h", "now = rematerialized(rank);", "now = 0;", (FIXED,)
    ),
    "two-shot-from-own-input": Mutant(
        "kernels/allreduce_two_shot.cu",
        "inputs.at[r] = r == rank",
        "inputs.at[(r - rank + WT_WORLD) % WT_WORLD] = r == rank",
        (FIXED,),
    ),
    "no-fence-before-flag": Mutant(
        CPU, "  if (WT_STREAM_SLAB || WT_STREAM_RECEIVE) fence_system();\n", "", (FENCES,)
    ),
    "no-fence-after-stores-into-slabs": Mutant(
        CPU, "if (WT_STREAM_SLAB || WT_STREAM_RECEIVE)", "if (WT_STREAM_RECEIVE)", (FENCES,)
    ),
    "no-fence-after-stores-into-buffers": Mutant(
        CPU, "if (WT_STREAM_SLAB || WT_STREAM_RECEIVE)", "if (WT_STREAM_SLAB)", (FENCES,)
    ),
    "no-fence-after-launch": Mutant(
        SYNC, "  if (ON_CPU && WT_STREAM_RECEIVE) fence_system();\n", "", (FENCES,)
    ),
    "last-element-lost": Mutant(
        PACK,
        "i * PACK_ELEMENTS < count; i += step, ++round",
        "i * PACK_ELEMENTS + 1 < count; i += step, ++round",
        (FIXED,),
    ),
    "streaming-to-any-address": Mutant(
        CPU, "if (stream && (u64)buffer % VECTOR_BYTES == 0)", "if (stream)", (FIXED, EVERY)
    ),
    "one-half-of-the-slab": Mutant(
        SYNC, "(epoch & 1) * a.half_bytes", "0 * a.half_bytes", (STRESS,)
    ),
    "packet-mark-at-least": Mutant(
        LL,
        "return packet >> 32 != mark_of(epoch);",
        "return packet >> 32 < mark_of(epoch);",
        (EPOCHS,),
    ),
    "packet-mark-of-8-bits": Mutant(LL, MARK, "return epoch % 256 ? epoch % 256 : 1;", (EPOCHS,)),
    "packet-mark-of-16-bits": Mutant(LL, MARK, "return epoch << 16 | 1;", (EPOCHS,)),
    "packet-mark-of-31-bits": Mutant(LL, MARK, "return epoch << 1 | 1;", (EPOCHS,)),
    "flag-by-the-sign": Mutant(SYNC, REACHED, "return (long long)(seen - wanted) >= 0;", (EPOCHS,)),
    "flag-two-launches-ahead": Mutant(SYNC, REACHED, REACHED.replace("2", "3", 1), (EPOCHS,)),
    "flag-of-the-launch-before": Mutant(
        SYNC, REACHED, REACHED.replace("wanted <", "wanted + (1ull << 32) <"), (EPOCHS,)
    ),
    "chunks-from-the-start": Mutant(
        EXCHANGE,
        "segment_for<READERS>(a, a.send, reader, at);",
        "segment_for<READERS>(a, a.send, reader, 0);",
        (FIXED,),
    ),
    "one-slot-for-all-chunks": Mutant(
        EXCHANGE, "((step & 1) * SLOTS + place.slot)", "place.slot", (FIXED,)
    ),
    "flag-store-relaxed": Mutant(
        CPU, "(p, v, __ATOMIC_RELEASE)", "(p, v, __ATOMIC_RELAXED)", (RACES,)
    ),
    "flag-load-of-own-gpu": Mutant(
        CUDA,
        "ld.relaxed.sys.global.u64",
        "ld.relaxed.gpu.global.u64",
        (CODE,),
    ),
    "mean-over-peers": Mutant(
        PACK,
        "floats finish(floats a) { return a * (1.0f / WT_WORLD); }",
        "floats finish(floats a) { return a * (1.0f / (WT_WORLD - 1)); }",
        (FIXED,),
    ),
    "integer-mean-floors": Mutant(
        PACK,
        "return a / WT_WORLD;  // as NCCL divides",
        "return (a - (a % WT_WORLD + WT_WORLD) % WT_WORLD) / WT_WORLD;",
        (FIXED,),
    ),
    "integer-mean-of-checked-data-has-no-rest": Mutant(
        "bench/harness/verify.py",
        "numbers * self.ranks + (rank == 0)",
        "numbers * self.ranks",
        (EXPECTED,),
    ),
    "nan-of-rank-0-kept-in-max": Mutant(
        CPU, "return number_of(a < b ? b : a, a, b);", "return a < b ? b : a;", (FIXED,)
    ),
    "nan-of-rank-0-kept-in-min": Mutant(
        CPU, "return number_of(b < a ? b : a, a, b);", "return b < a ? b : a;", (FIXED,)
    ),
    "nan-of-the-last-rank-kept-in-max": Mutant(
        CPU, "number_of(a < b ? b : a, a, b)", "number_of(a >= b ? a : b, a, b)", (FIXED,)
    ),
    "soak-repeats-at-once": Mutant(
        "bench/soak.py",
        "        skip_launches(peers, self.order.choice(AGES) - 1)\n",
        "",
        ("tests/bench/test_soak.py::test_a_soak_finds_what_passes_for_new_after_many_launches",),
    ),
    "no-nan-in-checked-data": Mutant(
        "bench/harness/iteration.py",
        "        operation.ignores_nan,\n",
        "",
        (f"{CORRUPTION}::test_a_nan_that_max_keeps_is_located",),
    ),
    "segment-loses-one-more-than-whole-packs": Mutant(
        PACK, "(count + WT_WORLD * UNIT - 1)", "(count + WT_WORLD * UNIT - 2)", (FIXED,)
    ),
    "bfloat16-ties-away": Mutant(CPU, "w + 0x7fffu + (w >> 16 & 1u);", "w + 0x8000u;", (BFLOAT16,)),
    "squares-fused-in-some-kernels": Mutant(CPU, '  asm("" : "+x"(square));', "", (FUSED,)),
    "residual-in-the-sums-for-peers": Mutant(
        "kernels/include/norm.h",
        "peers.store(at, k, sum[k]);",
        "peers.store(at, k, old[k]);",
        (FUSED,),
    ),
    "weights-of-another-token": Mutant(
        "collectives/experts/alltoall_routed.py",
        'came["weight"][home, place] = routes.weights',
        'came["weight"][home, place] = np.concatenate([routes.weights[1::-1], routes.weights[2:]])',
        (ROUTED,),
    ),
    "weight-of-another-expert": Mutant(
        "kernels/experts/routing.h",
        "term(r.rows + came[c].place * row_bytes(a), came[c].weight)",
        "term(r.rows + came[c].place * row_bytes(a), came[r.top_k - 1 - c].weight)",
        (ROUTED,),
    ),
    "registered-from-the-start": Mutant(
        "collectives/peer_buffer.py",
        "[number][peer].address + offset",
        "[number][peer].address",
        (FIXED,),
    ),
}
HARNESS = {
    "pattern-not-rotated": Mutant(
        "kernels/iteration.cu",
        "(long)(iteration % (u64)p.period)",
        "(long)(iteration * 0 % (u64)p.period)",
        (f"{LOOP}::test_the_pattern_of_another_iteration_is_wrong_everywhere",),
    ),
    "only-first-rank-checked": Mutant(
        "bench/harness/timing.py",
        "sum(wrong.elements for wrong in wrongs)",
        "wrongs[0].elements",
        (MEASURE,),
    ),
    "time-of-fastest-rank": Mutant(
        "bench/harness/timing.py",
        "Times(time_us.max(axis=0),",
        "Times(time_us.min(axis=0),",
        (MEASURE,),
    ),
    "warm-up-timed": Mutant(
        "kernels/devices/loop_cpu.cpp",
        "i >= b.warmup && i < b.warmup + b.timed;",
        "i < b.timed;",
        (f"{LOOP}::test_only_iterations_after_the_warm_up_are_timed",),
    ),
    "patience-always-long": Mutant(
        "bench/harness/watchdog.py",
        "(LONGEST_ALONE if is_alone else 1)",
        "LONGEST_ALONE",
        (f"{FAULTS}::test_a_rank_that_stalls_is_named_by_the_waiting_ranks",),
    ),
    "wrong-result-exits-fine": Mutant(
        "bench/harness/run.py",
        "        return WRONG\n",
        "        return FINE\n",
        (f"{CORRUPTION}::test_a_flipped_bit_is_located_in_every_algorithm",),
    ),
}
STATISTICS = {
    "interval-one-order-statistic-off": Mutant(
        "reports/store/stats.py",
        "low = ordered[j - 1] + weight",
        "low = ordered[j] + weight",
        (STATS,),
    ),
    "correlation-of-blocks-ignored": Mutant(
        "reports/store/build.py",
        "median_interval(values, rho=rho)",
        "median_interval(values)",
        (CASE,),
    ),
    "mean-of-iterations": Mutant(
        "bench/harness/timing.py",
        "time_us=float(np.median(time)),",
        "time_us=float(np.mean(time)),",
        (MEASURE,),
    ),
    "precise-at-half-the-width": Mutant(
        "reports/store/stats.py", "(high - low) / 2 <= 0.01", "high - low <= 0.01", (STATS,)
    ),
    "changing-link-counts": Mutant(
        "reports/store/blocks.py", "CHANGED_RATIO = 1.3", "CHANGED_RATIO = 13.0", (CASE,)
    ),
    "another-link-counts": Mutant(
        "reports/store/blocks.py", "if is_counted or not is_settled:", "if block:", (CASE,)
    ),
    "holm-backwards": Mutant(
        "reports/verdicts/verdict.py",
        "alpha / (len(p) - np.arange(len(p)))",
        "alpha / (1 + np.arange(len(p)))",
        (VERDICT,),
    ),
    "the-library-fails-the-gate": Mutant(
        "reports/verdicts/judge.py",
        "~is_library | bool(is_library.all())",
        "~is_library | bool(is_library.any())",
        (REGRESS,),
    ),
    "margin-ignored": Mutant(
        "reports/verdicts/verdict.py", "is_rejected & is_beyond", "is_rejected", (VERDICT,)
    ),
    "correlation-of-runs-ignored": Mutant(
        "reports/trends/changes.py",
        "np.clip(rho, least_rho, MOST_RHO)",
        "0 * np.clip(rho, least_rho, MOST_RHO)",
        ("tests/reports/trends/test_history.py", "tests/calibration/test_calibration.py"),
    ),
}
PARSERS = {
    "milliseconds-as-microseconds": Mutant(
        "reports/imports/nccl_tests.py",
        "1e3 if self.format == EARLY",
        "1.0 if self.format == EARLY",
        (FORMATS,),
    ),
    "blank-half-ignored": Mutant(
        "reports/imports/nccl_tests.py",
        "key=lambda each: abs(each.end - end)",
        "key=lambda each: each.end",
        (FORMATS,),
    ),
    "cut-log-complete": Mutant(
        "reports/imports/nccl_tests.py",
        "self.part == Part.FOOTER or",
        "self.part >= Part.ROWS or",
        (FORMATS,),
    ),
    "decimal-megabyte": Mutant(
        "bench/harness/options.py",
        '"M": 1 << 20',
        '"M": 10**6',
        ("tests/bench/harness/test_command.py",),
    ),
}
ELSEWHERE = {
    "shard-without-its-last-element": Mutant(
        "collectives/algorithms/hierarchical.py",
        "yield rail, replace(shard, send=place, receive=place)",
        "yield rail, replace(shard, send=place, receive=place, count=shard.count - 1)",
        (BETWEEN,),
    ),
    "machines-mixed": Mutant(
        "reports/verdicts/sides.py",
        '"machine": lambda result: result.run.machine_id',
        '"machine": lambda result: ""',
        (REGRESS,),
    ),
    "junit-counts-tests-as-failures": Mutant(
        "reports/verdicts/regress.py", '"failures": "failure"', '"failures": "testcase"', (REGRESS,)
    ),
}
MUTANTS: dict[str, Mutant] = KERNELS | HARNESS | STATISTICS | PARSERS | ELSEWHERE
