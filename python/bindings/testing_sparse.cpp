// The canonical sparse weight on numpy arrays, for tests.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "core/error.h"
#include "sparse/sparse_weight.h"

namespace gossamer::python {
namespace {

Tensor view_of(const HostArray& array, DType dtype, std::size_t rank, const char* name) {
  require_dtype(array, dtype, name);
  if (array.ndim() != rank) throw nb::type_error((std::string(name) + " must have " + std::to_string(rank) + " dimensions").c_str());
  void* data = const_cast<void*>(array.data());  // a Tensor does not say const; nothing here writes to it
  const auto size = [&](std::size_t axis) { return static_cast<std::int64_t>(array.shape(axis)); };
  return rank == 1 ? Tensor(data, dtype, {size(0)}) : Tensor(data, dtype, {size(0), size(1)});
}

SparseWeight weight_of(std::int64_t cols, const HostArray& mask, const HostArray& values, const HostArray& row_offsets,
                       const std::string& dtype) {
  SparseWeight weight;
  weight.cols = cols;
  weight.mask = view_of(mask, DType::u8, 2, "mask");
  weight.values = view_of(values, dtype_from_name(dtype), 1, "values");
  weight.row_offsets = view_of(row_offsets, DType::i64, 1, "row_offsets");
  weight.rows = weight.mask.size(0);
  validate(weight, "weight");
  return weight;
}

nb::tuple to_python(OwnedSparseWeight&& weight) {
  const SparseWeight view = weight.view;
  return nb::make_tuple(to_numpy(std::move(weight.mask), DType::u8, {view.rows, view.mask_stride()}),
                        to_numpy(std::move(weight.values), view.dtype(), {view.nnz()}),
                        to_numpy(std::move(weight.row_offsets), DType::i64, {view.rows + 1}));
}

nb::tuple from_dense(const HostArray& dense, const std::string& dtype) {
  return to_python(sparse_from_dense(view_of(dense, dtype_from_name(dtype), 2, "dense"), array_allocator()));
}

nb::object to_dense(std::int64_t cols, const HostArray& mask, const HostArray& values, const HostArray& row_offsets,
                    const std::string& dtype) {
  const SparseWeight weight = weight_of(cols, mask, values, row_offsets, dtype);
  OwnedTensor out(array_allocator(), weight.dtype(), {weight.rows, weight.cols});
  sparse_to_dense(weight, out.view);
  return to_numpy(std::move(out.buffer), weight.dtype(), {weight.rows, weight.cols});
}

nb::tuple slice(std::int64_t cols, const HostArray& mask, const HostArray& values, const HostArray& row_offsets, const std::string& dtype,
                int axis, std::int64_t begin, std::int64_t end) {
  const SparseWeight weight = weight_of(cols, mask, values, row_offsets, dtype);
  require(axis == 0 || axis == 1, "axis must be 0 (rows) or 1 (columns)");
  return to_python(axis == 0 ? slice_rows(weight, begin, end, array_allocator()) : slice_cols(weight, begin, end, array_allocator()));
}

void check(std::int64_t cols, const HostArray& mask, const HostArray& values, const HostArray& row_offsets, const std::string& dtype) {
  weight_of(cols, mask, values, row_offsets, dtype);
}

}  // namespace

void bind_testing_sparse(nb::module_& module) {
  module.def("sparse_from_dense", &from_dense, nb::arg("dense").noconvert(), nb::arg("dtype") = "f32", "(mask, values, row_offsets)");
  module.def("sparse_to_dense", &to_dense, nb::arg("cols"), nb::arg("mask").noconvert(), nb::arg("values").noconvert(),
             nb::arg("row_offsets").noconvert(), nb::arg("dtype") = "f32");
  module.def("sparse_slice", &slice, nb::arg("cols"), nb::arg("mask").noconvert(), nb::arg("values").noconvert(),
             nb::arg("row_offsets").noconvert(), nb::arg("dtype"), nb::arg("axis"), nb::arg("begin"), nb::arg("end"),
             "(mask, values, row_offsets) of the part");
  module.def("sparse_validate", &check, nb::arg("cols"), nb::arg("mask").noconvert(), nb::arg("values").noconvert(),
             nb::arg("row_offsets").noconvert(), nb::arg("dtype") = "f32");
}

}  // namespace gossamer::python
