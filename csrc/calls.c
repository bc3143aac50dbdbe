/* The calls of calls.h: the choice of kernels for the processor at hand, and the way to each kernel. */
#include "calls.h"
#include "fastmlp.h"
#include <stddef.h>
#include <string.h>

extern const fastmlp_kernels fastmlp_baseline_f32, fastmlp_baseline_f64;
#if defined(__x86_64__)
extern const fastmlp_kernels fastmlp_avx2_f32, fastmlp_avx2_f64, fastmlp_avx512_f32, fastmlp_avx512_f64;
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}
#endif
static int has_baseline(void) { return 1; }

static const struct {
    const char *name;
    int (*present)(void);
    const fastmlp_kernels *of_dtype[2]; /* FLOAT32, FLOAT64 */
} instruction_sets[] = {                /* best first */
#if defined(__x86_64__)
    {"avx512", has_avx512, {&fastmlp_avx512_f32, &fastmlp_avx512_f64}},
    {"avx2", has_avx2, {&fastmlp_avx2_f32, &fastmlp_avx2_f64}},
#endif
    {"baseline", has_baseline, {&fastmlp_baseline_f32, &fastmlp_baseline_f64}},
};
enum { N_INSTRUCTION_SETS = sizeof instruction_sets / sizeof *instruction_sets };

int64_t fastmlp_find_kernels(int64_t dtype, const char *isa_limit) {
    int allowed = isa_limit[0] == 0;
    for (int i = 0; i < N_INSTRUCTION_SETS; i++) {
        allowed |= strcmp(instruction_sets[i].name, isa_limit) == 0;
        if (allowed && instruction_sets[i].present()) return (intptr_t)instruction_sets[i].of_dtype[dtype];
    }
    return 0;
}

const char *fastmlp_isa(int64_t kernels) {
    for (int i = 0; i < N_INSTRUCTION_SETS; i++)
        for (int dtype = 0; dtype < 2; dtype++)
            if ((intptr_t)instruction_sets[i].of_dtype[dtype] == kernels) return instruction_sets[i].name;
    return NULL;
}

static const fastmlp_kernels *table(int64_t kernels) { return (const fastmlp_kernels *)(intptr_t)kernels; }
static void *at(int64_t address) { return (void *)(intptr_t)address; }

void fastmlp_forward(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t out, int64_t logits) {
    table(kernels)->forward(at(plan), at(workspace), at(examples), n, at(out), logits);
}
void fastmlp_layer_outputs(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t outs) {
    table(kernels)->layer_outputs(at(plan), at(workspace), at(examples), n, at(outs));
}
double fastmlp_penalty(int64_t kernels, int64_t plan) { return table(kernels)->penalty(at(plan)); }
double fastmlp_loss(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n) {
    return table(kernels)->loss(at(plan), at(workspace), at(examples), n);
}
double fastmlp_gradients(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t gradients, int64_t dropout_step) {
    return table(kernels)->gradients(at(plan), at(workspace), at(examples), n, at(gradients), dropout_step);
}
void fastmlp_backward(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t dy, int64_t gradients, int64_t dx) {
    table(kernels)->backward(at(plan), at(workspace), at(examples), n, at(dy), at(gradients), at(dx));
}
void fastmlp_apply(int64_t kernels, int64_t plan, int64_t update, int64_t gradients) {
    table(kernels)->apply(at(plan), at(update), at(gradients));
}
int64_t fastmlp_train(int64_t kernels, int64_t plan, int64_t workspace, int64_t examples, int64_t schedule, int64_t update, int64_t gradients, int64_t losses) {
    return table(kernels)->train(at(plan), at(workspace), at(examples), at(schedule), at(update), at(gradients), at(losses));
}
void fastmlp_jacobian(int64_t kernels, int64_t plan, int64_t derivatives, int64_t workspace, int64_t examples, int64_t n, int64_t out) {
    table(kernels)->jacobian(at(plan), at(derivatives), at(workspace), at(examples), n, at(out));
}
void fastmlp_jvp(int64_t kernels, int64_t plan, int64_t derivatives, int64_t workspace, int64_t examples, int64_t n, int64_t t, int64_t y, int64_t dy) {
    table(kernels)->jvp(at(plan), at(derivatives), at(workspace), at(examples), n, at(t), at(y), at(dy));
}
void fastmlp_gradients_per_example(int64_t kernels, int64_t plan, int64_t derivatives, int64_t workspace, int64_t examples, int64_t n, int64_t out) {
    table(kernels)->gradients_per_example(at(plan), at(derivatives), at(workspace), at(examples), n, at(out));
}
void fastmlp_hvp(int64_t kernels, int64_t plan, int64_t derivatives, int64_t workspace, int64_t examples, int64_t n, int64_t v, int64_t out) {
    table(kernels)->hvp(at(plan), at(derivatives), at(workspace), at(examples), n, at(v), at(out));
}
void fastmlp_train_members(int64_t kernels, int64_t members, int64_t count, int64_t workspace) {
    table(kernels)->train_members(at(members), count, at(workspace));
}
void fastmlp_member_losses(int64_t kernels, int64_t members, int64_t count, int64_t n, int64_t workspace) {
    table(kernels)->member_losses(at(members), count, n, at(workspace));
}

void fastmlp_forward_call(int64_t call, int64_t logits) {
    const fastmlp_call *c = at(call);
    if (c->n == 1) c->kernels->forward_one(c->plan, c->workspace, c->examples, c->out, logits);
    else c->kernels->forward(c->plan, c->workspace, c->examples, c->n, c->out, logits);
}
void fastmlp_predict_call(int64_t call) { fastmlp_forward_call(call, 0); }
double fastmlp_step_call(int64_t call, int64_t dropout_step) {
    const fastmlp_call *c = at(call);
    c->schedule->dropout_step = dropout_step;
    c->kernels->train(c->plan, c->workspace, c->examples, c->schedule, c->update, c->gradients, c->losses);
    return c->losses[0];
}
