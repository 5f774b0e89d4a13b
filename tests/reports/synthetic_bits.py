"""Records of bench.bits: with a row whose bits change with the size, and one whose bits do not; and
of layers, whose bits one form keeps at any number of ranks."""

from pathlib import Path
from typing import Any

import msgspec

from wiretax.record.bits_record import (
    BatchBits,
    Bits,
    Difference,
    Error,
    LayerBits,
    Part,
    RowBits,
    SizeBits,
    Threshold,
    TpBits,
)

TOKENS = 1, 2, 5, 8
HIDDEN = 4096
ONE_ORDER = "8 parts of 1792, each 64 chains, then halves; parts pairs"


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
                    "size": Difference(
                        elements=256,
                        differ=0 if is_same else 80,
                        ulp=2,
                    ),
                },
            )
            for at, order in enumerate(own)
        ]
        first = Threshold(
            size_bytes=1500,
            before=[own[0]],
            after=[own[1]],
        )
        return RowBits(
            algorithm=algorithm,
            variant="copied",
            datatype="float32",
            sizes=sizes,
            thresholds=[] if is_same else [first],
            errors=error,
        )

    record = bits_of(rows=[row("two_shot", ("0+1+2", "0+1+2")), row("ring", orders)])
    return written(record, folder)


def write_layers(folder: Path, tps: tuple[int, ...] = (1, 2, 4)) -> Path:
    """Writes a record of two layers at these numbers of ranks. `fused_stable` keeps its bits,
    `fused` has others at each, and rounds the parts of a batch of 8."""

    def form(
        layer: str,
        inner: int,
        algorithm: str,
    ) -> LayerBits:
        is_stable = algorithm == "fused_stable"
        order = ONE_ORDER if is_stable else "256 chains, then halves"

        def at(ranks: int) -> TpBits:
            keeps = is_stable or ranks == 1
            if not keeps:
                order_here = f"each rank: {order}; ranks {'+'.join(map(str, range(ranks)))}"
            digest = f"{layer}-{algorithm}" + ("" if keeps else f"-{ranks}")
            return TpBits(
                ranks=ranks,
                batches=[batch(tokens, f"{digest}-{tokens}", ranks, keeps) for tokens in TOKENS],
                orders={str(tokens): order if keeps else order_here for tokens in TOKENS},
                rounds_parts=not is_stable,
                causes=[] if keeps else ["product", "rounding"],
            )

        return LayerBits(
            layer=layer,
            model="llama-3.1-8b",
            hidden=HIDDEN,
            inner=inner,
            weights="float16",
            algorithm=algorithm,
            variant="copied",
            datatype="float16",
            tps=[at(ranks) for ranks in tps],
        )

    def batch(
        tokens: int,
        digest: str,
        ranks: int,
        keeps: bool,
    ) -> BatchBits:
        elements, differ = tokens * HIDDEN, 0 if keeps else tokens * HIDDEN // 4
        compared = {"run": Difference(elements=elements)}
        if ranks > 1:
            compared["tp"] = Difference(elements=elements, differ=differ, ulp=2 * (differ > 0))
        if tokens > 1:
            compared["batch"] = Difference(elements=HIDDEN)
        return BatchBits(
            tokens=tokens,
            digest=digest,
            compared=compared,
        )

    shapes = ("attention_output", 4096), ("mlp_down", 14336)
    layers = [form(*shape, name) for name in ("fused", "fused_stable") for shape in shapes]
    record = bits_of(
        layers=layers,
        collective="gemv_allreduce",
        ranks=max(tps),
        argv=["--model", "llama-3.1-8b"],
    )
    return written(record, folder)


def bits_of(**fields: Any) -> Bits:
    """A record with these fields, and otherwise those of a launch of three ranks."""
    usual: dict[str, Any] = {
        "run_id": "2026-11-27T20-00-00Z-bits-1a2b3c",
        "version": "0.1.0 (1a2b3c4)",
        "argv": ["-e", "2K"],
        "collective": "all_reduce",
        "ranks": 3,
        "hosts": 1,
        "device": "cpu",
        "seed": 0,
        "data": "drawn",
        "machine_id": "a1b2c3",
        "software_id": "d4e5f6",
        "environment": {},
        "rows": [],
        "elapsed_s": 1.0,
    }
    return Bits(**(usual | fields))


def written(record: Bits, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.run_id}.bits.json"
    path.write_bytes(msgspec.json.encode(record))
    return path
