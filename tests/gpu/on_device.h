// Device memory of a test.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "plan/spmm_plan.h"

namespace gossamer {

inline void ok(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count, int fill = 0xff) : count_(count) {
    ok(cudaMalloc(&data_, std::max<std::size_t>(1, count) * sizeof(T)));
    ok(cudaMemset(data_, fill, count * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    ok(cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceArray(const T* host, std::int64_t count) : DeviceArray(std::vector<T>(host, host + count)) {}
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }
  T* get() const { return static_cast<T*>(data_); }
  std::vector<T> host() const {
    std::vector<T> v(count_);
    ok(cudaMemcpy(v.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }

 private:
  void* data_ = nullptr;
  std::size_t count_;
};

inline DeviceLimits limits_of_device_0() {
  cudaDeviceProp props;
  ok(cudaGetDeviceProperties(&props, 0));
  DeviceLimits limits;
  limits.num_sms = props.multiProcessorCount;
  limits.shared_bytes_per_block = static_cast<std::int64_t>(props.sharedMemPerBlockOptin);
  limits.shared_bytes_per_sm = static_cast<std::int64_t>(props.sharedMemPerMultiprocessor);
  limits.dependent_launch = props.major >= 9;
  limits.wgmma = props.major == 9;
  return limits;
}

}  // namespace gossamer
