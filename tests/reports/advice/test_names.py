"""Cards, models and types of weights by the names that owners, shops and drivers write."""

import pytest

from collectives.models import ROWS
from reports.advice.specs import (
    BITS,
    CALLED,
    GB,
    GPUS,
    LINKS,
    MODELS,
    bits_of,
    gpu_of,
    model_called,
    sheet_of,
    weights_called,
)
from reports.references.pairs import pairs
from reports.references.published import serving
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit


def named(found):
    return found and found.name


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("RTX 5060 Ti 16GB", "rtx5060ti"),
        ("NVIDIA GeForce RTX 5060 Ti", "rtx5060ti"),
        ("RTX 3060 12GB", "rtx3060"),
        ("RTX 3060 Ti", "rtx3060ti"),
        ("RTX 4060 Ti 16GB", "rtx4060ti-16gb"),
        ("Arc Pro B70", "b70"),
        ("Instinct MI50", "mi50"),
        ("Radeon Pro Vega II (gfx906 32GB)", "vega-ii"),
        ("AMD Radeon VII", "radeon-vii"),
        ("A100", "a100-80gb"),
        ("A100 SXM 80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("A100 80GB PCIe", "a100-pcie-80gb"),
        ("H100 SXM", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("Tesla P100 16GB", "p100"),
        ("Tesla V100-PCIE-16GB", "v100-pcie-16gb"),
        ("V100-SXM2 32GB", "v100-sxm2-32gb"),
        ("P104-100 8GB", "p104-100"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada"),
        ("Quadro RTX 6000", "rtx6000-turing"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtxpro6000-max-q"),
        ("RTX PRO 6000 Server", "rtxpro6000-server"),
        ("AMD Radeon RX 7900 GRE", "rx7900gre"),
        ("RX 9070", "rx9070"),
        ("2x 3090", "rtx3090"),
        ("RTX 2080 Ti 22GB", "rtx2080ti-22gb"),
        ("Ryzen AI Max+ 395", "strix-halo"),
        ("RTX 4000 SFF Ada", "rtx4000-sff-ada"),
        # No card may pass for one with half of its bandwidth or memory.
        ("RTX 4090 Laptop GPU", None),
        ("RX 7900", None),
        ("R9700 XT", None),
        ("R9700XT", None),
        ("GB200 NVL72", "gb200"),
        ("xb200", None),
        ("L40", "l40"),
        ("RTX PRO 6000 48GB", None),
        ("RTX 5090 24GB", None),
        ("H100 94GB", None),
        ("NVIDIA GH200 480GB", "gh200"),
        ("A10 22.5 GB", "a10"),
        ("GTX 1060 3GB", None),
        ("RTX 3080 16GB Laptop GPU", None),
        ("RTX 2070 with Max-Q Design", None),
        ("NVIDIA RTX PRO 4000 Blackwell SFF Edition", None),
        ("A6000 Ada", None),
        ("A800", "a800"),
        ("NVIDIA H800", "h800"),
        # Unlike cards are none.
        ("RTX 3060 12GB + Tesla P100 16GB", None),
        ("R9700 + RX 9070 XT", None),
        ("R9700 + R9700", "r9700"),
        ("", None),
        ("\x1b[2J" * 10_000, None),
    ],
)
def test_a_card_is_found_by_the_name_that_people_write(name, card):
    assert named(sheet_of(name)) == card


def test_every_card_and_model_of_the_published_tables_is_known():
    """A reader of a published row must be able to ask about the cards that it names."""
    named = {(row.gpu, row.model) for row in pairs()}
    for gpu, model in named | {(row.gpu, row.model) for row in serving()}:
        assert sheet_of(gpu) or "+" in gpu, gpu
        assert model_called(model) or model == "27B", model


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Qwen3.8-27B-Heretic", "qwen3.8-27b"),
        ("Qwen3.5/3.6-35B-A3B (qwen35moe)", "qwen3.6-35b-a3b"),
        ("GLM-4-MoE 106B-A12B", "glm-4.5-air"),
        ("gemma4-31B", "gemma-4-31b"),
        ("gpt-oss:120b", "gpt-oss-120b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("Llama-3-8B", "llama-3-8b"),
        ("DeepSeek-R1-Distill-70B", "llama-3.3-70b"),
        ("DeepSeek-R1-0528", "deepseek-v3"),
        ("Qwen 3.8 27B", "qwen3.8-27b"),
        ("27B", None),
        ("MiniMax-M2.5-REAP-139B", None),
        # The size that a name says is the model's, in all or of a token.
        ("DeepSeek-R1-0528-Qwen3-8B", "qwen3-8b"),
        ("Mistral-Small-4-119B", None),
        ("Mistral-Small-3.2-24B-Instruct", "mistral-small-24b"),
        ("Llama-4-Scout-17B-16E-Instruct", "llama-4-scout"),
        ("DeepSeek-V3 685B", "deepseek-v3"),
        ("Phi-4-mini", None),
        ("GLM-4.6V-Flash", None),
        ("Llama-70B", None),
        ("Qwen3-80B", None),
        ("Qwen3.88-27B", None),
        ("", None),
    ],
)
def test_a_model_is_found_by_the_name_that_owners_write(name, model):
    assert named(model_called(name)) == model


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("GGUF UD-Q4_K_M", "q4_k_m"),
        ("Q6_K_L", "q6_k"),
        ("GGUF IQ2_XXS", "iq2_xxs"),
        ("AWQ INT4", "int4"),
        ("GPTQ Int4", "int4"),
        ("AWQ g32", "int4_g32"),
        ("AWQ INT8", "int8"),
        ("IQ4_KSS", "iq4_kss"),
        ("NF4", "nf4"),
        ("repo default (W4A16 AutoRound)", "int4"),
        ("INT8 W8A8", "int8"),
        ("EXL3 6.0bpw", "6.0bpw"),
        ("NVFP4 to MXFP4", "mxfp4"),
        ("FP8-Dynamic", "fp8"),
        ("BF16 (no suffix printed)", "bf16"),
        ("F16", "fp16"),
        # The size of the file says more than its type.
        ("GGUF Q3_K_M (13,115 MiB)", "13.752GB"),
        ("Q3_K_S, 50.63 GiB", "54.364GB"),
        ("42.5GB", "42.500GB"),
        # Two types at once, and none.
        ("FP8 + IQ4 experts", None),
        ("native checkpoint (format not printed)", None),
        ("unknown GGUF", None),
        ("", None),
        ("-4GB", None),
        ("0GB", None),
        ("0bpw", None),
    ],
)
def test_weights_are_read_from_owners_words(words, kind):
    """A W4A16 that passes for 16 bits would take four times the memory."""
    assert weights_called(words) == kind


