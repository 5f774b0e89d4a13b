"""A whole step as a case, checked before it is timed: once against float64, and from then on bit by
bit against its first result."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.harness.iteration import Iteration, consume_step, nothing
from bench.harness.session import Session
from bench.harness.suite import Suite, Traced
from bench.harness.verify import WrongResult
from bench.layers.traced_steps import reason_against, with_notes
from collectives.binding import run_sequence
from collectives.collective import Array
from collectives.layers.model_step import TokenBatch
from collectives.operation import Bound, Operation
from kernels.devices.device import WRONG_BYTES, Pattern, Step
from wiretax.record.schema import CaseHeader

# Of a token's error / the result, both as root mean squares: 160 sums are rounded, and the residual
# after each: 0.63 of this at most in simulations. A step that lacks one of 160 layers is off by
# 0.08.
TOLERANCE = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.06}
# The largest error of an element, in TOLERANCE: rounding made at most 2.0 in 655,360 simulated
# bfloat16 elements of 160 sums, 2.5 in measured ones. An element whose row is 0 lacks about its
# whole size.
LARGEST = 4.0
Form = tuple[str, str]  # an algorithm, or a fused kernel, and its variant


@dataclass(frozen=True)
class StepCases:
    """Adds steps of one batch to a suite. All ranks call each method. Raises WrongResult."""

    session: Session
    batch: TokenBatch
    shape: Mapping[str, Any]
    suite: Suite

    @property
    def scale(self) -> float:
        """The ratio of a whole step to the timed layers."""
        return self.batch.weights.model.layers / self.batch.weights.layers

    def prepare(self, initial: Mapping[int, Array]) -> Step:
        """Stores these values at their addresses."""
        weights = self.batch.weights
        writes = [
            self.probe("copy_local", weights.store(values), address, values.size)
            for address, values in initial.items()
        ]
        return self.session.world.device.sequence(writes)

    def probe(self, entry: str, send: int, receive: int, count: int) -> Step:
        case = replace(self.batch.norm_case(), send=send, receive=receive)
        return consume_step(self.session.world, case, entry, count)

    def add(
        self,
        algorithm: str,
        bound: Bound,
        prepare: Step,
        end: tuple[int, Array] | None = None,
        checked: Operation | None = None,
        **facts: Any,
    ) -> None:
        """Adds a split, whose step begins with `prepare`. `end`, None on a rank without a result,
        is where the first one lies, and what it must be within the rounding. `checked` is what to
        check instead, if `bound` computes only a part."""
        header = CaseHeader(
            collective=self.session.options.command,
            shape=dict(self.shape),
            size_bytes=self.batch.size_bytes,
            count=self.batch.count,
            datatype=self.batch.weights.datatype.name,
            redop="sum",
            algorithm=algorithm,
            memory=self.session.world.memory,
            **facts,
        )
        if isinstance(bound, Operation):
            self.suite.add(header, self.checked(algorithm, bound, prepare, end, checked))
        else:
            self.suite.add(header, bound)

    def trace(
        self,
        form: Form,
        operations: Sequence[Bound],
        prepare: Step,
        end: tuple[int, Array],
        how: str = "",
    ) -> None:
        """Adds the parts of the last case, as these operations: a product, an all-reduce of this
        form and a norm in turn."""
        number, world = len(self.suite.headers) - 1, self.session.world
        plain, (noted, times) = run_sequence(world, operations), with_notes(world, operations)
        if not (isinstance(plain, Operation) and isinstance(noted, Operation)):
            return
        name = world.library.name if form[0] == "library" else plain.choice or form[0]
        iteration = self.checked(f"{name} with notes", noted, prepare, end)
        iteration.number = number
        without = replace(iteration, operation=plain)
        reason = reason_against(world, noted)
        traced = Traced(number, f"{name} {form[1]}{how}", without, iteration, times, reason)
        self.suite.traced.append(traced)

    def checked(
        self,
        algorithm: str,
        bound: Operation,
        prepare: Step,
        end: tuple[int, Array] | None,
        checked: Operation | None = None,
    ) -> Iteration:
        """The iteration of a split, as `add` has it, whose first result is right. Raises
        WrongResult."""
        weights, world, device = self.batch.weights, self.session.world, self.session.world.device
        size_bytes, datatype = self.batch.size_bytes, weights.datatype
        self.session.flight.note("check the step", text=algorithm)
        text, wrong = f"{algorithm} {size_bytes} B", device.private(WRONG_BYTES)
        check = consume = nothing(world)
        mistake = None
        device.caller(prepare)()
        world.communicator.barrier()
        device.caller((checked or bound).step)()
        if world.watch.timed_out:
            self.session.watchdog.wait_for_end()
        world.communicator.barrier()
        if end:
            result, expected = end
            # A copy of the first result, which every later one must equal.
            first = device.private(expected.size * datatype.size_bytes)
            weights.keep.append(first)
            device.caller(self.probe("copy_local", result, first.address, expected.size))()
            stored: Array = first.read().view(datatype.storage)[: expected.size]
            values = datatype.decode(stored).reshape(expected.shape)
            if wrong_part := complaint_of(values, expected, TOLERANCE[datatype.name]):
                mistake = f"{text} {wrong_part}, so it is not timed"
            consume = self.probe("read_own", result, result, expected.size)
            if checked is None:
                pattern = Pattern(
                    result,
                    first.address,
                    1,
                    first.size_bytes,
                    first.size_bytes,
                    1,
                    datatype.size_bytes,
                    wrong.address,
                    ctypes.addressof(world.watch),
                )
                blocks = device.blocks_for(first.size_bytes)
                check = device.loop_step("count_wrong", pattern, blocks)
        if complaint := world.communicator.first_reason(mistake):
            raise WrongResult(complaint)
        return Iteration(
            text,
            prepare,
            bound,
            consume,
            check,
            wrong=None if checked or algorithm == "compute" else wrong,
            n_checked=expected.size if end else 0,
            scale=self.scale,
            keep=[weights, wrong],
        )


def complaint_of(values: Array, expected: Array, tolerance: float) -> str | None:
    """What is wrong with the residual after a step, (tokens, hidden); None if it is right within
    the rounding. The rounding of an element grows with its size and with that of all others."""
    errors, mean_square = values - expected, np.mean(expected**2)
    of_token = np.sqrt(np.max(np.mean(errors**2, axis=-1)) / mean_square)
    if not of_token <= tolerance:
        return f"is off by {of_token:.2g} of its result's root mean square"
    of_elements = np.abs(errors) / np.sqrt(mean_square + expected**2)
    token, element = np.unravel_index(np.argmax(of_elements), of_elements.shape)
    at = token, element
    if not of_elements[at] <= LARGEST * tolerance:
        return f"has {values[at]:.3g} as element {element} of token {token}, not {expected[at]:.3g}"
    return None
