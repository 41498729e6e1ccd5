// Every CPU kernel of the library, bit for bit against slow loops written here. No torch: the same program is
// compiled for another processor and run under an emulator (test_cross.py). One line per kernel; ends with 1
// where a result is wrong, and names the case where a kernel stops the program.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "harness.h"
#include "mbu/parallel.h"

extern "C" int mbu_cpu_kernel_count();
extern "C" const char* mbu_cpu_kernel_name(int i);
extern "C" int mbu_cpu_kernel_available(int i);
extern "C" int mbu_cpu_kernel_force(const char* name, char* message, int size);

namespace cross {

char current[200];
int threads = 1;

namespace {

struct Tally {
  std::string name;
  int cases = 0, wrong = 0;
};
std::vector<Tally> kernels;

void on_signal(int) {
  const bool told =
      write(2, current, std::strlen(current)) > 0 && write(2, ": stopped by a signal\n", 22) > 0;
  _exit(told ? 3 : 4);
}

}  // namespace

void for_each_kernel(const std::function<void()>& clear, const std::function<void()>& operation,
                     const std::function<bool()>& right) {
  const std::string title = current;
  for (Tally& kernel : kernels) {
    std::snprintf(current, sizeof(current), "%s, %s", title.c_str(), kernel.name.c_str());
    char message[256];
    if (mbu_cpu_kernel_force(kernel.name.c_str(), message, sizeof(message))) std::abort();
    clear();
    operation();
    ++kernel.cases;
    if (!right() && ++kernel.wrong <= 5) std::printf("%s: wrong result\n", current);
  }
  std::snprintf(current, sizeof(current), "%s", title.c_str());
}

}  // namespace cross

// The thread pool: one thread that claims to be several, so that work is cut into pieces as it is for them.
// Under ThreadSanitizer they are several: it knows std::thread, but not the OpenMP of GCC, whose barriers it
// cannot see.
int mbu::num_threads() {
  return cross::threads;
}
void mbu::parallel_range(int64_t count, int64_t grain, RangeFunction function, void* context) {
#if defined(__SANITIZE_THREAD__)
  std::atomic<int64_t> next{0};
  const auto take = [&] {
    for (int64_t i; (i = next.fetch_add(grain, std::memory_order_relaxed)) < count;)
      function(i, i + grain < count ? i + grain : count, context);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < cross::threads; ++i) others.emplace_back(take);
  take();
  for (std::thread& other : others) other.join();
#else
  for (int64_t i = 0; i < count; i += grain) function(i, i + grain < count ? i + grain : count, context);
#endif
}

int main() {
  using namespace cross;
  for (int number : {SIGSEGV, SIGBUS, SIGILL}) std::signal(number, on_signal);
  for (int i = 0; i < mbu_cpu_kernel_count(); ++i) {
    const char* name = mbu_cpu_kernel_name(i);
    char message[512];
    if (mbu_cpu_kernel_available(i))
      kernels.push_back({name});
    else if (mbu_cpu_kernel_force(name, message, sizeof(message)))
      std::printf("%s: not available (%s)\n", name, message);
    else
      return std::printf("%s: not available, but could be chosen\n", name), 1;
  }
  Random random(1);
  check_convs(random);
  check_stems(random);
  check_packing(random);
  check_max_pools(random);
  check_callers(random);
  int wrong = 0;
  for (const Tally& kernel : kernels) {
    std::printf("%s: %d of %d right\n", kernel.name.c_str(), kernel.cases - kernel.wrong, kernel.cases);
    wrong += kernel.wrong;
  }
  return wrong != 0;
}
