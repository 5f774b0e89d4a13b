"""What the doctor's facts mean: sentences on what stands between GPUs, the worst first, and the page that it prints.

Nothing is guessed: what is unknown says so, with what to run, and as whom, to learn it.
"""

import textwrap
from typing import Any

from bench.gpu_state import PEER_STATUS
from bench.topology import FIRST_NAMESPACES, gb_s, said

Facts = dict[str, Any]
WIDTH = 100
REDIRECTS = {"ReqRedir", "CmpltRedir"}  # of ACS: peers' traffic goes up to the CPU
SMALL_SHM_BYTES = 1 << 30
STATUS_WORDS = {
    "CHIPSET_NOT_SUPPORTED": "NVIDIA's driver does not list this chipset or root complex as fit for peers",
    "GPU_NOT_SUPPORTED": "NVIDIA's driver gives this GPU no peer access, as most GeForce cards",
    "IOH_TOPOLOGY_NOT_SUPPORTED": "NVIDIA's driver refuses peers across this topology",
    "DISABLED_BY_REGKEY": "a registry key disables it (RegistryDwords in /proc/driver/nvidia/params)",
    "NOT_SUPPORTED": "the driver does not support it",
}


def findings(facts: Facts) -> list[str]:
    """Sentences on what is amiss, the worst first."""
    gpus, host = facts["gpus"], facts["host"]
    found = [*_peers_off(facts), *(f"Peer memory was refused: {refusal}." for refusal in facts["refusals"])]
    found += _nvlinks_down(gpus)
    found += [sentence for number, gpu in enumerate(gpus) if (sentence := _narrow(number, gpu))]
    for pair in facts["pairs"]:
        reached, allowed = pair["gb_s"], pair["link_gb_s"]
        if reached and allowed and facts["peers"] == "mapped" and reached < allowed / 2:
            found.append(
                f"GPU {pair['reader']} reads GPU {pair['owner']} at {reached:.1f} GB/s, less than half of the "
                f"{allowed:.1f} GB/s that the link allows."
            )
    if ports := sorted(
        {port for pair in facts["pairs"] for port, acs in pair["acs"].items() if REDIRECTS & {*(acs or ())}}
    ):
        found.append(
            f"ACS at {', '.join(ports)} sends what goes between these GPUs up to the CPU instead of across the switch: "
            "turn it off in the firmware, or until the next boot, as root, "
            f"{'; '.join(f'setpci -s {port} ECAP_ACS+6.w=0000' for port in ports)}."
        )
    over_pcie = any(pair["path"].startswith("PCIe") for pair in facts["pairs"])
    if over_pcie and any(gpu["iommu"] == "translating" for gpu in gpus):
        found.append(
            "The IOMMU translates what GPUs send: over PCIe, peers may be refused, slow or wrong. Boot with iommu=pt, "
            "or turn the IOMMU off in the firmware."
        )
    for number, gpu in enumerate(gpus):
        if gpu["bar_bytes"] and gpu["memory_bytes"] and gpu["bar_bytes"] < gpu["memory_bytes"]:
            found.append(
                f"GPU {number} shows {gpu['bar_bytes'] >> 20} of its {gpu['memory_bytes'] >> 20} MiB over PCIe: "
                "resizable BAR is off, or the card has none. Turn it on in the firmware, with decoding above 4G."
            )
    if host["denied"]:
        found.append(
            f"{'; '.join(host['denied'])}. Docker gives them with --gpus all, or for AMD --device /dev/kfd "
            "--device /dev/dri --group-add video --group-add render."
        )
    if host["shm_bytes"] and host["shm_bytes"] < SMALL_SHM_BYTES:
        own = "This container's own" if host["ipc"] not in (None, FIRST_NAMESPACES["ipc"]) else "The"
        found.append(
            f"{own} /dev/shm holds {host['shm_bytes'] >> 20} MiB, and NCCL and RCCL run out of it where they go "
            "through the host: docker run --ipc=host, or --shm-size=1g."
        )
    if facts["apart"]:
        found.append(
            "Ranks are in IPC or PID namespaces of their own, across which no memory can be mapped: start them in one "
            "container, or each with docker run --ipc=host --pid=host."
        )
    return found


