// What the kernel benchmarks share: device memory, checks, random numbers, timing.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"

namespace gossamer::bench {

struct Shape {
  std::int64_t m, k;
};
inline void cuda_check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) { cuda_check(cudaMalloc(&data_, std::max<std::size_t>(bytes, 16)), "cudaMalloc"); }
  DeviceMemory(DeviceMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  ~DeviceMemory() { cudaFree(data_); }
  template <typename T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

struct Random {  // splitmix64
  std::uint64_t state;
  std::uint64_t operator()() {
    std::uint64_t z = state += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
};

inline std::uint16_t half_bits(float v, bool bf16) {
  if (bf16) return to_bfloat16(v).bits;
  return to_float16(v).bits;
}
inline float half_value(std::uint16_t bits, bool bf16) { return bf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits}); }

// Median microseconds of one call of `launch(copy)`, from replays of a graph of `calls` launches.
inline double time_graph(const std::function<void(int, cudaStream_t)>& launch, int copies, double expected_us) {
  cudaStream_t stream;
  cuda_check(cudaStreamCreate(&stream), "stream");
  const int calls = std::max(copies, static_cast<int>(std::clamp(2000.0 / expected_us, 4.0, 64.0)) / copies * copies);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < calls; ++i) launch(i % copies, stream);
  cuda_check(cudaStreamEndCapture(stream, &graph), "end capture");
  cuda_check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<double> times;
  for (int i = 0; i < 12; ++i) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(exec, stream);
    cudaEventRecord(end, stream);
    cuda_check(cudaEventSynchronize(end), "replay");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 2) times.push_back(1e3 * ms / calls);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace gossamer::bench
