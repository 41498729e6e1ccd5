#include "cuda/search.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>

#include "cuda/nvrtc.h"

namespace mbu::cuda {
namespace {

constexpr char kSuffix[] = ".choice";

// Times hold for a card, a driver, and the kernels of this very library.
std::string setting(int device) {
  static const std::string library = [] {
    std::string sizes;
    for (int i = 0; i < kKernelCount; ++i) sizes += std::string(kKernels[i].name) + ' ';
    for (int i = 0; i < kImageCount; ++i)
      sizes += key_of(
          {reinterpret_cast<const char*>(kImages[i].begin), reinterpret_cast<const char*>(kImages[i].end)});
    return key_of(sizes);
  }();
  std::string why;
  const DeviceInfo& info = device_info(device);
  return info.name + ' ' + std::to_string(info.capability) + ' ' + std::to_string(info.multiprocessors) +
         " driver " + std::to_string(driver(why)->version) + " library " + library;
}

std::string text_of(const std::string& layer, const std::vector<Launch>& launches, size_t predicted,
                    const std::vector<double>& times) {
  std::string text = layer + '\n' + kKernels[static_cast<int>(launches[predicted].kernel)].name + '\n';
  for (size_t i = 0; i < launches.size(); ++i) {
    char line[128];
    std::snprintf(line, sizeof(line), "%s %.3f\n", kKernels[static_cast<int>(launches[i].kernel)].name,
                  times[i]);
    text += line;
  }
  return text;
}

// The fastest of `launches` in a text, or their number where it names others.
size_t fastest(const std::string& text, const std::vector<Launch>& launches) {
  std::istringstream lines(text);
  std::string line, name;
  std::getline(lines, line);
  std::getline(lines, line);
  size_t best = launches.size(), count = 0;
  double least = 0, time;
  for (; lines >> name >> time; ++count) {
    if (count >= launches.size() || name != kKernels[static_cast<int>(launches[count].kernel)].name)
      return launches.size();
    if (best == launches.size() || time < least) best = count, least = time;
  }
  return count == launches.size() ? best : launches.size();
}

}  // namespace

bool searching() {
  const char* found = std::getenv("MBU_CUDA_SEARCH");
  return found && !std::strcmp(found, "1");
}

size_t search(int device, const std::string& layer, const std::vector<Launch>& launches, size_t predicted,
              Stream stream) {
  std::string whole = layer + " on " + setting(device);
  for (const Launch& launch : launches)
    whole += std::string(" ") + kKernels[static_cast<int>(launch.kernel)].name;
  // One search at a time: two would disturb each other.
  static std::mutex mutex;
  static auto& known = *new std::map<std::string, size_t>;
  const std::lock_guard<std::mutex> lock(mutex);
  if (const auto at = known.find(whole); at != known.end()) return at->second;
  const std::string file = key_of(setting(device)) + "-" + key_of(whole) + kSuffix;
  std::string text;
  size_t best = launches.size();
  if (read_cached(file, text)) best = fastest(text, launches);
  if (best == launches.size()) {
    const std::vector<double> times = time_launches(device, launches, stream);
    if (times.empty()) return predicted;
    best = static_cast<size_t>(std::min_element(times.begin(), times.end()) - times.begin());
    write_cached(file, text_of(layer, launches, predicted, times));
  }
  known[whole] = best;
  return best;
}

std::string measured(int device) {
  std::string all, text;
  if (!device_info(device).present) return all;
  const std::string begin = key_of(setting(device)) + "-";
  for (const std::string& file : cached_files())
    if (file.starts_with(begin) && file.ends_with(kSuffix) && read_cached(file, text)) all += text + '\n';
  return all;
}

}  // namespace mbu::cuda
