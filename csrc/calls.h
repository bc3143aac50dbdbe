/* What Python calls. Addresses come as integers; everything that they point to has been checked before.
 * cffi reads these declarations as they are, but for the lines of the preprocessor. */
#ifndef FASTMLP_CALLS_H
#define FASTMLP_CALLS_H
#include <stdint.h>

/* The address of the best table of kernels for a dtype, up to an instruction set ("" for any); 0 for an unknown name. */
int64_t fastmlp_find_kernels(int64_t dtype, const char *isa_limit);
/* The name of a table's instruction set. */
const char *fastmlp_isa(int64_t kernels);

/* The entries of a table; see fastmlp.h. */
void fastmlp_forward(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t out, int64_t logits);
void fastmlp_layer_outputs(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t outs);
double fastmlp_penalty(int64_t kernels, int64_t plan);
double fastmlp_loss(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n);
double fastmlp_gradients(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t gradients, int64_t dropout_step);
void fastmlp_backward(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t dy, int64_t gradients, int64_t dx);
void fastmlp_apply(int64_t kernels, int64_t plan, int64_t update, int64_t gradients);
int64_t fastmlp_train(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t schedule, int64_t update, int64_t gradients, int64_t losses);
void fastmlp_jacobian(int64_t kernels, int64_t plan, int64_t derivatives, int64_t workspace, int64_t examples, int64_t n, int64_t out);
void fastmlp_jvp(int64_t kernels, int64_t plan, int64_t derivatives, int64_t workspace, int64_t examples, int64_t n, int64_t t, int64_t y, int64_t dy);
void fastmlp_gradients_per_example(int64_t kernels, int64_t plan, int64_t derivatives, int64_t workspace, int64_t examples, int64_t n, int64_t out);
void fastmlp_hvp(int64_t kernels, int64_t plan, int64_t derivatives, int64_t workspace, int64_t examples, int64_t n, int64_t v, int64_t out);
void fastmlp_train_members(int64_t kernels, int64_t members, int64_t count, int64_t workspace);
void fastmlp_member_losses(int64_t kernels, int64_t members, int64_t count, int64_t n, int64_t workspace);

/* Whether teams of threads are kept where they do not pay, too: for tests, which must not compare a thread with itself. */
void fastmlp_keep_teams(int64_t always);

/* `count` permutations of 0 .. n - 1 one after the other, n up to 2^31; see orders.c for the generator. Returns 0, and has
 * done nothing, where there are no numbers of 128 bits. */
int64_t fastmlp_draw_orders(int64_t generator, int64_t n, int64_t count, int64_t orders);
/* `count` orders of n numbers, up to 2^31, each the one before, shuffled; the first is what stands there. next_uint32 and its
 * argument are those of a bit generator's interface for C. */
void fastmlp_shuffle_orders(int64_t next_uint32, int64_t state, int64_t n, int64_t count, int64_t orders);

/* Entries of a table with all the arguments in a fastmlp_call, for calls that are made again and again: to convert an argument
 * takes Python as long as a small net takes for its answer. The examples of forward's are contiguous, of the net's dtype. */
void fastmlp_forward_call(int64_t call, int64_t logits);
/* With logits 0: one argument less to pass. */
void fastmlp_predict_call(int64_t call);
double fastmlp_step_call(int64_t call, int64_t dropout_step);
#endif
