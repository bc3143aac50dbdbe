/* The kernels of one instruction set and one dtype. Each file of isa/ includes this once, after it has defined
 * REAL_BITS, VECTOR_BYTES and KERNELS, the name of the table that comes out. */
#include "fastmlp.h"
#include "team.h"
#include "vector.h"
#include "elementary.h"
#include "gather.h"
#include "place.h"
#include "tile.h"
#include "activation.h"
#include "philox.h"
#include "update.h"
#include "dense.h"
#include "narrow.h"
#include "columns.h"
#include "loss.h"
#include "network.h"
#include "derivatives.h"
#include "hessian.h"
#include "derivative_entries.h"
#include "one.h"
#include "lanes.h"
#include "ensemble.h"

const fastmlp_kernels KERNELS = {forward, layer_outputs, penalty, loss, gradients, backward, apply, train,
                                 jacobian, jvp, gradients_per_example, hvp, forward_one, train_members, member_losses};
