// A CUDA driver without a GPU: the entry points that csrc/cuda/driver.h names, on devices that the
// environment describes, with every call written to a log. It keeps the driver's own rules (which code runs
// on which capability, contexts, capture), so that a loader that breaks one fails here as it would on a card.
//
// FAKE_DEVICES  "8.6:101376;9.0:232448": capability and shared memory of a block, one device each
// FAKE_REFUSE   "cubin=300,ptx=222": error codes for forms of code that this driver does not take;
//               "library=300": for code from the library's own images, which are not in the heap
// FAKE_TIMES    "conv2d_64x64_bits_v4__sm80_xor=2.5;": microseconds of a launch, for the events; others take
// 10 FAKE_INIT     error code of cuInit FAKE_CAPTURE  "1": this thread captures a stream in the global mode
// FAKE_VERSION  of the driver; 13000 if not set
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

constexpr int kSuccess = 0, kInvalidValue = 1, kInvalidDevice = 101, kNoBinary = 209, kNotFound = 500,
              kCaptureUnsupported = 900;

struct FakeDevice {
  int major, minor, shared;
};
struct FakeModule {
  int device;
  std::string code;  // what the names of its functions are looked up in; empty: it cannot be read
};
struct FakeFunction {
  int device, dynamic_shared = 48 << 10;
  std::string name;
};

std::vector<FakeDevice> devices;
std::vector<int> stack;  // of current contexts, device + 1
std::string log_text;
int capture_mode = 0;  // global
double now = 0;        // microseconds of launches so far
using Runner = int (*)(const char*, const unsigned*, unsigned, unsigned, void*);
Runner runner = nullptr;

template <class... Values>
void note(const char* format, Values... values) {
  char line[512];
  std::snprintf(line, sizeof(line), format, values...);
  log_text += line;
  log_text += '\n';
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

int refusal(const char* form) {
  const std::string text = environment("FAKE_REFUSE");
  const size_t at = text.find(std::string(form) + "=");
  return at == std::string::npos ? kSuccess : std::atoi(text.c_str() + at + std::strlen(form) + 1);
}

int current() {
  return stack.empty() ? -1 : stack.back() - 1;
}

// Machine code names its capability in the ELF flags: bits 8-15 since ABI version 8, bits 0-7 before.
int elf_capability(const std::string& code) {
  uint32_t flags;
  std::memcpy(&flags, code.data() + 48, sizeof(flags));
  const int abi = static_cast<unsigned char>(code[8]);
  return static_cast<int>(abi >= 8 ? flags >> 8 & 0xff : flags & 0xff);
}

// Variant 'a' runs on one capability alone; the compiler notes the option it was given.
bool elf_is_exact(const std::string& code) {
  const size_t at = code.find("-arch sm_");
  return at != std::string::npos && code[code.find_first_not_of("0123456789", at + 9)] == 'a';
}

int refused() {
  note("refused");
  return kNoBinary;
}

// The libraries' own images are compressed. Their head tells the form and the capability: 16 bytes for the
// container, then of the one entry its kind (1 PTX, 2 machine code), at 28 the capability, at 40 flags.
struct Container {
  uint16_t kind;
  int capability;
  bool exact;
};

bool read_container(const char* bytes, Container& head) {
  constexpr uint32_t kMagic = 0xba55ed50;
  constexpr int kExactFlag = 20;
  uint32_t magic, capability;
  uint64_t flags;
  std::memcpy(&magic, bytes, sizeof(magic));
  if (magic != kMagic) return false;
  std::memcpy(&head.kind, bytes + 16, sizeof(head.kind));
  std::memcpy(&capability, bytes + 44, sizeof(capability));
  std::memcpy(&flags, bytes + 56, sizeof(flags));
  head.capability = static_cast<int>(capability);
  head.exact = flags >> kExactFlag & 1;
  return true;
}

uint64_t elf_size(std::string_view head) {
  uint64_t sections;
  uint16_t entry, count;
  std::memcpy(&sections, head.data() + 40, sizeof(sections));
  std::memcpy(&entry, head.data() + 58, sizeof(entry));
  std::memcpy(&count, head.data() + 60, sizeof(count));
  return sections + uint64_t{entry} * count;
}

}  // namespace

