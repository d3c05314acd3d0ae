// SpMM on Hopper for many tokens (sm_90a), warp-specialised: one warp a team copies, all others expand and multiply. The planner does not
// choose it yet.
//
// A warpgroup takes 64 rows: each warp expands a tile of 16 x 64 into the register operand of wgmma; the activations, packed by pack_x.cuh,
// are the operand in shared memory. A stage holds what a team (kRowGroups warpgroups) needs for one step along k: a record for each pair of
// warps and the packed activations; kGroups teams split k. A warp issues each fragment's product as soon as the fragment is there, finds
// its way through the next tile meanwhile (tile_steps.cuh), and waits only before it writes registers that the product of the tile before
// still reads. How work is split: spmm_schedule.h; how sums are combined: partial_sums.cuh.
//
// Who waits for whom. Phase i of stage s holds the team's step j = i * stages + s.
//   full[s]  ends phase i when every copying lane has announced its bytes and all of them are there. Consumers wait for it, then read.
//   empty[s] ends phase i when every warp of the team is done with step j: its values are in registers, its products complete. Copying
//            lanes wait for it, then fill phase i + 1.
// A warp is done with step j within step j + 1, once it has seen step j + 2 there (it looks one step ahead). So the copy of step j waits
// for consumers that need at most step j - stages + 2, which is before j from three stages on: the first step that is not there can always
// be filled. The warps of a warpgroup take the same steps, those beyond the last row with zeros, so that its collective instructions meet.
#pragma once

#include "device/ptx_wgmma.cuh"
#include "kernels/packed_x.h"
#include "kernels/partial_sums.cuh"
#include "kernels/spmm_common.cuh"
#include "kernels/tile_steps.cuh"
#include "kernels/wgmma_sums.cuh"

namespace gossamer {

template <class Tile, int kNTiles, int kRowGroups, int kGroups, PackedX kPackedX = PackedX::core_matrices>
struct WarpSpecializedLayout {                                 // byte offsets in dynamic shared memory
  static constexpr int kConsumers = 4 * kRowGroups * kGroups;  // warps
  static constexpr int kThreads = (kConsumers + 4) * 32;
  // Registers a thread. What the block is launched with is all that its warpgroups have to share out; asking for more waits for ever. The
  // warpgroup that copies needs few.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8, kCopierRegisters = 24;
  static constexpr int kConsumerRegisters = (kThreads * kLaunchRegisters - 128 * kCopierRegisters) / (kConsumers * 32) / 8 * 8;
  static constexpr int kRowBlocks = 2 * kRowGroups;
  static constexpr int kMinStages = 3, kMaxStages = 8;
  static constexpr int kXBytes = packed_x_record_bytes(kPackedX, kNTiles);
  static constexpr int kFull = 0;  // barriers [team][stage]
  static constexpr int kEmpty = kGroups * 8 * kMaxStages;
  static constexpr int kEmptyRecord = 2 * kEmpty;
  static constexpr int kIsLast = kEmptyRecord + 384;
  static constexpr int kScratch = kIsLast + 128;
  static constexpr int kStages = kScratch + kConsumers * Tile::kScratchBytes;
  GOSSAMER_HOST_DEVICE static constexpr int stage_bytes(int slot_bytes) { return (kXBytes + kRowBlocks * slot_bytes + 127) / 128 * 128; }
  static constexpr int total(int slot_bytes, int stages) { return kStages + kGroups * stages * stage_bytes(slot_bytes) + Tile::kOverread; }
};

// One lane of a copying warp: walks what it copies, a record or the activations of each step, through all segments of its CTA.
template <int kRowBlocks, int kGroups, int kXBytes>
class StepCopier {
 public:
  // part: a row block of the team's, or kRowBlocks: the activations.
  __device__ StepCopier(const SpmmParams& p, int unit, int unit_end, int group, int part)
      : p_(p), unit_(unit), unit_end_(unit_end), group_(group), part_(part) {
    open();
  }
  __device__ __forceinline__ bool copies_x() const { return part_ == kRowBlocks; }
  __device__ __forceinline__ bool is_done() const { return k_ == k_end_; }
  // Starts the copy of this step; moves to the next.
  __device__ __forceinline__ void push(std::uint32_t stage, std::uint32_t slot_bytes, std::uint32_t barrier) {
    if (copies_x()) {
      ptx::barrier_expect(barrier, kXBytes);
      ptx::bulk_copy_reused(stage, packed_x_ + static_cast<std::int64_t>(k_) * kXBytes, kXBytes, barrier);
    } else {
      const std::uint32_t bytes = (record_end_ - record_) * 16;
      ptx::barrier_expect(barrier, bytes);
      if (bytes != 0) ptx::bulk_copy(stage + kXBytes + part_ * slot_bytes, p_.data + std::size_t{record_} * 16, bytes, barrier);
    }
    ++k_;
    if (k_ == k_end_) {
      open();
    } else {
      look_up();
    }
  }

