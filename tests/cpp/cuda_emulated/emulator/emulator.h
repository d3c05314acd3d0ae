// Runs CUDA kernels on the host, one block after the other: the kernel's own source, compiled against device/ptx.cuh and ptx_wgmma.cuh of
// this folder. What a GPU does at its leisure happens here as late, or in as odd an order, as it may:
//
//   threads        are fibers, run in random order until they wait
//   bulk copies    land at a random time, whole; until then reads from where they go give garbage
//   wgmma          reads its registers and shared memory, and writes its sums, only when a wait makes it
//
// Deadlocks, misaligned accesses, writes into copies and copies over what products still read throw. One thread of the host at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>

#include "core/dtype.h"
#include "cuda_keywords.h"

namespace gossamer::emulator {

struct Grid {
  unsigned blocks_x = 1, blocks_y = 1, threads = 32;
};
// Every block of the grid, in an order that depends on the seed. Throws std::runtime_error: what went wrong, in which thread.
void run(const Grid& grid, std::uint32_t shared_bytes, std::uint64_t seed, const std::function<void()>& kernel);

// ---- what device/*.cuh are made of; only inside run().
enum class Collective { sync, shuffle, scan, sum };
std::uint32_t warp_collective(Collective kind, std::uint32_t value, int operand);
void block_barrier(int id, unsigned threads);
// Checked: in bounds, aligned. Where a copy is on its way, reads give garbage (a decoder may read past its record, if it does not use it).
const std::uint8_t* shared_read(std::uint32_t address, std::uint32_t bytes);
std::uint8_t* shared_write(std::uint32_t address, std::uint32_t bytes);
void barrier_init(std::uint32_t barrier, std::uint32_t arrivals);
void barrier_arrive(std::uint32_t barrier, std::uint32_t expected_bytes);
void barrier_wait(std::uint32_t barrier, std::uint32_t parity);
void bulk_copy(std::uint32_t shared, const void* global, std::uint32_t bytes, std::uint32_t barrier);
// cp.async: 16 bytes of this thread, there when it waits for their group; until then reads from there give garbage.
void copy_async_16(std::uint32_t shared, const void* global);
void copy_async_commit();
void copy_async_wait(int pending);
// setmaxnreg: a block has the registers that it was launched with, as many as __launch_bounds__(threads, 1) allows; for more, it waits.
void change_registers(int count, bool is_increase);

// One lane's part of a product of a warp, done at once. mma_sparse: metadata as in the PTX ISA, of lanes 4g + 2 selector and the one above.
void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, bool is_bf16);
void mma_sparse(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[4], std::uint32_t metadata, int selector,
                bool is_bf16);

// One lane's part of a warpgroup product of n_tiles x 8 tokens over 32 bytes of k; d, [n_tiles][4] f32 or (i8) s32, and a must stay valid
// until a wait. keeps: adds to d, else overwrites it. Products of e4m3 lose of a sum what Hopper loses: bits below 2^-13 of the largest
// term.
enum class Operands { f16, bf16, e4m3, i8 };
void wgmma(void* d, const std::uint32_t (&a)[4], std::uint64_t b, int n_tiles, Operands operands, bool keeps);
void wgmma_commit();
void wgmma_wait(int pending);

}  // namespace gossamer::emulator
