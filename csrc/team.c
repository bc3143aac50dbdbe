/* The pool behind team.h. Waiting threads look for a short while and then sleep: with another process on their core,
 * threads that never slept made training up to 13 times slower. And where waiting takes
 * what a team saves, something else keeps a worker's core busy: for a while callers then work alone. */
#if defined(__linux__)
#define _GNU_SOURCE /* for sched_getcpu and the like */
#endif
#include "team.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    MOST_THREADS = 64,
    LOOKS = 2000,            /* these take 20 to 40 us */
    MORE_LOOKS = 20 * LOOKS, /* of who is roused: longer than a short call takes */
    /* in nanoseconds */
    CLOSE = 20000, /* calls so soon after one another find threads looking */
    WATCHED = 5000000,       /* work of teams after which they are judged */
    MOST_ALONE = 1000000000, /* without teams: first as long as was waited, LONGER times as long after each trial in vain */
    LONGER = 4,
};

/* A number that threads wait for. */
typedef struct {
    atomic_llong value;
    atomic_int sleepers;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} signal_value;

struct fastmlp_team {
    int64_t count;
    atomic_llong arrived;
    signal_value meetings;
};

static struct {
    pthread_mutex_t busy; /* held by the call that the pool serves */
    int64_t n_workers;
    signal_value jobs[MOST_THREADS]; /* of each worker, by its place in a team; the caller's, 0, is not used */
    atomic_llong working;            /* members still at work, beside the caller */
    signal_value finished;
    void (*job)(void *, fastmlp_member);
    void *context;
    fastmlp_team team;
#if defined(__linux__)
    pid_t caller;
    atomic_int processors[MOST_THREADS]; /* of the members; -1: not there yet */
#endif
    int64_t worked, waited; /* nanoseconds of calls with a team since they were judged, and of waiting in them */
    int64_t alone, alone_until; /* for how long teams were given up, and when they are tried again */
    int64_t ended;    /* the time when the last call did that was worth a team */
    int64_t are_kept; /* whatever they cost */
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER};

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void signal_init(signal_value *s) {
    atomic_store(&s->value, 0);
    atomic_store(&s->sleepers, 0);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
}

/* Has those who sleep look again. */
static void signal_rouse(signal_value *s) {
    if (atomic_load(&s->sleepers) == 0) return;
    pthread_mutex_lock(&s->lock);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void signal_advance(signal_value *s) {
    atomic_fetch_add(&s->value, 1);
    signal_rouse(s);
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

/* Members of a team must not share a processor, but the system wakes one where another runs, and leaves them there: steps
 * of 1.1 ms took 2.4 ms after pauses of 0.17 s. Whoever has slept and finds itself on another's processor moves. */
#if defined(__linux__)
static void take_processor(int64_t index) {
    const int here = sched_getcpu();
    int is_shared = 0;
    for (int64_t i = 0; i < pool.team.count; i++) is_shared |= i != index && atomic_load(&pool.processors[i]) == here;
    atomic_store(&pool.processors[index], here);
    cpu_set_t allowed, others;
    if (!is_shared || sched_getaffinity(pool.caller, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    for (int64_t i = 0; i < pool.team.count; i++) {
        const int there = atomic_load(&pool.processors[i]);
        if (there >= 0 && there < CPU_SETSIZE) CPU_CLR(there, &others);
    }
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    atomic_store(&pool.processors[index], sched_getcpu());
    if (index == 0) sched_setaffinity(0, sizeof allowed, &allowed); /* the caller's thread is the user's */
}

static void begin_places(void) {
    pool.caller = (pid_t)syscall(SYS_gettid);
    for (int64_t i = 1; i < pool.team.count; i++) atomic_store(&pool.processors[i], -1);
    atomic_store(&pool.processors[0], sched_getcpu());
}
#else
static void take_processor(int64_t index) { (void)index; }
static void begin_places(void) {}
#endif

/* Waits, as a member of a team, until the value has moved on from `old`; returns for how many nanoseconds, 0 where it did
 * not come to sleep. */
static int64_t signal_await(signal_value *s, int64_t old, int64_t index) {
    const int64_t begun = nanoseconds();
    for (int looks = LOOKS;; looks = MORE_LOOKS) {
        for (int i = 0; i < looks; i++) {
            if (atomic_load_explicit(&s->value, memory_order_acquire) != old) return looks == LOOKS ? 0 : nanoseconds() - begun;
            pause_briefly();
        }
        pthread_mutex_lock(&s->lock);
        atomic_fetch_add(&s->sleepers, 1);
        if (atomic_load(&s->value) == old) pthread_cond_wait(&s->changed, &s->lock);
        atomic_fetch_sub(&s->sleepers, 1);
        pthread_mutex_unlock(&s->lock);
        take_processor(index);
    }
}

void fastmlp_meet(fastmlp_member member) {
    if (member.count == 1) return;
    fastmlp_team *team = member.team;
    const int64_t meeting = atomic_load(&team->meetings.value);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team->count) {
        atomic_store(&team->arrived, 0);
        signal_advance(&team->meetings);
    } else {
        const int64_t waited = signal_await(&team->meetings, meeting, member.index);
        if (member.index == 0) pool.waited += waited;
    }
}

static void *work(void *argument) {
    const int64_t index = (int64_t)(intptr_t)argument;
    for (int64_t seen = 0;; seen++) {
        signal_await(&pool.jobs[index], seen, index);
        take_processor(index);
        pool.job(pool.context, (fastmlp_member){index, pool.team.count, &pool.team});
        if (atomic_fetch_sub(&pool.working, 1) == 1) signal_advance(&pool.finished);
    }
    return NULL;
}

/* A child has the memory of its parent's pool, but none of its threads. */
static void forget_workers(void) {
    pool.n_workers = 0;
    pthread_mutex_init(&pool.busy, NULL);
}

/* Makes workers up to a team of `count`; returns the team that there is. */
static int64_t hire(int64_t count) {
    static int watching_forks = 0;
    if (!watching_forks) watching_forks = pthread_atfork(NULL, NULL, forget_workers) == 0;
    if (!watching_forks) return 1;
    if (pool.n_workers == 0) {
        signal_init(&pool.finished);
        signal_init(&pool.team.meetings);
        atomic_store(&pool.team.arrived, 0);
    }
    if (count > MOST_THREADS) count = MOST_THREADS;
    /* signals are for Python's threads */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.n_workers + 1 < count) {
        const int64_t index = pool.n_workers + 1;
        pthread_t thread;
        signal_init(&pool.jobs[index]);
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)index) != 0) break;
        pthread_detach(thread);
        pool.n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return count < pool.n_workers + 1 ? count : pool.n_workers + 1;
}

