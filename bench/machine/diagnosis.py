"""Explains the facts of GPUs in sentences, for the page of `bench.doctor` and the head of a run. It
guesses nothing: for an unknown fact the page names the command, and if that needs root."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, product
from operator import itemgetter
from string import ascii_lowercase, ascii_uppercase

from bench.machine.best_group import group_facts, limit_gb_s
from bench.machine.gpu_state import PEER_STATUS, Facts
from bench.machine.pci import AMD, ONE_ROOT_COMPLEX, ROOTLESS_PATHS, describe_rate, gb_s, narrowest
from bench.machine.remedies import PASSTHROUGH, through_host
from kernels.devices.gpu_driver import LEGACY_IPC
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, RUN, on_ranks

WIDTH = 100
SMALL_SHM_BYTES = 1 << 30
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
MOST_NAMED = 12  # pairs, by their numbers: those of four GPUs; ports
LETTERS = ascii_uppercase + ascii_lowercase  # of the kinds of pairs
MOST_ALIKE = 2  # GPUs with a sentence each
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
    yield from facts["obstacles"]
    yield from _of_each(facts, _lost)
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
    yield from _of_each(facts, partial(_narrow_link, is_loaded=bool(facts["wire"])))
    yield from _slow_paths(facts)
    yield from _of_each(facts, _of_virtual_machine)
    for number, gpu in gpus:
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
    yield from _of_each(facts, _small_bar)
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
        yield f"No peer access from GPU {_ends_text(pairs, ' to ')}: {reason}."
    if any("refuses peer access" in refusal for refusal in facts["refusals"]):
        refused = facts["pairs"]
    rootless = [
        pair
        for pair in refused
        if pair["path"] in ROOTLESS_PATHS and pair["reader"] < pair["owner"]
    ]
    if rootless:
        yield (
            f"The PCIe paths of GPU {_ends_text(rootless, ' and ')} share no root complex, and peer"
            " access across root complexes is refused: move a card (lspci -tv shows the slots), or"
            f" {through_host(facts)}."
        )
    if facts["legacy_ipc"] and not facts["peers"] and not facts["refusals"]:
        yield (
            f"{LEGACY_IPC} is set, and hipIpcGetMemHandle then fails without AMD's own driver"
            f" module: unset {LEGACY_IPC}."
        )


def numbers_text(numbers: Iterable[int]) -> str:
    """Ascending numbers, such as `0, 1, 4-7`."""
    runs = list[list[int]]()
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def _ends_text(pairs: Sequence[Facts], joint: str) -> str:
    """The numbers of a few pairs; of many, each reader with its owners, and readers of the same
    owners together."""
    if len(pairs) <= MOST_NAMED:
        return ", ".join(f"{pair['reader']}{joint}{pair['owner']}" for pair in pairs)
    owners = {
        reader: sorted(pair["owner"] for pair in own)
        for reader, own in grouped(pairs, itemgetter("reader")).items()
    }
    everyone = sorted({*owners}.union(*owners.values()))
    if all(owners.get(one) == [other for other in everyone if other != one] for one in everyone):
        return f"{numbers_text(everyone)}, each{joint}each"
    alike = grouped(owners, lambda reader: tuple(owners[reader]))
    return "; ".join(
        f"{numbers_text(readers)}{joint}{numbers_text(owned)}" for owned, readers in alike.items()
    )


def _refusal(facts: Facts, pair: Facts) -> str:
    """NVIDIA's driver gives the reason; AMD's must be built for it, and needs a full-size BAR and a
    CPU that forwards between its root ports."""
    owner = facts["gpus"][pair["owner"]]
    if owner["vendor"] != AMD:
        status = pair["status"]
        reason = f"{PEER_STATUS[status]} (nvidia-smi topo -p2p r: {status})"
        if "GeForce" in owner["name"]:
            reason += (
                f". It offers none between GeForce cards, PRO cards have it: {through_host(facts)}"
            )
        return reason
    if refusal := AMDGPU_REFUSALS.get(facts["amdgpu_p2p"]):
        return refusal
    if _bar_is_small(owner):
        return "resizable BAR is off, and amdgpu needs a BAR of the whole memory"
    if pair["path"] == ONE_ROOT_COMPLEX and facts["forwards"] is False:
        ports = " and ".join(sorted(pair["acs"]))
        return (
            f"they are below different root ports, {ports}, and Linux lets peers cross these only"
            " on AMD's CPUs from Zen on and on listed Xeons (drivers/pci/p2pdma.c): put both below"
            f" one switch, or {through_host(facts)}"
        )
    return "the reason is unknown; as root on the host run dmesg | grep -i p2p"


def _bar_is_small(gpu: Facts) -> bool:
    return bool(gpu["bar_bytes"]) and gpu["bar_bytes"] < (gpu["memory_bytes"] or 0)


def _of_each(facts: Facts, said_of: Callable[[Facts], Iterable[str]]) -> Iterator[str]:
    """What is said of each GPU, one sentence for many of which the same is said."""
    numbers: dict[str, list[int]] = {}
    for number, gpu in enumerate(facts["gpus"]):
        for said in said_of(gpu):
            numbers.setdefault(said, []).append(number)
    for said, alike in numbers.items():
        if len(alike) > MOST_ALIKE:
            yield f"Each of GPU {numbers_text(alike)} {said}"
        else:
            for number in alike:
                yield f"GPU {number} ({facts['gpus'][number]['bus_id']}) {said}"


def _lost(gpu: Facts) -> Iterator[str]:
    if gpu["lost_at"]:
        yield (
            f"is lost: the configuration space of {gpu['lost_at']} reads as ones. It has fallen off"
            " the bus or has no power: see dmesg, check power cables and riser, and restart the"
            " machine."
        )


def _of_virtual_machine(gpu: Facts) -> Iterator[str]:
    if gpu["driver"] == VM_DRIVER:
        yield (
            f"is bound to {VM_DRIVER}: it belongs to a virtual machine. Run the doctor there too,"
            " and compare the BAR addresses."
        )


def _small_bar(gpu: Facts) -> Iterator[str]:
    if _bar_is_small(gpu):
        share = f"{gpu['bar_bytes'] >> 20} of its {gpu['memory_bytes'] >> 20} MiB"
        yield f"shows {share} over PCIe: resizable BAR is off or not supported."


def _narrow_link(gpu: Facts, is_loaded: bool) -> Iterator[str]:
    """The link of a GPU that is slower than its card, with the cause if the facts show it."""
    if not gpu["links"]:
        return
    device = narrowest(gpu["links"])
    rate, claimed = gpu["link"], gpu["links"].get(gpu["slot_at"])
    if is_loaded and gpu["now"] and gb_s(gpu["now"]) < 0.9 * gb_s(claimed):
        yield (
            f"runs at {_shown(gpu, 'now')} under load, where both"
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
        f"runs at {describe_rate(rate)}, its card supports {describe_rate(gpu['card'])}: 32 MB"
        f" takes about {card_gb_s / link_gb_s:.3g} times as long.{cause}"
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
            "The IOMMU translates GPU traffic: peer access may be refused, slow or wrong:"
            f" {PASSTHROUGH}."
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
    if ports := [*chain(*_acs_ports(facts, None))]:
        more = len(ports) - MOST_NAMED
        named = ", ".join(ports[:MOST_NAMED]) + (f" and {more} more ports" if more > 0 else "")
        yield f"ACS at {named}: run lspci -vvv as root on the host (ReqRedir+ means on)"
    if any("unknown" in pair["path"] for pair in pairs):
        yield "path between GPUs: run lspci -tv on the host, and lstopo for the sockets"

    def is_unknown(gpu: Facts, key: str) -> bool:
        return gpu[key] is None and not gpu["lost_at"]

    for key, sentence in ADVICE.items():
        if numbers := numbers_text(n for n, gpu in enumerate(gpus) if is_unknown(gpu, key)):
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
        sentences.append(f"Some facts are unknown: {RUN}{BENCH}doctor says how to get them.")
    return sentences


def page(facts: Facts) -> str:
    """The page of the doctor, at most 100 columns wide."""
    lines = list[str]()
    for columns in (LINKS, SLOTS, CARDS):
        cells = [tuple(_shown(gpu, key) for key in columns) for gpu in facts["gpus"]]
        numbers = grouped(range(len(cells)), cells.__getitem__)
        rows = [[numbers_text(alike), *row] for row, alike in numbers.items()]
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
    if facts["pairs"]:
        lines += ["", *_pairs_lines(facts)]
    if facts["left_out"]:
        lines += ["", section("GPUs", facts["left_out"])]
    if facts["uncached"]:
        lines += ["", section("Memory", [f"{facts['uncached']}; the probe judges it."])]
    if facts["graphs"]:
        lines += ["", section("Graphs", [facts["graphs"]])]
    if facts["bindings"]:
        lines += ["", section("Bindings", [facts["bindings"]])]
    instead = "; ranks go through host memory" if facts["peers"] == "host_staged" else ""
    refused = [f"Peer memory was refused: {refusal}{instead}." for refusal in facts["refusals"]]
    for title, sentences in (
        ("Problems", [*refused, *problems(facts)]),
        ("Unknown", unknowns(facts)),
    ):
        lines += ["", section(title, sentences)]
    return "\n".join(lines)


def _pairs_lines(facts: Facts) -> list[str]:
    """A table of few pairs; of many, a table of their kinds, and if these are several, a matrix
    from reader (row) to owner (column)."""
    statuses = {"OK": "allowed", "unknown": "unknown"}

    def kind_of(pair: Facts) -> tuple[str, str, str]:
        peers = facts["peers"] or statuses.get(pair["status"], "no")
        limit = limit_gb_s(facts, pair)
        return pair["path"], peers, f"{limit:.1f} GB/s" if limit else "-"

    columns, pairs = ("path", "peer memory", "link limit"), facts["pairs"]
    if len(pairs) <= MOST_NAMED:
        rows = [[f"{pair['reader']} reads {pair['owner']}", *kind_of(pair)] for pair in pairs]
        return _table("pair", *columns, rows=rows)

    kinds = grouped(pairs, kind_of)
    letters = dict(zip(kinds, LETTERS, strict=False))
    rows = [[letters.get(kind, "?"), str(len(own)), *kind] for kind, own in kinds.items()]
    lines = _table("kind", "pairs", *columns, rows=rows)
    if len(kinds) == 1:
        return lines
    count = len(facts["gpus"])
    cells = [["-"] * count for _ in range(count)]
    for kind, own in kinds.items():
        for pair in own:
            cells[pair["reader"]][pair["owner"]] = letters.get(kind, "?")
    numbers = grouped(range(count), lambda reader: tuple(cells[reader]))
    joint = " " if count <= WIDTH // 3 else ""
    tens, ones = (joint.join(f"{n:>2}"[digit] for n in range(count)) for digit in (0, 1))
    title = "GPU reads GPU"
    matrix = [("", tens), (title, ones)] if count > 10 else [(title, ones)]
    matrix += [(numbers_text(own), joint.join(row)) for row, own in numbers.items()]
    return [*lines, "", *(f"{name:{len(title)}}  {row}" for name, row in matrix)]


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
