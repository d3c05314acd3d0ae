#!/bin/sh
# Checks what building needs from the system and names the one apt line that installs what lacks. Changes nothing.
set -u
missing=""
report() {
  printf '  missing: %s\n' "$1" >&2
  missing="$missing $2"
}

command -v make >/dev/null 2>&1 || report "make" make
if ! command -v python3 >/dev/null 2>&1; then
  report "Python 3" "python3 python3-venv python3-dev"
elif ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "Gossamer needs Python 3.10 or newer; python3 is $(python3 -V 2>&1). Put a newer python3 first in PATH." >&2
  exit 1
else
  python3 -c 'import venv, ensurepip' 2>/dev/null || report "the venv module" python3-venv
  include=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [ -f "$include/Python.h" ] || report "the Python headers (Python.h)" python3-dev
fi
cxx=${CXX:-c++}
if ! command -v "$cxx" >/dev/null 2>&1; then
  report "a C++ compiler ($cxx)" g++
elif ! printf '#include <concepts>\n#include <span>\n#include <source_location>\nstatic_assert(__cplusplus >= 202002L);\n' |
  "$cxx" -std=c++20 -fsyntax-only -x c++ - 2>/dev/null; then
  echo "  $cxx ($("$cxx" -dumpfullversion 2>/dev/null || echo 'unknown version')) does not compile C++20." >&2
  report "a C++20 compiler (g++ 11 or newer, or set CXX)" g++
fi
[ -z "$missing" ] && exit 0
echo "Install what is missing with:" >&2
echo "  sudo apt install$missing" >&2
exit 1
