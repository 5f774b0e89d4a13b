"""`flashinfer.comm`."""

from .allreduce import allreduce_fusion, create_allreduce_fusion_workspace
from .trtllm_ar import AllReduceFusionPattern

__all__ = ["AllReduceFusionPattern", "allreduce_fusion", "create_allreduce_fusion_workspace"]
