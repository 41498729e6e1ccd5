// Whether to share work among threads, judged by what sharing brought lately. Where another process occupies
// a core, the thread there may be kept from running in the middle of a piece of work, and the others wait for
// it: sharing may then cost more than it brings, and whoever shares should stop for a while.
#pragma once
#include <algorithm>

namespace mbu {

class Sharing {
 public:
  // Whether the next work should be shared. Times in seconds, from any fixed moment.
  bool pays(double now) const { return now >= alone_until_; }

  // saved: how much longer the caller would have worked alone, in seconds; negative where sharing cost time.
  void add(double saved, double now) {
    saved_ = std::min(kKeep * saved_ + saved, kCredit);
    ++calls_;
    if (saved_ < -kPatience || (calls_ >= kFewest && saved_ < 0)) {
      alone_until_ = now + pause_;
      pause_ = std::min(4 * pause_, kLongest);
      saved_ = 0;
      calls_ = 0;
    } else if (calls_ >= kTrusted) {
      pause_ = kShortest;
    }
  }

 private:
  static constexpr double kKeep = 0.98;  // of the past at every call: the last fifty count, about a network
  static constexpr int kFewest = 50;     // calls before a judgement on small losses
  static constexpr double kPatience = 5e-3;  // seconds that may be lost
  static constexpr double kCredit = 10e-3;   // and on top of them, where sharing paid before
  static constexpr int kTrusted = 300;  // calls without a complaint after which the next pause is short again
  static constexpr double kShortest = 0.1, kLongest = 5;  // seconds of working alone

  double saved_ = 0, alone_until_ = 0, pause_ = kShortest;
  int calls_ = 0;
};

}  // namespace mbu
