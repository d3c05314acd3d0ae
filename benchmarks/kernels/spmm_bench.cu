// The SpMM against its rivals, on cold weights. One row of JSON per (kernel, shape, n, sparsity).
//   spmm_bench --out rows.json [--shapes 4096x4096,...] [--sparsity 0.5,0.6] [--n 8,16] [--dtype f16] [--commit ID] [--fp8 1] [--cusparse
//   1]
//              [--warps 4x4,w8x2] (rows x k, w: wgmma, ws: warp-specialised, p: packed x; each is measured, instead of
//              auto, the planner's choice)
//              [--formats bitmap,tiled_csl,two_four] [--csl-from 0.75] [--two-four-from 0.65] [--expand-from 128] [--dependent-launch 0]
// Method: i.i.d. random masks, distinct random values; weights rotated over copies of more than 256 MB so that DRAM is really read; CUDA
// graphs of many launches, replayed; median. cuBLASLt: the fastest of up to 16 heuristics per (shape, n), same rotation. From --expand-from
// tokens on also the expansion into a dense weight followed by cuBLASLt, timed together. Outputs are poisoned with NaN before the checked
// call and compared with fp64 on sampled rows.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench_common.h"
#include "core/thread_pool.h"
#include "launch/expand.h"
#include "launch/spmm.h"
#include "rivals.h"
#include "sparse/tiled_weight.h"

using namespace gossamer;
using namespace gossamer::bench;

