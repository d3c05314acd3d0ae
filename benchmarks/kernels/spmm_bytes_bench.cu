// The SpMM for 8-bit weights against cuBLASLt in fp16 and FP8, on cold weights. One row of JSON per (kernel, shape, n, sparsity).
//   spmm_bytes_bench --out rows.json [--shapes 4096x4096,...] [--sparsity 0.5,0.6] [--n 8,16] [--values fp8,int8] [--dtype f16]
//                    [--variants plan|all|wgmma] [--commit ID]
// plan: what the planner chooses, for 16-bit and (int8) for 8-bit activations. all: also every arrangement of warps, both decodings, packed
// x, and with 8-bit activations x packed beforehand, as the dense FP8 product gets it. wgmma: of these the products of bytes by bytes that
// are for many tokens, alone. Packing and scaling of x are otherwise part of the time. Sparsity 0 is a full mask. Method and check as in
// spmm_bench.cu.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "bench_common.h"
#include "core/thread_pool.h"
#include "launch/expand_bytes.h"
#include "launch/spmm_bytes.h"
#include "rivals.h"
#include "sparse/tiled_weight.h"

using namespace gossamer;
using namespace gossamer::bench;

namespace {

const std::vector<Shape> kShapes = {{27648, 9216}, {9216, 9216},  {36864, 9216}, {9216, 36864}, {4096, 4096},
                                    {28672, 4096}, {4096, 14336}, {8192, 8192},  {57344, 8192}, {8192, 28672}};

struct Options {
  std::vector<Shape> shapes = kShapes;
  std::vector<double> sparsities = {0.5, 0.6, 0.7, 0.8};
  std::vector<std::int64_t> ns = {1, 8, 16};
  std::vector<DType> values = {DType::e4m3, DType::i8};
  bool bf16 = false;
  std::string variants = "plan";
  std::string out = "spmm_bytes.json", commit, command;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 0; i < argc; ++i) o.command += (i ? " " : "") + std::string(argv[i]);
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--out") o.out = value;
    if (key == "--commit") o.commit = value;
    if (key == "--dtype") o.bf16 = value == "bf16";
    if (key == "--variants") o.variants = value;
    if (key == "--n") {
      o.ns.clear();
      for (const auto& p : split(value)) o.ns.push_back(std::stoll(p));
    }
    if (key == "--sparsity") {
      o.sparsities.clear();
      for (const auto& p : split(value)) o.sparsities.push_back(std::stod(p));
    }
    if (key == "--values") {
      o.values.clear();
      for (const auto& p : split(value)) o.values.push_back(p == "fp8" ? DType::e4m3 : DType::i8);
    }
    if (key == "--shapes") {
      o.shapes.clear();
      for (const auto& p : split(value)) o.shapes.push_back({std::stoll(p), std::stoll(p.substr(p.find('x') + 1))});
    }
  }
  return o;
}

