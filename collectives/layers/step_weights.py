"""The matrices of a step of `model_step`, drawn alike on all ranks, on a rank's device."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from collectives.collective import Array, Datatype
from collectives.layers import fused
from collectives.models import LAYERS, Model
from collectives.operation import World

SHIFT_ROWS = 37  # between the matrices of two layers, which have the same rows in another order
ROW_BLOCKS = 64  # of a matrix, encoded one after another: the whole needs several times its memory


@dataclass(frozen=True)
class Matrix:
    """Columns of a layer's matrix from `first` on, with the scale of each row at `row_scales`;
    activations every `stride` elements."""

    address: int
    row_scales: int
    first: int
    columns: int
    stride: int


@dataclass
class StepWeights:
    """The matrices that every split of a step multiplies: for each of `layers` layers one of each
    kind in LAYERS, (hidden, columns of all ranks), with the columns shrunk by `scale`. The first
    `held` layers are distinct; then they repeat. `uses_matmul`: the vendor's matmul, not our GEMV.
    Raises DeviceError.

    | attribute | value |
    |---|---|
    | `inner` | by layer, the columns of one rank |
    | `stored` | by layer, the encoded matrix that all layers of this kind rotate |
    | `row_scales` | by layer, the scale of each row of `stored`; 1 for floating point |
    | `shares` | this rank's columns of every matrix |
    | `stage` | the whole matrices of this rank's stage of a pipeline |"""

    world: World
    model: Model
    layers: int
    held: int
    scale: Fraction
    datatype: Datatype
    weight_type: Datatype
    uses_matmul: bool
    seed: int
    keep: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        # With this size of the elements the residual neither grows nor vanishes.
        self.numbers = range(len(LAYERS) * self.layers)  # of all matrices, in order
        rank, ranks = self.world.rank, self.world.ranks
        self.inner = {layer: self.model.columns(layer, ranks, self.scale) for layer in LAYERS}
        self.draw()
        self.norm_weight = self.store(np.ones(self.model.hidden))
        of_stage = len(self.numbers) // ranks
        stage = self.numbers[rank * of_stage : (rank + 1) * of_stage]
        self.shares = self.hold(self.numbers, rank, 1)
        self.stage = self.hold(stage if ranks > 1 else (), 0, ranks)

    def draw(self) -> None:
        """Draws all ranks' columns of a matrix of each layer, the same on every rank."""
        generator, hidden = np.random.default_rng(self.seed), self.model.hidden
        self.stored, self.row_scales = dict[str, Array](), dict[str, Array]()
        for layer, inner in self.inner.items():
            columns = self.world.ranks * inner
            matrix = generator.standard_normal((hidden, columns), np.float32)
            matrix /= np.float32(np.sqrt(columns))
            scales = np.ones(hidden, np.float32)
            if not self.weight_type.is_float:
                largest = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))
                scales = largest / np.float32(127) * fused.row_factors(hidden, self.seed)
            self.row_scales[layer] = scales
            blocks = (np.array_split(each, ROW_BLOCKS) for each in (matrix, scales[:, None]))
            self.stored[layer] = np.vstack([*map(self.encode_rows, *blocks)])

    def encode_rows(self, rows: Array, scales: Array) -> Array:
        """Rows of a matrix as they are stored, divided by their scales."""
        is_float = self.weight_type.is_float
        return self.weight_type.encode(rows if is_float else np.rint(rows / scales))

    def store(self, values: Array) -> int:
        """The address of these values on the device, as they travel between ranks."""
        return self.on_device(self.datatype.encode(values))

    def on_device(self, array: Array) -> int:
        memory = self.world.device.store(array)
        self.keep.append(memory)
        return memory.address

    def hold(self, numbers: Sequence[int], first: int, ranks: int) -> list[Matrix]:
        """Matrices on the device, with the columns of `ranks` ranks from rank `first` on."""
        period, matrices = len(LAYERS) * self.held, dict[int, Matrix]()
        for number in sorted({number % period for number in numbers}):
            layer = self.layer(number)
            start, columns = first * self.inner[layer], ranks * self.inner[layer]
            part = self.stored[layer][:, start : start + columns]
            rotation = self.rotation(number)
            matrices[number] = Matrix(
                self.on_device(np.roll(part, rotation, axis=0)),
                self.on_device(np.roll(self.row_scales[layer], rotation)),
                start,
                columns,
                self.stride(layer),
            )
        return [matrices[number % period] for number in numbers]

    def layer(self, number: int) -> str:
        return LAYERS[number % len(LAYERS)]

    def rotation(self, number: int) -> int:
        """The number of rows by which a matrix is rotated against `stored`."""
        return number % (len(LAYERS) * self.held) * SHIFT_ROWS % self.model.hidden

    def stride(self, layer: str) -> int:
        return max(self.model.hidden, self.world.ranks * self.inner[layer])