namespace {

// OPT-66B, Llama-3-8B, Llama-3-70B.
const std::vector<Shape> kShapes = {{27648, 9216}, {9216, 9216},  {36864, 9216}, {9216, 36864}, {4096, 4096},
                                    {28672, 4096}, {4096, 14336}, {8192, 8192},  {57344, 8192}, {8192, 28672}};

// i.i.d. mask; values uniform in (-1, 1), never 0.
OwnedSparseWeight random_weight(Shape shape, double sparsity, bool bf16, Allocator& allocator, ThreadPool& pool) {
  const auto threshold = static_cast<std::uint32_t>((1.0 - sparsity) * 65536.0);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(shape.m));
  const auto row_masks = [&](std::int64_t row, const auto& visit) {
    Random random{static_cast<std::uint64_t>(row) * 7919 + static_cast<std::uint64_t>(sparsity * 1000) * 104729 + 1};
    for (std::int64_t c = 0; c < shape.k; c += 8) {
      std::uint8_t byte = 0;
      const std::uint64_t a = random(), b = random();
      for (int i = 0; i < 4; ++i) {
        byte = static_cast<std::uint8_t>(byte | ((a >> (16 * i) & 0xffffU) < threshold) << i |
                                         ((b >> (16 * i) & 0xffffU) < threshold) << (4 + i));
      }
      visit(c / 8, byte);
    }
  };
  pool.parallel_for(shape.m, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      row_masks(r, [&](std::int64_t, std::uint8_t byte) { counts[static_cast<std::size_t>(r)] += __builtin_popcount(byte); });
    }
  });
  std::int64_t nnz = 0;
  for (const std::int64_t c : counts) nnz += c;
  OwnedSparseWeight w(allocator, shape.m, shape.k, nnz, bf16 ? DType::bf16 : DType::f16);
  auto* offsets = w.view.row_offsets.data<std::int64_t>();
  offsets[0] = 0;
  for (std::size_t r = 0; r < counts.size(); ++r) offsets[r + 1] = offsets[r] + counts[r];
  auto* values = static_cast<std::uint16_t*>(w.view.values.raw());
  pool.parallel_for(shape.m, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      row_masks(r, [&](std::int64_t i, std::uint8_t byte) { w.view.mask.data<std::uint8_t>()[r * w.view.mask_stride() + i] = byte; });
      Random random{static_cast<std::uint64_t>(r) * 31337 + 17};
      for (std::int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
        values[i] = half_bits((static_cast<float>(random() >> 40) + 0.5F) / 8388608.0F - 1.0F, bf16);
      }
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

struct Measured {
  std::string kernel, config;
  double us, rel_error;
  std::int64_t nbytes;
};

class SpmmCase {
 public:
  SpmmCase(const SparseWeight& weight, TileFormat format, Allocator& allocator, ThreadPool& pool)
      : weight_(weight), pool_(pool), packed_(pack_tiles(weight, format, allocator, pool)) {
    const std::size_t bytes = static_cast<std::size_t>(packed_.view.data.nbytes());
    stride_ = (bytes + 255) / 256 * 256;
    copies_ = static_cast<int>(std::clamp<std::size_t>((std::size_t{256} << 20) / bytes + 1, 2, 64));
    data_.emplace_back(stride_ * static_cast<std::size_t>(copies_) + 256);
    offsets_.emplace_back(static_cast<std::size_t>(packed_.view.offsets.nbytes()));
    cuda_check(cudaMemcpy(data_[0].as(), packed_.view.data.raw(), bytes, cudaMemcpyHostToDevice), "upload");
    for (int i = 1; i < copies_; ++i)
      cuda_check(cudaMemcpy(data_[0].as<char>() + stride_ * static_cast<std::size_t>(i), data_[0].as(), bytes, cudaMemcpyDeviceToDevice),
                 "copy");
    cuda_check(cudaMemcpy(offsets_[0].as(), packed_.view.offsets.raw(), static_cast<std::size_t>(packed_.view.offsets.nbytes()),
                          cudaMemcpyHostToDevice),
               "upload");
  }

  std::int64_t nbytes() const { return packed_.view.nbytes(); }

  // Expansion, then the dense product, timed together.
  Measured run_expanded(std::int64_t n, const DeviceLimits& limits) {
    const std::int64_t ldw = (weight_.cols + 7) / 8 * 8;
    DeviceMemory dense(static_cast<std::size_t>(2 * weight_.rows * ldw));
    ExpandParams p;
    p.offsets = offsets_[0].as<std::uint32_t>();
    p.out = dense.as();
    p.ldw = ldw;
    p.m = static_cast<std::int32_t>(weight_.rows);
    p.row_blocks = static_cast<std::int32_t>(packed_.view.row_blocks());
    p.records = static_cast<std::int32_t>(packed_.view.records_per_row_block());
    p.slot_bytes = static_cast<std::uint32_t>(packed_.view.max_record_bytes + 16);
    int copy = 0;
    const auto expand = [&](int, cudaStream_t stream) -> const void* {
      p.data = data_[0].as<std::uint8_t>() + stride_ * static_cast<std::size_t>(copy++ % copies_);
      cuda_check(launch_expand(p, packed_.view.format, limits.num_sms, stream), "expand");
      return dense.as();
    };
    const double us = time_cublas({weight_.rows, weight_.cols}, n, weight_.dtype() == DType::bf16, expand);
    return {std::string(name_of(packed_.view.format)) + " expanded + cublaslt", "expansion, then cublaslt", us, 0, nbytes()};
  }

  // None where the arrangement that was asked for does not exist for this n.
  std::optional<Measured> run(std::int64_t n, const DeviceLimits& limits, std::optional<SpmmShape> shape) {
    const bool bf16 = weight_.dtype() == DType::bf16;
    std::vector<std::uint16_t> x(static_cast<std::size_t>(n * weight_.cols));
    Random random{99};
    for (auto& v : x) v = half_bits((static_cast<float>(random() >> 40) + 0.5F) / 8388608.0F - 1.0F, bf16);
    SpmmConfig config;
    try {
      config = plan_spmm({packed_.view.format, weight_.rows, weight_.cols, n, packed_.view.max_record_bytes, weight_.cols % 8 == 0, shape},
                         limits);
    } catch (const std::exception&) {
      if (shape) return std::nullopt;  // does not fit
      throw;
    }
    DeviceMemory dx(2 * x.size()), out(static_cast<std::size_t>(4 * n * weight_.rows)),
        partials(4 * static_cast<std::size_t>(config.partial_floats)), tickets(4 * static_cast<std::size_t>(config.tickets)),
        packed_x(static_cast<std::size_t>(config.packed_x_bytes));
    cuda_check(cudaMemcpy(dx.as(), x.data(), 2 * x.size(), cudaMemcpyHostToDevice), "x");
    cuda_check(cudaMemset(tickets.as(), 0, 4 * static_cast<std::size_t>(config.tickets)), "tickets");
    cuda_check(cudaMemset(out.as(), 0xff, static_cast<std::size_t>(4 * n * weight_.rows)), "poison");
    SpmmParams p;
    p.offsets = offsets_[0].as<std::uint32_t>();
    p.x = dx.as();
    p.out = out.as();
    p.partials = partials.as<float>();
    p.tickets = tickets.as<std::uint32_t>();
    p.packed_x = packed_x.as<std::uint8_t>();
    p.ldx = weight_.cols;
    p.ldo = p.ldr = weight_.rows;
    p.m = static_cast<std::int32_t>(weight_.rows);
    p.k = static_cast<std::int32_t>(weight_.cols);
    p.n = static_cast<std::int32_t>(n);
    p.row_blocks = static_cast<std::int32_t>(packed_.view.row_blocks());
    p.records = static_cast<std::int32_t>(packed_.view.records_per_row_block());
    p.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
    p.x_is_aligned = weight_.cols % 8 == 0;
    const auto call = [&](int copy, cudaStream_t stream) {
      SpmmParams q = p;
      q.data = data_[0].as<std::uint8_t>() + stride_ * static_cast<std::size_t>(copy);
      cuda_check(launch_spmm(q, config, packed_.view.format, bf16, stream), "launch");
    };
    p.data = data_[0].as<std::uint8_t>();
    p.out_type = SpmmOut::f32;  // the check sees fp32 sums; the timing writes halves as cuBLAS does
    if (shape && launch_spmm(p, config, packed_.view.format, bf16, nullptr) == cudaErrorInvalidConfiguration) return std::nullopt;
    call(0, nullptr);
    cuda_check(cudaDeviceSynchronize(), "spmm");
    const double error = relative_error(x, n, out.as<float>(), bf16);
    p.out_type = SpmmOut::same;
    const double us = time_graph(call, copies_, static_cast<double>(nbytes()) / 2.5e6);
    return Measured{std::string(name_of(packed_.view.format)), config.to_string(), us, error, nbytes()};
  }

 private:
  double relative_error(const std::vector<std::uint16_t>& x, std::int64_t n, const float* device_out, bool bf16) const {
    std::vector<float> out(static_cast<std::size_t>(n * weight_.rows));
    cuda_check(cudaMemcpy(out.data(), device_out, 4 * out.size(), cudaMemcpyDeviceToHost), "out");
    for (const float v : out) {
      if (!std::isfinite(v)) return NAN;
    }
    constexpr std::int64_t kSamples = 64;
    std::vector<double> errors(kSamples), norms(kSamples);
    pool_.parallel_for(kSamples, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t sample = begin; sample < end; ++sample) {
        Random random{static_cast<std::uint64_t>(sample) + 7};
        const std::int64_t row = sample == 0   ? 0
                                 : sample == 1 ? weight_.rows - 1
                                               : static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(weight_.rows));
        const std::vector<double> sums = exact_row(x, n, row, bf16);
        for (std::int64_t t = 0; t < n; ++t) {
          const double sum = sums[static_cast<std::size_t>(t)], d = out[static_cast<std::size_t>(t * weight_.rows + row)] - sum;
          errors[static_cast<std::size_t>(sample)] += d * d;
          norms[static_cast<std::size_t>(sample)] += sum * sum;
        }
      }
    });
    const double error = std::accumulate(errors.begin(), errors.end(), 0.0), norm = std::accumulate(norms.begin(), norms.end(), 0.0);
    return std::sqrt(error / norm);
  }

  std::vector<double> exact_row(const std::vector<std::uint16_t>& x, std::int64_t n, std::int64_t row, bool bf16) const {
    std::vector<double> sums(static_cast<std::size_t>(n));
    std::int64_t at = weight_.row_offsets.data<std::int64_t>()[row];
    for (std::int64_t c = 0; c < weight_.cols; ++c) {
      if ((weight_.mask.data<std::uint8_t>()[row * weight_.mask_stride() + c / 8] >> (c % 8) & 1) == 0) continue;
      const double w = half_value(static_cast<const std::uint16_t*>(weight_.values.raw())[at++], bf16);
      for (std::int64_t t = 0; t < n; ++t) {
        sums[static_cast<std::size_t>(t)] += w * half_value(x[static_cast<std::size_t>(t * weight_.cols + c)], bf16);
      }
    }
    return sums;
  }

  const SparseWeight& weight_;
  ThreadPool& pool_;
  OwnedTiledWeight packed_;
  std::vector<DeviceMemory> data_, offsets_;
  std::size_t stride_ = 0;
  int copies_ = 0;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

