"""Explains the facts of GPUs in sentences, for the page of `bench.doctor` and the head of a run. It
guesses nothing: for an unknown fact the page names the command, and if that needs root."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, product
from operator import itemgetter

from bench.machine.best_group import group_facts, limit_gb_s
from bench.machine.gpu_state import PEER_STATUS, Facts
from bench.machine.pci import AMD, ONE_ROOT_COMPLEX, ROOTLESS_PATHS, describe_rate, gb_s, narrowest
from kernels.devices.gpu_driver import LEGACY_IPC
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, RUN, on_ranks

WIDTH = 100
SMALL_SHM_BYTES = 1 << 30
THROUGH_HOST = f"measure through the host, first with {RUN}{BENCH}tune --memory host_staged"
# The command that shows a fact of a GPU, if the fact is unknown.
ADVICE = {
    "slot": "PCIe links of GPU {}: run lspci -vv as root on the host (LnkSta and LnkCap of the GPU"
    " and the ports above it)",
    "target": "target speed above GPU {}: run lspci -vvv as root on the host (LnkCtl2 of the port)",
    "atomics": "PCIe AtomicOps of GPU {}: run lspci -vvv as root on the host (AtomicOpsCap of the"
    " ports above)",
    "errors": "PCIe errors of GPU {}: run dmesg | grep -i aer as root on the host",
    "iommu": "IOMMU of GPU {}: run dmesg | grep -i -e iommu -e dmar as root on the host",
    "memory_bytes": "resizable BAR of GPU {}: run nvidia-smi -q -d MEMORY, or for AMD"
    " dmesg | grep BAR= as root",
    "nvlinks": "NVLink or xGMI of GPU {}: run nvidia-smi nvlink -s, or for AMD amd-smi topology",
}
VM_DRIVER = "vfio-pci"
MOST_SKEW = 1.1  # of the ranks' own copies
# The columns of the page's tables, by fact.
LINKS = {
    "bus_id": "bus id",
    "name": "name",
    "link": "link",
    "card": "card maximum",
    "slot": "slot maximum",
}
SLOTS = {
    "driver": "driver",
    "now": "link now",
    "bar": "BAR at",
    "bar_bytes": "BAR size",
    "iommu": "IOMMU",
    "atomics": "AtomicOps",
    "errors": "PCIe errors",
}
CARDS = {
    "arch": "kind",
    "memory_bytes": "memory",
    "memory_vendor": "its maker",
    "vbios": "VBIOS",
    "ecc": "ECC",
    "cap_w": "power cap in W",
    "clocks_mhz": "MHz now",
}
HANGS = "NCCL has hung between PRO cards (NVIDIA/nccl issue 2079, vllm-project/vllm issue 51513)"
AMDGPU_REFUSALS = {
    "not built": "amdgpu is built without CONFIG_HSA_AMD_P2P",
    "N": "amdgpu was loaded with pcie_p2p=0",
}


def problems(facts: Facts) -> Iterator[str]:
    """A sentence for each problem, the worst first, apart from refused peer memory."""
    gpus = list(enumerate(facts["gpus"]))
    yield from _refused_peers(facts)
    names = {gpu["bus_id"]: f"GPU {number}" for number, gpu in gpus} | {"switch": "the switch"}
    instead = _pair_instead(facts)
    for number, gpu in gpus:
        down = [
            f"{index} (to {names.get(link['to'], 'an unknown end')})"
            for index, link in enumerate(gpu["nvlinks"] or [])
            if not link["up"]
        ]
        if down:
            yield (
                f"NVLinks of GPU {number} are down: {', '.join(down)}; check the bridge, and"
                f" nvidia-smi nvlink -R. {instead}"
            )
    for number, gpu in gpus:
        if gpu["links"]:
            yield from _narrow_link(number, gpu, bool(facts["wire"]))
    yield from _slow_paths(facts)
    for number, gpu in gpus:
        if gpu["driver"] == VM_DRIVER:
            yield (
                f"GPU {number} is bound to {VM_DRIVER}: it belongs to a virtual machine. Run the"
                " doctor there too, and compare the BAR addresses."
            )
        if gpu["vendor"] == AMD and gpu["atomics"] is False:
            yield (
                f"PCIe AtomicOps of GPU {number} end at {gpu['refusing'] or 'a port above it'}:"
                " RCCL's kernels that declare hostcall do not start (the operation cannot be"
                " performed in the present state: ROCm issue 6520). Use a slot of the CPU; in a"
                " virtual machine, pass the card without its audio function."
            )
    missing = ", ".join(f"CONFIG_{name}" for name, has in facts["kernel"].items() if has is False)
    if missing and any(gpu["driver"] == "amdgpu" for _, gpu in gpus):
        yield f"This kernel lacks {missing}: AMD's GPUs are no peers over PCIe then."
    if errors := [f"{count} {kind}" for kind, count in facts["errors"].items() if count]:
        yield f"PCIe errors since the boot (AER): {', '.join(errors)}; check riser and slot."
    for number, gpu in gpus:
        if _bar_is_small(gpu):
            share = f"{gpu['bar_bytes'] >> 20} of its {gpu['memory_bytes'] >> 20} MiB"
            yield f"GPU {number} shows {share} over PCIe: resizable BAR is off or not supported."
    kinds = grouped((gpu for gpu in facts["gpus"] if gpu["arch"]), itemgetter("arch"))
    if len(kinds) > 1:
        each = "; ".join(f"{_shown(alike[0], 'arch')}: {len(alike)}" for alike in kinds.values())
        yield (
            f"GPUs of unlike kinds are here ({each}): benchmarks use the commonest kind, or with"
            " --mixed-gpus all GPUs, at the pace of the slowest."
        )
    yield from _differences(facts)
    if (shm_bytes := facts["shm_bytes"]) and shm_bytes < SMALL_SHM_BYTES:
        yield (
            f"/dev/shm holds {shm_bytes >> 20} MiB, NCCL and RCCL may need more:"
            " docker run --ipc=host."
        )


def _pair_instead(facts: Facts) -> str:
    """Which GPUs to split a model over while a link is down."""
    alone = "one GPU alone where the model fits"
    for group in group_facts(facts, 2)[:1]:
        if group["path"].startswith("NVLink"):
            names = " and ".join(map(str, group["gpus"]))
            return f"Until then split over GPU {names} ({group['path']}), or use {alone}."
    return f"Until then use {alone}."


def _differences(facts: Facts) -> Iterator[str]:
    """What differs between cards of one name, as far as known, and between their own copies."""
    gpus = facts["gpus"]
    cards = dict.fromkeys((gpu["name"], gpu["arch"]) for gpu in gpus)
    for card, key in product(cards, [*CARDS][1:-1]):
        owners: dict[str, list[str]] = {}
        for number, gpu in enumerate(gpus):
            if (gpu["name"], gpu["arch"]) == card and gpu[key] is not None:
                owners.setdefault(_shown(gpu, key), []).append(str(number))
        if len(owners) > 1:
            each = "; ".join(f"{value} on GPU {', '.join(on)}" for value, on in owners.items())
            yield f"Cards of one name differ in {CARDS[key]}: {each}."
    own_gb_s = facts["wire"].own_gb_s if facts["wire"] else [1]
    if max(own_gb_s) > MOST_SKEW * min(own_gb_s):
        each = ", ".join(f"{gb_s:.3g}" for gb_s in own_gb_s)
        yield (
            f"Ranks differ apart from the link: copies of 4 MiB in their own memory run at {each}"
            " GB/s. Compare power caps, clocks and cooling."
        )


def _shown(gpu: Facts, key: str) -> str:
    """A fact of a GPU in a table."""
    value = gpu[key]
    if key == "arch" and gpu["integrated"]:
        return f"{value or 'unknown'}, integrated"
    if key.endswith("bytes") and value:
        return f"{value >> 20} MiB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, tuple):
        return describe_rate(value)
    return str(value)[:32]


def _refused_peers(facts: Facts) -> Iterator[str]:
    """The driver's reasons, each with its pairs; pairs without a common root complex; variables."""
    refused = [pair for pair in facts["pairs"] if pair["status"] not in ("OK", "unknown")]
    for reason, pairs in grouped(refused, partial(_refusal, facts)).items():
        names = ", ".join(f"{pair['reader']} to {pair['owner']}" for pair in pairs)
        yield f"No peer access from GPU {names}: {reason}."
    if any("refuses peer access" in refusal for refusal in facts["refusals"]):
        refused = facts["pairs"]
    rootless = [
        f"{pair['reader']} and {pair['owner']}"
        for pair in refused
        if pair["path"] in ROOTLESS_PATHS and pair["reader"] < pair["owner"]
    ]
    if rootless:
        yield (
            f"The PCIe paths of GPU {', '.join(rootless)} share no root complex, and peer access"
            " across root complexes is refused: move a card (lspci -tv shows the slots), or"
            f" {THROUGH_HOST}."
        )
    if facts["legacy_ipc"] and not facts["peers"] and not facts["refusals"]:
        yield (
            f"{LEGACY_IPC} is set, and hipIpcGetMemHandle then fails without AMD's own driver"
            f" module: unset {LEGACY_IPC}."
        )


