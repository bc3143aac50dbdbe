/* Members of an ensemble in the lanes of vectors: where their numbers lie, how they get there and back, and the product.
 * ensemble.h trains them.
 *
 * Arrays hold a vector for each of their elements: parameters (n_in + 1, n_out) of each layer without padding, the bias
 * last; activations (rows, n_out). */

typedef struct {
    fastmlp_trainee *member[LANES]; /* beyond `count` the first one again: computed, never written back */
    int64_t count, is_running[LANES];
    const int64_t *order[LANES]; /* as in the members' examples */
    const double *sample_weight[LANES];
    int is_weighted;
    const fastmlp_plan *plan; /* of the first: sizes, activations and loss are alike */
    real *parameters, *first, *second;
    real *gradient;         /* of one layer */
    real *x;                /* (rows, n_0) */
    real *outputs, *factors; /* (rows, n_l), layer after layer */
    real *deltas;           /* (rows, widest layer): d loss / d output of one layer, or one row's logits */
    real *targets;          /* (n_L) of one row */
} lanes;

/* --- the product: sum[i][j] = start[j] + sum_k a[i][k] * b[k][j], all of them vectors --- */

typedef struct {
    const real *a;
    int64_t a_row, a_step; /* in elements, from vector to vector */
    const real *b;
    int64_t b_step, b_column;
    const real *start;
    int64_t start_column;
    real *c; /* columns side by side */
    int64_t c_row;
    int64_t depth;
} lane_product;

/* 12 sums, 3 vectors of b and one of a fill 16 registers; 12 chains of sums keep two multipliers busy. */
enum { LANE_SUMS = 12, LANE_COLUMNS = 3, LANE_POINTER_ROWS = 4 };

INLINE void lane_tile(const int rows, const int columns, const lane_product *p) {
    const int pointers = (rows + LANE_POINTER_ROWS - 1) / LANE_POINTER_ROWS;
    const int64_t a_bytes = p->a_row * (int64_t)sizeof(real), a_thrice = opaque(3 * a_bytes);
    const real *a[LANE_SUMS / LANE_POINTER_ROWS] = {p->a}, *b = p->b;
    UNROLL
    for (int i = 1; i < pointers; i++) a[i] = opaque_pointer(moved(a[i - 1], LANE_POINTER_ROWS * a_bytes));
    vector sum[LANE_SUMS][LANE_COLUMNS];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < columns; j++) sum[i][j] = load(p->start + j * p->start_column);
    ROLLED
    for (int64_t k = 0; k < p->depth; k++) {
        vector row[LANE_COLUMNS];
        UNROLL
        for (int j = 0; j < columns; j++) row[j] = load(b + j * p->b_column);
        UNROLL
        for (int i = 0; i < rows; i++) {
            const int place = i % LANE_POINTER_ROWS;
            const vector x = load(moved(a[i / LANE_POINTER_ROWS], place == 3 ? a_thrice : place * a_bytes));
            UNROLL
            for (int j = 0; j < columns; j++) accumulate(&sum[i][j], x, row[j]);
        }
        UNROLL
        for (int i = 0; i < pointers; i++) a[i] += p->a_step;
        b += p->b_step;
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < columns; j++) store(p->c + i * p->c_row + j * LANES, sum[i][j]);
}

typedef void lane_tile_function(const lane_product *);
#define LANE_TILES(T)                                                                                  \
    T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1) T(7, 1) T(8, 1) T(9, 1) T(10, 1) T(11, 1) T(12, 1) \
    T(1, 2) T(2, 2) T(3, 2) T(4, 2) T(5, 2) T(6, 2) T(1, 3) T(2, 3) T(3, 3) T(4, 3)
#define LANE_TILE(rows, columns) \
    static void lane_tile_##rows##x##columns(const lane_product *p) { lane_tile(rows, columns, p); }
LANE_TILES(LANE_TILE)
#define LANE_ENTRY(rows, columns) [columns - 1][rows - 1] = lane_tile_##rows##x##columns,
static lane_tile_function *const lane_tiles[LANE_COLUMNS][LANE_SUMS] = {LANE_TILES(LANE_ENTRY)};

static void lane_multiply(int64_t rows, int64_t columns, const lane_product *whole) {
    for (int64_t j = 0, step; j < columns; j += step) {
        const int64_t left = columns - j;
        step = left == 4 ? 2 : smaller(left, LANE_COLUMNS); /* no single column for last */
        const int64_t most = LANE_SUMS / step;
        lane_product p = *whole;
        p.b += j * p.b_column;
        p.start += j * p.start_column;
        p.c += j * LANES;
        for (int64_t i = 0, n; i < rows; i += n) {
            n = rows - i;
            n = n <= most ? n : n < 2 * most ? (n + 1) / 2 : most;
            lane_tiles[step - 1][n - 1](&p);
            p.a += n * p.a_row;
            p.c += n * p.c_row;
        }
    }
}

