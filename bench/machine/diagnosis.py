"""What the doctor's facts mean: sentences on what stands between GPUs, the worst first, and the page that it prints.

Nothing is guessed: what is unknown says so, with what to run, and as whom, to learn it.
"""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from bench.machine.gpu_state import PEER_STATUS
from bench.machine.pci import AMD, gb_s, narrowest, said

Facts = dict[str, Any]
WIDTH = 100
SMALL_SHM_BYTES = 1 << 30
# What tells of a GPU where one of these facts is unknown.
LEARN = {
    "links": "links of GPU {}: as root on the host itself, lspci -vv, LnkSta of the GPU and of the ports above it",
    "card": "what the card of GPU {} can do: as root on the host itself, lspci -vv, LnkCap of the card",
    "slot": "what the slot of GPU {} can do: as root on the host itself, lspci -vv, LnkCap of the port above the card",
    "iommu": "IOMMU of GPU {}: as root on the host itself, dmesg | grep -i -e iommu -e dmar tells if it translates",
    "memory_bytes": "resizable BAR of GPU {}: as any user, nvidia-smi -q -d MEMORY; on AMD, as root, dmesg | grep BAR=",
    "nvlinks": "NVLink or xGMI from GPU {}: as any user, nvidia-smi nvlink -s; on AMD, amd-smi topology",
}


def findings(facts: Facts) -> Iterator[str]:
    """Sentences on what is amiss, the worst first."""
    gpus, pairs = facts["gpus"], facts["pairs"]
    yield from _peers_off(facts)
    yield from (f"Peer memory was refused: {refusal}." for refusal in facts["refusals"])
    for number, gpu in enumerate(gpus):
        yield from _nvlinks_down(number, gpus)
        yield from _narrow(number, gpu)
    for pair in pairs:
        reached, allowed = pair["gb_s"] or 0.0, _allowed_gb_s(facts, pair)
        if facts["peers"] == "mapped" and 0 < reached < allowed / 2:
            copies = f"GPU {pair['reader']} reads GPU {pair['owner']} at {reached:.1f} GB/s"
            yield f"{copies}, less than half of the {allowed:.1f} GB/s that the link allows."
    if ports := _acs_ports(facts, True):
        off = "; ".join(f"setpci -s {port} ECAP_ACS+6.w=0000" for port in ports)
        yield f"ACS at {', '.join(ports)} sends peers' traffic up to the CPU. Off, as root on the host itself: {off}."
    if any(pair["path"].startswith("PCIe") for pair in pairs) and any(gpu["iommu"] == "translating" for gpu in gpus):
        yield "The IOMMU translates what GPUs send: peers over PCIe may be refused, slow or wrong. Boot with iommu=pt."
    for number, gpu in enumerate(gpus):
        if _bar_is_small(gpu):
            shown = f"{gpu['bar_bytes'] >> 20} of its {gpu['memory_bytes'] >> 20} MiB"
            yield f"GPU {number} shows {shown} over PCIe: resizable BAR is off in the firmware, or the card has none."
    if (shm_bytes := facts["shm_bytes"] or SMALL_SHM_BYTES) < SMALL_SHM_BYTES:
        yield f"/dev/shm holds {shm_bytes >> 20} MiB, which NCCL and RCCL may outgrow: docker run --ipc=host."
    if facts["apart"]:
        yield "Ranks in IPC or PID namespaces of their own can map no memory: docker run --ipc=host --pid=host."


def _bar_is_small(gpu: Facts) -> bool:
    return bool(gpu["bar_bytes"] and gpu["memory_bytes"] and gpu["bar_bytes"] < gpu["memory_bytes"])


def _acs_ports(facts: Facts, redirects: bool | None) -> list[str]:
    return sorted({port for pair in facts["pairs"] for port, found in pair["acs"].items() if found is redirects})


def _allowed_gb_s(facts: Facts, pair: Facts) -> float:
    """What the slowest link of a pair's path allows, 0 where unknown; links above both are not on it."""
    reader, owner = (facts["gpus"][pair[end]]["links"] for end in ("reader", "owner"))
    if not (pair["path"].startswith("PCIe") and reader and owner):
        return 0.0
    return min((gb_s((reader | owner)[at]) for at in reader.keys() ^ owner.keys()), default=0.0)


def _peers_off(facts: Facts) -> Iterator[str]:
    """Why the driver gives no peer access, each reason with the pairs that it keeps apart."""
    reasons: dict[str, list[str]] = {}
    for pair in facts["pairs"]:
        if pair["status"] not in ("OK", "UNKNOWN"):
            reasons.setdefault(_why_not(facts, pair), []).append(f"{pair['reader']} to {pair['owner']}")
    yield from (f"No peer access from GPU {', '.join(pairs)}: {why}." for why, pairs in reasons.items())


def _why_not(facts: Facts, pair: Facts) -> str:
    """NVIDIA's driver says why. amdgpu makes peers of GPUs whose memory is all visible, in a kernel built for it, where
    that knows the path."""
    kernel, owner = facts["kernel"], facts["gpus"][pair["owner"]]
    if owner["vendor"] != AMD:
        letters, words = PEER_STATUS[pair["status"]]
        return f"{words} (nvidia-smi topo -p2p r: {letters})"
    if lacking := [f"CONFIG_{name}" for name in ("PCI_P2PDMA", "HSA_AMD_P2P") if kernel[name] == "n"]:
        return f"the kernel, or its amdgpu driver, is built without {' and '.join(lacking)}"
    if kernel.get("pcie_p2p") == "n":
        return "amdgpu was loaded with pcie_p2p=0"
    if _bar_is_small(owner):
        return "resizable BAR is off, and amdgpu wants all of the memory visible"
    if "unknown" in kernel.values():
        return ("why is unknown; as any user on the host itself, grep P2P /boot/config-$(uname -r) tells if the kernel "
                "can")
    return "why is unknown; as root, dmesg | grep -i p2p, for the kernel knows few root complexes that carry it"


