#include "model/weight_part.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace gossamer {

void convert_row(const Tensor& out, const Tensor& in) {
  visit_floating(in.dtype(), [&](auto in_tag) {
    using In = typename decltype(in_tag)::type;
    visit_floating(out.dtype(), [&](auto out_tag) {
      using Out = typename decltype(out_tag)::type;
      std::transform(in.data<const In>(), in.data<const In>() + in.numel(), out.data<Out>(),
                     [](In value) { return from_float<Out>(to_float(value)); });
    });
  });
}

void copy_matrix(const Tensor& out, const Tensor& in, ThreadPool& pool) {
  pool.parallel_for(in.size(0), 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const Tensor from = in.select(0, row);
      const Tensor to = out.select(0, row);
      if (in.dtype() == out.dtype()) {
        std::memcpy(to.raw(), from.raw(), static_cast<std::size_t>(from.nbytes()));
      } else {
        convert_row(to, from);
      }
    }
  });
}

OwnedTensor plain(WeightPart part, Allocator& host) {
  if (part.form == WeightPart::Form::dense) return std::move(part.dense);
  OwnedTensor dense(host, is_scaled(part.dtype()) ? DType::f32 : part.dtype(), {part.rows(), part.cols()});
  if (part.is_sparse()) {
    sparse_to_dense(part.bitmap.view, dense.view);
  } else {
    scaled_to_dense(part.scaled.view, dense.view);
  }
  return dense;
}

namespace {

void to_sparse(WeightPart& part, Allocator& host) {
  if (part.is_sparse()) return;
  part.bitmap =
      part.form == WeightPart::Form::scaled ? sparse_from_scaled(part.scaled.view, host) : sparse_from_dense(part.dense.view, host);
  part.dense = {};
  part.scaled = {};
  part.form = WeightPart::Form::sparse;
}

void to_float32(WeightPart& part, Allocator& host, ThreadPool& pool) {
  if (part.dtype() == DType::f32) return;
  if (part.is_sparse() && is_floating(part.dtype())) {
    const std::int64_t nnz = part.bitmap.view.nnz();
    Buffer values(host, static_cast<std::size_t>(nnz) * sizeof(float));
    const Tensor converted = values.view(DType::f32, {nnz});
    convert_row(converted, part.bitmap.view.values);
    part.bitmap.values = std::move(values);
    part.bitmap.view.values = converted;
    return;
  }
  const bool was_sparse = part.is_sparse();
  WeightPart whole;
  whole.dense = plain(std::move(part), host);
  if (whole.dtype() != DType::f32) {
    OwnedTensor converted(host, DType::f32, {whole.rows(), whole.cols()});
    copy_matrix(converted.view, whole.dense.view, pool);
    whole.dense = std::move(converted);
  }
  part = std::move(whole);
  if (was_sparse) to_sparse(part, host);
}

}  // namespace

std::unique_ptr<PackedWeight> pack_parts(Ops& ops, std::vector<WeightPart>& parts, Allocator& host, ThreadPool& pool) {
  const bool same = std::all_of(parts.begin(), parts.end(), [&](const WeightPart& part) {
    return part.dtype() == parts[0].dtype() && part.group() == parts[0].group();
  });
  const bool any_sparse = std::any_of(parts.begin(), parts.end(), [](const WeightPart& part) { return part.is_sparse(); });
  for (WeightPart& part : parts) {
    if (!same) to_float32(part, host, pool);
    if (any_sparse) to_sparse(part, host);
  }
  if (any_sparse) {
    if (parts.size() == 1) return ops.pack(parts[0].bitmap.view);
    std::vector<SparseWeight> views;
    for (const WeightPart& part : parts) views.push_back(part.bitmap.view);
    return ops.pack(concat_rows(views, host, pool).view);
  }
  if (is_scaled(parts[0].dtype())) {
    if (parts.size() == 1) return ops.pack(parts[0].scaled.view);
    std::vector<ScaledMatrix> views;
    for (const WeightPart& part : parts) views.push_back(part.scaled.view);
    return ops.pack(stack_rows(views, host).view);
  }
  if (parts.size() == 1) return ops.pack(parts[0].dense.view);
  std::int64_t rows = 0;
  for (const WeightPart& part : parts) rows += part.rows();
  const OwnedTensor stacked(host, parts[0].dtype(), {rows, parts[0].cols()});
  rows = 0;
  for (const WeightPart& part : parts) {
    copy_matrix(stacked.view.rows(rows, rows + part.rows()), part.dense.view, pool);
    rows += part.rows();
  }
  return ops.pack(stacked.view);
}

}  // namespace gossamer
