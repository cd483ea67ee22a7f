"""Writes the C++ of a recorded update (kernels, the loop that calls them, matrix products), and builds it with g++."""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch._inductor.cpp_builder import CppBuilder, CppTorchDeviceOptions
from torch._inductor.cpu_vec_isa import pick_vec_isa

from multistep._errors import CannotFuseError
from multistep.compiled.header import FLAGS, INCLUDES, precompiled
from multistep.compiled.program import ARENA, BufferView, Plan
from multistep.compiled.recorder import Kernel, MatMul, Recording, Step

# The number of multiplications in a product from which several threads pay.
PARALLEL_FROM = 2**19
# The number from which BLAS is faster, because it copies parts of its operands to fit the caches.
BLAS_FROM = 2**22

PRODUCTS = """
namespace at::native::cpublas {
void brgemm(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const bool, const float*, const float*, float*, bool);
}
extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
            const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
            const double*, const int*, const double*, double*, const int*);
}

// Whether oneDNN has its kernels for this processor.
static bool has_brgemm() {
  static const bool found = [] {
    float a = 1, b = 1, c = 0;
    try {
      at::native::cpublas::brgemm(1, 1, 1, 1, 1, 1, false, &a, &b, &c, false);
    } catch (...) {
    }
    return c == 1;
  }();
  return found;
}

// A matrix in memory: its rows lie one after the other, or, if it is transposed, its columns; `ld` values apart.
template <typename T> struct Matrix { const T* data; int64_t ld; bool transposed; };

// Calls work(begin, end) for parts of `size` rows or columns: one for each thread, or all at once if there is little.
template <typename Work> static inline void in_parts(int64_t size, int64_t multiplications, Work work) {
  if (THREADS == 1 || multiplications < PARALLEL_FROM) return work(0, size);
  const int64_t part = (size / THREADS + 16) / 16 * 16;  // whole vectors
  #pragma omp parallel for num_threads(THREADS) schedule(static)
  for (int64_t begin = 0; begin < size; begin += part) work(begin, std::min(begin + part, size));
}

// Copies a transposed matrix to scratch memory, row by row.
template <typename T>
static inline Matrix<T> by_rows(Matrix<T> m, int64_t rows, int64_t columns, int64_t multiplications, T*& scratch) {
  if (!m.transposed) return m;
  T* copy = scratch;
  in_parts(columns, multiplications, [&](int64_t begin, int64_t end) {
    at::vec::transpose_mxn<T>(m.data + begin * m.ld, m.ld, copy + begin, columns, end - begin, rows);
  });
  scratch += rows * columns;
  return {copy, columns, false};
}

// out = left @ right, or out += left @ right: (rows, inner) by (inner, columns).
template <typename T>
static inline void multiply(int64_t rows, int64_t columns, int64_t inner, Matrix<T> left, Matrix<T> right, T* out,
                            int64_t ld, bool add, T* scratch) {
  if constexpr (std::is_same_v<T, float>) {
    const int64_t multiplications = rows * columns * inner;
    if (multiplications < BLAS_FROM && has_brgemm()) {
      const Matrix<T> l = by_rows(left, rows, inner, multiplications, scratch);
      const Matrix<T> r = by_rows(right, inner, columns, multiplications, scratch);
      using at::native::cpublas::brgemm;
      if (rows > columns) {
        in_parts(rows, multiplications, [&](int64_t begin, int64_t end) {
          const T* part = l.data + begin * l.ld;
          brgemm(end - begin, columns, inner, l.ld, r.ld, ld, add, part, r.data, out + begin * ld, false);
        });
      } else {
        in_parts(columns, multiplications, [&](int64_t begin, int64_t end) {
          brgemm(rows, end - begin, inner, l.ld, r.ld, ld, add, l.data, r.data + begin, out + begin, false);
        });
      }
      return;
    }
  }
  // BLAS counts by columns: out^T = right^T @ left^T.
  const int m = columns, n = rows, k = inner, lda = right.ld, ldb = left.ld, ldc = ld;
  const T one = 1, beta = add;
  const char *a = right.transposed ? "T" : "N", *b = left.transposed ? "T" : "N";
  if constexpr (std::is_same_v<T, float>)
    sgemm_(a, b, &m, &n, &k, &one, right.data, &lda, left.data, &ldb, &beta, out, &ldc);
  else
    dgemm_(a, b, &m, &n, &k, &one, right.data, &lda, left.data, &ldb, &beta, out, &ldc);
}
"""

LOOP = """
extern "C" const char* run_updates(char* const* inputs, char* arena, int64_t count, int (*torch)(int64_t, int64_t)) {
  static thread_local std::string message;
  try {
    for (int64_t n = 0; n < count; ++n) {
%s
    }
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
  return nullptr;
}
"""