def _refusal(facts: Facts, pair: Facts) -> str:
    """NVIDIA's driver gives the reason; AMD's must be built for it, and needs a full-size BAR and a
    CPU that forwards between its root ports."""
    owner = facts["gpus"][pair["owner"]]
    if owner["vendor"] != AMD:
        status = pair["status"]
        reason = f"{PEER_STATUS[status]} (nvidia-smi topo -p2p r: {status})"
        if "GeForce" in owner["name"]:
            reason += f". It offers none between GeForce cards, PRO cards have it: {THROUGH_HOST}"
        return reason
    if refusal := AMDGPU_REFUSALS.get(facts["amdgpu_p2p"]):
        return refusal
    if _bar_is_small(owner):
        return "resizable BAR is off, and amdgpu needs a BAR of the whole memory"
    if pair["path"] == ONE_ROOT_COMPLEX and not facts["forwards"]:
        ports = " and ".join(sorted(pair["acs"]))
        return (
            f"they are below different root ports, {ports}, and Linux lets peers cross these only"
            " on AMD's CPUs from Zen on and on listed Xeons (drivers/pci/p2pdma.c): put both below"
            f" one switch, or {THROUGH_HOST}"
        )
    return "the reason is unknown; as root on the host run dmesg | grep -i p2p"