// i.i.d. mask; any bytes but NaN and -128; scales in (0, 1].
OwnedSparseWeight random_weight(Shape shape, double sparsity, DType dtype, Allocator& allocator, ThreadPool& pool) {
  const auto threshold = static_cast<std::uint32_t>((1.0 - sparsity) * 65536.0);
  const auto kept = [&](Random& random) { return static_cast<std::uint32_t>(random() & 0xffffU) < threshold; };
  const auto stream_of = [&](std::int64_t row) {
    return Random{static_cast<std::uint64_t>(row) * 7919 + static_cast<std::uint64_t>(sparsity * 1000) * 104729 + 1};
  };
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(shape.m) + 1);
  pool.parallel_for(shape.m, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      Random random = stream_of(r);
      std::int64_t count = 0;
      for (std::int64_t c = 0; c < shape.k; ++c) count += kept(random) ? 1 : 0;
      offsets[static_cast<std::size_t>(r) + 1] = count;
    }
  });
  for (std::size_t r = 1; r < offsets.size(); ++r) offsets[r] += offsets[r - 1];
  OwnedSparseWeight w(allocator, shape.m, shape.k, offsets.back(), dtype, shape.k);
  std::memcpy(w.view.row_offsets.raw(), offsets.data(), 8 * offsets.size());
  pool.parallel_for(shape.m, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      auto* mask = w.view.mask.data<std::uint8_t>() + r * w.view.mask_stride();
      std::memset(mask, 0, static_cast<std::size_t>(w.view.mask_stride()));
      Random random = stream_of(r), values{static_cast<std::uint64_t>(r) * 31337 + 17};
      auto* out = static_cast<std::uint8_t*>(w.view.values.raw()) + offsets[static_cast<std::size_t>(r)];
      for (std::int64_t c = 0; c < shape.k; ++c) {
        if (!kept(random)) continue;
        mask[c / 8] = static_cast<std::uint8_t>(mask[c / 8] | 1U << (c % 8));
        auto byte = static_cast<std::uint8_t>(values() >> 32);
        if (dtype == DType::e4m3 && (byte & 0x7fU) == 0x7fU) byte ^= 1U;
        if (dtype == DType::i8 && byte == 0x80U) byte = 1;
        *out++ = byte;
      }
      w.view.scales.data<float>()[r] = static_cast<float>(1 + values() % 1000) / 1000.0F;
    }
  });
  return w;
}

__global__ void read_all(const uint4* p, std::size_t n, std::uint32_t* out) {
  std::uint32_t a = 0;
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < n; i += std::size_t{gridDim.x} * blockDim.x) {
    const uint4 v = __ldcs(p + i);
    a ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (a == 0x12345U) *out = a;
}

double read_ceiling_gbps() {
  const std::size_t bytes = std::size_t{4} << 30;
  DeviceMemory buffer(bytes), out(4);
  cudaMemset(buffer.as(), 1, bytes);
  const double us = time_graph(
      [&](int, cudaStream_t s) { read_all<<<132 * 16, 512, 0, s>>>(buffer.as<uint4>(), bytes / 16, out.as<std::uint32_t>()); }, 1, 1300);
  return static_cast<double>(bytes) / us / 1e3;
}

struct Variant {
  ByteProduct product;
  ByteDecoding decoding = ByteDecoding::table;
  std::optional<SpmmShape> shape;
  bool x_is_packed = false;
};

// Of bytes by bytes, for many tokens.
void add_wgmma_variants(DType values, std::vector<Variant>& list) {
  const ByteProduct product = values == DType::e4m3 ? ByteProduct::e4m3_e4m3 : ByteProduct::i8_i8;
  for (const auto& [row_warps, groups] : {std::pair{8, 2}, {12, 1}, {16, 1}, {8, 1}}) {
    const SpmmShape shape{SpmmKernel::warp_specialized, row_warps, groups};
    list.push_back({product, ByteDecoding::table, shape});
    list.push_back({product, ByteDecoding::table, shape, true});
    list.push_back({product, ByteDecoding::arithmetic, shape, true});
  }
}

std::vector<Variant> variants(DType values, const std::string& which, std::int64_t n) {
  std::vector<Variant> list;
  if (which != "plan" && n > 32) add_wgmma_variants(values, list);
  if (which == "wgmma") return list;
  std::vector<ByteProduct> products = {values == DType::e4m3 ? ByteProduct::e4m3_f16 : ByteProduct::i8_f16};
  if (values == DType::i8) products.push_back(ByteProduct::i8_i8);
  for (const ByteProduct product : products) {
    list.push_back({product});
    if (which == "plan") continue;
    for (const ByteDecoding decoding : {ByteDecoding::table, ByteDecoding::arithmetic}) {
      for (const bool packs_x : {false, true}) {
        list.push_back({product, decoding, SpmmShape{SpmmKernel::mma, 4, 4, packs_x}});
        list.push_back({product, decoding, SpmmShape{SpmmKernel::mma, 1, 32, packs_x}});
      }
      if (product == ByteProduct::i8_i8) {
        list.push_back({product, decoding, SpmmShape{SpmmKernel::mma, 4, 4, true}, true});
        list.push_back({product, decoding, SpmmShape{SpmmKernel::mma, 1, 32, true}, true});
      }
    }
  }
  return list;
}

