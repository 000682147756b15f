# Numba and llvmlite are untyped, and what they decorate takes other arguments than it declares.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false
"""Tiles of products and transposes in vector registers, written as LLVM instructions.

See docs/mathematics.md, Products over register tiles. A compiler turns plain loops into vector
instructions that reach about half of what the processor can do here, and a call of BLAS costs more
than a small product. There is one tile for every shape that a matrix can leave at its edges. They
take addresses, and strides counted in numbers; nothing is checked.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from flossing.compiled.compiler import TILE

_INDEX = ir.IntType(64)
_LANE = ir.IntType(32)
# A shape as one number, by which to branch: width · base + height. Any base beyond the largest
# height will do.
_SHAPE_BASE = 64


class _Product(NamedTuple):
    """The arguments of `multiply_tile`."""

    height: Any
    width: Any
    left: Any
    left_row_stride: Any
    left_depth_stride: Any
    right: Any
    right_stride: Any
    product: Any
    product_stride: Any
    depth: Any
    scale: Any
    add: Any


@intrinsic  # pyright: ignore[reportUntypedFunctionDecorator]
def multiply_tile(
    typing_context: Any,
    height: Any,
    width: Any,
    left: Any,
    left_row_stride: Any,
    left_depth_stride: Any,
    right: Any,
    right_stride: Any,
    product: Any,
    product_stride: Any,
    depth: Any,
    scale: Any,
    add: Any,
) -> Any:
    """Set P[r, c] to scale · Σ_l L[r, l] R[l, c], or add that.

    The height is a power of two up to `TILE.rows`, the width, in vector registers, from 1 to
    `TILE.vectors`. R and P are contiguous along their rows. The type of `scale` is that of the
    matrices.
    """
    index = types.intp
    signature = types.void(*(index,) * 10, scale, types.boolean)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = _Product(*arguments)
        element = context.get_value_type(scale)
        pointers = [
            builder.inttoptr(address, element.as_pointer())
            for address in (given.left, given.right, given.product)
        ]
        given = given._replace(left=pointers[0], right=pointers[1], product=pointers[2])
        # One branch into code that knows its shape: the numbers of rows and of registers must be
        # constants for the sums to be registers. With powers of two as heights there are twelve.
        done = builder.append_basic_block("done")
        shape = builder.add(builder.mul(given.width, _index(_SHAPE_BASE)), given.height)
        choice = builder.switch(shape, done)
        for rows in (1 << power for power in range(TILE.rows.bit_length())):
            for vectors in range(1, TILE.vectors + 1):
                block = builder.append_basic_block(f"tile_{rows}_{vectors}")
                choice.add_case(_index(vectors * _SHAPE_BASE + rows), block)
                builder.position_at_end(block)
                _ProductWriter(builder, element, scale.bitwidth // 8, rows, vectors).write(given)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # pyright: ignore[reportUntypedFunctionDecorator]
def transpose_tile(
    typing_context: Any,
    matrix: Any,
    stride: Any,
    rows: Any,
    result: Any,
    result_stride: Any,
    number: Any,
) -> Any:
    """Copy the transpose of one square block, as wide as a vector register.

    T[c, r] = M[min(r, rows − 1), c]: what is beyond the last row repeats it. The type of `number`
    is that of the matrices.
    """
    index = types.intp
    signature = types.void(*(index,) * 5, number)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        matrix, stride, rows, result, result_stride, _ = arguments
        element = context.get_value_type(number)
        writer = _VectorWriter(builder, element, number.bitwidth // 8)
        source, target = (
            builder.inttoptr(address, element.as_pointer()) for address in (matrix, result)
        )
        last = builder.sub(rows, _index(1))
        block: list[Any] = []
        for lane in range(writer.lanes):
            # The rows that are not there may lie outside of the memory that the matrix has.
            beyond = builder.icmp_signed(">", _index(lane), last)
            row = builder.select(beyond, last, _index(lane))
            block.append(writer.load(builder.gep(source, [builder.mul(row, stride)])))
        for lane, vector in enumerate(_transposed(builder, block)):
            start = builder.mul(_index(lane), result_stride)
            writer.store(vector, builder.gep(target, [start]))
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # pyright: ignore[reportUntypedFunctionDecorator]
def pointer_to(typing_context: Any, address: Any, number: Any) -> Any:
    """Return an address as a pointer to numbers of the type of `number`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(number)(types.intp, number), generate