def _peers_off(facts: Facts) -> list[str]:
    """Why the driver gives no peer access, each reason with the pairs that it keeps apart."""
    reasons: dict[str, list[str]] = {}
    for pair in facts["pairs"]:
        if pair["status"] not in ("OK", "UNKNOWN"):
            amd = facts["gpus"][pair["reader"]]["vendor"] == "amd"
            smi = f"{STATUS_WORDS[pair['status']]} (nvidia-smi topo -p2p r: {PEER_STATUS[pair['status']]})"
            reasons.setdefault(_why_not_amd(facts, pair) if amd else smi, []).append(
                f"{pair['reader']} to {pair['owner']}"
            )
    return [f"No peer access from GPU {', '.join(pairs)}: {why}." for why, pairs in reasons.items()]


def _why_not_amd(facts: Facts, pair: Facts) -> str:
    """amdgpu makes peers of GPUs whose memory is all visible, in a kernel built for it, where that knows the path."""
    kernel, owner = facts["host"]["kernel"], facts["gpus"][pair["owner"]]
    lacking = [f"CONFIG_{name}" for name in ("PCI_P2PDMA", "HSA_AMD_P2P") if kernel[name] == "n"]
    if lacking:
        return f"the kernel, or its amdgpu driver, is built without {' and '.join(lacking)}"
    if kernel.get("pcie_p2p") == "n":
        return "amdgpu was loaded with pcie_p2p=0"
    if (owner["bar_bytes"] or 0) < (owner["memory_bytes"] or 0):
        return "resizable BAR is off, and amdgpu wants all of the memory visible"
    if "unknown" in kernel.values():
        return "why is unknown; on the host itself, grep P2P /boot/config-$(uname -r) tells if the kernel can"
    return "why is unknown; as root, dmesg | grep -i p2p, for the kernel knows few root complexes that carry it"


def _nvlinks_down(gpus: list[Facts]) -> list[str]:
    numbers = {gpu["bus_id"]: f"GPU {number}" for number, gpu in enumerate(gpus)}
    found, bare, unknown = [], [], []
    for number, gpu in enumerate(gpus):
        down = [(link, at["to"]) for link, at in enumerate(gpu["nvlinks"]) if not at["up"]]
        if down and len(down) == len(gpu["nvlinks"]):
            bare.append(
                f"GPU {number} has {len(down)} NVLinks and none is up: no bridge, or one that makes no contact."
            )
            continue
        for link, to in down:
            if far := numbers.get(to, "the switch" if to == "switch" else ""):
                found.append(f"NVLink {link} between GPU {number} and {far} is down.")
            else:
                unknown.append(f"{link} of GPU {number}")
    if unknown:
        found.append(
            f"NVLinks are down: {', '.join(unknown)}. Their other ends are unknown; nvidia-smi nvlink -R tells them on "
            "a machine of this kind whose links are up."
        )
    return found + bare


def _narrow(number: int, gpu: Facts) -> str | None:
    if not gpu["link"] or not gpu["card_most"]:
        return None
    now, most, slot = gb_s(*gpu["link"]), gb_s(*gpu["card_most"]), gb_s(*gpu["slot_most"])
    if now >= 0.9 * most:
        return None
    sentence = (
        f"GPU {number} ({gpu['bus_id']}) runs {said(*gpu['link'])}{' through the chipset' if gpu['chipset'] else ''}, "
        f"and the card can do {said(*gpu['card_most'])}: 32 MB takes about {most / now:.2g} times as long."
    )
    if gpu["link_at"] != gpu["slot_at"]:
        return f"{sentence} The narrow link is that of {gpu['link_at']}, above it."
    if slot >= 0.9 * most:
        return f"{sentence} The slot can do as much: reseat the card, look at the riser and the firmware's settings."
    return f"{sentence} The slot can do no more than {said(*gpu['slot_most'])}." if slot else sentence