struct Measured {
  std::string kernel, config;
  double us = 0, rel_error = 0;
  std::int64_t nbytes = 0;
};

class BytesCase {
 public:
  BytesCase(const SparseWeight& weight, Allocator& allocator, ThreadPool& pool)
      : weight_(weight),
        packed_(pack_tiles(weight, TileFormat::bitmap, allocator, pool)),
        scales_(4 * static_cast<std::size_t>(weight.rows)) {
    const TiledWeight& w = packed_.view;
    const auto bytes = static_cast<std::size_t>(w.data.nbytes());
    stride_ = (bytes + 255) / 256 * 256;
    copies_ = static_cast<int>(std::clamp<std::size_t>((std::size_t{256} << 20) / bytes + 1, 2, 64));
    offsets_.emplace_back(static_cast<std::size_t>(w.offsets.nbytes()));
    cuda_check(cudaMemcpy(offsets_[0].as(), w.offsets.raw(), static_cast<std::size_t>(w.offsets.nbytes()), cudaMemcpyHostToDevice),
               "upload");
    cuda_check(cudaMemcpy(scales_.as(), w.scales.raw(), static_cast<std::size_t>(w.scales.nbytes()), cudaMemcpyHostToDevice), "upload");
    for (int decoding = 0; decoding < 2; ++decoding) {
      if (decoding == 1) interleave_masks(pool);
      data_.emplace_back(stride_ * static_cast<std::size_t>(copies_) + 256);
      for (int i = 0; i < copies_; ++i) {
        cuda_check(cudaMemcpy(data_.back().as<char>() + stride_ * static_cast<std::size_t>(i), w.data.raw(), bytes, cudaMemcpyHostToDevice),
                   "upload");
      }
    }
  }

