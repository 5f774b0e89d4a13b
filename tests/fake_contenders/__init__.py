"""Stand-ins for vLLM, FlashInfer, mscclpp and torch over the software GPU, with the published names
and defaults of the arguments that Wiretax gives.

They sum for real, through the library with NCCL's interface. FAKE_CONTENDER_FAULT selects a fault:
  raise        the start raises on rank 1
  wrong        the maximum instead of the sum
  disabled     vLLM disables itself
"""

from pathlib import Path

from tests.fake_gpu import fake_nccl

HERE = Path(__file__).parent


def environment(
    vendor: str = "cuda", gpu: dict[str, object] | None = None, fault: str = ""
) -> dict[str, str]:
    """The environment of a process with a software GPU, its library and all contenders."""
    settings = fake_nccl.environment(vendor, gpu)
    settings["PYTHONPATH"] = f"{HERE}:{settings['PYTHONPATH']}"
    folder = Path(fake_nccl.library("mscclpp")).parent
    return {**settings, "FAKE_MSCCLPP": str(folder), "FAKE_CONTENDER_FAULT": fault}
