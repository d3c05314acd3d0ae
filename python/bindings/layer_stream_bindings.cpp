// LayerStream with numpy arrays: what calibration and pruning run on.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>

#include "bindings.h"
#include "core/error.h"
#include "layer_stream.h"

namespace gossamer::python {
namespace {

using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Tensor view_of(const Matrix& array) {
  return Tensor(array.data(), DType::f32, {static_cast<std::int64_t>(array.shape(0)), static_cast<std::int64_t>(array.shape(1))});
}

nb::object embed(LayerStream& stream, const std::vector<std::vector<std::int32_t>>& sequences) {
  std::int64_t tokens = 0;
  for (const auto& sequence : sequences) tokens += std::ssize(sequence);
  OwnedTensor hidden(array_allocator(), DType::f32, {tokens, stream.config().hidden_size});
  {
    const GilRelease release;
    stream.embed(sequences, hidden.view);
  }
  return to_numpy(std::move(hidden.buffer), DType::f32, {tokens, stream.config().hidden_size});
}

void load_layer(LayerStream& stream, std::int64_t layer, const nb::dict& replacements) {
  std::vector<HostArray> arrays;  // keeps the memory
  std::map<std::string, Tensor> weights;
  for (const auto& [key, value] : replacements) {
    const auto name = nb::cast<std::string>(key);
    const auto array = nb::cast<HostArray>(value);
    const DType dtype = array.dtype() == nb::dtype<float>()                                    ? DType::f32
                        : array.itemsize() == 2 && array.dtype() == nb::dtype<std::uint16_t>() ? DType::bf16
                                                                                               : DType::f16;
    require_dtype(array, dtype, name);
    require(array.ndim() == 2, "a replacement must be a matrix");
    weights.emplace(name, Tensor(const_cast<void*>(array.data()), dtype,
                                 {static_cast<std::int64_t>(array.shape(0)), static_cast<std::int64_t>(array.shape(1))}));
    arrays.push_back(array);
  }
  const GilRelease release;
  stream.load_layer(layer, weights);
}

// The memory of a captured input on the stream's device, and what must outlive it.
struct DeviceInput {
  nb::object stream;
  Buffer buffer;
};

// An array for any library that speaks DLPack (bf16 as uint16 bits), which owns its memory.
nb::object on_device(nb::object stream, CapturedInput&& input) {
  const Device device = input.values.view.device();
  const std::size_t shape[] = {static_cast<std::size_t>(input.values.view.size(0)), static_cast<std::size_t>(input.values.view.size(1))};
  const nb::dlpack::dtype dtype = numpy_dtype(input.values.view.dtype());
  auto* owned = new DeviceInput{std::move(stream), std::move(input.values.buffer)};
  const nb::capsule owner(owned, [](void* pointer) noexcept { delete static_cast<DeviceInput*>(pointer); });
  const int kind = device.kind == Device::Kind::cuda ? nb::device::cuda::value : nb::device::cpu::value;
  return nb::cast(nb::ndarray<nb::array_api>(owned->buffer.data(), 2, shape, owner, nullptr, dtype, kind, device.index));
}

LayerPart part_of(const std::string& name) {
  if (name == "whole") return LayerPart::whole;
  if (name == "attention") return LayerPart::attention;
  if (name == "mlp") return LayerPart::mlp;
  throw InvalidArgument("part must be whole, attention or mlp, not '" + printable(name) + "'");
}

nb::object run_layer(nb::object self, const std::vector<std::int64_t>& lengths, const Matrix& hidden, bool capture,
                     const std::vector<std::string>& names, bool stays, const std::string& part) {
  auto& stream = nb::cast<LayerStream&>(self);
  Capture captured{.names = {names.begin(), names.end()}, .on_device = stays, .inputs = {}};
  const Tensor view = view_of(hidden);
  {
    const GilRelease release;
    stream.run_layer(lengths, view, capture ? &captured : nullptr, part_of(part));
  }
  nb::list result;
  for (CapturedInput& input : captured.inputs) {
    const std::vector<std::int64_t> shape{input.values.view.size(0), input.values.view.size(1)};
    const nb::object weight_names = nb::cast(input.weight_names);
    result.append(nb::make_tuple(weight_names,
                                 stays ? on_device(self, std::move(input)) : to_numpy(std::move(input.values.buffer), DType::f32, shape)));
  }
  return result;
}

nb::object head(LayerStream& stream, const Matrix& hidden) {
  const std::int64_t rows = static_cast<std::int64_t>(hidden.shape(0));
  OwnedTensor logits(array_allocator(), DType::f32, {rows, stream.config().vocab_size});
  const Tensor view = view_of(hidden);
  {
    const GilRelease release;
    stream.head(view, logits.view);
  }
  return to_numpy(std::move(logits.buffer), DType::f32, {rows, stream.config().vocab_size});
}

template <void (LayerStream::*member)()>
void unlocked(LayerStream& stream) {
  const GilRelease release;
  (stream.*member)();
}

}  // namespace

void bind_layer_stream(nb::module_& module) {
  nb::class_<LayerStream>(module, "LayerStream", "A model run one layer at a time over hidden states that the caller keeps.")
      .def(
          "__init__",
          [](LayerStream* self, const std::string& path, const std::string& device, const std::string& dtype, const std::string& isa,
             int num_threads, std::int64_t max_tokens, std::int64_t max_length) {
            const GilRelease release;
            new (self) LayerStream(path, {device, dtype, isa, num_threads}, max_tokens, max_length);
          },
          nb::arg("path"), nb::arg("device"), nb::arg("dtype"), nb::arg("isa"), nb::arg("num_threads"), nb::arg("max_tokens"),
          nb::arg("max_length"))
      .def_prop_ro("num_layers", [](const LayerStream& stream) { return stream.config().num_layers; })
      .def_prop_ro("hidden_size", [](const LayerStream& stream) { return stream.config().hidden_size; })
      .def_prop_ro("vocab_size", [](const LayerStream& stream) { return stream.config().vocab_size; })
      .def_prop_ro("max_tokens", &LayerStream::max_tokens)
      .def_prop_ro(
          "device", [](const LayerStream& stream) { return stream.device().to_string(); }, "cpu or cuda:N.")
      .def("load_embedding", &unlocked<&LayerStream::load_embedding>)
      .def("load_layer", &load_layer, nb::arg("layer"), nb::arg("replacements"),
           "Loads a layer; replacements maps weight names to f32, f16 or bf16 (uint16) matrices to use instead of the stored ones.")
      .def("load_head", &unlocked<&LayerStream::load_head>)
      .def("embed", &embed, nb::arg("sequences"), "Hidden states f32 [tokens, hidden_size], sequence after sequence.")
      .def("run_layer", &run_layer, nb::arg("lengths"), nb::arg("hidden").noconvert(), nb::arg("capture"),
           nb::arg("names") = std::vector<std::string>{}, nb::arg("on_device") = false, nb::arg("part") = "whole",
           "The loaded layer, or its part \"attention\" or \"mlp\", in place on hidden f32 [tokens, hidden_size]. With capture: [(weight\n"
           "names, input [tokens, k])], of the products with one of the weights `names` or of all. Inputs are f32 numpy arrays, or with "
           "on_device arrays for from_dlpack\n"
           "in the device's memory, of the activations' dtype (bf16 as uint16).")
      .def("head", &head, nb::arg("hidden").noconvert(), "Logits f32 [rows, vocab_size].");
}

}  // namespace gossamer::python