def _bar_is_small(gpu: Facts) -> bool:
    return bool(gpu["bar_bytes"]) and gpu["bar_bytes"] < (gpu["memory_bytes"] or 0)


def _narrow_link(number: int, gpu: Facts, is_loaded: bool) -> Iterator[str]:
    """The link of a GPU that is slower than its card, with the cause if the facts show it."""
    device = narrowest(gpu["links"])
    rate, claimed = gpu["link"], gpu["links"].get(gpu["slot_at"])
    if is_loaded and gpu["now"] and gb_s(gpu["now"]) < 0.9 * gb_s(claimed):
        yield (
            f"GPU {number} ({gpu['bus_id']}) runs at {_shown(gpu, 'now')} under load, where both"
            f" ends claim {describe_rate(claimed)}: reseat the card, check the riser."
        )
    link_gb_s, card_gb_s = gb_s(rate), gb_s(gpu["card"])
    if link_gb_s >= 0.9 * card_gb_s:  # or the card is unknown
        return
    cause = ""
    if device != gpu["slot_at"]:
        cause = f" The narrow link is above the slot, at {device}."
    elif gpu["target"] == rate[0] < min(gpu["card"][0], (gpu["slot"] or gpu["card"])[0]):
        cause = " The port above holds it at this speed (LnkCtl2): set the slot to automatic in the"
        cause += " BIOS."
    elif gb_s(gpu["slot"]) >= 0.9 * card_gb_s:
        cause = " The slot supports more: reseat the card, check riser and firmware settings."
    elif gpu["slot"]:
        cause = f" The slot supports {describe_rate(gpu['slot'])} at most."
    if device != gpu["bus_id"] and gb_s(gpu["own"]) > link_gb_s:
        cause += (
            f" That is the link of {device}, above the GPU, which itself shows"
            f" {describe_rate(gpu['own'])}."
        )
    yield (
        f"GPU {number} ({gpu['bus_id']}) runs at {describe_rate(rate)}, its card"
        f" supports {describe_rate(gpu['card'])}: 32 MB takes about"
        f" {card_gb_s / link_gb_s:.3g} times as long.{cause}"
    )


def _slow_paths(facts: Facts) -> Iterator[str]:
    """ACS and the IOMMU, which redirect or translate peer traffic."""
    switch_ports, root_ports = _acs_ports(facts, True)
    for ports, place, harm in (
        (switch_ports, "", "up to the CPU"),
        (root_ports, "root ports ", f"through the IOMMU, where {HANGS}"),
    ):
        if ports:
            commands = "; ".join(f"setpci -s {port} ECAP_ACS+6.w=0000" for port in ports)
            yield (
                f"ACS at {place}{', '.join(ports)} sends peer traffic {harm}. To turn it off, run"
                f" as root on the host: {commands}."
            )
    over_pcie = any(pair["path"].startswith("PCIe") for pair in facts["pairs"])
    if over_pcie and any(gpu["iommu"] == "translating" for gpu in facts["gpus"]):
        yield (
            "The IOMMU translates GPU traffic: peer access may be refused, slow or wrong. Boot"
            " with iommu=pt."
        )


def _acs_ports(facts: Facts, state: bool | None) -> tuple[list[str], list[str]]:
    """The ports of switches, and the root ports where the IOMMU translates, with this state of ACS
    redirection; None stands for unknown."""
    of_switches, of_roots = set[str](), set[str]()
    translates = any(gpu["iommu"] == "translating" for gpu in facts["gpus"])
    for pair in facts["pairs"]:
        ports = {port for port, redirects in pair["acs"].items() if redirects is state}
        if pair["path"] != ONE_ROOT_COMPLEX:
            of_switches |= ports
        elif translates:
            of_roots |= ports
    return sorted(of_switches), sorted(of_roots)


