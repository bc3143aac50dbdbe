/* The calls of derivatives.h and hessian.h: their arguments, and what each member does with them. */

typedef struct {
    const fastmlp_plan *plan;
    const fastmlp_derivatives *derivatives;
    void *workspace;
    const fastmlp_examples *examples;
    int64_t n;
    const void *direction;
    void *y, *out;
} derivative_arguments;

static void jacobian_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    const derivative_arguments *c = context;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    jacobians(&net, c->derivatives, c->n, c->out);
    restore_mode(mode);
}

static void jvp_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    const derivative_arguments *c = context;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    input_tangents(&net, c->derivatives, c->n, c->direction, c->y, c->out);
    restore_mode(mode);
}

static void gradients_per_example_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    const derivative_arguments *c = context;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    example_gradients(&net, c->derivatives, c->n, c->out);
    restore_mode(mode);
}

static void hvp_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    const derivative_arguments *c = context;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    gradient_tangents(&net, c->derivatives, c->n, c->direction, c->out);
    restore_mode(mode);
}

/* Passes through the net that a call takes for a row, in units of a forward pass. */
enum { JVP_PASSES = 2, EXAMPLE_GRADIENT_PASSES = 3, HVP_PASSES = 8 };

static void jacobian(const fastmlp_plan *plan, const fastmlp_derivatives *d, void *workspace, const fastmlp_examples *e, int64_t n, void *out) {
    derivative_arguments c = {.plan = plan, .derivatives = d, .workspace = workspace, .examples = e, .n = n, .out = out};
    run(plan, threads_for(plan, smaller(n, d->jacobian_rows), 1 + d->directions), n, 1 + d->directions, jacobian_member, &c);
}

static void jvp(const fastmlp_plan *plan, const fastmlp_derivatives *d, void *workspace, const fastmlp_examples *e, int64_t n, const void *t, void *y, void *dy) {
    derivative_arguments c = {.plan = plan, .derivatives = d, .workspace = workspace, .examples = e, .n = n, .direction = t, .y = y, .out = dy};
    run(plan, threads_for(plan, smaller(n, plan->block_rows), JVP_PASSES), n, JVP_PASSES, jvp_member, &c);
}

static void gradients_per_example(const fastmlp_plan *plan, const fastmlp_derivatives *d, void *workspace, const fastmlp_examples *e, int64_t n, void *out) {
    derivative_arguments c = {.plan = plan, .derivatives = d, .workspace = workspace, .examples = e, .n = n, .out = out};
    run(plan, threads_for(plan, smaller(n, plan->block_rows), EXAMPLE_GRADIENT_PASSES), n, EXAMPLE_GRADIENT_PASSES, gradients_per_example_member, &c);
}

static void hvp(const fastmlp_plan *plan, const fastmlp_derivatives *d, void *workspace, const fastmlp_examples *e, int64_t n, const void *v, void *out) {
    derivative_arguments c = {.plan = plan, .derivatives = d, .workspace = workspace, .examples = e, .n = n, .direction = v, .out = out};
    run(plan, threads_for(plan, smaller(n, plan->block_rows), HVP_PASSES), n, HVP_PASSES, hvp_member, &c);
}
