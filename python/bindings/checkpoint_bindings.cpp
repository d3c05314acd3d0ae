// The strict reader of model directories, and tensors as numpy arrays.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "core/error.h"
#include "model/checkpoint.h"

namespace gossamer::python {
namespace {

Checkpoint open_checkpoint(const std::string& path, const std::string& verify, bool allow_symlinks) {
  require(verify == "full" || verify == "header", "verify must be \"full\" or \"header\", not " + printable(verify));
  const GilRelease release;
  return Checkpoint::open(path, verify == "full" ? Verify::full : Verify::header, allow_symlinks);
}

nb::bytes side_file(const Checkpoint& checkpoint, const std::string& name) {
  const std::string contents = checkpoint.side_file(name);
  return nb::bytes(contents.data(), contents.size());
}

nb::dict tensors(const Checkpoint& checkpoint) {
  nb::dict result;
  for (const auto& [name, record] : checkpoint.manifest().tensors) {
    const bool sparse = record.encoding == TensorRecord::Encoding::bitmap;
    nb::dict entry;
    entry["encoding"] = sparse ? "bitmap" : "dense";
    entry["dtype"] = to_str(name_of(record.dtype));
    entry["shape"] = nb::cast(record.shape);
    entry["shard"] = to_str(record.shard);
    if (sparse) entry["nnz"] = record.nnz;
    if (is_scaled(record.dtype)) entry["scale_group"] = record.scale_group;
    result[to_str(name)] = entry;
  }
  return result;
}

nb::object read_dense(const Checkpoint& checkpoint, const std::string& name) {
  OwnedTensor tensor;
  {
    const GilRelease release;
    ThreadPool pool;
    tensor = checkpoint.read_dense(name, array_allocator(), pool);
  }
  std::vector<std::int64_t> shape;
  for (int axis = 0; axis < tensor.view.rank(); ++axis) shape.push_back(tensor.view.size(axis));
  return to_numpy(std::move(tensor.buffer), tensor.view.dtype(), shape);
}

nb::tuple read_sparse(const Checkpoint& checkpoint, const std::string& name) {
  OwnedSparseWeight weight;
  {
    const GilRelease release;
    ThreadPool pool;
    weight = checkpoint.read_sparse(name, array_allocator(), pool);
  }
  const SparseWeight view = weight.view;
  return nb::make_tuple(to_numpy(std::move(weight.mask), DType::u8, {view.rows, view.mask_stride()}),
                        to_numpy(std::move(weight.values), view.dtype(), {view.dtype() == DType::i4 ? view.nnz() / 2 : view.nnz()}),
                        to_numpy(std::move(weight.row_offsets), DType::i64, {view.rows + 1}));
}

}  // namespace

nb::dlpack::dtype numpy_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return nb::dtype<float>();
    case DType::f16: return {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
    case DType::bf16: return nb::dtype<std::uint16_t>();
    case DType::i64: return nb::dtype<std::int64_t>();
    case DType::i32: return nb::dtype<std::int32_t>();
    case DType::i8: return nb::dtype<std::int8_t>();
    case DType::e4m3:
    case DType::i4:
    case DType::u8: return nb::dtype<std::uint8_t>();
  }
  throw InternalError("a dtype without a numpy form");
}

Allocator& array_allocator() {
  static auto* const allocator = new HostAllocator;
  return *allocator;
}

nb::object to_numpy(Buffer&& buffer, DType dtype, const std::vector<std::int64_t>& shape) {
  auto* owned = new Buffer(std::move(buffer));
  const nb::capsule owner(owned, [](void* pointer) noexcept { delete static_cast<Buffer*>(pointer); });
  std::vector<std::size_t> sizes(shape.begin(), shape.end());
  const nb::ndarray<nb::numpy> array(owned->data(), sizes.size(), sizes.data(), owner, nullptr, numpy_dtype(dtype));
  return nb::cast(array);
}

void require_dtype(const HostArray& array, DType dtype, std::string_view name) {
  if (array.dtype() == numpy_dtype(dtype)) return;
  const std::string wanted = dtype == DType::bf16 ? "uint16 (the bits of bf16)" : std::string(name_of(dtype));
  throw nb::type_error((std::string(name) + " must be a C-contiguous array of " + wanted).c_str());
}

DType dtype_from_name(const std::string& name) {
  const std::optional<DType> dtype = parse_dtype(name);
  require(dtype.has_value(), "dtype must be f32, f16, bf16, i64, i32, u8, i8, e4m3 or i4, not " + printable(name));
  return *dtype;
}

void bind_checkpoint(nb::module_& module) {
  nb::class_<Checkpoint>(module, "Checkpoint", "A model directory, its manifest and small files verified.")
      .def_static("open", &open_checkpoint, nb::arg("path"), nb::arg("verify") = "full", nb::arg("allow_symlinks") = false)
      .def("side_file", &side_file, nb::arg("name"), "Contents, digest checked; empty when the manifest has no such file.")
      .def("tensors", &tensors, "Logical name -> {encoding, dtype, shape, shard, nnz, scale_group}.")
      .def("read_dense", &read_dense, nb::arg("name"), "The tensor, which has no scales; bf16 as uint16 bits.")
      .def("read_sparse", &read_sparse, nb::arg("name"),
           "(mask u8 [rows, ceil(cols/8)], values [nnz], row_offsets i64 [rows + 1]), without scales; bf16 as uint16 bits, e4m3 and pairs "
           "of i4 as uint8.")
      .def_prop_ro("digest", [](const Checkpoint& c) { return c.manifest().digest; })
      .def_prop_ro("model_id", [](const Checkpoint& c) { return c.manifest().model_id; })
      .def_prop_ro("architecture", [](const Checkpoint& c) { return c.manifest().architecture; });
}

}  // namespace gossamer::python
