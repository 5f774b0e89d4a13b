// For a compiler that is called by hand.
#include "../kernels/hip_prelude.h"
