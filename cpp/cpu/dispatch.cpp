#include "cpu/dispatch.h"

#include <array>
#include <string>

namespace gossamer {

namespace {

struct IsaEntry {
  CpuIsa isa;
  std::string_view name;
  const cpu::Kernels* (*kernels)();
  bool (*supported)();
};

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_avx512_bf16() { return false; }
#endif

// Weakest first, in the order of CpuIsa.
constexpr std::array<IsaEntry, 4> kIsas = {{
    {CpuIsa::portable, "portable", cpu::portable_kernels, [] { return true; }},
    {CpuIsa::avx2, "avx2", cpu::avx2_kernels, has_avx2},
    {CpuIsa::avx512, "avx512", cpu::avx512_kernels, has_avx512},
    {CpuIsa::avx512_bf16, "avx512-bf16", cpu::avx512_bf16_kernels, has_avx512_bf16},
}};

const IsaEntry& entry_of(CpuIsa isa) { return kIsas[static_cast<std::size_t>(isa)]; }
bool available(const IsaEntry& entry) { return entry.supported() && entry.kernels() != nullptr; }

}  // namespace

std::string_view name_of(CpuIsa isa) { return entry_of(isa).name; }

std::optional<CpuIsa> parse_cpu_isa(std::string_view name) {
  for (const IsaEntry& entry : kIsas) {
    if (entry.name == name) return entry.isa;
  }
  return std::nullopt;
}

std::vector<CpuIsa> available_cpu_isas() {
  std::vector<CpuIsa> isas;
  for (const IsaEntry& entry : kIsas) {
    if (available(entry)) isas.push_back(entry.isa);
  }
  return isas;
}

CpuIsa best_cpu_isa() { return available_cpu_isas().back(); }

namespace cpu {

const Kernels& kernels_for(CpuIsa isa) {
  if (!available(entry_of(isa))) {
    std::string names;
    for (const CpuIsa other : available_cpu_isas()) names += (names.empty() ? "" : ", ") + std::string(name_of(other));
    throw InvalidArgument("isa = " + std::string(name_of(isa)) + ", but this machine has not got it; it has " + names + " (or use auto)");
  }
  return *entry_of(isa).kernels();
}

}  // namespace cpu

}  // namespace gossamer