  // None where the arrangement does not exist for this n.
  std::optional<Measured> run(std::int64_t n, const DeviceLimits& limits, const Variant& variant, bool bf16) {
    const TiledWeight& w = packed_.view;
    std::vector<std::uint16_t> x(static_cast<std::size_t>(n * w.cols));
    Random random{99};
    for (auto& v : x) v = half_bits((static_cast<float>(random() >> 40) + 0.5F) / 8388608.0F - 1.0F, bf16);
    BytePlan plan;
    try {
      plan = plan_spmm_bytes({TileFormat::bitmap, w.rows, w.cols, n, w.max_record_bytes, w.cols % 8 == 0, variant.shape}, variant.product,
                             bf16, limits, variant.decoding);
    } catch (const std::exception&) {
      if (variant.shape) return std::nullopt;
      throw;
    }
    const SpmmConfig& config = plan.config;
    const auto out_bytes = static_cast<std::size_t>(4 * n * w.rows);
    DeviceMemory dx(2 * x.size()), out(out_bytes), partials(4 * static_cast<std::size_t>(config.partial_floats)),
        tickets(4 * static_cast<std::size_t>(config.tickets)), packed_x(static_cast<std::size_t>(config.packed_x_bytes)),
        token_scales(4 * static_cast<std::size_t>(plan.token_scale_floats));
    cuda_check(cudaMemcpy(dx.as(), x.data(), 2 * x.size(), cudaMemcpyHostToDevice), "x");
    cuda_check(cudaMemset(tickets.as(), 0, 4 * static_cast<std::size_t>(config.tickets)), "tickets");
    cuda_check(cudaMemset(out.as(), 0xff, out_bytes), "poison");
    SpmmBytesParams p;
    p.row_scales = scales_.as<float>();
    p.token_scales = token_scales.as<float>();
    p.base.offsets = offsets_[0].as<std::uint32_t>();
    p.base.x = dx.as();
    p.base.out = out.as();
    p.base.partials = partials.as<float>();
    p.base.tickets = tickets.as<std::uint32_t>();
    p.base.packed_x = packed_x.as<std::uint8_t>();
    p.base.ldx = w.cols;
    p.base.ldo = p.base.ldr = w.rows;
    p.base.m = static_cast<std::int32_t>(w.rows);
    p.base.k = static_cast<std::int32_t>(w.cols);
    p.base.n = static_cast<std::int32_t>(n);
    p.base.row_blocks = static_cast<std::int32_t>(w.row_blocks());
    p.base.records = static_cast<std::int32_t>(w.records_per_row_block());
    p.base.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
    p.base.x_is_aligned = w.cols % 8 == 0;
    p.base.data = data_[static_cast<std::size_t>(variant.decoding)].as<std::uint8_t>();
    p.base.out_type = SpmmOut::f32;  // the check sees fp32 sums; the timing writes halves as cuBLAS does
    if (const cudaError_t error = launch_spmm_bytes(p, plan, bf16, nullptr); error == cudaErrorInvalidConfiguration && variant.shape) {
      return std::nullopt;
    } else {
      cuda_check(error, "launch");
    }
    cuda_check(cudaDeviceSynchronize(), "spmm");
    Measured result;
    result.rel_error = relative_error(x, n, out.as<float>(), bf16);
    p.base.out_type = SpmmOut::same;
    plan.x_is_packed = variant.x_is_packed;
    const auto call = [&](int copy, cudaStream_t stream) {
      SpmmBytesParams q = p;
      q.base.data += stride_ * static_cast<std::size_t>(copy);
      cuda_check(launch_spmm_bytes(q, plan, bf16, stream), "launch");
    };
    result.us = time_graph(call, copies_, static_cast<double>(w.nbytes()) / 2.5e6);
    static constexpr const char* kNames[] = {"bitmap fp8 x f16", "bitmap int8 x f16", "bitmap int8 x int8", "bitmap fp8 x fp8"};
    result.kernel = kNames[static_cast<int>(variant.product)];
    result.config = config.to_string() + (variant.decoding == ByteDecoding::table ? ", table" : ", arithmetic") +
                    (variant.x_is_packed ? ", x given packed"
                     : plan.scales_x     ? ", x scaled"
                                         : "");
    result.nbytes = w.nbytes();
    return result;
  }

  // Expansion, then the dense product in 16 bits, timed together.
  Measured run_expanded(std::int64_t n, const DeviceLimits& limits, bool bf16) {
    const TiledWeight& w = packed_.view;
    ExpandBytesParams p;
    p.row_scales = scales_.as<float>();
    p.base.offsets = offsets_[0].as<std::uint32_t>();
    p.base.ldw = w.cols;
    DeviceMemory dense(static_cast<std::size_t>(2 * w.rows * w.cols));
    p.base.out = dense.as();
    p.base.m = static_cast<std::int32_t>(w.rows);
    p.base.row_blocks = static_cast<std::int32_t>(w.row_blocks());
    p.base.records = static_cast<std::int32_t>(w.records_per_row_block());
    p.base.slot_bytes = static_cast<std::uint32_t>(w.max_record_bytes + 16);
    int copy = 0;
    const auto expand = [&](int, cudaStream_t stream) -> const void* {
      p.base.data = data_[0].as<std::uint8_t>() + stride_ * static_cast<std::size_t>(copy++ % copies_);
      cuda_check(launch_expand_bytes(p, w.dtype == DType::e4m3, bf16, limits.num_sms, stream), "expand");
      return dense.as();
    };
    const double us = time_cublas({w.rows, w.cols}, n, bf16, expand);
    return {std::string("bitmap ") + (w.dtype == DType::e4m3 ? "fp8" : "int8") + " expanded + cublaslt", "expansion, then cublaslt", us, 0,
            w.nbytes()};
  }

