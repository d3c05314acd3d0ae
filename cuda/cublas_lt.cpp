#include "cublas_lt.h"

#include <dlfcn.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"

namespace gossamer::cuda {
namespace {

// The library's C interface, as far as it is used here; its values are fixed since version 11.
constexpr int kSuccess = 0;
constexpr int kCompute32F = 68;
constexpr int kReal32F = 0, kReal16F = 2, kReal16BF = 14;
constexpr int kTranspose = 1;
enum DescAttribute { kDescTransA = 3, kDescEpilogue = 7, kDescBiasPointer = 8 };
enum PreferenceAttribute { kMaxWorkspace = 1, kReductionSchemes = 3, kAlignmentA = 5, kAlignmentB = 6, kAlignmentC = 7, kAlignmentD = 8 };
constexpr std::uint32_t kReduceInComputeType = 2;
constexpr std::uint32_t kEpilogueNone = 1, kEpilogueRelu = 2, kEpilogueBias = 4;

struct Algorithm {
  std::uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  std::size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96);

using Handle = void*;  // every object of the library is a pointer

int data_type(DType dtype) { return dtype == DType::f32 ? kReal32F : dtype == DType::f16 ? kReal16F : kReal16BF; }

// The largest power of two, up to 256, that divides an address and a row's bytes.
std::uint32_t alignment(const void* pointer, std::int64_t row_bytes) {
  const std::uint64_t bits = reinterpret_cast<std::uintptr_t>(pointer) | static_cast<std::uint64_t>(row_bytes) | 256;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

// Where a wheel puts the library, seen from this plugin's own folder, and where toolkits do.
std::vector<std::string> candidates() {
  std::vector<std::string> names;
  for (const char* version : {"13", "12"}) names.push_back("libcublasLt.so." + std::string(version));
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&data_type), &info) != 0 && info.dli_fname != nullptr) {
    const std::string path = info.dli_fname;
    const std::string site = path.substr(0, path.rfind('/') + 1) + "../nvidia/";
    names.push_back(site + "cu13/lib/libcublasLt.so.13");
    names.push_back(site + "cublas/lib/libcublasLt.so.12");
  }
  names.push_back("/usr/local/cuda/lib64/libcublasLt.so");
  return names;
}

}  // namespace

struct CublasLt::Library {
  void* handle = nullptr;
  Handle context = nullptr;
  int (*create)(Handle*) = nullptr;
  int (*destroy)(Handle) = nullptr;
  std::size_t (*version)() = nullptr;
  int (*desc_create)(Handle*, int compute, int scale) = nullptr;
  int (*desc_destroy)(Handle) = nullptr;
  int (*desc_set)(Handle, int, const void*, std::size_t) = nullptr;
  int (*layout_create)(Handle*, int type, std::uint64_t rows, std::uint64_t cols, std::int64_t ld) = nullptr;
  int (*layout_destroy)(Handle) = nullptr;
  int (*preference_create)(Handle*) = nullptr;
  int (*preference_destroy)(Handle) = nullptr;
  int (*preference_set)(Handle, int, const void*, std::size_t) = nullptr;
  int (*heuristic)(Handle, Handle desc, Handle a, Handle b, Handle c, Handle d, Handle preference, int wanted, HeuristicResult*,
                   int* found) = nullptr;
  int (*matmul)(Handle, Handle desc, const void* alpha, const void* a, Handle a_layout, const void* b, Handle b_layout, const void* beta,
                const void* c, Handle c_layout, void* d, Handle d_layout, const Algorithm*, void* workspace, std::size_t bytes,
                cudaStream_t) = nullptr;

  // The name of the first function that is not there; empty if all are.
  std::string resolve() {
    std::string missing;
    const auto find = [&](const char* name, auto& function) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
      if (function == nullptr && missing.empty()) missing = name;
    };
    find("cublasLtCreate", create);
    find("cublasLtDestroy", destroy);
    find("cublasLtGetVersion", version);
    find("cublasLtMatmulDescCreate", desc_create);
    find("cublasLtMatmulDescDestroy", desc_destroy);
    find("cublasLtMatmulDescSetAttribute", desc_set);
    find("cublasLtMatrixLayoutCreate", layout_create);
    find("cublasLtMatrixLayoutDestroy", layout_destroy);
    find("cublasLtMatmulPreferenceCreate", preference_create);
    find("cublasLtMatmulPreferenceDestroy", preference_destroy);
    find("cublasLtMatmulPreferenceSetAttribute", preference_set);
    find("cublasLtMatmulAlgoGetHeuristic", heuristic);
    find("cublasLtMatmul", matmul);
    return missing;
  }
};

// One shape's objects. The library counts column-major: Wᵀ is its A (transposed), x its B, out its C and D.
struct CublasLt::Plan {
  explicit Plan(const Library& own) : library(own) {}
  ~Plan() {
    for (const Handle layout : {a, b, c, d}) {
      if (layout != nullptr) library.layout_destroy(layout);
    }
    if (desc != nullptr) library.desc_destroy(desc);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  const Library& library;
  Handle desc = nullptr, a = nullptr, b = nullptr, c = nullptr, d = nullptr;
  Algorithm algorithm{};
  bool usable = false;
};

std::unique_ptr<CublasLt> CublasLt::load(std::string& problem) {
  auto library = std::make_unique<Library>();
  for (const std::string& name : candidates()) {
    library->handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library->handle != nullptr) break;
  }
  if (library->handle == nullptr) {
    problem = "libcublasLt.so.13 or .12 was not found: install the CUDA toolkit or the wheel nvidia-cublas";
    return nullptr;
  }
  if (const std::string missing = library->resolve(); !missing.empty()) {
    problem = "libcublasLt.so has no " + missing;
    return nullptr;
  }
  if (const int status = library->create(&library->context); status != kSuccess) {
    problem = "cublasLtCreate returned " + std::to_string(status);
    return nullptr;
  }
  return std::unique_ptr<CublasLt>(new CublasLt(std::move(library)));
}