def _transposed(builder: Any, block: list[Any]) -> list[Any]:
    """Return the registers that hold the columns of a square block, given those of its rows."""
    # Recursively, [A B; C D]ᵀ = [Aᵀ Cᵀ; Bᵀ Dᵀ]. From the inside out: at stage s the off-diagonal
    # s×s blocks of every 2s×2s block are exchanged, for s = 1, 2, 4 … Register i and register
    # i + s, where bit s of i is zero, exchange the lanes of i whose bit s is one with the lanes of
    # i + s whose bit s is zero. That is two shuffles a pair, lanes · log₂(lanes) in all, against
    # lanes² for single numbers. A mask says for each lane of the result which lane it takes, of
    # the first register (0 … lanes − 1) or the second (from `lanes` on).
    lanes = len(block)
    step = 1
    while step < lanes:
        upper = [lanes + lane - step if lane & step else lane for lane in range(lanes)]
        lower = [lanes + lane if lane & step else lane + step for lane in range(lanes)]
        masks = [ir.Constant(ir.VectorType(_LANE, lanes), mask) for mask in (upper, lower)]
        exchanged = list(block)
        for lane in range(lanes):
            if not lane & step:
                pair = block[lane], block[lane + step]
                exchanged[lane] = builder.shuffle_vector(*pair, masks[0])
                exchanged[lane + step] = builder.shuffle_vector(*pair, masks[1])
        block = exchanged
        step *= 2
    return block


