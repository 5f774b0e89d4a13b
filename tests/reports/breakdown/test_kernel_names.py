"""Tests which kernels are collectives by their names: names of each library as profilers show
them, and kernels that only sound like a collective."""

import re
from typing import Any

import pytest

from reports.__main__ import main
from reports.breakdown.kernel_names import Known, Names, patterns
from tests.launch import ROOT
from tests.reports.breakdown.small_trace import write_trace

pytestmark = pytest.mark.unit

NCCL, TRTLLM = "NCCL or RCCL", "FlashInfer or TensorRT-LLM"
FUSION = "flashinfer::trtllm_allreduce_fusion::"
# Of each row of the table at least one.
COLLECTIVES: dict[str, tuple[Any, ...]] = {
    "gloo:all_reduce": ("all_reduce", "gloo"),
    "ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)": ("all_reduce", NCCL),
    "ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)": (
        "send_recv",
        NCCL,
    ),
    "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)": (
        "all_reduce",
        NCCL,
    ),
    "_Z31ncclDevKernel_Broadcast_RING_LL24ncclDevKernelArgsStorageILm4096EE": ("broadcast", NCCL),
    "ncclDevKernel_ReduceScatter_Sum_f16_RING_LL": ("reduce_scatter", NCCL),
    "ncclDevKernel_Reduce_Sum_bf16_RING_LL": ("reduce", NCCL),
    "_Z54ncclSymkDevKernel_AllReduce_RSxLDMC_AGxSTMC_sum_f8e4m321ncclSymkDevWorkArgs4K": (
        "all_reduce",
        NCCL,
    ),
    "ncclSymDevKernel_AllGather_LLMC(ncclSymDevArgs)": ("all_gather", NCCL),
    "ncclAllReduceRingLLKernel_sum_f16(ncclColl)": ("all_reduce", NCCL),
    "ncclSendRecvKernel_copy_i8(ncclColl)": ("send_recv", NCCL),
    "ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)": ("collective", "RCCL"),
    "void rcclGenericKernel<1, false>(ncclDevKernelArgsStorage<4096ul>)": ("collective", "RCCL"),
    "mscclKernel_Sum_half_Simple_false(ncclDevComm*, mscclAlgo*, mscclWork*)": (
        "collective",
        "RCCL",
    ),
    "void aiter::cross_device_reduce_1stage<__hip_bfloat16, 2>(aiter::RankData*)": (
        "all_reduce",
        "aiter",
    ),
    "_ZN5aiter34cross_device_reduce_2stage_write_modeIDF16bLi8EEEvPNS_8RankDataE": (
        "all_reduce",
        "aiter",
    ),
    "void aiter::allreduce_fusion_kernel_1stage<std::bfloat16_t, std::bfloat16_t, 4, true>()": (
        "all_reduce",
        "aiter",
        True,
    ),
    "void aiter::allgather_lastdim<__half, 2>(aiter::RankData*)": ("all_gather", "aiter"),
    "void aiter::ar_ll_gfx1250<__half, 2>(aiter::RankData*)": ("all_reduce", "aiter"),
    "void sglang::cross_device_reduce_1stage<__half, 8>(sglang::RankData*)": (
        "all_reduce",
        "SGLang",
    ),
    "void (anonymous namespace)::all_reduce_one_shot_push_kernel<__half, 4u, true>()": (
        "all_reduce",
        "SGLang",
    ),
    "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(vllm::RankData*)": (
        "all_reduce",
        "vLLM",
    ),
    "_ZN4vllm26cross_device_reduce_2stageI6__halfLi2EEEvPNS_8RankDataE": ("all_reduce", "vLLM"),
    "void vllm::mnnvl_lamport_all_gather<__half, 4>()": ("all_gather", "vLLM"),
    "void quickreduce::allreduce_prototype_twoshot<AllReduceTwoshot<__half, CodecQ4<__half, 4>>>": (
        "all_reduce",
        "QuickReduce",
    ),
    "void aiter::allreduce_rmsnorm_prototype_twoshot<__half>()": (
        "all_reduce",
        "QuickReduce",
        True,
    ),
    f"void {FUSION}allreduce_fusion_kernel_oneshot_lamport<({FUSION}AllReduceFusionPattern)1>": (
        "all_reduce",
        TRTLLM,
        True,
    ),
    "void lamport_style_one_shot_all_reduce_norm_kernel<__half, 8>()": ("all_reduce", TRTLLM, True),
    "void trt_llm::oneShotAllReduceKernel<__half, 4, true>(trt_llm::AllReduceParams)": (
        "all_reduce",
        TRTLLM,
    ),
    "tensorrt_llm::kernels::mnnvl::mnnvlAllGatherSplitKernel(AllGatherSplitParams)": (
        "all_gather",
        TRTLLM,
    ),
    "_ZN10flashinfer4comm8pcie_ipc26ipc_tp2_remote_push_kernelI6__halfEEvv": (
        "all_reduce",
        "FlashInfer",
    ),
    "void flashinfer::mixed_comm::fused_allreduce_allgather_kernel<1>()": (
        "all_reduce",
        "FlashInfer",
    ),
    "tensorrt_llm::kernels::moeA2ADispatchKernel()": ("all_to_all", TRTLLM),
    "void deep_ep::internode_ll::dispatch<true, 3, 10, 7168>(void*, float*)": (
        "dispatch",
        "DeepEP",
    ),
    "void c10d::symmetric_memory::(anonymous namespace)::one_shot_all_reduce_kernel<float, 4>()": (
        "all_reduce",
        "torch symmetric memory",
    ),
    "multimem_one_shot_reduce_kernel": ("all_reduce", "torch symmetric memory"),
    "void mscclpp::collective::allreduceNvlsPacket<__half>()": ("all_reduce", "MSCCL++"),
    "void allreduce_LL_1node<__half>(mscclpp::MemoryChannelDeviceHandle*)": (
        "all_reduce",
        "MSCCL++",
    ),
    "userbuffers_fp16_sum_inplace_gpu_rr_rs_oop": ("reduce_scatter", "Userbuffers"),
    "userbuffers_fp16_sum_inplace_gpu_rr_ag": ("all_gather", "Userbuffers"),
    "userbuffers_fp16_sum_inplace_gpu_mc_rmsnorm": ("all_reduce", "Userbuffers", True),
    "userbuffers_fp16_sum_inplace_gpu_rr": ("all_reduce", "Userbuffers"),
    "void ggml_cuda_ar_kernel<float, __nv_bfloat16>(float const*)": ("all_reduce", "llama.cpp"),
    "_ZL14k_reduce_add_TI6__halfLi512ELi2EEv9copy_task": ("all_reduce", "ik_llama.cpp"),
    "oneccl_allreduce_pcie<sycl::half, Rt64_128_PCIE, RingTransmit>": ("all_reduce", "oneCCL"),
    "oneccl_allgatherv_pcie<sycl::half, Rt64_PCIE>": ("all_gather", "oneCCL"),
    "_ZTS22Allreduce_small_kernelIN4sycl4halfELi1EE": ("all_reduce", "oneCCL"),
    "ReduceScatterLargeNoCopyKernel<float>": ("reduce_scatter", "oneCCL"),
    "two_shot_push_registered": ("all_reduce", "Wiretax"),
    "allreduce_rmsnorm_pull_registered": ("all_reduce", "Wiretax", True),
    "all_gather_push": ("all_gather", "Wiretax"),
}
OTHER_WORK = [
    "void splitKreduce_kernel<float, float, float, float, true, false>(cublasSplitKParams<float>)",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::ArgMaxOps>>",
    "void at::native::vectorized_gather_kernel<16, long>(char*, char*, long*, int)",
    "void aiter::local_device_load_rmsnorm<__half, 512, 1, false>(aiter::RankSignals)",
    "paged_attention_ll4mi_reduce_kernel<__hip_bfloat16>",
    "scatter_reduce_kernel_impl",
    "mul_broadcast_2d_kernel",
    "flash_attn_combine_results",
    "ggml_cuda_ar_add_kernel<float, float>(float*, float const*, int)",
    "_ZN5aiter24add_rmsnorm_quant_kernelIDF16bDF16bLi64ELi8ELb0ELb0ELb1ELi1EEEvPT0_",
    "Memcpy PtoP (Device -> Device)",
    "string",
    "",
]


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_is_known_by_its_name(name):
    assert Names().known(name) == Known(*COLLECTIVES[name])


