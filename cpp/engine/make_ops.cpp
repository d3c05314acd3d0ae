#include "engine/make_ops.h"

#include <charconv>
#include <optional>

#include "core/error.h"
#include "cpu/cpu_ops.h"
#include "ops/plugin.h"

namespace gossamer {

namespace {

constexpr int kMaxThreads = 1024;

std::optional<DType> parse_activation_dtype(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "float32") return DType::f32;
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  throw InvalidArgument("dtype must be auto, float32, bfloat16 or float16, not '" + printable(name) + "'");
}

std::optional<CpuIsa> parse_isa(const std::string& name) {
  if (name == "auto") return std::nullopt;
  std::string available;
  for (const CpuIsa isa : available_cpu_isas()) {
    if (name == name_of(isa)) return isa;
    available += (available.empty() ? "" : ", ") + std::string(name_of(isa));
  }
  throw InvalidArgument("isa must be auto or one that this CPU has (" + available + "), not '" + printable(name) + "'");
}

EightBit parse_eight_bit(const std::string& name, bool batch_invariant) {
  if (name == "auto") return batch_invariant ? EightBit::off : EightBit::weights;
  if (name == "off") return EightBit::off;
  if (name == "weights") return EightBit::weights;
  if (name == "activations") return EightBit::activations;
  throw InvalidArgument("eight_bit must be auto, off, weights or activations, not '" + printable(name) + "'");
}

// "cuda" is the first device, "cuda:N" the one numbered N.
int parse_cuda_index(const std::string& device) {
  if (device == "cuda") return 0;
  const char* const begin = device.data() + std::string("cuda:").size();
  const char* const end = device.data() + device.size();
  int index = -1;
  const auto [rest, error] = std::from_chars(begin, end, index);
  require(error == std::errc() && rest == end && index >= 0,
          "device must be auto, cpu, cuda, cuda:N or reference, not '" + printable(device) + "'");
  return index;
}

// The first GPU, where its backend is installed and finds one. What keeps it away is worth no message: the CPU serves as well.
std::unique_ptr<Ops> make_gpu_ops_if_any(DType dtype, const BackendOptions& options) {
  try {
    const Backend& backend = load_backend("cuda");
    return backend.probe().devices.empty() ? nullptr : backend.create_ops(0, dtype, options);
  } catch (const DeviceError&) {
    return nullptr;
  }
}

}  // namespace

std::unique_ptr<Ops> make_ops(const DeviceOptions& options, Allocator& allocator) {
  const std::optional<DType> dtype = parse_activation_dtype(options.dtype);
  require(options.num_threads >= 0 && options.num_threads <= kMaxThreads,
          "num_threads must be between 0 (all cores) and " + std::to_string(kMaxThreads) + ", not " + std::to_string(options.num_threads));
  const std::optional<CpuIsa> isa = parse_isa(options.isa);
  const BackendOptions backend_options{options.batch_invariant, options.cost_table,
                                       parse_eight_bit(options.eight_bit, options.batch_invariant)};
  require(backend_options.eight_bit == EightBit::off || !options.batch_invariant,
          "eight_bit must be auto or off with batch_invariant: its kernels sum in an order that depends on the number of tokens");
  if (options.device == "cuda" || options.device.starts_with("cuda:")) {
    const int index = parse_cuda_index(options.device);
    return load_backend("cuda").create_ops(index, dtype.value_or(DType::f16), backend_options);
  }
  // float32 and a choice of instruction set are the CPU's alone.
  if (options.device == "auto" && options.isa == "auto" && dtype != DType::f32) {
    if (std::unique_ptr<Ops> ops = make_gpu_ops_if_any(dtype.value_or(DType::f16), backend_options); ops != nullptr) return ops;
  }
  const bool is_reference = options.device == "reference";
  require(is_reference || options.device == "auto" || options.device == "cpu",
          "device must be auto, cpu, cuda, cuda:N or reference, not '" + printable(options.device) + "'");
  const DType product_dtype = dtype.value_or(DType::f32);
  if (is_reference) {
    require(product_dtype == DType::f32, "dtype must be auto or float32 on the reference device, not '" + options.dtype + "'");
    return make_reference_ops(&allocator);
  }
  require(product_dtype != DType::f16, "dtype must be auto, float32 or bfloat16 on the CPU, not 'float16'");
  return make_cpu_ops({.num_threads = options.num_threads, .isa = isa, .product_dtype = product_dtype}, &allocator);
}

}  // namespace gossamer
