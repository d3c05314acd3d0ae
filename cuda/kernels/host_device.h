// Marks functions that kernels and the host's tests share.
#pragma once

#if defined(__CUDACC__)
#define GOSSAMER_HOST_DEVICE __host__ __device__
#else
#define GOSSAMER_HOST_DEVICE
#endif
