// Each C++ error becomes the class of its name in gossamer.errors, with the error's data as attributes.
#include "bindings.h"
#include "core/error.h"

namespace gossamer::python {
namespace {

void raise(const char* class_name, const std::exception& error, const nb::dict& attributes = {}) {
  const nb::object type = nb::module_::import_("gossamer.errors").attr(class_name);
  const nb::object instance = type(to_str(error.what()), **attributes);
  PyErr_SetObject(type.ptr(), instance.ptr());
}

nb::dict attributes_of(const CheckpointError& error) {
  const CheckpointFault& fault = error.fault();
  nb::dict attributes;
  attributes["file"] = to_str(fault.file);
  attributes["tensor"] = to_str(fault.tensor);
  attributes["offset"] = fault.offset < 0 ? nb::none() : nb::object(nb::int_(fault.offset));
  attributes["field"] = to_str(fault.field);
  attributes["expected"] = to_str(fault.expected);
  attributes["found"] = to_str(fault.found);
  attributes["fix"] = to_str(fault.fix);
  return attributes;
}

nb::dict attributes_of(const OutOfMemoryError& error) {
  nb::dict attributes;
  attributes["wanted"] = nb::int_(error.wanted_bytes);
  attributes["free"] = error.free_bytes < 0 ? nb::none() : nb::object(nb::int_(error.free_bytes));
  attributes["pool"] = to_str(error.pool);
  return attributes;
}

nb::dict attributes_of(const ContextLengthError& error) {
  nb::dict attributes;
  attributes["num_prompt"] = nb::int_(error.num_prompt);
  attributes["num_new"] = nb::int_(error.num_new);
  attributes["limit"] = nb::int_(error.limit);
  return attributes;
}

// Whatever is not caught here (InternalError among them) goes on to nanobind's own translator.
void translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const ChecksumError& error) {
    raise("ChecksumError", error, attributes_of(error));
  } catch (const CheckpointVersionError& error) {
    raise("CheckpointVersionError", error, attributes_of(error));
  } catch (const UnsafePathError& error) {
    raise("UnsafePathError", error, attributes_of(error));
  } catch (const CheckpointError& error) {
    raise("CheckpointError", error, attributes_of(error));
  } catch (const OutOfMemoryError& error) {
    raise("OutOfMemoryError", error, attributes_of(error));
  } catch (const DeviceError& error) {
    raise("DeviceError", error);
  } catch (const EngineDeadError& error) {
    raise("EngineDeadError", error);
  } catch (const QueueFullError& error) {
    raise("QueueFullError", error);
  } catch (const NumericsError& error) {
    raise("NumericsError", error);
  } catch (const ContextLengthError& error) {
    raise("ContextLengthError", error, attributes_of(error));
  } catch (const InvalidArgument& error) {
    PyErr_SetObject(PyExc_ValueError, to_str(error.what()).ptr());
  }
}

}  // namespace

nb::str to_str(std::string_view text) {
  return nb::steal<nb::str>(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

void register_errors() { nb::register_exception_translator(translate); }

}  // namespace gossamer::python
