// What the launcher (mpirun, mpiexec, srun) says about this process. The only place that reads its environment variables.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>

namespace gossamer {

struct Launch {
  std::string launcher;  // "Open MPI", "MPICH" (and its relatives), "Slurm"
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the ranks of this host
  int local_size = 1;
};

using Environment = std::function<const char*(const char* name)>;  // null where the variable is not set

// nullopt: started by itself, or as the only rank. InvalidArgument: the variables contradict each other.
std::optional<Launch> read_launch(const Environment& environment);
std::optional<Launch> read_launch();  // from this process's environment

// Which of the GPUs that this process sees is its own: that of its number on the host, or the only one, which the launcher may have chosen
// (srun --gpus-per-task=1). DeviceError: there are too few.
std::size_t own_gpu(const Launch& launch, std::size_t num_visible);

}  // namespace gossamer
