"""gloo, PyTorch's library for CPUs, through torch.distributed."""

TITLE = "gloo"
DISTRIBUTION = "torch==2.13.0"
COLLECTIVES = "all_reduce", "all_gather", "reduce_scatter", "alltoall", "sendrecv"
DEVICES = "cpu"
DATATYPES = "float32", "float16", "bfloat16", "float64", "int32", "int64", "int8", "uint8"
REDOPS = "sum", "prod", "min", "max"
ONE_HOST = True

import torch.distributed as dist


def bind(case):
    group, (sent, received) = case.group, case.tensors
    redop = getattr(dist.ReduceOp, {"prod": "PRODUCT"}.get(case.redop, case.redop.upper()), None)

    segments = [*(sent if case.collective == "reduce_scatter" else received)]

    def all_reduce():
        received.copy_(sent)  # gloo works in place
        dist.all_reduce(received, redop, group)

    def sendrecv():
        partner = case.rank ^ 1
        if partner >= case.ranks:
            return
        calls = [(dist.send, sent, partner), (dist.recv, received, partner)]
        if case.shape["way"] == "one_way":
            calls = calls[case.rank % 2 :][:1]
        for call, tensor, other in calls[:: -1 if case.rank % 2 else 1]:
            call(tensor, other, group)

    return {
        "all_reduce": all_reduce,
        "all_gather": lambda: dist.all_gather(segments, sent, group),
        "reduce_scatter": lambda: dist.reduce_scatter(received, segments, redop, group),
        "alltoall": lambda: dist.all_to_all_single(received, sent, group=group),
        "sendrecv": sendrecv,
    }[case.collective]
