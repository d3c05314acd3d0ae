# nlohmann-json headers: a system package, or the PyPI wheel `nlohmann-json` of the Python that builds us.
find_path(GOSSAMER_JSON_INCLUDE_DIR nlohmann/json.hpp)
if(NOT GOSSAMER_JSON_INCLUDE_DIR)
  find_package(Python COMPONENTS Interpreter REQUIRED)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import pathlib, nlohmann_json; print(pathlib.Path(nlohmann_json.__file__).parent / 'include')"
    OUTPUT_VARIABLE json_wheel_include OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE json_failed ERROR_QUIET)
  if(NOT json_failed)
    find_path(GOSSAMER_JSON_INCLUDE_DIR nlohmann/json.hpp PATHS ${json_wheel_include} NO_DEFAULT_PATH)
  endif()
endif()
if(NOT GOSSAMER_JSON_INCLUDE_DIR)
  message(FATAL_ERROR "nlohmann-json headers not found: `pip install nlohmann-json`, or install your system's nlohmann-json package.")
endif()
add_library(gossamer_json INTERFACE)
target_include_directories(gossamer_json SYSTEM INTERFACE ${GOSSAMER_JSON_INCLUDE_DIR})
