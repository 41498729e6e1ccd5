#pragma once
namespace mbu::cuda { struct UnpackParams { const unsigned* input; float* output; long long count; }; }