def _nvlinks_down(number: int, gpus: Sequence[Facts]) -> Iterator[str]:
    links = gpus[number]["nvlinks"] or []
    if links and not any(link["up"] for link in links):
        yield f"GPU {number} has {len(links)} NVLinks and none is up: no bridge, or one that makes no contact."
        return
    names = {gpu["bus_id"]: f"GPU {other}" for other, gpu in enumerate(gpus)} | {"switch": "the switch"}
    for place, link in enumerate(links):
        if not link["up"]:
            far = names.get(link["to"], "an end that is unknown (as any user, nvidia-smi nvlink -R where it is up)")
            yield f"NVLink {place} between GPU {number} and {far} is down."


def _narrow(number: int, gpu: Facts) -> Iterator[str]:
    if not gpu["links"] or not gpu["card"]:
        return
    at = narrowest(gpu["links"])
    now, most, slot = (gb_s(rate) for rate in (gpu["links"][at], gpu["card"], gpu["slot"]))
    if now >= 0.9 * most:
        return
    if at != gpu["slot_at"]:
        why = f" The narrow link is that of {at}, above it."
    elif slot >= 0.9 * most:
        why = " The slot can do as much: reseat the card, look at the riser and the firmware's settings."
    else:
        why = f" The slot can do no more than {said(gpu['slot'])}." if slot else ""
    runs = f"runs {said(gpu['links'][at])}{' through the chipset' if gpu['chipset'] else ''}"
    times = f"32 MB takes about {float(f'{most / now:.2g}'):g} times as long"
    yield f"GPU {number} ({gpu['bus_id']}) {runs}, and the card can do {said(gpu['card'])}: {times}.{why}"


def unknowns(facts: Facts) -> Iterator[str]:
    """What could not be learned: what to run, as whom."""
    gpus, pairs, machine = facts["gpus"], facts["pairs"], facts["virtualisation"]
    if ports := ", ".join(_acs_ports(facts, None)):
        yield f"ACS at {ports}: as root on the host itself, lspci -vvv; ReqRedir+ sends peers' traffic up to the CPU"
    if any("unknown" in pair["path"] for pair in pairs):
        yield "the path between GPUs: as any user on the host itself, lspci -tv, and lstopo for the sockets"
    for key, sentence in LEARN.items():
        if of := [str(number) for number, gpu in enumerate(gpus) if gpu[key] is None]:
            yield sentence.format(", ".join(of))
    if not facts["peers"] and not facts["refusals"] and any(pair["status"] == "UNKNOWN" for pair in pairs):
        yield f"peer access: as any user, mpirun -n {len(gpus)} python -m bench.doctor, or nvidia-smi topo -p2p r"
    if machine not in ("none", "unknown") and gpus:
        yield f"what lies below this virtual machine ({machine}): as any user on its host, this command"


def summary(facts: Facts) -> list[str]:
    """At most four sentences for the head of a run, which tells of the peers' memory itself."""
    paths = dict.fromkeys(pair["path"] for pair in facts["pairs"])
    links = dict.fromkeys(" of the card's ".join(_links(gpu)[:2]) for gpu in facts["gpus"] if gpu["links"])
    found = [f"Between the GPUs: {'; '.join(paths)}."] if paths else []
    found += [f"Their links can come up to {'; '.join(links)}."] if links else []
    found += findings(facts | {"refusals": []})
    return found[:3] + ["python -m bench.doctor tells how to learn what is unknown."] * any(unknowns(facts))


def _links(gpu: Facts) -> list[str]:
    """The narrowest link, and the most that card and slot can do."""
    return [said(gpu["links"] and gpu["links"][narrowest(gpu["links"])]), said(gpu["card"]), said(gpu["slot"])]


def page(facts: Facts) -> str:
    """The report, in at most 100 columns."""
    gpus = [("GPU", "bus id", "name", "link", "card can", "slot can")]
    gpus += [(str(n), gpu["bus_id"], gpu["name"][:32], *_links(gpu)) for n, gpu in enumerate(facts["gpus"])]
    pairs = [("pair", "path", "peer memory", "reads at", "link allows")]
    for pair in facts["pairs"]:
        peer = facts["peers"] or {"OK": "allowed", "UNKNOWN": "unknown"}.get(pair["status"], "no")
        rates = [f"{rate:.1f} GB/s" if rate else "-" for rate in (pair["gb_s"], _allowed_gb_s(facts, pair))]
        pairs.append((f"{pair['reader']} reads {pair['owner']}", pair["path"], peer, *rates))
    lines = _table(gpus)
    if not any(pair["gb_s"] for pair in facts["pairs"]):
        lines.append("Links may idle now: this is what they can come up to. Under mpirun they are read under load.")
    lines += ["", *_table(pairs)] if facts["pairs"] else []
    for number, gpu in enumerate(facts["gpus"]):
        if copies := [f"{kind} {rate:.1f}" for kind, rate in gpu.get("copies_gb_s", {}).items()]:
            lines.append(f"Own copies of GPU {number}, both ways, GB/s: {', '.join(copies)}")
    for title, sentences in (("Amiss", [*findings(facts)]), ("Unknown", [*unknowns(facts)])):
        lines += ["", f"{title}:" if sentences else f"{title}: nothing"]
        for sentence in sentences:
            lines += textwrap.wrap(sentence, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
