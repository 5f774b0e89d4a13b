"""A card that its driver slows down during a run is named, also if it recovers before the end."""

import struct
from types import SimpleNamespace

import pytest

from bench.machine import gpu_watch
from bench.machine.gpu_watch import Look, look, watched
from tests.bench.machines import write
from tests.kernels.test_device_gpu import measured
from wiretax.record.schema import GpuState

AT = "0000:03:00.0"
FOLDER = f"sys/bus/pci/devices/{AT}"


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        # The driver counts: the card is well at each look.
        ("counts,rank1:slow=4", "(SwPowerCap for 1.2 s): other runs may be faster"),
        # Rank 0's is slow before the first block: the head says so.
        ("rank0:slow=1,rank1:slow=4", "(SwPowerCap in 1 of "),
    ],
)
def test_a_card_that_is_slow_in_the_middle_of_a_run_is_named_on_a_fake_gpu(
    tmp_path, monkeypatch, driver, words
):
    """Each round has one look, none within timed work; two come before the first block, of which
    the head has the first."""
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_NVML", driver)
    monkeypatch.setenv("FAKE_NVML_LOG", str(log))
    result, said = measured(tmp_path, "--device cuda -n 6 --algorithm ring,two_shot")
    assert result.end is not None
    rounds = max(block.round for block in result.blocks) + 1
    assert rounds > 2
    asked = log.read_text().split("\n")
    looks = asked.count("rank 1")
    assert asked.count("rank 0") == looks
    assert looks - rounds in (2, 3)  # the last round has none if time ran out in it
    assert len(result.blocks) > rounds

    named = [bool(gpu.throttled_s or gpu.throttled_looks) for gpu in result.end.gpus]
    assert named == [False, True]
    assert f"GPU 0000:61:00.0 of rank 1 was throttled during the run {words}" in said
    assert said.count("was throttled during") == 1

    last_w = 100 + 10 * looks
    gpu = result.end.gpus[1]
    start, end = (GpuState(clocks_mhz="1980/2619", power_w=each) for each in (120.0, last_w))
    assert (gpu.start, gpu.end) == (start, end)
    assert gpu.power_w == (130, (130 + last_w - 10) / 2, last_w - 10)
    assert ("throttled when the run began (SwPowerCap)" in said) == driver.startswith("rank0")
    assert f"1980/2619 MHz at the end; 120 W at the start, {last_w} W at the end; " in said
    assert result.end.power_w(result.run) == tuple(2 * each for each in gpu.power_w)


@pytest.mark.unit
def test_the_fake_driver_has_the_names_of_the_real_one():
    """A name that the package lacks would be an answer that never comes."""
    pynvml = pytest.importorskip("pynvml")
    for name in ("PowerUsage", "ClockInfo", "CurrentClocksEventReasons", "ViolationStatus"):
        assert callable(getattr(pynvml, f"nvmlDeviceGet{name}"))
    numbers = {name: getattr(pynvml, f"NVML_PERF_POLICY_{name}") for name in ("POWER", "THERMAL")}
    assert numbers == {"POWER": 0, "THERMAL": 1}
    assert (pynvml.NVML_PERF_POLICY_SYNC_BOOST, pynvml.NVML_PERF_POLICY_BOARD_LIMIT) == (2, 3)
    reason = "NVML_FI_DEV_CLOCKS_EVENT_REASON_{}"
    words = "SW_THERM_SLOWDOWN", "HW_THERM_SLOWDOWN", "HW_POWER_BRAKE_SLOWDOWN"
    numbers_of_fields = [getattr(pynvml, reason.format(word)) for word in words]
    assert numbers_of_fields == [*gpu_watch.FIELDS.values()]


def metrics(content: int, size: int, **words: tuple[int, int]) -> bytes:
    """gpu_metrics of version 1.`content`, with these words of 4 bytes, or 8 below `status`."""
    table = bytearray(size)
    struct.pack_into("<HBB", table, 0, size, 1, content)
    for name, (offset, word) in words.items():
        struct.pack_into("<Q" if name == "status" else "<I", table, offset, word)
    return bytes(table)