 private:
  // Moves to the next segment in which the team has steps.
  __device__ void open() {
    while (unit_ < unit_end_ && k_ == k_end_) {
      const int super_row = unit_ / p_.records, k = unit_ - super_row * p_.records;
      const int length = min(p_.records - k, unit_end_ - unit_);
      k_ = k + length * group_ / kGroups;
      k_end_ = k + length * (group_ + 1) / kGroups;
      offsets_ = super_row * kRowBlocks + part_ < p_.row_blocks && !copies_x()
                     ? p_.offsets + std::int64_t{super_row * kRowBlocks + part_} * p_.records
                     : nullptr;
      unit_ += length;
    }
    look_up();
  }
  __device__ __forceinline__ void look_up() {
    record_ = record_end_ = 0;
    if (offsets_ == nullptr || is_done()) return;
    record_ = __ldg(offsets_ + k_);
    record_end_ = __ldg(offsets_ + k_ + 1);
  }

  const SpmmParams& p_;
  const std::uint8_t* packed_x_ = p_.packed_x + static_cast<std::int64_t>(blockIdx.y) * p_.records * kXBytes;
  int unit_, unit_end_, group_, part_;
  int k_ = 0, k_end_ = 0;
  const std::uint32_t* offsets_ = nullptr;  // of the row block; null where there is none
  std::uint32_t record_ = 0, record_end_ = 0;
};

// A copying warp's work: a lane for each record and for the activations of its team. No two teams share a warp: where its lanes wait for
// one another, the teams would, and between two segments each waits for the other's steps.
template <class Layout, int kGroups>
__device__ __forceinline__ void copy_steps(const SpmmParams& p, int unit_begin, int unit_end, std::uint32_t base, int group, int lane) {
  static_assert(kGroups <= 4 && Layout::kRowBlocks < 32, "a warp for every team, a lane for every copy of a step");
  if (group >= kGroups || lane > Layout::kRowBlocks) return;
  const std::uint32_t full = base + Layout::kFull + group * 8 * Layout::kMaxStages;
  const std::uint32_t empty = base + Layout::kEmpty + group * 8 * Layout::kMaxStages;
  const std::uint32_t stage_bytes = Layout::stage_bytes(static_cast<int>(p.slot_bytes));
  const std::uint32_t slots = base + Layout::kStages + group * p.stages * stage_bytes;
  StepCopier<Layout::kRowBlocks, kGroups, Layout::kXBytes> copier(p, unit_begin, unit_end, group, lane);
  const auto fill_all = [&] {
    for (int s = 0; s < p.stages && !copier.is_done(); ++s) copier.push(slots + s * stage_bytes, p.slot_bytes, full + 8 * s);
  };
  // Programmatic dependent launch: weights do not depend on the kernel before; x, out and the workspace do.
  if (!copier.copies_x()) fill_all();
  ptx::wait_for_previous_grid();
  if (copier.copies_x()) fill_all();
  for (int stage = 0, parity = 0; !copier.is_done();) {
    ptx::barrier_wait(empty + 8 * stage, parity);
    copier.push(slots + stage * stage_bytes, p.slot_bytes, full + 8 * stage);
    if (++stage == p.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

// Product: of wgmma_sums.cuh, whose values Tile has. kIsBf16: the epilogue's operands and out.
template <class Tile, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups, class Product = HalfProduct<kIsBf16>>
__global__ void __launch_bounds__(WarpSpecializedLayout<Tile, kNTiles, kRowGroups, kGroups>::kThreads, 1)
    spmm_warp_specialized_kernel(const __grid_constant__ typename Product::Params params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Layout = WarpSpecializedLayout<Tile, kNTiles, kRowGroups, kGroups, Product::kPackedX>;
  const SpmmParams& p = base_of(params);
  constexpr int kRowWarps = 4 * kRowGroups, kRowBlocks = Layout::kRowBlocks, kConsumers = Layout::kConsumers, kFragments = Tile::kFragments;
  extern __shared__ __align__(128) std::uint8_t shared[];
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const std::uint32_t base = ptx::shared_address(shared);
  const SpmmSchedule schedule{(p.row_blocks + kRowBlocks - 1) / kRowBlocks, p.records, static_cast<std::int32_t>(gridDim.x)};
  const int unit_begin = schedule.begin(blockIdx.x), unit_end = schedule.begin(blockIdx.x + 1);
  if (threadIdx.x < kGroups * Layout::kMaxStages) {
    ptx::barrier_init(base + Layout::kFull + 8 * threadIdx.x, kRowBlocks + 1);
    ptx::barrier_init(base + Layout::kEmpty + 8 * threadIdx.x, kRowWarps);
  }
  if (threadIdx.x < 96) ptx::store_shared_u32(base + Layout::kEmptyRecord + 4 * threadIdx.x, 0);
  const std::uint32_t scratch = base + Layout::kScratch + warp * Tile::kScratchBytes;
  if (warp < kConsumers) Tile::prepare(scratch, lane);
  ptx::barrier_init_fence();
  __syncthreads();
  ptx::launch_dependents();
  if (warp >= kConsumers) {
    ptx::decrease_registers<Layout::kCopierRegisters>();
    copy_steps<Layout, kGroups>(p, unit_begin, unit_end, base, warp - kConsumers, lane);
    return;
  }
  ptx::increase_registers<Layout::kConsumerRegisters>();
  ptx::wait_for_previous_grid();

  const int row_warp = warp % kRowWarps, group = warp / kRowWarps;
  const int row = row_warp / 2, tile = row_warp % 2;  // of the team's records, and of a record
  const std::uint32_t full = base + Layout::kFull + group * 8 * Layout::kMaxStages;
  const std::uint32_t empty = base + Layout::kEmpty + group * 8 * Layout::kMaxStages;
  const std::uint32_t stage_bytes = Layout::stage_bytes(static_cast<int>(p.slot_bytes));
  const std::uint32_t slots = base + Layout::kStages + group * p.stages * stage_bytes;
  const std::uint32_t last_slot = slots + (p.stages - 1) * stage_bytes;
  const std::uint32_t record_at = Layout::kXBytes + row * p.slot_bytes;  // in a stage

  std::uint32_t slot = slots, barrier = full, parity = 0;  // of the step at hand
  for (int unit = unit_begin; unit < unit_end;) {
    const int super_row = unit / p.records, k_begin = unit - super_row * p.records;
    const int length = min(p.records - k_begin, unit_end - unit);
    const int row_block = super_row * kRowBlocks + row;
    const bool has_rows = row_block < p.row_blocks;
    int steps = length * (group + 1) / kGroups - length * group / kGroups;
    typename Product::template Sums<kNTiles> sums;
    std::uint32_t a[kFragments][4];
    Tile current;
    std::uint32_t done_barrier = 0;  // of the step before
    if (steps > 0) {
      ptx::barrier_wait(barrier, parity);
      // A warp beyond the last row takes part in the products of its warpgroup with zeros.
      current.open(has_rows ? slot + record_at : base + Layout::kEmptyRecord, lane, tile);
#pragma unroll
      for (int i = 0; i < kFragments; ++i) current.step(i);
    }
    for (; steps > 0; --steps) {
      const std::uint64_t b = ptx::wgmma_descriptor(slot, kPackedXHalfStride, kPackedXTokenStride);
      const std::uint32_t this_barrier = barrier;
      barrier += 8;
      slot += stage_bytes;
      if (slot > last_slot) {
        slot = slots;
        barrier = full;
        parity ^= 1;
      }
      std::uint32_t values[2][Tile::kWords];
      current.begin(scratch, lane);
      current.load(0, values[0], scratch, lane);
      Tile next;
      if (steps > 1) ptx::barrier_wait(barrier, parity);
      next.open(has_rows && steps > 1 ? slot + record_at : base + Layout::kEmptyRecord, lane, tile);
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        if (f + 1 < kFragments) current.load(f + 1, values[(f + 1) % 2], scratch, lane);
        next.step(f);
        ptx::wgmma_wait<kFragments - 1>();  // the product of this fragment's registers a step ago
        if (f == kFragments - 1 && done_barrier != 0 && lane == 0) ptx::barrier_arrive(done_barrier);
        current.assemble(f, values[f % 2], a[f], scratch);
        if (f == 0) sums.begin_step();
        ptx::wgmma_fence();
        sums.add(a[f], b + f * kNTiles * kPackedXTokenStride / 16);
        ptx::wgmma_commit();
      }
      current.end(scratch, lane);
      done_barrier = this_barrier - full + empty;
      current = next;
    }
    ptx::wgmma_wait<0>();
    if (done_barrier != 0 && lane == 0) ptx::barrier_arrive(done_barrier);

    const PartialSums<kNTiles, kRowWarps, kGroups, typename Product::Params> parts(params, schedule, super_row);
    if (unit != unit_begin) ptx::named_barrier_sync(1, kConsumers * 32);  // the parts of the segment before have been read
    parts.leave(group, row_warp, lane, sums);
    ptx::named_barrier_sync(1, kConsumers * 32);
    bool is_last = true;
    if (length < p.records) {
      if (threadIdx.x == 0) ptx::store_shared_u32(base + Layout::kIsLast, parts.is_last() ? 1 : 0);
      ptx::named_barrier_sync(1, kConsumers * 32);
      is_last = ptx::load_shared_u32(base + Layout::kIsLast) != 0;
    }
    if (is_last) parts.template finish<kIsBf16>(warp, kConsumers, lane);
    unit += length;
  }
#endif
}

}  // namespace gossamer
