/* The interface between Python and the kernels: what a net looks like in memory, and the table of kernels.
 * Every struct consists of 8-byte fields: Python lays them out as NumPy arrays (src/fastmlp/_backends/_plan.py),
 * and the Numba kernels read the same arrays. Offsets and leading dimensions count elements, strides bytes. */
#ifndef FASTMLP_H
#define FASTMLP_H
#include <stdint.h>

enum { IDENTITY, RELU, LEAKY_RELU, ELU, SOFTPLUS, SIGMOID, TANH, GELU, SILU, EXP, SOFTMAX }; /* _activations.py */
enum { MSE, MAE, HUBER, BCE, POISSON, CROSS_ENTROPY };                                       /* _losses.py */
enum { SGD, MOMENTUM, NESTEROV, ADAM, RMSPROP };                                             /* _update.py */
enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, CLIP_NORM, BETA1_POWER, BETA2_POWER };          /* _update.py */
enum { FLOAT32, FLOAT64, INT64 };                                                            /* _plan.py */

typedef struct {
    int64_t n_in, n_out;
    int64_t leading;    /* of the parameters' rows and of the output's rows */
    int64_t parameters; /* offset of the (n_in + 1, leading) matrix in every arena: weights by input, then bias */
    int64_t activation;
    int64_t output;       /* offset in the workspace: (block_rows, leading) */
    int64_t factor;       /* the same for d output / d input where a training pass keeps it, else -1 */
    int64_t dropout_from; /* units whose 16 random bits are below this are dropped; 0: no dropout */
    double dropout_scale; /* of the units that stay */
} fastmlp_layer;

typedef struct {
    int64_t n_layers;
    int64_t loss;
    double l1, l2;
    uint64_t seed;      /* of dropout */
    void *parameters;   /* the arena */
    int64_t n_threads;  /* at most */
    int64_t thread_products; /* a call gets as many threads as it has this number of multiplications */
    int64_t block_rows; /* rows that go through the net together; one block's gradient is summed in row order */
    /* offsets in the workspace */
    int64_t input, input_leading; /* (block_rows, input_leading): examples gathered or converted */
    int64_t constants;            /* a line of ones, then zeros */
    int64_t parts;                /* (3, block_rows) */
    int64_t losses;               /* (block_rows) doubles: weight * loss of each example */
    int64_t partial;              /* an arena of gradients, where own_blocks */
    /* one for each thread, member_stride apart */
    int64_t target; /* two rows of the last layer: one of targets, one to work with */
    int64_t panel;  /* a panel of inputs, (PANEL, block_rows) */
    int64_t transposed; /* a block of W^T: (BLOCK_DEPTH, PANEL) */
    int64_t tile;       /* what tiles of the backward pass are computed in: (block_rows, PANEL), or (PANEL, a tile's vectors) */
    int64_t packed;     /* a block of inputs: (BLOCK_ROWS, PACKED_ROW), where a layer has PACKED_OUTPUTS */
    int64_t member_stride;
    int64_t own_blocks; /* whether all the rest is there for each thread, too: then threads can take whole blocks */
    int64_t arena_size;
    fastmlp_layer layers[];       /* n_layers of them */
} fastmlp_plan;

typedef struct {
    const char *x; /* any strides */
    int64_t x_row, x_column, x_type;
    const char *y; /* classes: a vector, y_column 0, y_type INT64; else (n, outputs) */
    int64_t y_row, y_column, y_type;
    const double *sample_weight; /* or NULL */
    const int64_t *order;        /* example i is row order[i]; NULL: row i */
    double largest_loss;         /* what an example's cross-entropy is reported as at most; 0: as it is */
} fastmlp_examples;

typedef struct {
    int64_t code;
    double *scalars; /* see _update.py */
    void *first, *second;
} fastmlp_update;

typedef struct {
    int64_t n_examples; /* in an epoch */
    int64_t batch_size, first_step, n_steps;
    const double *table; /* rows of learning rate, epsilon, divisor (0: the batch's rows), scale of the penalty */
    int64_t table_row;   /* doubles from one step's row to the next; 0: one row for all */
    int64_t dropout_step;
} fastmlp_schedule;

/* What derivatives need beside a plan in which every hidden layer has a factor. Offsets are in the same workspace. */
typedef struct {
    int64_t weights;   /* W_l by output: (n_out, leading of the inputs), the rows in whole lines */
    int64_t direction; /* the same of a direction */
    int64_t tangent;   /* (block_rows, leading): the derivative along a direction of the output */
    int64_t bend;      /* the same of the factor */
} fastmlp_layer_derivatives;

