"""A record of bench.bits with a row whose bits change with the size, and one whose bits do not."""

from pathlib import Path

import msgspec

from wiretax.record.bits_record import Bits, Difference, Error, Part, RowBits, SizeBits, Threshold


def write_bits(folder: Path, orders: tuple[str, str] = ("0+1+2", "1+2+0")) -> Path:
    """Writes a record whose ring has these orders at its two sizes."""
    error = {"positive": Error(mean_ulp=0.3, right=0.8)}

    def row(algorithm: str, own: tuple[str, str]) -> RowBits:
        is_same = own[0] == own[1]
        sizes = [
            SizeBits(
                size_bytes=1024 << at,
                digest=f"{algorithm}-{order.replace('+', '-')}",
                parts=[Part(first=0, order=order)],
                compared={
                    "run": Difference(elements=1024),
                    "size": Difference(elements=256, differ=0 if is_same else 80, ulp=2),
                },
            )
            for at, order in enumerate(own)
        ]
        first = Threshold(size_bytes=1500, before=[own[0]], after=[own[1]])
        return RowBits(
            algorithm=algorithm,
            variant="copied",
            datatype="float32",
            sizes=sizes,
            thresholds=[] if is_same else [first],
            errors=error,
        )

    record = Bits(
        run_id="2026-11-27T20-00-00Z-bits-1a2b3c",
        version="0.1.0 (1a2b3c4)",
        argv=["-e", "2K"],
        collective="all_reduce",
        ranks=3,
        hosts=1,
        device="cpu",
        seed=0,
        data="drawn",
        machine_id="a1b2c3",
        software_id="d4e5f6",
        environment={},
        rows=[row("two_shot", ("0+1+2", "0+1+2")), row("ring", orders)],
        elapsed_s=1.0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.run_id}.bits.json"
    path.write_bytes(msgspec.json.encode(record))
    return path
