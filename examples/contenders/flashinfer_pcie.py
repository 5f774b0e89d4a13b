"""FlashInfer's all-reduce over CUDA IPC for GPUs without NVLink (flashinfer pull request 4393)."""

TITLE = "FlashInfer PCIe IPC"
DISTRIBUTION = "flashinfer-python==0.7.2.post1"
DEVICES = "cuda"
DATATYPES = "float16", "bfloat16"
MULTIPLE = 16
ONE_HOST = True
UNVERIFIED = True

from flashinfer.comm.pcie_ipc_ar import PcieIpcAllReduceWorkspace


def bind(case):
    sent, received = case.tensors
    # A workspace of exactly this size: a larger one costs time (its class says so).
    workspace = PcieIpcAllReduceWorkspace(case.group, case.count, sent.dtype)
    if not workspace.supports(sent):
        case.refuse(
            f"FlashInfer's PCIe IPC does not take {case.size_bytes} B of {case.ranks} ranks"
        )
    return lambda: workspace.all_reduce(sent, out=received)
