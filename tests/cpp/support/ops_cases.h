// Every verb's test body, written once: takes the Ops under test and compares it with formulas in double. A backend's test instantiates
// all_ops_cases(), and bitwise_ops_cases() where a row's bits must not depend on its company.
#pragma once

#include <ostream>
#include <vector>

#include "support/attend_cases.h"
#include "support/attention_cases.h"
#include "support/linear_cases.h"
#include "support/pointwise_cases.h"
#include "support/rope_cases.h"
#include "support/sample_cases.h"

namespace gossamer::testing {

struct OpsCase {
  const char* name;
  void (*run)(Ops& ops);
  friend std::ostream& operator<<(std::ostream& out, const OpsCase& c) { return out << c.name; }
};

inline std::vector<OpsCase> all_ops_cases() {
  return {{"Embedding", embedding_cases},
          {"RmsNorm", rms_norm_cases},
          {"LayerNorm", layer_norm_cases},
          {"Linear", linear_cases},
          {"LinearRandom", linear_random_cases},
          {"LinearScaled", scaled_linear_cases},
          {"RandomWeight", random_weight_cases},
          {"GatedActivation", gated_activation_cases},
          {"RopeAndWriteKv", rope_and_write_kv_cases},
          {"Attention", attention_cases},
          {"AttentionRandom", attention_random_cases},
          {"Attend", attend_cases},
          {"TakeTokens", take_tokens_cases},
          {"BeginSample", begin_sample_cases},
          {"GatherRows", gather_rows_cases},
          {"Add", add_cases},
          {"Empty", empty_cases},
          {"SampleDraws", sample_draws_cases},
          {"SampleDistribution", sample_distribution_case},
          {"SampleGreedy", sample_greedy_cases},
          {"SampleLogprobs", sample_logprobs_cases},
          {"SampleEdges", sample_edge_cases}};
}

inline std::vector<OpsCase> bitwise_ops_cases() {
  return {{"LinearRowsStandAlone", linear_rows_stand_alone},
          {"AttentionQueriesStandAlone", attention_queries_stand_alone},
          {"SampleRowsStandAlone", sample_rows_stand_alone}};
}

// The name of a case as a test parameter.
inline std::string name_of_case(const ::testing::TestParamInfo<OpsCase>& info) { return info.param.name; }

}  // namespace gossamer::testing