def unknowns(facts: Facts) -> Iterator[str]:
    """The unknown facts, each with the command that shows it and the user that may run it."""
    gpus, pairs, hypervisor = facts["gpus"], facts["pairs"], facts["virtualisation"]
    if ports := ", ".join(chain(*_acs_ports(facts, None))):
        yield f"ACS at {ports}: run lspci -vvv as root on the host (ReqRedir+ means on)"
    if any("unknown" in pair["path"] for pair in pairs):
        yield "path between GPUs: run lspci -tv on the host, and lstopo for the sockets"
    for key, sentence in ADVICE.items():
        if numbers := ", ".join(str(n) for n, gpu in enumerate(gpus) if gpu[key] is None):
            yield sentence.format(numbers)
    tested = facts["peers"] or facts["refusals"]
    if not tested and any(pair["status"] == "unknown" for pair in pairs):
        yield f"peer access: run {on_ranks(len(gpus), 'doctor')}, or nvidia-smi topo -p2p r"
    if gpus and hypervisor not in ("none", "unknown"):
        yield (
            f"the host of this virtual machine ({hypervisor}): run {RUN}{BENCH}doctor there, and"
            " compare the BAR addresses: without ACS redirection they must be the same"
        )
    if None in facts["kernel"].values() and any(gpu["vendor"] == AMD for gpu in gpus):
        names = "|".join(facts["kernel"])
        yield f"options of the kernel: run zgrep -E '{names}' /boot/config-* /proc/config.gz"


def summary(facts: Facts) -> list[str]:
    """At most four sentences for the head of a run, which reports refused peer memory itself."""
    paths = dict.fromkeys(pair["path"] for pair in facts["pairs"])
    links = dict.fromkeys(
        f"{_shown(gpu, 'link')} (card maximum: {_shown(gpu, 'card')})"
        for gpu in facts["gpus"]
        if gpu["link"]
    )
    sentences = [f"Between the GPUs: {'; '.join(paths)}."] if paths else []
    sentences += [f"GPU links at full speed: {'; '.join(links)}."] if links else []
    sentences = [*sentences, *problems(facts)][:3]
    if any(unknowns(facts)):
        sentences.append(f"Some facts are unknown: {RUN}{BENCH}doctor tells how to get them.")
    return sentences


def page(facts: Facts) -> str:
    """The page of the doctor, at most 100 columns wide."""
    lines = list[str]()
    for columns in (LINKS, SLOTS, CARDS):
        rows = [
            [str(number), *(_shown(gpu, key) for key in columns)]
            for number, gpu in enumerate(facts["gpus"])
        ]
        lines += [*_table("GPU", *columns.values(), rows=rows), ""]
    now = "under load" if facts["wire"] else "at rest"
    lines.append(f"link: full speed of both ends; now: {now}; {BENCH}link measures each pair")
    if facts["wire"]:
        wire = facts["wire"]
        reads = f"{wire.read_gb_s:.3g} GB/s" if wire.read_gb_s else "not routed"
        speed = f"stores {wire.store_gb_s:.3g} GB/s, reads {reads}"
        if wire.round_trip_ns:
            trip = f"a flag there and back {wire.round_trip_ns / 1e3:.3g} us"
            speed = f"each rank with all others: {speed}, {trip}"
        else:  # a rank without a partner
            speed = f"within the memory of one GPU: {speed}"
        lines.append(speed)
    statuses = {"OK": "allowed", "unknown": "unknown"}
    pairs = [
        (
            f"{pair['reader']} reads {pair['owner']}",
            pair["path"],
            facts["peers"] or statuses.get(pair["status"], "no"),
            f"{limit:.1f} GB/s" if (limit := limit_gb_s(facts, pair)) else "-",
        )
        for pair in facts["pairs"]
    ]
    if pairs:
        lines += ["", *_table("pair", "path", "peer memory", "link limit", rows=pairs)]
    if facts["left_out"]:
        lines += ["", section("GPUs", facts["left_out"])]
    if facts["uncached"]:
        lines += ["", section("Memory", [f"{facts['uncached']}; the probe judges it."])]
    if facts["graphs"]:
        lines += ["", section("Graphs", [facts["graphs"]])]
    if facts["bindings"]:
        lines += ["", section("Bindings", [facts["bindings"]])]
    refused = [f"Peer memory was refused: {refusal}." for refusal in facts["refusals"]]
    for title, sentences in (
        ("Problems", [*refused, *problems(facts)]),
        ("Unknown", unknowns(facts)),
    ):
        lines += ["", section(title, sentences)]
    return "\n".join(lines)


def section(title: str, sentences: Iterable[str]) -> str:
    """A list of sentences below its title."""
    items = [
        textwrap.fill(
            sentence, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
        )
        for sentence in sentences
    ]
    return "\n".join([f"{title}:", *items]) if items else f"{title}: none"


def _table(*titles: str, rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (titles, *rows)]
