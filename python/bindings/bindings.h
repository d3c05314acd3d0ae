// What the files of the extension module share. Each bind_* adds its part to the module.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/log.h"
#include "core/memory.h"
#include "gil.h"

namespace gossamer::python {

namespace nb = nanobind;

void register_errors();
void bind_runtime(nb::module_& module);
void bind_checkpoint(nb::module_& module);
void bind_layer_stream(nb::module_& module);
void bind_cost(nb::module_& module);
void bind_testing(nb::module_& module);
void bind_testing_sparse(nb::module_& module);

// Log lines wait here until Python asks for them: the engine's threads never need the interpreter.
void start_log_queue();
std::vector<std::pair<int, std::string>> take_log();  // (level of Python's logging, message)

// The allocator of arrays handed to Python; lives as long as the process.
Allocator& array_allocator();

// A numpy array that owns its buffer. bf16, which numpy lacks, comes as uint16 bits.
nb::object to_numpy(Buffer&& buffer, DType dtype, const std::vector<std::int64_t>& shape);
nb::dlpack::dtype numpy_dtype(DType dtype);

// A copy of a C-contiguous numpy array of the dtype (bf16 as uint16 bits), or TypeError naming the argument.
using HostArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
void require_dtype(const HostArray& array, DType dtype, std::string_view name);
DType dtype_from_name(const std::string& name);

// Text from C++ for Python: bytes that are not UTF-8 become U+FFFD.
nb::str to_str(std::string_view text);

}  // namespace gossamer::python