 private:
  void interleave_masks(ThreadPool& pool) {
    const TiledWeight& w = packed_.view;
    pool.parallel_for(w.num_records(), 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        auto* masks = reinterpret_cast<std::uint32_t*>(w.data.data<std::uint8_t>() + w.offsets.data<std::int32_t>()[i] * kRecordUnit);
        for (int word = 0; word < 64; ++word) masks[word] = interleaved_mask(masks[word]);
      }
    });
  }

  static constexpr int kSamples = 64;
  std::int64_t sampled_row(int sample) const {
    if (sample < 2) return sample == 0 ? 0 : weight_.rows - 1;
    return static_cast<std::int64_t>(Random{static_cast<std::uint64_t>(sample)}() % static_cast<std::uint64_t>(weight_.rows));
  }
  // fp64 sums of the sampled rows, [kSamples][n]; of the same x in every run of this many tokens.
  const std::vector<double>& reference(const std::vector<std::uint16_t>& x, std::int64_t n, bool bf16) {
    const auto [found, is_new] = references_.try_emplace(n);
    if (!is_new) return found->second;
    std::vector<float> columns(x.size());  // [k, n]
    for (std::int64_t t = 0; t < n; ++t) {
      for (std::int64_t c = 0; c < weight_.cols; ++c) {
        columns[static_cast<std::size_t>(c * n + t)] = half_value(x[static_cast<std::size_t>(t * weight_.cols + c)], bf16);
      }
    }
    found->second.resize(static_cast<std::size_t>(kSamples * n));
    for (int sample = 0; sample < kSamples; ++sample) {
      const std::int64_t row = sampled_row(sample);
      double* sums = found->second.data() + sample * n;
      std::int64_t at = weight_.row_offsets.data<std::int64_t>()[row];
      for (std::int64_t c = 0; c < weight_.cols; ++c) {
        if ((weight_.mask.data<std::uint8_t>()[row * weight_.mask_stride() + c / 8] >> (c % 8) & 1) == 0) continue;
        const std::uint8_t byte = static_cast<const std::uint8_t*>(weight_.values.raw())[at++];
        const double v = static_cast<double>(weight_.scales.data<float>()[row]) *
                         (weight_.dtype() == DType::e4m3 ? to_float(Float8E4M3{byte}) : static_cast<float>(static_cast<std::int8_t>(byte)));
        for (std::int64_t t = 0; t < n; ++t) sums[t] += v * columns[static_cast<std::size_t>(c * n + t)];
      }
    }
    return found->second;
  }

  // Against fp64 of the stored weights and the given x: with 8-bit activations this is their rounding error.
  double relative_error(const std::vector<std::uint16_t>& x, std::int64_t n, const float* device_out, bool bf16) {
    std::vector<float> out(static_cast<std::size_t>(n * weight_.rows));
    cuda_check(cudaMemcpy(out.data(), device_out, 4 * out.size(), cudaMemcpyDeviceToHost), "out");
    for (const float v : out) {
      if (!std::isfinite(v)) return NAN;
    }
    const std::vector<double>& expected = reference(x, n, bf16);
    double error = 0, norm = 0;
    for (int sample = 0; sample < kSamples; ++sample) {
      for (std::int64_t t = 0; t < n; ++t) {
        const double sum = expected[static_cast<std::size_t>(sample * n + t)];
        const double d = out[static_cast<std::size_t>(t * weight_.rows + sampled_row(sample))] - sum;
        error += d * d;
        norm += sum * sum;
      }
    }
    return std::sqrt(error / norm);
  }

  const SparseWeight& weight_;
  OwnedTiledWeight packed_;
  DeviceMemory scales_;
  std::vector<DeviceMemory> data_, offsets_;  // data: [decoding]
  std::map<std::int64_t, std::vector<double>> references_;
  std::size_t stride_ = 0;
  int copies_ = 0;
};

