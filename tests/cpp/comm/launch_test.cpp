#include "comm/launch.h"

#include <gtest/gtest.h>

#include <map>

#include "core/error.h"

namespace gossamer {
namespace {

std::optional<Launch> read(const std::map<std::string, std::string>& variables) {
  return read_launch([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(Launch, KnowsTheLaunchers) {
  const auto open_mpi = read({{"OMPI_COMM_WORLD_RANK", "3"},
                              {"OMPI_COMM_WORLD_SIZE", "8"},
                              {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  ASSERT_TRUE(open_mpi);
  EXPECT_EQ(open_mpi->launcher, "Open MPI");
  EXPECT_EQ(open_mpi->rank, 3);
  EXPECT_EQ(open_mpi->size, 8);
  EXPECT_EQ(open_mpi->local_rank, 1);
  EXPECT_EQ(open_mpi->local_size, 2);

  const auto mpich = read({{"PMI_RANK", "1"}, {"PMI_SIZE", "4"}});
  ASSERT_TRUE(mpich);
  EXPECT_EQ(mpich->launcher, "MPICH");
  EXPECT_EQ(mpich->rank, 1);
  EXPECT_EQ(mpich->local_rank, 1);
  EXPECT_EQ(mpich->local_size, 4);

  const auto slurm =
      read({{"SLURM_PROCID", "5"}, {"SLURM_STEP_NUM_TASKS", "6"}, {"SLURM_LOCALID", "1"}, {"SLURM_STEP_TASKS_PER_NODE", "2(x3)"}});
  ASSERT_TRUE(slurm);
  EXPECT_EQ(slurm->launcher, "Slurm");
  EXPECT_EQ(slurm->local_size, 2);
}

TEST(Launch, AloneWithoutALauncherOrAsTheOnlyRank) {
  EXPECT_FALSE(read({}));
  EXPECT_FALSE(read({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}}));
  // A batch script has these, though nothing was launched in parallel.
  EXPECT_FALSE(read({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}}));
}

// mpirun under Slurm starts its daemons with srun.
TEST(Launch, OpenMpiComesBeforeTheSlurmUnderIt) {
  const auto launch =
      read({{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"OMPI_COMM_WORLD_RANK", "5"}, {"OMPI_COMM_WORLD_SIZE", "8"}});
  ASSERT_TRUE(launch);
  EXPECT_EQ(launch->rank, 5);
}

TEST(Launch, RefusesNonsense) {
  EXPECT_THROW(read({{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "2"}}), InvalidArgument);
  EXPECT_THROW(read({{"OMPI_COMM_WORLD_RANK", "-1"}, {"OMPI_COMM_WORLD_SIZE", "2"}}), InvalidArgument);
  EXPECT_THROW(read({{"OMPI_COMM_WORLD_RANK", "zero"}, {"OMPI_COMM_WORLD_SIZE", "2"}}), InvalidArgument);
}

TEST(Launch, EachRankOfAHostHasItsOwnGpu) {
  const Launch third{.launcher = "Open MPI", .rank = 6, .size = 8, .local_rank = 2, .local_size = 4};
  EXPECT_EQ(own_gpu(third, 4), 2U);
  EXPECT_EQ(own_gpu(third, 8), 2U);
  EXPECT_EQ(own_gpu(third, 1), 0U);  // of its own, if the launcher says so: require_distinct sees
  try {
    own_gpu(third, 2);
    FAIL() << "a third rank on two GPUs";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("4 ranks were started on a host with 2 GPUs"), std::string::npos) << error.what();
  }
  EXPECT_THROW(own_gpu(third, 0), DeviceError);
}

}  // namespace
}  // namespace gossamer