def unknowns(facts: Facts) -> list[str]:
    """What could not be learned, and what tells."""
    gpus, machine = facts["gpus"], facts["host"]["virtualisation"]
    hidden = dict.fromkeys(port for pair in facts["pairs"] for port, acs in pair["acs"].items() if acs is None)
    found = [f"ACS at {port}: as root on the host itself, setpci -s {port} ECAP_ACS+6.w" for port in hidden]
    if any("unknown" in pair["path"] for pair in facts["pairs"]):
        found.append("the path between GPUs: on the host itself, lspci -tv, and lstopo for the sockets")
    for number, gpu in enumerate(gpus):
        if not gpu["link"]:
            found.append(f"the link of GPU {number}: as root on the host itself, lspci -vv -s {gpu['bus_id']}")
    if any(gpu["iommu"] == "unknown" for gpu in gpus):
        found.append("whether the IOMMU translates: as root on the host itself, dmesg | grep -i -e iommu -e dmar")
    if not facts["peers"] and not facts["refusals"] and any(p["status"] == "UNKNOWN" for p in facts["pairs"]):
        found.append(
            "whether the driver makes peers of them: mpirun -n 2 python -m bench.doctor, or nvidia-smi topo -p2p r"
        )
    if machine not in ("none", "unknown") and gpus:
        found.append(f"what lies below this virtual machine ({machine}): this command on its host")
    return found


def summary(facts: Facts) -> list[str]:
    """At most four sentences for the head of a run: the paths, the links, the peers, and the worst of what is amiss."""
    paths = dict.fromkeys(pair["path"] for pair in facts["pairs"])
    found = [f"Between the GPUs: {'; '.join(paths)}."] if paths else []
    links = dict.fromkeys(
        f"{_of(gpu['link'])} of the card's {_of(gpu['card_most'])}" for gpu in facts["gpus"] if gpu["link"]
    )
    found.append(f"Their links{' under load' if facts['under_load'] else ''}: {'; '.join(links) or 'unknown'}.")
    if facts["peers"]:
        found.append(f"Peer memory is {facts['peers']}, probed byte by byte in every direction.")
    return found + findings(facts)[: 4 - len(found)]


def _of(link: list[float] | None) -> str:
    return said(link[0], int(link[1])) if link else "unknown"


def page(facts: Facts) -> str:
    """The report, in at most 100 columns."""
    lines = [f"{'GPU':5}{'bus id':14}{'name':33}{'link':16}{'card can':16}slot can"]
    for number, gpu in enumerate(facts["gpus"]):
        link = "".join(f"{_of(gpu[key]):16}" for key in ("link", "card_most", "slot_most"))
        lines.append(f"{number:<5}{gpu['bus_id']:14}{gpu['name'][:32]:33}{link}".rstrip())
    if not facts["under_load"]:
        lines.append("Links idle: shown is what they can come up to. Under mpirun they are read under load.")
    if facts["pairs"]:
        lines += ["", f"{'pair':12}{'path':44}{'peer access':13}{'reads at':12}link allows"]
    for pair in facts["pairs"]:
        peer = facts["peers"] or {"OK": "allowed", "UNKNOWN": "unknown"}.get(pair["status"], "no")
        rates = "".join(f"{f'{rate:.1f} GB/s' if rate else '-':12}" for rate in (pair["gb_s"], pair["link_gb_s"]))
        lines.append(f"{pair['reader']} reads {pair['owner']:<4}{pair['path']:44}{peer:13}{rates}".rstrip())
    for number, gpu in enumerate(facts["gpus"]):
        if copies := [f"{rate:.0f} GB/s {kind}" for kind, rate in gpu.get("copies_gb_s", {}).items()]:
            lines.append(f"GPU {number} copies within itself, read and written: {', '.join(copies)}")
    for title, sentences in (("Amiss", findings(facts)), ("Unknown", unknowns(facts))):
        lines += ["", f"{title}:" if sentences else f"{title}: nothing"]
        for sentence in sentences:
            lines += textwrap.wrap(sentence, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)
