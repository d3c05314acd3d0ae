#include "comm/launch.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "core/error.h"

namespace gossamer {

namespace {

struct Variables {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
};

// In this order: mpirun under Slurm starts its daemons with srun, whose variables the ranks inherit. SLURM_STEP_NUM_TASKS and not
// SLURM_NTASKS, which is set in a batch script that runs alone, too.
constexpr std::array kLaunchers{
    Variables{"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    Variables{"MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    Variables{"Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"},
};

int parse(const char* name, std::string_view text) {
  int value = -1;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  // Slurm writes "2(x3)" for three nodes of two: the number before the bracket is what this node has, or near enough.
  const bool is_whole = rest == text.data() + text.size() || *rest == '(' || *rest == ',';
  require(error == std::errc() && is_whole && value >= 0,
          "the launcher's variable " + std::string(name) + " must be a number, not '" + printable(text) + "'; start with mpirun or srun");
  return value;
}

}  // namespace

std::optional<Launch> read_launch(const Environment& environment) {
  for (const Variables& names : kLaunchers) {
    const char* rank = environment(names.rank);
    const char* size = environment(names.size);
    if (rank == nullptr || size == nullptr) continue;
    Launch launch{.launcher = names.launcher, .rank = parse(names.rank, rank), .size = parse(names.size, size)};
    require(launch.rank < launch.size, std::string("the launcher's variables contradict each other: ") + names.rank + " = " + rank +
                                           ", but " + names.size + " = " + size + "; start with one launcher only");
    if (launch.size == 1) return std::nullopt;
    const char* local_rank = environment(names.local_rank);
    const char* local_size = environment(names.local_size);
    launch.local_rank = local_rank != nullptr ? parse(names.local_rank, local_rank) : launch.rank;
    launch.local_size = local_size != nullptr ? parse(names.local_size, local_size) : launch.size;
    return launch;
  }
  return std::nullopt;
}

std::optional<Launch> read_launch() {
  return read_launch([](const char* name) { return std::getenv(name); });
}

std::size_t own_gpu(const Launch& launch, std::size_t num_visible) {
  const std::size_t index = num_visible == 1 ? 0 : static_cast<std::size_t>(launch.local_rank);
  if (index < num_visible) return index;
  throw DeviceError(std::to_string(launch.local_size) + " ranks were started on a host with " + std::to_string(num_visible) +
                    " GPUs, and two cannot share one; start as many ranks as GPUs, or use device='cpu'");
}

}  // namespace gossamer
