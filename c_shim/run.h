/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * One run of the library, from start to stop, and the rule for every call from it into slurmctld:
 *
 *	if (!enter(run))
 *		return EC2FLEET_CLOSED;
 *	...
 *	leave(run);
 */
#ifndef EC2FLEET_RUN_H
#define EC2FLEET_RUN_H

#include "plugin_abi.h"
#include "slurmctld_symbols.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

/* While these are the same, a bit of the bitmaps stands for the same node. */
struct node_table {
	time_t conf_update;
	const void *nodes;
	int64_t slots;
};

struct run {
	struct ec2fleet_host host;
	pid_t pid;
	atomic_bool closed;	/* no further call into slurmctld, not even after a wait for a lock */
	atomic_bool silent;	/* nor into its log, which it closes before the process ends */
	atomic_bool in_call;

	/* The last reading of the power bitmaps; only the host thread uses it. */
	struct node_table table;
	bool conf_update_now;	/* its conf_update was the second of the reading: a reconfiguration later in that second shows nothing */
	bitstr_t *booting;
	bitstr_t *waking;
	bitstr_t *suspended;
	char *names[4];		/* waking, waking_ended, suspended, suspended_ended */
	char *all_suspended;

	char *slurm_conf;
};

extern struct slurmctld_symbols slurmctld;

/* How deep this thread is in calls to slurmctld: a fatal error in there ends the process from this very thread. */
extern __thread int calls_in_progress;

struct run *new_run(void);
void free_run(struct run *run);

bool enter(struct run *run);
void leave(struct run *run);
/* The same with locks of slurmctld held in between. */
bool enter_locked(struct run *run, struct lock_levels levels);
void leave_locked(struct run *run, struct lock_levels levels);

int32_t in_control(void *context);

/* Status of a client function of Slurm, which gives its error number through errno. */
int32_t status_of(int result);

/* power_bitmaps.c */
int32_t read_power(void *context, uint32_t full, struct ec2fleet_power *out);
int32_t suspended_nodes(void *context, const char **hostlist);
void free_reading(struct run *run);

/* node_updates.c */
int32_t update_nodes(void *context, const struct ec2fleet_node_update *updates, uint32_t count, uint32_t *applied);
int32_t keep_responding(void *context, const char *const *names, uint32_t count);
int32_t start_ready_jobs(void *context);

/* client_calls.c */
int32_t load_nodes(void *context, void *sink, void (*row)(void *sink, const struct ec2fleet_node *node));
int32_t load_partitions(void *context, void *sink,
			void (*row)(void *sink, const struct ec2fleet_partition *partition));
int32_t load_jobs(void *context, const char *node_name, void *sink,
		  void (*row)(void *sink, const struct ec2fleet_job *job));
int32_t set_time_limit(void *context, uint32_t job_id, uint32_t minutes);

#endif