@pytest.mark.parametrize("name", OTHER_WORK)
def test_a_kernel_that_needs_no_other_rank_is_none(name):
    assert Names().known(name) is None


def test_every_row_has_a_name_that_no_row_before_it_takes():
    """Otherwise a library's kernels would have another library's name."""
    rows = [row for _, row in patterns()]
    first = [
        next(i for i, (found, _) in enumerate(patterns()) if found.search(name))
        for name in COLLECTIVES
    ]
    assert sorted(set(first)) == [*range(len(rows))]


def test_our_own_kernels_are_known():
    """A new algorithm of ours must not count as other work."""
    sources = "".join(path.read_text() for path in (ROOT / "kernels").glob("all*.cu"))
    sources += (ROOT / "kernels/reduce_scatter.cu").read_text()
    names = re.findall(r"RANK_KERNEL\((\w+)", sources)
    names += [f"{name}_push" for name in re.findall(r"EXCHANGE_KERNELS\((\w+)", sources)]
    unknown = {name for name in names if not Names().known(name)}
    local = {"add_all", "add_rmsnorm", "add_rmsnorm_stable", "leave"}  # sums and flags
    assert unknown == local


def test_a_name_of_megabytes_is_read_at_once():
    long = "vllm::cross_device_reduce_1stage<" + "std::pair<" * 1_000_000
    assert Names((re.compile("x+$"),)).known(long) == Known("all_reduce", "vLLM")


def test_a_kernel_that_looks_like_a_collective_is_listed(tmp_path, capsys):
    """Its time would silently count as compute."""
    trace = write_trace(tmp_path / "rank0.json")
    trace.write_text(trace.read_text().replace("gemm", r"my_allreduce\u001b[2J"))
    assert main(["breakdown", str(trace)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "are taken as other work: my_allreduce?[2J; --collective REGEX" in shown
    assert main(["breakdown", str(trace), "--collective", "my_"]) == 0
    shown = capsys.readouterr().out
    assert "all_reduce (--collective)" in shown
    assert "taken as other work" not in shown


def test_a_pattern_that_matches_nothing_is_told(tmp_path, capsys):
    trace = write_trace(tmp_path / "rank0.json")
    assert main(["breakdown", str(trace), "--collective", "ncccl"]) == 0
    assert "--collective ncccl matches no kernel" in capsys.readouterr().out


def test_a_pattern_that_is_none_is_refused(tmp_path, capsys):
    trace = write_trace(tmp_path / "rank0.json")
    with pytest.raises(SystemExit) as refused:
        main(["breakdown", str(trace), "--collective", "("])
    assert refused.value.code == 2
    assert "'(' is no regular expression" in capsys.readouterr().err


def test_a_kernel_with_the_norm_inside_is_told(tmp_path, capsys):
    trace = write_trace(tmp_path / "rank0.json")
    trace.write_text(trace.read_text().replace("gemm", "gemv_allreduce"))
    assert main(["breakdown", str(trace)]) == 0
    assert "all_reduce (Wiretax) also computes" in capsys.readouterr().out
