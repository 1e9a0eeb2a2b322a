/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct slurmctld_symbols slurmctld;
__thread int calls_in_progress;

bool enter(struct run *run)
{
	atomic_store(&run->in_call, true);
	if (atomic_load(&run->closed)) {
		atomic_store(&run->in_call, false);
		return false;
	}
	calls_in_progress++;
	return true;
}

void leave(struct run *run)
{
	calls_in_progress--;
	atomic_store(&run->in_call, false);
}

/*
 * slurmctld does not save its state when it ends while a lock is held ("Can not save state"). Before it looks, it waits
 * for the threads that it counts as serving a request, so a holder of locks counts as one.
 */
bool enter_locked(struct run *run, struct lock_levels levels)
{
	if (!enter(run))
		return false;
	slurmctld.server_thread_incr();
	slurmctld.lock_slurmctld(levels);
	if (!atomic_load(&run->closed))
		return true;
	leave_locked(run, levels);
	return false;
}

void leave_locked(struct run *run, struct lock_levels levels)
{
	slurmctld.unlock_slurmctld(levels);
	slurmctld.server_thread_decr();
	leave(run);
}

int32_t status_of(int result)
{
	if (result == SLURM_SUCCESS)
		return EC2FLEET_OK;
	return errno > 0 ? errno : EIO;
}

int32_t in_control(void *context)
{
	struct run *run = context;

	/*
	 * Power saving runs from the moment a controller, primary or backup, has taken over and read its state until
	 * it begins to shut down, to stand by or to hand over to its successor in a reconfiguration.
	 */
	return !atomic_load(&run->closed) && __atomic_load_n(slurmctld.power_save_started, __ATOMIC_RELAXED);
}

static int64_t last_node_update(void *context)
{
	(void)context;
	return __atomic_load_n(slurmctld.last_node_update, __ATOMIC_RELAXED);
}

static const char *text_of(void *context, int32_t status)
{
	(void)context;
	return slurmctld.strerror(status);
}

static void log_line(void *context, uint32_t level, const char *message)
{
	struct run *run = context;

	if (!message || atomic_load(&run->silent))
		return;
	switch (level) {
	case EC2FLEET_LOG_ERROR:
		slurmctld.error("ec2_fleet: %s", message);
		break;
	case EC2FLEET_LOG_INFO:
		slurmctld.info("ec2_fleet: %s", message);
		break;
	case EC2FLEET_LOG_VERBOSE:
		slurmctld.verbose("ec2_fleet: %s", message);
		break;
	default:
		slurmctld.debug("ec2_fleet: %s", message);
		break;
	}
}

void free_run(struct run *run)
{
	free_reading(run);
	free(run->slurm_conf);
	free(run);
}

static char *copy_of(const char *string)
{
	return string ? strdup(string) : NULL;
}

struct run *new_run(void)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		return NULL;
	/* The thread that loads plugins is the one that reads slurm.conf: it does not change meanwhile. */
	const slurm_conf_t *conf = slurmctld.slurm_conf;

	run->pid = getpid();
	run->slurm_conf = conf->slurm_conf ? realpath(conf->slurm_conf, NULL) : NULL;
	if (!run->slurm_conf)
		run->slurm_conf = copy_of(conf->slurm_conf);
	run->host = (struct ec2fleet_host) {
		.abi_version = EC2FLEET_ABI_VERSION,
		.size = sizeof(run->host),
		.slurm_version = SLURM_VERSION_NUMBER,
		.capabilities =
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(23, 2, 0)
			EC2FLEET_CAN_LIST_POWERED_DOWN |
#endif
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(23, 11, 0)
			EC2FLEET_CAN_INSTANCE_ID |
#endif
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(26, 5, 0)
			EC2FLEET_CAN_INSTANCE_ID_LIST |
#endif
			(slurmctld.node_did_resp ? EC2FLEET_CAN_KEEP_RESPONDING : 0),
		.context = run,
		.config_dir = getenv("EC2FLEET_CONFIG_DIR"),
		.slurm_conf = run->slurm_conf,
		.in_control = in_control,
		.last_node_update = last_node_update,
		.read_power = read_power,
		.update_nodes = update_nodes,
		.keep_responding = keep_responding,
		.start_ready_jobs = start_ready_jobs,
		.suspended_nodes = suspended_nodes,
		.load_nodes = load_nodes,
		.load_partitions = load_partitions,
		.load_jobs = load_jobs,
		.set_time_limit = set_time_limit,
		.strerror = text_of,
		.log = log_line,
	};
	return run;
}
