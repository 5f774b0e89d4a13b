"""`flashinfer.comm.trtllm_ar`."""


class AllReduceFusionPattern:
    kAllReduce = 0