void run_all(const Options& o) {
  cudaDeviceProp props;
  cuda_check(cudaGetDeviceProperties(&props, 0), "device");
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
  DeviceLimits limits;
  limits.num_sms = props.multiProcessorCount;
  limits.shared_bytes_per_block = static_cast<std::int64_t>(props.sharedMemPerBlockOptin);
  limits.shared_bytes_per_sm = static_cast<std::int64_t>(props.sharedMemPerMultiprocessor);
  limits.dependent_launch = props.major >= 9;
  limits.wgmma = props.major == 9;
  const double ceiling = read_ceiling_gbps();
  std::printf("%s, read ceiling %.0f GB/s\n", props.name, ceiling);
  std::FILE* file = std::fopen(o.out.c_str(), "w");
  if (file == nullptr) throw std::runtime_error("cannot write " + o.out);
  std::fprintf(file, "{\"rows\":[");
  const char* comma = "";
  HostAllocator allocator;
  ThreadPool pool;
  const auto write_row = [&](const Measured& r, double cublas, Shape s, double sparsity, std::int64_t n, const char* dtype) {
    const double gbps = static_cast<double>(r.nbytes) / r.us / 1e3;
    std::printf("%-28s %6ldx%-6ld n %3ld s %.2f  %8.2f us  cublas %8.2f  x%.2f  %5.1f%% of read  err %.1e  %s\n", r.kernel.c_str(), s.m,
                s.k, n, sparsity, r.us, cublas, cublas / r.us, 100 * gbps / ceiling, r.rel_error, r.config.c_str());
    std::fflush(stdout);
    std::fprintf(file,
                 "%s\n{\"kernel\":\"%s\",\"m\":%ld,\"k\":%ld,\"n\":%ld,\"sparsity\":%.2f,\"dtype\":\"%s\",\"us\":%.3f,\"us_cublas\":%.3f,"
                 "\"speedup\":%.4f,\"gbps\":%.1f,\"percent_of_read\":%.2f,\"rel_error\":%.3e,\"config\":\"%s\",\"device\":\"%s\","
                 "\"driver\":%d,\"cuda\":%d,\"commit\":\"%s\",\"command\":\"%s\",\"date\":\"%s\",\"read_gbps\":%.1f}",
                 comma, r.kernel.c_str(), s.m, s.k, n, sparsity, dtype, r.us, cublas, cublas / r.us, gbps, 100 * gbps / ceiling,
                 r.rel_error, r.config.c_str(), props.name, driver, runtime, o.commit.c_str(), o.command.c_str(), date, ceiling);
    comma = ",";
  };
  for (const Shape s : o.shapes) {
    std::vector<double> cublas;
    for (const std::int64_t n : o.ns) {
      cublas.push_back(time_cublas(s, n, o.bf16));
      if (const double us = time_cublas_fp8(s, n); us > 0)
        write_row({"cublaslt fp8", "dense", us, 0, s.m * s.k}, cublas.back(), s, 0, n, "fp8");
    }
    for (const DType values : o.values) {
      for (const double sparsity : o.sparsities) {
        const OwnedSparseWeight weight = random_weight(s, sparsity, values, allocator, pool);
        BytesCase bytes(weight.view, allocator, pool);
        for (std::size_t i = 0; i < o.ns.size(); ++i) {
          const char* name = values == DType::e4m3 ? "fp8" : "int8";
          if (o.ns[i] > 16 && o.variants != "wgmma")
            write_row(bytes.run_expanded(o.ns[i], limits, o.bf16), cublas[i], s, sparsity, o.ns[i], name);
          if (o.ns[i] > 128) continue;  // passes over the weight
          for (const Variant& variant : variants(values, o.variants, o.ns[i])) {
            if (const std::optional<Measured> r = bytes.run(o.ns[i], limits, variant, o.bf16)) {
              write_row(*r, cublas[i], s, sparsity, o.ns[i], name);
            }
          }
        }
      }
    }
  }
  std::fprintf(file, "\n]}\n");
  std::fclose(file);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run_all(parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "spmm_bytes_bench: %s\n", error.what());
    return 1;
  }
}