class _VectorWriter:
    """Writes loads, stores and broadcasts of whole vector registers."""

    def __init__(self, builder: Any, element: Any, size: int) -> None:
        self.builder = builder
        self.size = size
        self.lanes = TILE.vector_bytes // size
        self.vector = ir.VectorType(element, self.lanes)

    def place(self, pointer: Any, part: int = 0) -> Any:
        """Return a pointer to the register's worth of numbers that is `part` registers on."""
        moved = self.builder.gep(pointer, [_index(part * self.lanes)])
        return self.builder.bitcast(moved, self.vector.as_pointer())

    def load(self, pointer: Any, part: int = 0) -> Any:
        """Return that many numbers."""
        # Aligned to a single number only: blocks may start at any column. On processors with AVX an
        # unaligned load costs nothing unless it crosses a cache line.
        return self.builder.load(self.place(pointer, part), align=self.size)

    def store(self, value: Any, pointer: Any, part: int = 0) -> None:
        """Put that many numbers there."""
        self.builder.store(value, self.place(pointer, part), align=self.size)

    def broadcast(self, value: Any) -> Any:
        """Return a number in all lanes."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first_everywhere = ir.Constant(ir.VectorType(_LANE, self.lanes), [0] * self.lanes)
        single = self.builder.insert_element(undefined, value, ir.Constant(_LANE, 0))
        return self.builder.shuffle_vector(single, undefined, first_everywhere)


class _ProductWriter(_VectorWriter):
    """Writes a tile of a product of one shape."""

    def __init__(self, builder: Any, element: Any, size: int, height: int, width: int) -> None:
        super().__init__(builder, element, size)
        self.height = height
        self.width = width
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def write(self, given: _Product) -> None:
        """Write the whole tile."""
        # P[r, c] = [P[r, c] +] scale · Σ_l L[r, l] R[l, c]. The product is read after the sum, so
        # it may share memory with R as long as other tiles do not need what this one overwrites.
        sums = self._sums(given)
        scale = self.broadcast(given.scale)
        scaled = [[self.builder.fmul(scale, value) for value in row] for row in sums]
        adding, storing, done = map(self.builder.append_basic_block, ("add", "store", "stored"))
        self.builder.cbranch(given.add, adding, storing)
        for block, add in ((adding, True), (storing, False)):
            self.builder.position_at_end(block)
            self._store(scaled, given, add)
            self.builder.branch(done)
        self.builder.position_at_end(done)

    def _sums(self, given: _Product) -> list[list[Any]]:
        # For l = 0 … depth − 1, with one register for v lanes of a sum (a phi instruction carries
        # a register from one turn of the loop to the next):
        #   S[r, v] ← S[r, v] + L[r, l] · R[l, v]     for all r < height, v < width
        # Each entry is one sum in the order of l, whatever the shape of the tile that it falls
        # into, so no result depends on how rows are dealt out to tiles or threads.
        builder = self.builder
        entry = builder.block
        loop, done = builder.append_basic_block("sum"), builder.append_basic_block("summed")
        builder.cbranch(builder.icmp_signed(">", given.depth, _index(0)), loop, done)
        builder.position_at_end(loop)
        left, right = builder.phi(given.left.type), builder.phi(given.right.type)
        counter = builder.phi(_INDEX)
        sums = [[builder.phi(self.vector) for _ in range(self.width)] for _ in range(self.height)]
        parts = [self.load(right, part) for part in range(self.width)]
        updated = [
            self._updated(self._left_entry(left, given, row), parts, totals)
            for row, totals in enumerate(sums)
        ]
        counted = builder.add(counter, _index(1))
        changes = [
            (left, given.left, builder.gep(left, [given.left_depth_stride])),
            (right, given.right, builder.gep(right, [given.right_stride])),
            (counter, _index(0), counted),
        ]
        for old_row, new_row in zip(sums, updated, strict=True):
            changes.extend((old, self.zero, new) for old, new in zip(old_row, new_row, strict=True))
        for variable, before, after in changes:
            variable.add_incoming(before, entry)
            variable.add_incoming(after, loop)
        builder.cbranch(builder.icmp_signed("<", counted, given.depth), loop, done)
        builder.position_at_end(done)
        return [[self._after_loop(entry, loop, value) for value in row] for row in updated]

    def _left_entry(self, left: Any, given: _Product, row: int) -> Any:
        # With both strides free, L may be the transpose of what lies in memory.
        start = self.builder.mul(given.left_row_stride, _index(row))
        return self.broadcast(self.builder.load(self.builder.gep(left, [start])))

    def _updated(self, factor: Any, parts: list[Any], totals: list[Any]) -> list[Any]:
        # "contract" lets LLVM fuse the two into one instruction where the processor has it. Numba
        # adds its own flags only to instructions without any, so these sums are not reordered.
        fuse = ("contract",)
        return [
            self.builder.fadd(self.builder.fmul(factor, part, flags=fuse), total, flags=fuse)
            for part, total in zip(parts, totals, strict=True)
        ]

    def _after_loop(self, entry: Any, loop: Any, value: Any) -> Any:
        """Return a sum after the loop: zero if that had no turn."""
        merged = self.builder.phi(self.vector)
        merged.add_incoming(self.zero, entry)
        merged.add_incoming(value, loop)
        return merged

    def _store(self, values: list[list[Any]], given: _Product, add: bool) -> None:
        for row, row_values in enumerate(values):
            start = self.builder.mul(given.product_stride, _index(row))
            pointer = self.builder.gep(given.product, [start])
            for part, value in enumerate(row_values):
                new = self.builder.fadd(self.load(pointer, part), value) if add else value
                self.store(new, pointer, part)


def _index(value: int) -> Any:
    return ir.Constant(_INDEX, value)
