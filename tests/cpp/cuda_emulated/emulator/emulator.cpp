#include "emulator.h"

#include "block.h"

BuiltIn threadIdx, blockIdx, gridDim;

namespace gossamer::emulator {

void run(const Grid& grid, std::uint32_t shared_bytes, std::uint64_t seed, const std::function<void()>& kernel) {
  gridDim = {grid.blocks_x, grid.blocks_y};
  std::vector<unsigned> order(grid.blocks_x * grid.blocks_y);
  std::iota(order.begin(), order.end(), 0U);
  std::mt19937_64 random(seed);
  std::shuffle(order.begin(), order.end(), random);
  for (const unsigned i : order) {
    blockIdx = {i % grid.blocks_x, i / grid.blocks_x};
    Block(grid.threads, shared_bytes, random(), kernel).run();
  }
}

std::uint32_t warp_collective(Collective kind, std::uint32_t value, int operand) { return block->collective(kind, value, operand); }
void block_barrier(int id, unsigned threads) { block->block_barrier(id, threads); }
const std::uint8_t* shared_read(std::uint32_t address, std::uint32_t bytes) {
  static const std::array<std::uint8_t, 16> kGarbage = [] {
    std::array<std::uint8_t, 16> g;
    g.fill(0x7e);  // a NaN of f16
    return g;
  }();
  const std::uint8_t* read = block->access(address, bytes, "a read");
  return block->is_being_copied(address, bytes) ? kGarbage.data() : read;
}
std::uint8_t* shared_write(std::uint32_t address, std::uint32_t bytes) {
  if (block->is_being_copied(address, bytes)) block->fail("a write where a copy is on its way");
  return block->access(address, bytes, "a write");
}
void barrier_init(std::uint32_t barrier, std::uint32_t arrivals) { block->barrier_init(barrier, arrivals); }
void barrier_arrive(std::uint32_t barrier, std::uint32_t bytes) { block->barrier_arrive(block->barrier(barrier), bytes); }
void barrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  block->wait_until([&] { return block->barrier(barrier).phases % 2 != parity; });
}
void bulk_copy(std::uint32_t shared, const void* global, std::uint32_t bytes, std::uint32_t barrier) {
  block->bulk_copy({shared, bytes, barrier, static_cast<const std::uint8_t*>(global)});
}
void copy_async_16(std::uint32_t shared, const void* global) { block->copy_async_16(shared, global); }
void copy_async_commit() { block->copy_async_commit(); }
void copy_async_wait(int pending) { block->copy_async_wait(pending); }
void change_registers(int count, bool is_increase) { block->change_registers(static_cast<unsigned>(count), is_increase); }
void wgmma(void* d, const std::uint32_t (&a)[4], std::uint64_t b, int n_tiles, Operands operands, bool keeps) {
  block->wgmma(d, a, b, n_tiles, operands, keeps);
}
void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, bool is_bf16) {
  block->mma(c, a, {b0, b1, 0, 0}, 0, 16, is_bf16, [](const WarpProduct& p, int row, int k) {
    return static_cast<std::uint16_t>(p.a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2] >> (16 * (k % 2)));
  });
}
void mma_sparse(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[4], std::uint32_t metadata, int selector,
                bool is_bf16) {
  block->mma(c, a, b, metadata, 32, is_bf16, [selector](const WarpProduct& p, int row, int k) -> std::uint16_t {
    const int group = k / 4, position = k % 4;
    const std::uint32_t word = p.metadata[row % 8 * 4 + 2 * selector + group / 4];
    const std::uint32_t code = word >> (16 * (row / 8) + 4 * (group % 4)) & 0xfU;
    const std::uint32_t values = p.a[row % 8 * 4 + group % 4][row / 8 + 2 * (group / 4)];
    if (static_cast<int>(code & 3U) == position) return static_cast<std::uint16_t>(values & 0xffffU);
    return static_cast<int>(code >> 2) == position ? static_cast<std::uint16_t>(values >> 16) : std::uint16_t{0};
  });
}
void wgmma_commit() {
  block->meet([](Warp& w) { ++w.groups; });
}
void wgmma_wait(int pending) { block->wgmma_wait(pending); }

}  // namespace gossamer::emulator

void __syncthreads() { gossamer::emulator::block->block_barrier(0, gossamer::emulator::block->size()); }
void __syncwarp() { gossamer::emulator::warp_collective(gossamer::emulator::Collective::sync, 0, 0); }
std::uint32_t __shfl_sync(std::uint32_t /*mask*/, std::uint32_t value, int lane) {
  return gossamer::emulator::warp_collective(gossamer::emulator::Collective::shuffle, value, lane);
}