typedef struct {
    int64_t is_reverse; /* a Jacobian goes from the outputs to the inputs, where that takes the fewer products */
    int64_t directions; /* rows that an example has on that way: outputs, or inputs where it goes forward */
    int64_t jacobian_rows; /* examples that go forward together, and then back in parts ... */
    int64_t part_rows;     /* ... of so many */
    int64_t first_rows, second_rows, rows_stride; /* for each thread: (part_rows * directions, widest leading), twice */
    int64_t gradient, gradient_tangent;           /* (block_rows, widest leading) */
    int64_t widest;                               /* leading dimension, of inputs or layers */
    fastmlp_layer_derivatives layers[];           /* n_layers of them */
} fastmlp_derivatives;
/* A member of an ensemble: what its own call of `train`, or of `loss`, would get. All members' plans, examples and
 * schedules are alike but for parameters, seed, l1, l2, dropout; order, sample_weight; table and dropout_step. */
typedef struct {
    const fastmlp_plan *plan;
    const fastmlp_examples *examples;
    const fastmlp_schedule *schedule;
    const fastmlp_update *update; /* NULL for its loss */
    double *losses;
    int64_t taken; /* comes back: the steps taken */
} fastmlp_trainee;

/* What one instruction set offers for one dtype. `workspace` belongs to the call while it runs.
 * A gradients arena, like the parameters', starts on a cache line; its padding must be zero. */
typedef struct {
    void (*forward)(const fastmlp_plan *, void *workspace, const fastmlp_examples *, int64_t n, void *out, int64_t logits);
    /* outs: the address of a contiguous (n, n_out) array for every layer */
    void (*layer_outputs)(const fastmlp_plan *, void *workspace, const fastmlp_examples *, int64_t n, void *const *outs);
    double (*penalty)(const fastmlp_plan *);
    double (*loss)(const fastmlp_plan *, void *workspace, const fastmlp_examples *, int64_t n);
    /* dropout_step -1: no dropout */
    double (*gradients)(const fastmlp_plan *, void *workspace, const fastmlp_examples *, int64_t n, void *gradients, int64_t dropout_step);
    /* dy: contiguous (n, outputs); dx: contiguous (n, features) or NULL */
    void (*backward)(const fastmlp_plan *, void *workspace, const fastmlp_examples *, int64_t n, const void *dy, void *gradients, void *dx);
    void (*apply)(const fastmlp_plan *, const fastmlp_update *, const void *gradients);
    /* gradients: an arena where a batch is larger than a block or the norm is clipped, else NULL. Returns the steps taken. */
    int64_t (*train)(const fastmlp_plan *, void *workspace, const fastmlp_examples *, const fastmlp_schedule *, const fastmlp_update *, void *gradients, double *losses);
    /* out: contiguous (n, outputs, features) */
    void (*jacobian)(const fastmlp_plan *, const fastmlp_derivatives *, void *workspace, const fastmlp_examples *, int64_t n, void *out);
    /* t: contiguous (n, features); y and dy: (n, outputs) */
    void (*jvp)(const fastmlp_plan *, const fastmlp_derivatives *, void *workspace, const fastmlp_examples *, int64_t n, const void *t, void *y, void *dy);
    /* out: contiguous (n, parameters), in the order of `MLP.parameters` */
    void (*gradients_per_example)(const fastmlp_plan *, const fastmlp_derivatives *, void *workspace, const fastmlp_examples *, int64_t n, void *out);
    /* v and out: arenas */
    void (*hvp)(const fastmlp_plan *, const fastmlp_derivatives *, void *workspace, const fastmlp_examples *, int64_t n, const void *v, void *out);
    /* forward of one example whose features are reals of the net's dtype, side by side */
    void (*forward_one)(const fastmlp_plan *, void *workspace, const fastmlp_examples *, void *out, int64_t logits);
    /* `train` and `loss` for each of some members, several at once: batches of one block, no clipping. workspace:
     * ensemble_workspace of _plan.py. */
    void (*train_members)(fastmlp_trainee *, int64_t count, void *workspace);
    void (*member_losses)(fastmlp_trainee *, int64_t count, int64_t n, void *workspace);
} fastmlp_kernels;

/* The arguments of a call: forward's, or those of a run of one step. */
typedef struct {
    const fastmlp_kernels *kernels;
    const fastmlp_plan *plan;
    void *workspace;
    const fastmlp_examples *examples;
    int64_t n;
    void *out;
    fastmlp_schedule *schedule;
    const fastmlp_update *update;
    void *gradients;
    double *losses;
} fastmlp_call;
#endif