def test_bits_are_those_of_the_words():
    assert bits_of("EXL3 6.0bpw") == 6
    assert bits_of("UD-Q4_K_XL") == BITS["q4_k_m"]
    assert 4 < bits_of("w4a16") < bits_of("q4_k_m") < bits_of("q5_k_m") < bits_of("q6_k")
    for words in CALLED["bits"]:
        assert bits_of(words) > 1, words


def test_data_sheets_are_whole_and_plausible():
    """A slip of the pen in one of so many lines would misplace a card by a factor."""
    for name, gpu in GPUS.items():
        assert gpu.slot in LINKS, name
        assert gpu.peer is None or gpu.peer in LINKS, name
        assert gpu.source, name
        # HBM and GDDR are read whole 3 to 90 times a second, LPDDR twice, cut cards more often.
        assert 2 <= gpu.bandwidth_gb_s / gpu.memory_gb < 190, name
        assert 4 < gpu.fp16_tflops < 2600, name
        assert gpu.fp8_tflops is None or 1.9 < gpu.fp8_tflops / gpu.fp16_tflops < 2.1, name
        assert gpu.tdp_w is not None, name
        assert 60 <= gpu.tdp_w <= 1400, name
        assert named(sheet_of(name)) == name, name
    for kind, known in (("gpus", GPUS), ("models", MODELS), ("bits", BITS)):
        assert {*CALLED[kind].values()} <= {*known}
        assert not {*CALLED[kind]} & {*known}