/* Takes note of a call with a team, and decides whether they are worth it as soon as that can be told. */
static void judge_teams(int64_t count, int64_t begun) {
    const int64_t now = nanoseconds();
    pool.worked += now - begun;
    const int64_t watched = pool.worked > WATCHED ? pool.worked : WATCHED;
    /* a fifth for what no wait shows: members on one core, and caches that each other's results come from */
    const int is_vain = 5 * watched > 4 * count * (watched - pool.waited);
    if (pool.are_kept || (!is_vain && pool.worked < WATCHED)) return;
    if (is_vain) {
        pool.alone *= LONGER;
        if (pool.alone < pool.waited) pool.alone = pool.waited;
        if (pool.alone > MOST_ALONE) pool.alone = MOST_ALONE;
        pool.alone_until = now + pool.alone;
    } else
        pool.alone /= LONGER;
    pool.worked = pool.waited = 0;
}

void fastmlp_keep_teams(int64_t always) { pool.are_kept = always; }

/* Whether there are workers for a team, and none sleeps. */
static int are_looking(int64_t count) {
    int64_t i = 1;
    while (i < count && i <= pool.n_workers && atomic_load(&pool.jobs[i].sleepers) == 0) i++;
    return i > 1 && (i == count || i > pool.n_workers);
}

static void begin_team(int64_t count) {
    pool.team.count = count;
    begin_places();
}

/* The team for a call. To wake a thread takes 50 us or more: a short call is done alone then, in the time of one thread in
 * place of up to 1.7 times as much. Where such calls follow one another closely the next will find the workers looking. */
static int64_t gather(int64_t count, int64_t is_long, int64_t begun) {
    if (begun < pool.alone_until) return 1;
    if (is_long || pool.are_kept || are_looking(count)) return hire(count);
    if (begun - pool.ended < CLOSE) {
        begin_team(hire(count));
        for (int64_t i = 1; i < pool.team.count; i++) signal_rouse(&pool.jobs[i]);
    }
    return 1;
}

void fastmlp_run(int64_t count, int64_t is_long, void (*job)(void *, fastmlp_member), void *context) {
    const fastmlp_member alone = {0, 1, NULL};
    if (count <= 1 || pthread_mutex_trylock(&pool.busy) != 0) {
        job(context, alone);
        return;
    }
    const int64_t begun = nanoseconds();
    count = gather(count, is_long, begun);
    if (count == 1) job(context, alone);
    else {
        begin_team(count);
        pool.job = job;
        pool.context = context;
        atomic_store(&pool.working, count - 1);
        const int64_t finished = atomic_load(&pool.finished.value);
        for (int64_t i = 1; i < count; i++) signal_advance(&pool.jobs[i]);
        job(context, (fastmlp_member){0, count, &pool.team});
        pool.waited += signal_await(&pool.finished, finished, 0);
        judge_teams(count, begun);
    }
    pool.ended = nanoseconds();
    pthread_mutex_unlock(&pool.busy);
}
