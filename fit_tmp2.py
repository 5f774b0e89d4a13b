from concurrent.futures import ThreadPoolExecutor
from tests.kernels.gpu_builds import compiled, misfits, flaws_of_loops
stems = ["allreduce_one_shot", "allreduce_one_shot_ll", "allreduce_one_shot_sentinel", "allreduce_ring", "allreduce_copy_engine", "allreduce_multimem", "alltoall", "sendrecv", "allreduce_two_shot", "reduce_scatter"]
def one(job):
    stem, arch, macros = job
    try:
        b = compiled(stem, arch, macros)
    except Exception as e:
        return job, str(e)[:300], ""
    return job, [(r.kernel, r.registers, r.stack_bytes, r.spills, r.shared_bytes) for r in misfits(b.kernels)], flaws_of_loops(b.text, arch)
jobs = [(s, a, (("ELEMENT", e), ("REDOP", o), ("WORLD", w))) for e, o in (("Int8", "Avg"), ("Float8_e4m3", "Avg")) for w in ("8", "2") for a in ("sm_90", "gfx942", "gfx1201") for s in stems if not (s.endswith("sentinel") and e == "Int8")]
with ThreadPoolExecutor(2) as pool:
    for job, fit, flaws in pool.map(one, jobs):
        if fit or flaws: print(job[0], job[1], job[2], "misfits", fit[:4], "flaws", str(flaws)[:260], flush=True)
print("done", len(jobs))
