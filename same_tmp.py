import hashlib, sys
from concurrent.futures import ThreadPoolExecutor
from tests.kernels.gpu_builds import compiled
jobs = [(s, a, m) for m in ((), (("ELEMENT","Bfloat16"),("REDOP","Avg"),("WORLD","8"))) for a in ("sm_90", "gfx942", "gfx1201") for s in ("allreduce_one_shot", "allreduce_two_shot", "allreduce_ring", "allreduce_one_shot_ll", "link_probe", "allreduce_two_shot_quantized")]
def one(j):
    b = compiled(*j)
    return j, hashlib.md5(b.text.encode()).hexdigest()[:8], hashlib.md5(repr(b.kernels).encode()).hexdigest()[:8]
with ThreadPoolExecutor(2) as pool:
    for r in pool.map(one, jobs): print(*r)