def test_cards_for_export_have_the_narrower_links():
    """As an H100's, an H800's all-reduce would be promised 2.25 times its bandwidth."""
    for name, like, both_ways in (("a800", "a100-80gb", 400), ("h800", "h100", 400)):
        card, usual = GPUS[name], GPUS[like]
        assert card.bandwidth_gb_s == usual.bandwidth_gb_s
        assert card.peer
        assert usual.peer
        assert LINKS[card.peer].gb_s == both_ways / 2 < LINKS[usual.peer].gb_s
    # NVIDIA prints 2375 AI TOPS for the RTX 5090 D, 3352 for the RTX 5090.
    cut, whole = GPUS["rtx5090d"], GPUS["rtx5090"]
    assert cut.fp16_tflops / whole.fp16_tflops == pytest.approx(2375 / 3352, rel=0.001)
    assert cut.bandwidth_gb_s == whole.bandwidth_gb_s


def test_models_have_the_parameters_that_their_cards_print():
    """Billions in all, and of a token, as published; a token reads one row of a table of
    embeddings, which is not counted everywhere."""
    published = {
        "llama-2-70b": (69, 69),
        "llama-3.2-3b": (3.21, 3.21),
        "qwen2.5-1.5b": (1.54, 1.54),
        "qwen3-235b-a22b": (235, 22),
        "qwen3.5-122b-a10b": (122, 10),
        "qwen3.5-397b-a17b": (397, 17),
        "qwen3.8-flash-next": (125, 6),
        "gpt-oss-120b": (116.8, 5.1),
        "gpt-oss-20b": (20.9, 3.6),
        "glm-4.5-air": (106, 12),
        "glm-4.5": (355, 32),
        "glm-5": (744, 40),
        "deepseek-v3": (671, 37),
        "deepseek-v4-flash": (284, 13),
        "kimi-k2": (1000, 32),
        "mistral-large-3": (675, 41),
        "llama-65b": (65.2, 65.2),
        "gemma-4-26b-a4b": (25.2, 3.8),
        "gemma-3-27b": (27, 27),
        "devstral-2-123b": (123, 123),
    }
    for name, (billions, active) in published.items():
        model = MODELS[name]
        table = 0 if model.tied is True else model.vocab * model.hidden
        active_parameters = model.active_share * model.parameters
        assert model.parameters / GB == pytest.approx(billions, rel=0.03), name
        low, high = (active_parameters - table) / GB, active_parameters / GB
        assert low / 1.05 <= active <= high * 1.05, name


def test_latent_attention_caches_a_latent_once_for_all_ranks():
    """Counted as keys and values of 128 heads, DeepSeek's cache would be 57 times as large."""
    deepseek = MODELS["deepseek-v3"]
    assert deepseek.kv_bytes_per_token == 61 * (512 + 64) * 2
    assert deepseek.global_kv_heads == 1
    assert MODELS["deepseek-v4-flash"].kv_bytes_per_token < deepseek.kv_bytes_per_token / 6


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("RTX 3060 12GB + Tesla P100 16GB", "are unlike cards"),
        ("rtx6090", "unknown GPU 'rtx6090': did you mean rtx"),
        ("Voodoo 2", "unknown GPU 'Voodoo 2', or give its figures, such as 32GB,640GB/s,191"),
        ("\x1b[31mr", "unknown GPU '?[31mr'"),
        ("<b>" * 99, "unknown GPU '<b><b>"),
    ],
)
def test_an_unknown_card_takes_one_sentence(name, sentence):
    with pytest.raises(ResultError) as refused:
        gpu_of(name)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_what_nobody_published_of_a_model_is_marked():
    assumed = {name for name, model in MODELS.items() if model.assumed}
    assert {"mistral-large-3", "devstral-2-123b"} <= assumed
    assert not {"deepseek-v3", "glm-4.7-flash"} & assumed
    for name in assumed:
        assert {*MODELS[name].assumed} <= {*ROWS[name]}


def test_of_many_known_names_the_nearest_are_listed(reports):
    """A list of all would hide what to do next."""
    status, text, error = reports("advise", "--model", "nope-27b", "--gpu", "r9700")
    assert (status, text) == (2, "")
    listed = error.partition("known names the nearest are ")[2].strip().split(", ")
    assert len(listed) == 5
    assert {*listed} <= {*MODELS}
