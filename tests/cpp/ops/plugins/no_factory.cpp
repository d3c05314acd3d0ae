// A shared library that is no backend.
extern "C" int unrelated() { return 1; }