/* --- members into lanes and back --- */

/* Where everything lies in a workspace for so many rows; _plan.py computes its size. */
static lanes lanes_of(fastmlp_trainee *members, int64_t count, int64_t rows, real *workspace) {
    lanes t = {.count = count, .plan = members[0].plan};
    int64_t parameters = 0, largest = 0, units = 0, widest = 0;
    for (int64_t l = 0; l < t.plan->n_layers; l++) {
        const fastmlp_layer *layer = t.plan->layers + l;
        const int64_t size = (layer->n_in + 1) * layer->n_out;
        parameters += size;
        units += layer->n_out;
        largest = size > largest ? size : largest;
        widest = layer->n_in > widest ? layer->n_in : widest;
        widest = layer->n_out > widest ? layer->n_out : widest;
    }
    const struct {
        real **place;
        int64_t size;
    } parts[] = {
        {&t.parameters, parameters}, {&t.first, parameters}, {&t.second, parameters}, {&t.gradient, largest},
        {&t.x, rows * t.plan->layers[0].n_in}, {&t.outputs, rows * units}, {&t.factors, rows * units},
        {&t.deltas, rows * widest}, {&t.targets, t.plan->layers[t.plan->n_layers - 1].n_out},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++, workspace += parts[i - 1].size * LANES) *parts[i].place = workspace;
    for (int64_t lane = 0; lane < LANES; lane++) {
        t.member[lane] = members + (lane < count ? lane : 0);
        t.is_running[lane] = lane < count;
        t.order[lane] = t.member[lane]->examples->order;
        t.sample_weight[lane] = t.member[lane]->examples->sample_weight;
        t.is_weighted |= t.sample_weight[lane] != NULL;
    }
    return t;
}

/* The row of a member's example i. */
INLINE int64_t lane_row(const lanes *t, int lane, int64_t i) { return t->order[lane] ? t->order[lane][i] : i; }

INLINE int64_t lane_members(int64_t left) { return smaller(left, LANES); }

/* One lane of an arena, from a member's or back to it. */
static void copy_lane(const fastmlp_plan *plan, real *arena, real *packed, int64_t lane, int is_back) {
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        for (int64_t i = 0; i <= layer->n_in; i++) {
            real *row = arena + layer->parameters + i * layer->leading;
            for (int64_t j = 0; j < layer->n_out; j++, packed += LANES) {
                if (is_back) row[j] = packed[lane];
                else packed[lane] = row[j];
            }
        }
    }
}

static void copy_member(const lanes *t, int64_t lane, int is_back) {
    const fastmlp_trainee *m = t->member[lane];
    copy_lane(t->plan, m->plan->parameters, t->parameters, lane, is_back);
    if (!m->update) return;
    const int64_t code = m->update->code;
    if (uses_first(code)) copy_lane(t->plan, m->update->first, t->first, lane, is_back);
    if (uses_second(code)) copy_lane(t->plan, m->update->second, t->second, lane, is_back);
}

/* The inputs of a block of rows that begins with each member's example `first`. */
static void gather_lanes(const lanes *t, int64_t first, int64_t rows) {
    const fastmlp_examples *e = t->member[0]->examples;
    const int64_t n_in = t->plan->layers[0].n_in;
    const int is_direct = is_own_type(e->x_type, e->x_column);
    real *x = t->x;
    for (int64_t i = 0; i < rows; i++, x += n_in * LANES) {
        const char *from[LANES];
        for (int lane = 0; lane < LANES; lane++) from[lane] = e->x + lane_row(t, lane, first + i) * e->x_row;
        for (int64_t k = 0; k < n_in; k += LANES) {
            const int64_t n = smaller(LANES, n_in - k);
            vector features[LANES];
            if (is_direct && n == LANES) {
                UNROLL
                for (int lane = 0; lane < LANES; lane++) features[lane] = load_loose((const real *)from[lane] + k);
                transpose_lanes(features);
                UNROLL
                for (int j = 0; j < LANES; j++) store(x + (k + j) * LANES, features[j]);
                continue;
            }
            if (is_direct) { /* the same; but with so many stores known to the compiler, as above, features stay in registers */
                UNROLL
                for (int lane = 0; lane < LANES; lane++) features[lane] = load_part((const real *)from[lane] + k, n);
                transpose_lanes(features);
                for (int64_t j = 0; j < n; j++) store(x + (k + j) * LANES, features[j]);
                continue;
            }
            real part[LANES][LANES] __attribute__((aligned(64))) = {{0}};
            for (int lane = 0; lane < LANES; lane++) {
                convert_row(part[lane], from[lane] + k * e->x_column, e->x_column, e->x_type, n);
                features[lane] = load(part[lane]);
            }
            transpose_lanes(features);
            for (int64_t j = 0; j < n; j++) store(x + (k + j) * LANES, features[j]);
        }
    }
}
