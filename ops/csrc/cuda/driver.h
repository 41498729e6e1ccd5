// The CUDA driver, opened when a tensor needs it: nothing of CUDA is linked, so one library serves machines
// with and without a GPU. Types are those of cuda.h, written out: it is not needed to build.
#pragma once
#include <cstddef>
#include <string>

namespace mbu::cuda {

using Result = int;  // CUresult; 0 is success
using Context = void*;
using Module = void*;
using Function = void*;
using Stream = void*;
using Event = void*;

// MBU_CUDA_ENTRY(name here, symbol in the driver, arguments). `_v2` is what cuda.h maps the name to.
#define MBU_CUDA_ENTRIES(MBU_CUDA_ENTRY)                                                                    \
  MBU_CUDA_ENTRY(init, cuInit, (unsigned flags))                                                            \
  MBU_CUDA_ENTRY(driver_version, cuDriverGetVersion, (int* version))                                        \
  MBU_CUDA_ENTRY(device_count, cuDeviceGetCount, (int* count))                                              \
  MBU_CUDA_ENTRY(device_get, cuDeviceGet, (int* device, int ordinal))                                       \
  MBU_CUDA_ENTRY(device_name, cuDeviceGetName, (char* name, int size, int device))                          \
  MBU_CUDA_ENTRY(device_attribute, cuDeviceGetAttribute, (int* value, int attribute, int device))           \
  MBU_CUDA_ENTRY(retain_context, cuDevicePrimaryCtxRetain, (Context * context, int device))                 \
  MBU_CUDA_ENTRY(current_context, cuCtxGetCurrent, (Context * context))                                     \
  MBU_CUDA_ENTRY(push_context, cuCtxPushCurrent_v2, (Context context))                                      \
  MBU_CUDA_ENTRY(pop_context, cuCtxPopCurrent_v2, (Context * context))                                      \
  MBU_CUDA_ENTRY(load_module, cuModuleLoadDataEx,                                                           \
                 (Module * module, const void* image, unsigned options, int* names, void** values))         \
  MBU_CUDA_ENTRY(unload_module, cuModuleUnload, (Module module))                                            \
  MBU_CUDA_ENTRY(get_function, cuModuleGetFunction, (Function * function, Module module, const char* name)) \
  MBU_CUDA_ENTRY(set_attribute, cuFuncSetAttribute, (Function function, int attribute, int value))          \
  MBU_CUDA_ENTRY(exchange_capture_mode, cuThreadExchangeStreamCaptureMode, (int* mode))                     \
  MBU_CUDA_ENTRY(launch_kernel, cuLaunchKernel,                                                             \
                 (Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,   \
                  unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream,                 \
                  void** arguments, void** extra))                                                          \
  MBU_CUDA_ENTRY(create_event, cuEventCreate, (Event * event, unsigned flags))                              \
  MBU_CUDA_ENTRY(record_event, cuEventRecord, (Event event, Stream stream))                                 \
  MBU_CUDA_ENTRY(await_event, cuEventSynchronize, (Event event))                                            \
  MBU_CUDA_ENTRY(elapsed, cuEventElapsedTime, (float* milliseconds, Event from, Event to))                  \
  MBU_CUDA_ENTRY(destroy_event, cuEventDestroy_v2, (Event event))                                           \
  MBU_CUDA_ENTRY(is_capturing, cuStreamIsCapturing, (Stream stream, int* status))                           \
  MBU_CUDA_ENTRY(error_name, cuGetErrorName, (Result error, const char** text))                             \
  MBU_CUDA_ENTRY(error_string, cuGetErrorString, (Result error, const char** text))

struct Driver {
#define MBU_CUDA_ENTRY(name, symbol, arguments) Result(*name) arguments;
  MBU_CUDA_ENTRIES(MBU_CUDA_ENTRY)
#undef MBU_CUDA_ENTRY
  int version;  // 13000 for CUDA 13.0
  int devices;
};

// The driver, initialised once in a process, or null with the reason in `why`. The environment variable
// MBU_CUDA_DRIVER names another library than libcuda.so.1.
const Driver* driver(std::string& why);

// "cuModuleLoadDataEx: CUDA_ERROR_INVALID_IMAGE (device kernel image is invalid)".
std::string error_text(const Driver& driver, const char* call, Result error);

}  // namespace mbu::cuda
