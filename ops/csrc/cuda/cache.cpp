// Compiled kernels, and measured choices of them, on disk. Code is loaded into a process from here, so nobody
// else may write it: the folder is the user's own, of mode 0700 and no link, and files are opened without
// following links. A file appears under its name complete (written beside it, then renamed), so that
// processes may share the folder.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cuda/nvrtc.h"

namespace mbu::cuda {
namespace {

// Head of a file: a cut or foreign one is not taken for code.
struct Head {
  char magic[8];
  uint64_t bytes, sum;
};
constexpr char kMagic[8] = {'M', 'B', 'U', 'C', 'O', 'D', 'E', '1'};

uint64_t sum_of(const std::string& code) {
  uint64_t sum = 0xcbf29ce484222325ull;
  for (unsigned char byte : code) sum = (sum ^ byte) * 0x100000001b3ull;
  return sum;
}

// The folder and those above it as far as they are missing.
bool make_folders(const std::string& path) {
  for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1))
    mkdir(path.substr(0, at).c_str(), 0700);
  mkdir(path.c_str(), 0700);
  struct stat found;
  return lstat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid() &&
         (found.st_mode & 077) == 0;
}

bool read_all(int file, char* to, size_t bytes) {
  while (bytes > 0) {
    const ssize_t got = read(file, to, bytes);
    if (got <= 0) return false;
    to += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

bool write_all(int file, const char* from, size_t bytes) {
  while (bytes > 0) {
    const ssize_t put = write(file, from, bytes);
    if (put <= 0) return false;
    from += put;
    bytes -= static_cast<size_t>(put);
  }
  return true;
}

}  // namespace

std::string cache_folder() {
  const auto value = [](const char* name) {
    const char* found = std::getenv(name);
    return std::string(found ? found : "");
  };
  if (std::string chosen = value("MBU_CACHE_DIR"); !chosen.empty()) return chosen + "/kernels";
  if (std::string cache = value("XDG_CACHE_HOME"); !cache.empty()) return cache + "/lightning-mbu/kernels";
  const std::string home = value("HOME");
  return home.empty() ? "" : home + "/.cache/lightning-mbu/kernels";
}

// Two 64-bit FNV-1a sums with different starts. The cache folder belongs to one user, so that chance is the
// only adversary.
std::string key_of(const std::string& text) {
  std::string key;
  for (uint64_t sum : {0xcbf29ce484222325ull, 0x9ae16a3b2f90404full}) {
    for (unsigned char byte : text) sum = (sum ^ byte) * 0x100000001b3ull;
    for (int shift = 60; shift >= 0; shift -= 4) key += "0123456789abcdef"[sum >> shift & 15];
  }
  return key;
}

bool read_cached(const std::string& file_name, std::string& code) {
  const std::string folder = cache_folder();
  if (folder.empty() || !make_folders(folder)) return false;
  const int file = open((folder + "/" + file_name).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return false;
  struct stat found;
  Head head;
  bool good = fstat(file, &found) == 0 && S_ISREG(found.st_mode) && found.st_uid == geteuid() &&
              read_all(file, reinterpret_cast<char*>(&head), sizeof(head)) &&
              !std::memcmp(head.magic, kMagic, sizeof(kMagic)) &&
              head.bytes + sizeof(head) == static_cast<uint64_t>(found.st_size);
  if (good) {
    code.resize(head.bytes);
    good = read_all(file, code.data(), code.size()) && sum_of(code) == head.sum;
  }
  close(file);
  if (!good) code.clear();
  return good;
}

bool write_cached(const std::string& file_name, const std::string& code) {
  const std::string folder = cache_folder();
  if (folder.empty() || !make_folders(folder)) return false;
  std::string temporary = folder + "/" + file_name + ".XXXXXX";
  const int file = mkstemp(temporary.data());  // mode 0600
  if (file < 0) return false;
  Head head{};
  std::memcpy(head.magic, kMagic, sizeof(kMagic));
  head.bytes = code.size();
  head.sum = sum_of(code);
  bool good = write_all(file, reinterpret_cast<const char*>(&head), sizeof(head)) &&
              write_all(file, code.data(), code.size()) && fsync(file) == 0;
  good = close(file) == 0 && good;
  good = good && rename(temporary.c_str(), (folder + "/" + file_name).c_str()) == 0;
  if (!good) unlink(temporary.c_str());
  return good;
}

std::vector<std::string> cached_files() {
  std::vector<std::string> names;
  const std::string folder = cache_folder();
  DIR* opened = folder.empty() ? nullptr : opendir(folder.c_str());
  if (!opened) return names;
  while (const dirent* entry = readdir(opened)) names.push_back(entry->d_name);
  closedir(opened);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace mbu::cuda
