#include "ops/plugin.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace gossamer {
namespace {

std::string message_of(const std::string& name, const std::string& directory = "") {
  try {
    load_backend(name, directory);
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "";
}

TEST(Plugin, BuildIdHasVersionAndDigest) {
  const std::string id = build_id();
  EXPECT_EQ(id.find('+'), id.size() - 13) << id;
}

TEST(Plugin, LoadsABackendOfThisBuild) {
  const Backend& backend = load_backend("good");
  EXPECT_EQ(backend.probe().runtime_version, 2);
  EXPECT_EQ(&backend, &load_backend("good"));
}

TEST(Plugin, ErrorsCrossTheLibraryBoundaryWithTheirType) { EXPECT_THROW(load_backend("good").create_ops(0, DType::f32), DeviceError); }

TEST(Plugin, MissingLibraryNamesFileAndBuild) {
  const std::string message = message_of("absent");
  EXPECT_NE(message.find("libgossamer_absent.so"), std::string::npos) << message;
  EXPECT_NE(message.find(build_id()), std::string::npos) << message;
  EXPECT_NE(message.find("device='cpu'"), std::string::npos) << message;
}

TEST(Plugin, AnotherBuildIsRefusedWithBothIds) {
  const std::string message = message_of("wrong_build");
  EXPECT_NE(message.find("0.0.0+000000000000"), std::string::npos) << message;
  EXPECT_NE(message.find(build_id()), std::string::npos) << message;
}

TEST(Plugin, ALibraryWithoutTheFactoryIsRefused) {
  EXPECT_NE(message_of("no_factory").find("not a Gossamer backend"), std::string::npos) << message_of("no_factory");
}

TEST(Plugin, AFileThatIsNoLibraryIsRefused) {
  const std::filesystem::path directory = std::filesystem::path(testing::TempDir()) / "gossamer_plugin_test";
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "libgossamer_text.so") << "not ELF";
  EXPECT_NE(message_of("text", directory.string()).find("does not load"), std::string::npos);
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace gossamer