API cuInit(unsigned) {
  if (const std::string error = environment("FAKE_INIT"); !error.empty()) return std::atoi(error.c_str());
  const std::string text = environment("FAKE_DEVICES");
  for (const char* at = text.c_str(); *at;) {
    FakeDevice device{};
    int read = 0;
    if (std::sscanf(at, "%d.%d:%d%n", &device.major, &device.minor, &device.shared, &read) != 3) break;
    devices.push_back(device);
    at += read;
    if (*at == ';') ++at;
  }
  return kSuccess;
}
API cuDriverGetVersion(int* version) {
  const std::string wanted = environment("FAKE_VERSION");
  *version = wanted.empty() ? 13000 : std::atoi(wanted.c_str());
  return kSuccess;
}
API cuDeviceGetCount(int* count) {
  *count = static_cast<int>(devices.size());
  return kSuccess;
}
API cuDeviceGet(int* device, int ordinal) {
  if (ordinal < 0 || ordinal >= static_cast<int>(devices.size())) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}
API cuDeviceGetName(char* name, int size, int device) {
  std::snprintf(name, static_cast<size_t>(size), "Fake GPU %d", device);
  return kSuccess;
}
API cuDeviceGetAttribute(int* value, int attribute, int device) {
  const FakeDevice& d = devices[static_cast<size_t>(device)];
  const std::map<int, int> values{{16, 108}, {75, d.major}, {76, d.minor}, {97, d.shared}};
  const auto found = values.find(attribute);
  if (found == values.end()) return kInvalidValue;
  *value = found->second;
  return kSuccess;
}
API cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = reinterpret_cast<void*>(static_cast<intptr_t>(device + 1));
  note("retain %d", device);
  return kSuccess;
}
API cuCtxGetCurrent(void** context) {
  *context = reinterpret_cast<void*>(static_cast<intptr_t>(current() + 1));
  return kSuccess;
}
API cuCtxPushCurrent_v2(void* context) {
  stack.push_back(static_cast<int>(reinterpret_cast<intptr_t>(context)));
  note("push %d", current());
  return kSuccess;
}
API cuCtxPopCurrent_v2(void** context) {
  note("pop %d", current());
  *context = reinterpret_cast<void*>(static_cast<intptr_t>(current() + 1));
  stack.pop_back();
  return kSuccess;
}
API cuModuleLoadDataEx(void** module, const void* image, unsigned count, int* names, void** values) {
  if (current() < 0) return 201;  // CUDA_ERROR_INVALID_CONTEXT
  if (environment("FAKE_CAPTURE") == "1" && capture_mode != 2) return kCaptureUnsupported;
  const char* bytes = static_cast<const char*>(image);
  const FakeDevice& d = devices[static_cast<size_t>(current())];
  const int capability = d.major * 10 + d.minor;
  Container head{};
  const bool packed = read_container(bytes, head);
  const bool elf = packed ? head.kind == 2
                          : !std::memcmp(bytes,
                                         "\x7f"
                                         "ELF",
                                         4);
  Dl_info home;
  const int foreign = dladdr(image, &home) ? refusal("library") : kSuccess;
  if (int error = foreign ? foreign : refusal(elf ? "cubin" : "ptx")) {
    for (unsigned i = 0; i < count; ++i)
      if (names[i] == 5) std::strcpy(static_cast<char*>(values[i]), "refused by this driver");
    return error;
  }
  std::string code;
  if (!packed && elf) {
    code.assign(bytes, elf_size({bytes, 64}));
    head.capability = elf_capability(code);
    head.exact = elf_is_exact(code);
  } else if (!packed) {
    code = bytes;
    const size_t at = code.find(".target sm_");
    if (at == std::string::npos) return 300;  // CUDA_ERROR_INVALID_SOURCE
    head.capability = std::atoi(code.c_str() + at + 11);
  }
  note("load %s %d%s on %d", elf ? "cubin" : "ptx", head.capability, head.exact ? "a" : "", current());
  const bool same_major = head.capability / 10 == capability / 10;
  if (head.capability > capability || (elf && !same_major) || (head.exact && head.capability != capability))
    return refused();
  *module = new FakeModule{current(), code};
  return kSuccess;
}
API cuModuleUnload(void* module) {
  delete static_cast<FakeModule*>(module);
  return kSuccess;
}
API cuModuleGetFunction(void** function, void* module, const char* name) {
  const FakeModule& m = *static_cast<FakeModule*>(module);
  if (!m.code.empty() && m.code.find(name) == std::string::npos) return kNotFound;
  *function = new FakeFunction{m.device, 48 << 10, name};
  return kSuccess;
}
API cuFuncSetAttribute(void* function, int attribute, int value) {
  FakeFunction& f = *static_cast<FakeFunction*>(function);
  if (attribute != 8 || value > devices[static_cast<size_t>(f.device)].shared) return kInvalidValue;
  f.dynamic_shared = value;
  return kSuccess;
}
API cuThreadExchangeStreamCaptureMode(int* mode) {
  std::swap(capture_mode, *mode);
  return kSuccess;
}
API cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned shared, void* stream, void** arguments, void**) {
  const FakeFunction& f = *static_cast<FakeFunction*>(function);
  if (f.device != current()) return 400;  // CUDA_ERROR_INVALID_HANDLE: a function of another context
  if (static_cast<int>(shared) > f.dynamic_shared || x == 0 || y == 0 || z == 0) return kInvalidValue;
  note("launch %s on %d stream %p grid %ux%ux%u threads %u shared %u", f.name.c_str(), f.device, stream, x, y,
       z, threads, shared);
  const std::string times = environment("FAKE_TIMES");
  const size_t at = times.find(f.name + "=");
  now += at == std::string::npos ? 10 : std::atof(times.c_str() + at + f.name.size() + 1);
  const unsigned grid[] = {x, y, z};
  return runner ? runner(f.name.c_str(), grid, threads, shared, arguments[0]) : kSuccess;
}
API cuEventCreate(void** event, unsigned) {
  *event = new double(-1);
  return kSuccess;
}
API cuEventRecord(void* event, void*) {
  *static_cast<double*>(event) = now;
  return kSuccess;
}
API cuEventSynchronize(void* event) {
  return *static_cast<double*>(event) < 0 ? kInvalidValue : kSuccess;
}
API cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  *milliseconds = static_cast<float>((*static_cast<double*>(to) - *static_cast<double*>(from)) / 1e3);
  return kSuccess;
}
API cuEventDestroy_v2(void* event) {
  delete static_cast<double*>(event);
  return kSuccess;
}
API cuStreamIsCapturing(void*, int* status) {
  *status = environment("FAKE_CAPTURE") == "1";
  return kSuccess;
}
API cuGetErrorName(int error, const char** text) {
  static const std::map<int, const char*> names{{1, "CUDA_ERROR_INVALID_VALUE"},
                                                {100, "CUDA_ERROR_NO_DEVICE"},
                                                {101, "CUDA_ERROR_INVALID_DEVICE"},
                                                {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
                                                {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
                                                {300, "CUDA_ERROR_INVALID_SOURCE"},
                                                {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}};
  const auto found = names.find(error);
  *text = found == names.end() ? nullptr : found->second;
  return found == names.end() ? kInvalidValue : kSuccess;
}
API cuGetErrorString(int error, const char** text) {
  *text = error == 100 ? "no CUDA-capable device is detected" : nullptr;
  return *text ? kSuccess : kInvalidValue;
}

// For the tests.
extern "C" __attribute__((visibility("default"))) const char* fake_log() {
  return log_text.c_str();
}
extern "C" __attribute__((visibility("default"))) void fake_clear_log() {
  log_text.clear();
}
// The device that the calling code has made current, as torch would.
extern "C" __attribute__((visibility("default"))) void fake_set_current(int device) {
  stack.assign(1, device + 1);
}
// What a launch does besides being written to the log.
extern "C" __attribute__((visibility("default"))) void fake_set_runner(Runner function) {
  runner = function;
}