def source_of(recording: Recording, plan: Plan) -> str:
    """Returns C++ with a function `run_updates` that runs the steps of a recording, minibatch by minibatch."""
    kernels: dict[str, int] = {}
    calls = 0
    lines = []
    for step in recording.steps:
        if isinstance(step, Kernel):
            number = kernels.setdefault(step.source, len(kernels))
            arguments = (f"({type_}){_address(p, plan)}" for type_, p in zip(step.types, step.args, strict=True))
            lines.append(f"kernel_{number}::kernel({', '.join(arguments)});")
        elif isinstance(step, MatMul):
            lines += _multiplications(step, plan, recording.arena)
        else:
            lines.append(f"if (torch({calls}, n)) return nullptr;")
            calls += 1
    includes = [*INCLUDES]
    bodies = []
    for kernel, number in kernels.items():
        includes += [line for line in kernel.splitlines() if line.startswith("#include") and line not in includes]
        body = "\n".join(line for line in kernel.splitlines() if not line.startswith("#include"))
        body = re.sub(r'extern "C"\s+void', "static void", body)
        bodies.append(f"namespace kernel_{number} {{\n{body}\n}}")
    limits = f"constexpr int64_t PARALLEL_FROM = {PARALLEL_FROM}, BLAS_FROM = {BLAS_FROM};"
    constants = f"constexpr int THREADS = {torch.get_num_threads()};\n{limits}"
    return "\n".join([*includes, constants, PRODUCTS, *bodies, LOOP % "\n".join(f"      {line}" for line in lines)])


def scratch_for(step: Step) -> int:
    """Returns the bytes of scratch memory that a step needs."""
    if not isinstance(step, MatMul) or step.left.dtype != torch.float32:
        return 0
    rows, inner = step.left.size[-2:]
    return (rows + step.right.size[-1]) * inner * step.left.dtype.itemsize


def build(source: str, folder: Path, say: Callable[[str], None]) -> Path:
    """Compiles C++ to a library in a folder, and returns its path; `say` prints a line for the user."""
    path = folder / "update.cpp"
    path.write_text(source, encoding="utf-8")
    isa = pick_vec_isa()
    options = CppTorchDeviceOptions(vec_isa=isa, device_type="cpu", extra_flags=FLAGS)
    options.precompiled_header = precompiled(isa, say)
    builder = CppBuilder(name="update", sources=str(path), output_dir=str(folder), BuildOption=options)
    builder.build()
    return Path(builder.get_target_file_path())


def _multiplications(step: MatMul, plan: Plan, scratch: int) -> list[str]:
    """Returns the C++ of a product, one call for each matrix of a batch."""
    rows, inner = step.left.size[-2:]
    columns = step.right.size[-1]
    type_ = "float" if step.out.dtype == torch.float32 else "double"
    workspace = f"({type_}*)(arena + {scratch})"
    left, right, out = step.left, step.right, step.out
    if out.stride[-1] != 1:  # out^T = right^T @ left^T
        left, right, out = _transposed(right), _transposed(left), _transposed(out)
        rows, columns = columns, rows
    lines = []
    if step.bias is not None:
        lines.append(
            f"for (int64_t i = 0; i < {step.out.size[0]}; ++i) for (int64_t j = 0; j < {step.out.size[1]}; ++j) "
            f"(({type_}*){_address(step.out, plan)})[i * {step.out.stride[0]} + j * {step.out.stride[1]}] = "
            f"({type_}){step.beta!r} * ((const {type_}*){_address(step.bias, plan)})"
            f"[i * {step.bias.stride[0]} + j * {step.bias.stride[1]}];"
        )
    for i in range(out.size[0] if len(out.size) == 3 else 1):
        matrices = ", ".join(_matrix(place, type_, i, plan) for place in (left, right))
        ld = out.stride[-2]
        pointer = f"({type_}*){_address(_item(out, i), plan)}"
        add = "true" if step.bias is not None else "false"
        lines.append(f"multiply<{type_}>({rows}, {columns}, {inner}, {matrices}, {pointer}, {ld}, {add}, {workspace});")
    return lines


def _matrix(place: BufferView, type_: str, number: int, plan: Plan) -> str:
    (across, along), (rows, columns) = place.stride[-2:], place.size[-2:]
    transposed = along != 1
    ld = max(along if transposed else across, 1)
    count, length = (columns, rows) if transposed else (rows, columns)  # of what lies in memory in one piece
    if count == 1:
        ld = max(ld, length)
    elif ld < length:
        raise CannotFuseError("a product of a matrix whose rows overlap")
    return f"{{(const {type_}*){_address(_item(place, number), plan)}, {ld}, {'true' if transposed else 'false'}}}"


def _item(place: BufferView, number: int) -> BufferView:
    if len(place.size) == 2:
        return place
    offset = place.offset + number * place.stride[0] * place.dtype.itemsize
    return BufferView(place.memory, offset, place.dtype, place.size[1:], place.stride[1:])


def _transposed(place: BufferView) -> BufferView:
    size, stride = ((*value[:-2], value[-1], value[-2]) for value in (place.size, place.stride))
    return BufferView(place.memory, place.offset, place.dtype, size, stride)


def _address(place: BufferView, plan: Plan) -> str:
    if place.memory == ARENA:
        return f"(arena + {place.offset})"
    advance = plan.advance[place.memory]
    moves = f" + n * {advance}" if advance else ""
    return f"(inputs[{place.memory}] + {place.offset}{moves})"