struct Options {
  std::vector<Shape> shapes = kShapes;
  std::vector<double> sparsities = {0.5, 0.6, 0.7, 0.8, 0.9};
  std::vector<std::int64_t> ns = {8};
  std::string out = "spmm.json", commit, command;
  std::vector<std::optional<SpmmShape>> arrangements = {std::nullopt};
  std::vector<TileFormat> formats = {TileFormat::bitmap, TileFormat::tiled_csl, TileFormat::two_four};
  double csl_from = 0.75, two_four_from = 0.65;  // sparsities below are not measured
  std::int64_t expand_from = 128;
  bool fp8 = false, cusparse = false;
  bool bf16 = false, dependent_launch = true;
};

// 4x4, p4x4, w8x2 or ws8x2: row warps x groups along k; w: the wgmma kernel, ws: the warp-specialised one, p: with packed x.
SpmmShape parse_arrangement(const std::string& text) {
  const std::size_t digits = text.find_first_of("0123456789"), x = text.find('x');
  const std::string flags = text.substr(0, digits);
  const auto has = [&](char flag) { return flags.find(flag) != std::string::npos; };
  const SpmmKernel kernel = !has('w') ? SpmmKernel::mma : has('s') ? SpmmKernel::warp_specialized : SpmmKernel::wgmma;
  return {kernel, std::stoi(text.substr(digits)), std::stoi(text.substr(x + 1)), has('p')};
}