@pytest.fixture
def amd(tmp_path, machine, nvml):
    """A function that lays out a card with this table, and looks at it."""
    folders = iter(range(100))

    def looked(table: bytes, power: str = "315000000") -> Look:
        files: dict[str, str | bytes] = {
            "gpu_metrics": table,
            "hwmon/hwmon3/power1_average": power,
            "pp_dpm_sclk": "0: 500Mhz\n1: 2350Mhz *",
            "pp_dpm_mclk": "0: 96Mhz\n1: 1259Mhz *",
        }
        root = tmp_path / str(next(folders))
        machine(write(root, {f"{FOLDER}/{name}": text for name, text in files.items()}))
        return look(AT)

    return looked


@pytest.mark.unit
def test_amdgpus_counters_are_shares_of_the_firmwares_cycles(amd):
    """Of MI300 (1.6 to 1.8): the card is well at every look."""
    for content, first in ((6, 32), (7, 40), (8, 40)):

        def table(cycles, by_power, content=content, first=first):
            words = {"all": (first, cycles), "power": (first + 8, by_power)}
            return metrics(content, 1664, **words)

        looks = [amd(table(*each)) for each in ((2**32 - 500, 100), (400, 350), (500, 350))]
        looks = [each._replace(at_s=float(number)) for number, each in enumerate(looks)]
        assert looks[0].state == GpuState(clocks_mhz="2350/1259", power_w=315.0)
        gpu = watched(3, AT, looks)
        # 250 of 1,000 cycles in two seconds; the number of cycles overflowed.
        assert gpu.throttled_s == {"SocketPower": pytest.approx(0.5)}
        assert (gpu.rank, gpu.looks, gpu.throttled_looks) == (3, 2, {})
        # The driver began anew: nobody knows.
        assert watched(3, AT, [looks[1], amd(table(600, 5))]).throttled_s == {}


@pytest.mark.unit
def test_amdgpus_status_is_looked_at_where_nothing_counts(amd):
    well = metrics(3, 120, status=(112, 0))
    hot = metrics(3, 120, status=(112, 1 << 36 | 1 << 16))
    gpu = watched(0, AT, [amd(well), amd(hot), amd(well)])
    assert (gpu.throttled_s, gpu.looks) == ({}, 2)
    assert gpu.throttled_looks == {"Current": 1, "Thermal": 1}
    assert amd(well).throttle == []
    assert amd(metrics(2, 112, word=(68, 0x20))).throttle == ["status 0x20"]


@pytest.mark.unit
@pytest.mark.parametrize(
    "table",
    [
        b"",
        metrics(3, 120, status=(112, 2**64 - 1)),  # what the card does not tell
        metrics(3, 116),  # the table ends before
        metrics(9, 120),  # a version that nobody knows
        metrics(6, 1664, **{str(at): (at, 0xFFFFFFFF) for at in range(32, 56, 4)}),
    ],
)
def test_what_amdgpu_does_not_tell_is_unknown(amd, table):
    looks = [amd(table, power=""), amd(table, power="")]
    assert looks[1].throttle is None
    assert looks[1].state.power_w is None
    gpu = watched(0, AT, looks)
    assert (gpu.power_w, gpu.throttled_s, gpu.throttled_looks) == (None, {}, {})


@pytest.mark.unit
def test_nvidias_counters_of_heat_count_where_the_driver_has_them(nvml):
    """A driver that lacks a field answers for it with an error."""
    fake = nvml({AT: {}})
    counted_ns = {269: 0, 270: 0}

    def fields(gpu, numbers):
        return [
            SimpleNamespace(
                nvmlReturn=0 if number in counted_ns else 3,
                value=SimpleNamespace(ullVal=counted_ns.get(number, 7_000_000_000)),
            )
            for number in numbers
        ]

    fake.nvmlDeviceGetFieldValues = fields
    looks = [look(AT)]
    counted_ns |= {269: 10_000, 270: 2_500_000_000}
    gpu = watched(0, AT, [*looks, look(AT)])
    assert gpu.throttled_s == {"HwThermalSlowdown": 2.5}  # 10 us are a change of clocks
    assert gpu.start == GpuState()