CublasLt::CublasLt(std::unique_ptr<Library> library) : library_(std::move(library)) {}

CublasLt::~CublasLt() {
  plans_.clear();
  library_->destroy(library_->context);  // the library itself stays: others may use it
}

std::size_t CublasLt::version() const { return library_->version(); }

CublasLt::Plan& CublasLt::plan_for(const LtProblem& p) {
  const auto size = [](DType dtype) { return static_cast<std::int64_t>(size_of(dtype)); };
  const std::uint32_t align_w = alignment(p.weight, p.ldw * size(p.act)), align_x = alignment(p.x, p.ldx * size(p.act));
  const std::uint32_t align_o = alignment(p.out, p.ldo * size(p.out_dtype));
  const std::uint32_t align_r = p.residual == nullptr ? align_o : alignment(p.residual, p.ldr * size(p.out_dtype));
  const std::uint32_t epilogue = (p.relu ? kEpilogueRelu : 0U) | (p.bias != nullptr ? kEpilogueBias : 0U);
  const int types = static_cast<int>(p.act) + 16 * static_cast<int>(p.out_dtype) + 256 * static_cast<int>(epilogue) +
                    4096 * (p.residual != nullptr ? 1 : 0);
  const std::uint64_t alignments =
      align_w + (std::uint64_t{align_x} << 16) + (std::uint64_t{align_o} << 32) + (std::uint64_t{align_r} << 48);
  std::unique_ptr<Plan>& plan = plans_[Key{p.m, p.k, p.n, p.ldw, p.ldx, p.ldo, p.ldr, types, alignments}];
  if (plan != nullptr) return *plan;

  plan = std::make_unique<Plan>(*library_);
  Handle preference = nullptr;
  HeuristicResult result{};
  int found = 0;
  const std::uint32_t kind = epilogue == 0 ? kEpilogueNone : epilogue;
  const std::size_t workspace_bytes = kWorkspaceBytes;
  const auto unsigned_of = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
  bool ok = library_->desc_create(&plan->desc, kCompute32F, kReal32F) == kSuccess;
  ok = ok && library_->desc_set(plan->desc, kDescTransA, &kTranspose, sizeof kTranspose) == kSuccess;
  ok = ok && library_->desc_set(plan->desc, kDescEpilogue, &kind, sizeof kind) == kSuccess;
  if (p.bias != nullptr) ok = ok && library_->desc_set(plan->desc, kDescBiasPointer, &p.bias, sizeof p.bias) == kSuccess;
  ok = ok && library_->layout_create(&plan->a, data_type(p.act), unsigned_of(p.k), unsigned_of(p.m), p.ldw) == kSuccess;
  ok = ok && library_->layout_create(&plan->b, data_type(p.act), unsigned_of(p.k), unsigned_of(p.n), p.ldx) == kSuccess;
  ok = ok && library_->layout_create(&plan->d, data_type(p.out_dtype), unsigned_of(p.m), unsigned_of(p.n), p.ldo) == kSuccess;
  const std::int64_t ldc = p.residual != nullptr ? p.ldr : p.ldo;
  ok = ok && library_->layout_create(&plan->c, data_type(p.out_dtype), unsigned_of(p.m), unsigned_of(p.n), ldc) == kSuccess;
  ok = ok && library_->preference_create(&preference) == kSuccess;
  const auto prefer = [&](int attribute, const auto& value) {
    ok = ok && library_->preference_set(preference, attribute, &value, sizeof value) == kSuccess;
  };
  prefer(kMaxWorkspace, workspace_bytes);
  prefer(kReductionSchemes, kReduceInComputeType);  // parts of a sum over k are not rounded before they are added
  prefer(kAlignmentA, align_w);
  prefer(kAlignmentB, align_x);
  prefer(kAlignmentC, align_r);
  prefer(kAlignmentD, align_o);
  ok = ok &&
       library_->heuristic(library_->context, plan->desc, plan->a, plan->b, plan->c, plan->d, preference, 1, &result, &found) == kSuccess;
  if (preference != nullptr) library_->preference_destroy(preference);
  plan->usable = ok && found == 1 && result.state == kSuccess;
  plan->algorithm = result.algorithm;
  return *plan;
}

bool CublasLt::run(const LtProblem& p, void* workspace, cudaStream_t stream) {
  Plan& plan = plan_for(p);
  if (!plan.usable) return false;
  if (p.bias != nullptr && library_->desc_set(plan.desc, kDescBiasPointer, &p.bias, sizeof p.bias) != kSuccess) return false;
  const float one = 1.0F, beta = p.residual != nullptr ? 1.0F : 0.0F;
  const void* c = p.residual != nullptr ? p.residual : p.out;
  const int status = library_->matmul(library_->context, plan.desc, &one, p.weight, plan.a, p.x, plan.b, &beta, c, plan.c, p.out, plan.d,
                                      &plan.algorithm, workspace, kWorkspaceBytes, stream);
  if (status != kSuccess) throw DeviceError("cublasLtMatmul returned " + std::to_string(status));
  return true;
}

}  // namespace gossamer::cuda