TileFormat parse_format(const std::string& name) {
  for (const TileFormat format : {TileFormat::bitmap, TileFormat::tiled_csl, TileFormat::two_four}) {
    if (name == name_of(format)) return format;
  }
  throw std::runtime_error("no format is called " + name);
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 0; i < argc; ++i) o.command += (i ? " " : "") + std::string(argv[i]);
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--out") o.out = value;
    if (key == "--dependent-launch") o.dependent_launch = value != "0";
    if (key == "--warps") {
      o.arrangements.clear();
      for (const auto& p : split(value)) {
        o.arrangements.push_back(p == "auto" ? std::nullopt : std::optional<SpmmShape>(parse_arrangement(p)));
      }
    }
    if (key == "--commit") o.commit = value;
    if (key == "--dtype") o.bf16 = value == "bf16";
    if (key == "--fp8") o.fp8 = value != "0";
    if (key == "--cusparse") o.cusparse = value != "0";
    if (key == "--expand-from") o.expand_from = std::stoll(value);
    if (key == "--csl-from") o.csl_from = std::stod(value);
    if (key == "--two-four-from") o.two_four_from = std::stod(value);
    if (key == "--formats") {
      o.formats.clear();
      for (const auto& p : split(value)) o.formats.push_back(parse_format(p));
    }
    if (key == "--n") {
      o.ns.clear();
      for (const auto& p : split(value)) o.ns.push_back(std::stoll(p));
    }
    if (key == "--sparsity") {
      o.sparsities.clear();
      for (const auto& p : split(value)) o.sparsities.push_back(std::stod(p));
    }
    if (key == "--shapes") {
      o.shapes.clear();
      for (const auto& p : split(value)) o.shapes.push_back({std::stoll(p), std::stoll(p.substr(p.find('x') + 1))});
    }
  }
  return o;
}

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
  limits.dependent_launch = props.major >= 9 && o.dependent_launch;
  limits.wgmma = props.major == 9;
  const double ceiling = read_ceiling_gbps();
  std::printf("%s, read ceiling %.0f GB/s\n", props.name, ceiling);
  std::FILE* file = std::fopen(o.out.c_str(), "w");
  if (file == nullptr) throw std::runtime_error("cannot write " + o.out);
  std::fprintf(file, "{\"rows\":[");
  const char* comma = "";
  HostAllocator allocator;
  ThreadPool pool;
  const auto write_row = [&](const Measured& r, double cublas, Shape s, double sparsity, std::int64_t n) {
    const double gbps = static_cast<double>(r.nbytes) / r.us / 1e3;
    std::printf("%-28s %6ldx%-6ld n %3ld s %.2f  %8.2f us  cublas %8.2f  x%.2f  %5.1f%% of read  err %.1e  %s\n", r.kernel.c_str(), s.m,
                s.k, n, sparsity, r.us, cublas, cublas / r.us, 100 * gbps / ceiling, r.rel_error, r.config.c_str());
    std::fflush(stdout);
    std::fprintf(file,
                 "%s\n{\"kernel\":\"%s\",\"m\":%ld,\"k\":%ld,\"n\":%ld,\"sparsity\":%.2f,\"dtype\":\"%s\",\"us\":%.3f,\"us_cublas\":%.3f,"
                 "\"speedup\":%.4f,\"gbps\":%.1f,\"percent_of_read\":%.2f,\"rel_error\":%.3e,\"config\":\"%s\",\"device\":\"%s\","
                 "\"driver\":%d,\"cuda\":%d,\"commit\":\"%s\",\"command\":\"%s\",\"date\":\"%s\",\"read_gbps\":%.1f}",
                 comma, r.kernel.c_str(), s.m, s.k, n, sparsity,
                 r.kernel == "cublaslt fp8" ? "fp8"
                 : o.bf16                   ? "bf16"
                                            : "f16",
                 r.us, cublas, cublas / r.us, gbps, 100 * gbps / ceiling, r.rel_error, r.config.c_str(), props.name, driver, runtime,
                 o.commit.c_str(), o.command.c_str(), date, ceiling);
    comma = ",";
  };
  for (const Shape s : o.shapes) {
    std::vector<double> cublas;
    for (const std::int64_t n : o.ns) {
      cublas.push_back(time_cublas(s, n, o.bf16));
      if (!o.fp8) continue;
      if (const double us = time_cublas_fp8(s, n); us > 0) write_row({"cublaslt fp8", "dense", us, 0, s.m * s.k}, cublas.back(), s, 0, n);
    }
    for (const double sparsity : o.sparsities) {
      const OwnedSparseWeight weight = random_weight(s, sparsity, o.bf16, allocator, pool);
      for (std::size_t i = 0; o.cusparse && i < o.ns.size(); ++i) {
        if (const double us = time_cusparse(weight.view, o.ns[i]); us > 0) {
          write_row({"cusparse csr", "best of three algorithms", us, 0, 6 * weight.view.nnz() + 4 * s.m}, cublas[i], s, sparsity, o.ns[i]);
        }
      }
      for (const TileFormat format : o.formats) {
        if (format == TileFormat::tiled_csl && sparsity < o.csl_from) continue;
        if (format == TileFormat::two_four && sparsity < o.two_four_from) continue;
        SpmmCase spmm(weight.view, format, allocator, pool);
        for (std::size_t i = 0; i < o.ns.size(); ++i) {
          if (o.ns[i] >= o.expand_from) write_row(spmm.run_expanded(o.ns[i], limits), cublas[i], s, sparsity, o.ns[i]);
          if (o.ns[i] > 256 && !o.arrangements[0]) continue;  // passes over the weight: only where asked for
          for (const auto& arrangement : o.arrangements) {
            const std::optional<Measured> r = spmm.run(o.ns[i], limits, arrangement);
            if (r) write_row(*r, cublas[i], s, sparsity, o.ns[i]);
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
    std::fprintf(stderr, "spmm_bench: %s\n", error.what());
    return 1;
  }
}
