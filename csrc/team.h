/* Threads that work on one call together: a pool of this package's own, since OpenMP's kills forked children. */
#ifndef FASTMLP_TEAM_H
#define FASTMLP_TEAM_H
#include <stdint.h>

typedef struct fastmlp_team fastmlp_team;

/* One thread's place in a team. */
typedef struct {
    int64_t index, count;
    fastmlp_team *team;
} fastmlp_member;

/* Runs job(context, member) as every member of a team of up to `count` threads, the caller being member 0. While the
 * pool serves another call, or where threads cannot be made, the caller works alone; and if threads would have to be
 * woken for a call that is not long. */
void fastmlp_run(int64_t count, int64_t is_long, void (*job)(void *context, fastmlp_member member), void *context);

/* See calls.h. */
void fastmlp_keep_teams(int64_t always);

/* Waits until every member has come here; what they wrote before is seen by all. */
void fastmlp_meet(fastmlp_member member);
#endif
