/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * job_submit/ec2_fleet: the part of slurm-ec2-fleet that knows a Slurm release.
 *
 * It loads libslurm_ec2_fleet.so and gives it a table of what this slurmctld offers (plugin_abi.h). It has no thread and
 * decides nothing. Whatever goes wrong, slurmctld runs on: one error is logged and the plugin stays passive.
 */
#define _GNU_SOURCE
#include "plugin_abi.h"
#include "slurmctld_symbols.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* What slurmctld looks up in a job_submit plugin. */
EXPORT const char plugin_name[] = "Cloud nodes from Amazon EC2 Fleets";
EXPORT const char plugin_type[] = "job_submit/ec2_fleet";
EXPORT const uint32_t plugin_version = SLURM_VERSION_NUMBER;
EXPORT int init(void);
EXPORT int fini(void);
EXPORT int job_submit(job_desc_msg_t *job, uint32_t submit_uid, char **err_msg);
/* The job record is a private type of slurmctld. */
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(23, 2, 0)
EXPORT int job_modify(job_desc_msg_t *job, void *job_record, uint32_t submit_uid, char **err_msg);
#else
EXPORT int job_modify(job_desc_msg_t *job, void *job_record, uint32_t submit_uid);
#endif

#define LIBRARY "libslurm_ec2_fleet.so"
#define STOP_TIMEOUT_MS 5000
/* How long a stop waits for a thread that waits for a lock which the caller of the stop may hold. */
#define STOP_TIMEOUT_IN_LOCK_MS 250

static const struct lock_levels node_read = { .node = LOCK_READ };
/* What slurmctld takes around the same functions for a request by scontrol or slurmd. */
static const struct lock_levels update_node_locks = {
	.job = LOCK_WRITE, .node = LOCK_WRITE, .part = LOCK_WRITE, .fed = LOCK_READ
};
static const struct lock_levels node_did_resp_locks = { .conf = LOCK_READ, .node = LOCK_WRITE };

/* One run of the library, from start to stop. A run whose threads did not end in time is never freed. */
struct run {
	struct ec2fleet_host host;
	pid_t pid;
	atomic_bool closed;
	atomic_bool in_lock;		/* the host thread waits for a lock of slurmctld */

	/* The last reading; only the host thread uses these. */
	time_t conf_update;
	bitstr_t *booting;
	bitstr_t *waking;
	bitstr_t *suspended;
	char *names[4];

	char *cluster_name;
	char *slurm_conf;
	char *state_save_location;
};

static struct slurmctld_symbols slurmctld;
static int32_t (*library_start)(const struct ec2fleet_host *host);
static int32_t (*library_stop)(uint32_t timeout_ms);
static struct run *_Atomic running;
/* How deep this thread is in calls to slurmctld: a fatal error in there ends the process from this very thread. */
static __thread int calls_in_progress;

__attribute__((format(printf, 1, 2))) static void report(const char *format, ...)
{
	char text[2048];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (slurmctld.error)
		slurmctld.error("ec2_fleet: %s", text);
	else
		fprintf(stderr, "slurmctld: error: ec2_fleet: %s\n", text);
}

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* False, with no lock held, if the run was stopped before or meanwhile. */
static bool lock(struct run *run, struct lock_levels levels)
{
	if (atomic_load(&run->closed))
		return false;
	atomic_store(&run->in_lock, true);
	slurmctld.lock_slurmctld(levels);
	atomic_store(&run->in_lock, false);
	if (atomic_load(&run->closed)) {
		slurmctld.unlock_slurmctld(levels);
		return false;
	}
	return true;
}

/* Status of a client function, which gives its error number through errno. */
static int32_t status_of(int result)
{
	if (result == SLURM_SUCCESS)
		return EC2FLEET_OK;
	return errno > 0 ? errno : EIO;
}

static int32_t host_in_control(void *context)
{
	struct run *run = context;

	/*
	 * Power saving runs from the moment a controller, primary or backup, has taken over and read its state until
	 * it begins to shut down, to stand by or to hand over to its successor in a reconfiguration.
	 */
	return !atomic_load(&run->closed) && __atomic_load_n(slurmctld.power_save_started, __ATOMIC_RELAXED);
}

static int64_t host_last_node_update(void *context)
{
	(void)context;
	return __atomic_load_n(slurmctld.last_node_update, __ATOMIC_RELAXED);
}

static void free_bits(bitstr_t **bits)
{
	if (*bits)
		slurmctld.bit_free(bits);
	*bits = NULL;
}

static void free_names(struct run *run)
{
	for (size_t i = 0; i < sizeof(run->names) / sizeof(run->names[0]); i++) {
		slurmctld.xfree_ptr(run->names[i]);
		run->names[i] = NULL;
	}
}

static void free_reading(struct run *run)
{
	free_bits(&run->booting);
	free_bits(&run->waking);
	free_bits(&run->suspended);
	free_names(run);
}

/* New bitmap: what is in `a` and not in `b`. */
static bitstr_t *without(bitstr_t *a, bitstr_t *b)
{
	bitstr_t *result = slurmctld.bit_copy(b);

	slurmctld.bit_not(result);
	slurmctld.bit_and(result, a);
	return result;
}

/* Hostlist of a bitmap, NULL when empty. Needs the node read lock. */
static char *names_of(bitstr_t *bits)
{
	return slurmctld.bit_ffs(bits) < 0 ? NULL : slurmctld.bitmap2node_name(bits);
}

static char *names_of_difference(bitstr_t *a, bitstr_t *b)
{
	bitstr_t *difference = without(a, b);
	char *names = names_of(difference);

	slurmctld.bit_free(&difference);
	return names;
}

/* With the node read lock held. */
static void take_reading(struct run *run, bitstr_t *booting, bitstr_t *suspended, bool full)
{
	bitstr_t *new_suspended = slurmctld.bit_copy(suspended);
	bitstr_t *new_waking = without(booting, suspended);

	if (full) {
		run->names[0] = names_of(new_waking);
		run->names[2] = names_of(new_suspended);
	} else {
		run->names[0] = names_of_difference(new_waking, run->waking);
		run->names[1] = names_of_difference(run->waking, new_waking);
		run->names[2] = names_of_difference(new_suspended, run->suspended);
		run->names[3] = names_of_difference(run->suspended, new_suspended);
	}
	free_bits(&run->booting);
	free_bits(&run->waking);
	free_bits(&run->suspended);
	run->booting = slurmctld.bit_copy(booting);
	run->waking = new_waking;
	run->suspended = new_suspended;
}

static int32_t host_read_power(void *context, uint32_t full, struct ec2fleet_power *out)
{
	struct run *run = context;
	int32_t status = EC2FLEET_OK;

	if (!out)
		return EC2FLEET_INVALID;
	*out = (struct ec2fleet_power) { .flags = 0 };
	free_names(run);

	calls_in_progress++;
	uint64_t asked = monotonic_ns();
	if (!lock(run, node_read)) {
		calls_in_progress--;
		return EC2FLEET_CLOSED;
	}
	uint64_t got = monotonic_ns();

	bitstr_t *booting = *slurmctld.booting_node_bitmap;
	bitstr_t *suspended = *slurmctld.power_down_node_bitmap;
	if (!booting || !suspended || slurmctld.bit_size(booting) != slurmctld.bit_size(suspended)) {
		status = EC2FLEET_NOT_READY;
	} else {
		/* A reconfiguration holds the node write lock, and may give a node another place in the table. */
		time_t conf_update = slurmctld.slurm_conf->last_update;
		bool reconfigured = !run->booting || conf_update != run->conf_update ||
				 slurmctld.bit_size(run->booting) != slurmctld.bit_size(booting);

		if (reconfigured)
			out->flags |= EC2FLEET_POWER_RECONFIGURED;
		if (full || reconfigured)
			out->flags |= EC2FLEET_POWER_FULL;
		if (out->flags || !slurmctld.bit_equal(booting, run->booting) ||
		    !slurmctld.bit_equal(suspended, run->suspended))
			take_reading(run, booting, suspended, out->flags & EC2FLEET_POWER_FULL);
		run->conf_update = conf_update;
		out->node_slots = (uint32_t)slurmctld.bit_size(booting);
		out->last_node_update = *slurmctld.last_node_update;
	}
	slurmctld.unlock_slurmctld(node_read);
	out->lock_held_ns = monotonic_ns() - got;
	calls_in_progress--;

	out->lock_wait_ns = got - asked;
	out->waking = run->names[0];
	out->waking_ended = run->names[1];
	out->suspended = run->names[2];
	out->suspended_ended = run->names[3];
	return status;
}

static bool node_state_of(uint32_t change, uint32_t *node_state)
{
	switch (change) {
	case EC2FLEET_STATE_KEEP:
		*node_state = NO_VAL;
		return true;
	case EC2FLEET_STATE_POWER_UP:
		*node_state = NODE_STATE_POWER_UP;
		return true;
	case EC2FLEET_STATE_POWER_DOWN:
		*node_state = NODE_STATE_POWER_DOWN;
		return true;
	case EC2FLEET_STATE_POWER_DOWN_FORCE:
		*node_state = NODE_STATE_POWER_DOWN | NODE_STATE_POWERED_DOWN;
		return true;
	case EC2FLEET_STATE_DRAIN:
		*node_state = NODE_STATE_DRAIN;
		return true;
	case EC2FLEET_STATE_UNDRAIN:
		*node_state = NODE_STATE_UNDRAIN;
		return true;
	case EC2FLEET_STATE_RESUME:
		*node_state = NODE_RESUME;
		return true;
	case EC2FLEET_STATE_DOWN:
		*node_state = NODE_STATE_DOWN;
		return true;
	default:
		return false;
	}
}

/* With update_node_locks held. update_node copies what it keeps, so the casts give nothing away. */
static int32_t update_one(const struct ec2fleet_node_update *update)
{
	update_node_msg_t message;

	slurmctld.init_update_node_msg(&message);
	message.node_names = (char *)update->node_names;
	message.node_addr = (char *)update->node_addr;
	message.node_hostname = (char *)update->node_hostname;
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(23, 11, 0)
	message.instance_id = (char *)update->instance_id;
	message.instance_type = (char *)update->instance_type;
#endif
	message.reason = (char *)update->reason;
#if SLURM_VERSION_NUMBER < SLURM_VERSION_NUM(26, 5, 0)
	message.reason_uid = getuid();
#endif
	if (!node_state_of(update->state, &message.node_state))
		return EC2FLEET_INVALID;
	return slurmctld.update_node(&message, getuid());
}

static int32_t host_update_nodes(void *context, const struct ec2fleet_node_update *updates, uint32_t count,
				 uint32_t *applied)
{
	struct run *run = context;
	int32_t status = EC2FLEET_OK;
	uint32_t done = 0;

	if (applied)
		*applied = 0;
	if (count && !updates)
		return EC2FLEET_INVALID;
	for (uint32_t i = 0; i < count; i++) {
		if (!updates[i].node_names)
			return EC2FLEET_INVALID;
#if SLURM_VERSION_NUMBER < SLURM_VERSION_NUM(23, 11, 0)
		if (updates[i].instance_id || updates[i].instance_type)
			return EC2FLEET_UNSUPPORTED;
#endif
	}

	calls_in_progress++;
	if (lock(run, update_node_locks)) {
		while (done < count && (status = update_one(&updates[done])) == EC2FLEET_OK)
			done++;
		slurmctld.unlock_slurmctld(update_node_locks);
		/* As slurmctld does after the same request by scontrol. Both take their own locks. */
		slurmctld.schedule_node_save();
		slurmctld.queue_job_scheduler();
	} else {
		status = EC2FLEET_CLOSED;
	}
	calls_in_progress--;
	if (applied)
		*applied = done;
	return status;
}

static int32_t host_keep_responding(void *context, const char *const *names, uint32_t count)
{
	struct run *run = context;

	if (!slurmctld.node_did_resp)
		return EC2FLEET_UNSUPPORTED;
	if (count && !names)
		return EC2FLEET_INVALID;
	calls_in_progress++;
	bool locked = lock(run, node_did_resp_locks);
	if (locked) {
		for (uint32_t i = 0; i < count; i++)
			if (names[i])
				slurmctld.node_did_resp((char *)names[i]);
		slurmctld.unlock_slurmctld(node_did_resp_locks);
	}
	calls_in_progress--;
	return locked ? EC2FLEET_OK : EC2FLEET_CLOSED;
}

static uint32_t node_flags_of(uint32_t node_state)
{
	static const struct {
		uint32_t slurm;
		uint32_t ours;
	} flags[] = {
		{ NODE_STATE_CLOUD, EC2FLEET_NODE_CLOUD },
		{ NODE_STATE_COMPLETING, EC2FLEET_NODE_COMPLETING },
		{ NODE_STATE_DRAIN, EC2FLEET_NODE_DRAIN },
		{ NODE_STATE_FAIL, EC2FLEET_NODE_FAIL },
		{ NODE_STATE_NO_RESPOND, EC2FLEET_NODE_NOT_RESPONDING },
		{ NODE_STATE_POWER_DOWN, EC2FLEET_NODE_POWER_DOWN },
		{ NODE_STATE_POWERED_DOWN, EC2FLEET_NODE_POWERED_DOWN },
		{ NODE_STATE_POWERING_DOWN, EC2FLEET_NODE_POWERING_DOWN },
		{ NODE_STATE_POWER_UP, EC2FLEET_NODE_POWER_UP },
		{ NODE_STATE_POWERING_UP, EC2FLEET_NODE_POWERING_UP },
		{ NODE_STATE_MAINT, EC2FLEET_NODE_MAINTENANCE },
		{ NODE_STATE_REBOOT_REQUESTED, EC2FLEET_NODE_REBOOT_REQUESTED },
		{ NODE_STATE_REBOOT_ISSUED, EC2FLEET_NODE_REBOOT_ISSUED },
		{ NODE_STATE_RES, EC2FLEET_NODE_RESERVED },
		{ NODE_STATE_PLANNED, EC2FLEET_NODE_PLANNED },
		{ NODE_STATE_DYNAMIC_NORM, EC2FLEET_NODE_DYNAMIC },
		{ NODE_STATE_INVALID_REG, EC2FLEET_NODE_INVALID_REG },
	};
	uint32_t result = 0;

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (node_state & flags[i].slurm)
			result |= flags[i].ours;
	return result;
}

static uint32_t node_base_of(uint32_t node_state)
{
	switch (node_state & NODE_STATE_BASE) {
	case NODE_STATE_DOWN:
		return EC2FLEET_NODE_DOWN;
	case NODE_STATE_IDLE:
		return EC2FLEET_NODE_IDLE;
	case NODE_STATE_ALLOCATED:
		return EC2FLEET_NODE_ALLOCATED;
	case NODE_STATE_ERROR:
		return EC2FLEET_NODE_ERROR;
	case NODE_STATE_MIXED:
		return EC2FLEET_NODE_MIXED;
	case NODE_STATE_FUTURE:
		return EC2FLEET_NODE_FUTURE;
	default:
		return EC2FLEET_NODE_UNKNOWN;
	}
}

static uint32_t alloc_cpus_of(const node_info_t *node)
{
#if SLURM_VERSION_NUMBER < SLURM_VERSION_NUM(25, 5, 0)
	uint16_t allocated = 0;

	if (node->select_nodeinfo)
		slurmctld.get_select_nodeinfo(node->select_nodeinfo, SELECT_NODEDATA_SUBCNT, NODE_STATE_ALLOCATED,
					      &allocated);
	return allocated;
#else
	return node->alloc_cpus;
#endif
}

static int32_t host_load_nodes(void *context, void *sink, void (*row)(void *sink, const struct ec2fleet_node *node))
{
	struct run *run = context;
	node_info_msg_t *reply = NULL;

	if (!row)
		return EC2FLEET_INVALID;
	if (atomic_load(&run->closed))
		return EC2FLEET_CLOSED;
	calls_in_progress++;
	errno = 0;
	int32_t status = status_of(slurmctld.load_node((time_t)0, &reply, SHOW_ALL | SHOW_MIXED | SHOW_LOCAL));
	calls_in_progress--;
	if (status != EC2FLEET_OK)
		return status;

	for (uint32_t i = 0; i < reply->record_count; i++) {
		const node_info_t *node = &reply->node_array[i];

		/* Places of the table that are free for dynamic nodes have no name. */
		if (!node->name)
			continue;
		struct ec2fleet_node out = {
			.index = i,
			.base = node_base_of(node->node_state),
			.flags = node_flags_of(node->node_state),
			.weight = node->weight,
			.cpus = node->cpus,
			.alloc_cpus = alloc_cpus_of(node),
			.boot_time = node->boot_time,
			.slurmd_start_time = node->slurmd_start_time,
			.name = node->name,
			.addr = node->node_addr,
			.hostname = node->node_hostname,
			.reason = node->reason,
			.features = node->features,
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(23, 11, 0)
			.instance_id = node->instance_id,
			.instance_type = node->instance_type,
#endif
		};
		row(sink, &out);
	}
	slurmctld.free_node_info_msg(reply);
	return EC2FLEET_OK;
}

static int32_t host_load_partitions(void *context, void *sink,
				    void (*row)(void *sink, const struct ec2fleet_partition *partition))
{
	struct run *run = context;
	partition_info_msg_t *reply = NULL;

	if (!row)
		return EC2FLEET_INVALID;
	if (atomic_load(&run->closed))
		return EC2FLEET_CLOSED;
	calls_in_progress++;
	errno = 0;
	int32_t status = status_of(slurmctld.load_partitions((time_t)0, &reply, SHOW_ALL | SHOW_LOCAL));
	calls_in_progress--;
	if (status != EC2FLEET_OK)
		return status;

	for (uint32_t i = 0; i < reply->record_count; i++) {
		const partition_info_t *partition = &reply->partition_array[i];
		uint32_t pairs = 0;

		if (!partition->name)
			continue;
		while (partition->node_inx && partition->node_inx[2 * pairs] >= 0)
			pairs++;
		struct ec2fleet_partition out = {
			.name = partition->name,
			.node_ranges = partition->node_inx,
			.range_count = pairs,
			.max_time = partition->max_time,
		};
		row(sink, &out);
	}
	slurmctld.free_partition_info_msg(reply);
	return EC2FLEET_OK;
}

static bool job_holds(const char *nodes, const char *node_name)
{
	void *hostlist = nodes ? slurmctld.hostlist_create(nodes) : NULL;

	if (!hostlist)
		return false;
	bool found = slurmctld.hostlist_find(hostlist, node_name) >= 0;
	slurmctld.hostlist_destroy(hostlist);
	return found;
}

static int32_t host_load_jobs(void *context, const char *node_name, void *sink,
			      void (*row)(void *sink, const struct ec2fleet_job *job))
{
	struct run *run = context;
	job_info_msg_t *reply = NULL;

	if (!row || !node_name)
		return EC2FLEET_INVALID;
	if (atomic_load(&run->closed))
		return EC2FLEET_CLOSED;
	calls_in_progress++;
	errno = 0;
	int32_t status = status_of(slurmctld.load_jobs((time_t)0, &reply, SHOW_ALL | SHOW_LOCAL));
	calls_in_progress--;
	if (status != EC2FLEET_OK)
		return status;

	for (uint32_t i = 0; i < reply->record_count; i++) {
		const slurm_job_info_t *job = &reply->job_array[i];
		uint32_t state = job->job_state & JOB_STATE_BASE;

		if ((state != JOB_RUNNING && state != JOB_SUSPENDED) || !job_holds(job->nodes, node_name))
			continue;
		struct ec2fleet_job out = {
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(25, 11, 0)
			.job_id = job->step_id.job_id,
#else
			.job_id = job->job_id,
#endif
			.time_limit = job->time_limit,
			.suspended = state == JOB_SUSPENDED,
			.partition = job->partition,
		};
		row(sink, &out);
	}
	slurmctld.free_job_info_msg(reply);
	return EC2FLEET_OK;
}

static int32_t host_set_time_limit(void *context, uint32_t job_id, uint32_t minutes)
{
	struct run *run = context;
	job_desc_msg_t message;

	if (atomic_load(&run->closed))
		return EC2FLEET_CLOSED;
	calls_in_progress++;
	slurmctld.init_job_desc_msg(&message);
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(25, 11, 0)
	message.step_id.job_id = job_id;
#else
	message.job_id = job_id;
#endif
	message.time_limit = minutes;
	errno = 0;
	int32_t status = status_of(slurmctld.update_job(&message));
	calls_in_progress--;
	return status;
}

static int32_t host_requeue_job(void *context, uint32_t job_id)
{
	struct run *run = context;

	if (atomic_load(&run->closed))
		return EC2FLEET_CLOSED;
	calls_in_progress++;
	errno = 0;
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(26, 5, 0)
	slurm_step_id_t job = SLURM_STEP_ID_INITIALIZER;

	job.job_id = job_id;
	int32_t status = status_of(slurmctld.requeue(job, JOB_RUNNING));
#else
	int32_t status = status_of(slurmctld.requeue(job_id, JOB_RUNNING));
#endif
	calls_in_progress--;
	return status;
}

static const char *host_strerror(void *context, int32_t status)
{
	(void)context;
	return slurmctld.strerror(status);
}

static void host_log(void *context, uint32_t level, const char *message)
{
	struct run *run = context;

	/* slurmctld closes its log before the process ends. */
	if (!message || atomic_load(&run->closed))
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

static void free_run(struct run *run)
{
	free_reading(run);
	free(run->cluster_name);
	free(run->slurm_conf);
	free(run->state_save_location);
	free(run);
}

static char *copy_of(const char *string)
{
	return string ? strdup(string) : NULL;
}

static struct run *new_run(void)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		return NULL;
	/* The thread that loads plugins is the one that reads slurm.conf: it does not change meanwhile. */
	const slurm_conf_t *conf = slurmctld.slurm_conf;

	run->pid = getpid();
	run->cluster_name = copy_of(conf->cluster_name);
	run->slurm_conf = conf->slurm_conf ? realpath(conf->slurm_conf, NULL) : NULL;
	if (!run->slurm_conf)
		run->slurm_conf = copy_of(conf->slurm_conf);
	run->state_save_location = copy_of(conf->state_save_location);
	run->host = (struct ec2fleet_host) {
		.abi_version = EC2FLEET_ABI_VERSION,
		.size = sizeof(run->host),
		.slurm_version = SLURM_VERSION_NUMBER,
		.capabilities =
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(23, 11, 0)
			EC2FLEET_CAN_INSTANCE_ID |
#endif
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(26, 5, 0)
			EC2FLEET_CAN_INSTANCE_ID_LIST |
#endif
			(slurmctld.node_did_resp ? EC2FLEET_CAN_KEEP_RESPONDING : 0),
		.context = run,
		.config_dir = getenv("EC2FLEET_CONFIG_DIR"),
		.conf = {
			.cluster_name = run->cluster_name,
			.slurm_conf = run->slurm_conf,
			.state_save_location = run->state_save_location,
			.slurm_user_id = conf->slurm_user_id,
			.suspend_time = conf->suspend_time,
			.suspend_timeout = conf->suspend_timeout,
			.resume_timeout = conf->resume_timeout,
			.slurmd_timeout = conf->slurmd_timeout,
		},
		.in_control = host_in_control,
		.last_node_update = host_last_node_update,
		.read_power = host_read_power,
		.update_nodes = host_update_nodes,
		.keep_responding = host_keep_responding,
		.load_nodes = host_load_nodes,
		.load_partitions = host_load_partitions,
		.load_jobs = host_load_jobs,
		.set_time_limit = host_set_time_limit,
		.requeue_job = host_requeue_job,
		.strerror = host_strerror,
		.log = host_log,
	};
	return run;
}

/* Next to the shim unless EC2FLEET_LIBRARY names another; then wherever the loader looks. */
static void *load_library(char *wanted, size_t wanted_size)
{
	const char *named = getenv("EC2FLEET_LIBRARY");
	Dl_info shim;
	void *library;

	if (named && named[0]) {
		snprintf(wanted, wanted_size, "%s", named);
		return dlopen(wanted, RTLD_NOW | RTLD_LOCAL);
	}
	snprintf(wanted, wanted_size, "%s", LIBRARY);
	if (dladdr(plugin_type, &shim) && shim.dli_fname) {
		const char *slash = strrchr(shim.dli_fname, '/');

		if (slash)
			snprintf(wanted, wanted_size, "%.*s%s", (int)(slash + 1 - shim.dli_fname), shim.dli_fname,
				 LIBRARY);
		if (access(wanted, F_OK) == 0)
			return dlopen(wanted, RTLD_NOW | RTLD_LOCAL);
	}
	library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	return library;
}

static bool find_library(void)
{
	char path[PATH_MAX];
	void *library;
	uint32_t (*abi_version)(void);

	dlerror();
	library = load_library(path, sizeof(path));
	if (!library) {
		const char *cause = dlerror();

		report("the plugin stays passive: %s could not be loaded: %s. Install " LIBRARY
		       " of the same release as this plugin there and restart slurmctld.",
		       path, cause ? cause : "unknown error");
		return false;
	}
	*(void **)&abi_version = dlsym(library, "ec2fleet_plugin_abi_version");
	*(void **)&library_start = dlsym(library, "ec2fleet_plugin_start");
	*(void **)&library_stop = dlsym(library, "ec2fleet_plugin_stop");
	if (!abi_version || !library_start || !library_stop) {
		report("the plugin stays passive: %s is not a library of slurm-ec2-fleet (it lacks ec2fleet_plugin_start). "
		       "Install " LIBRARY " of the same release as this plugin and restart slurmctld.", path);
		return false;
	}
	if (abi_version() != EC2FLEET_ABI_VERSION) {
		report("the plugin stays passive: %s has plugin interface %u and this plugin has %d. Install both from "
		       "the same release of slurm-ec2-fleet and restart slurmctld.",
		       path, abi_version(), EC2FLEET_ABI_VERSION);
		return false;
	}
	return true;
}

static void stop(bool exiting)
{
	struct run *run = atomic_load(&running);
	uint32_t timeout_ms = STOP_TIMEOUT_MS;

	/* A child of slurmctld has none of the threads. */
	if (!run || run->pid != getpid() || !atomic_compare_exchange_strong(&running, &run, NULL))
		return;
	/* A call into slurmctld failed fatally on the host thread itself, which therefore cannot end. */
	if (exiting)
		atomic_store(&run->closed, true);
	if (calls_in_progress)
		return;
	/*
	 * Reconfiguring, 22.05 and 23.x stop plugins with their locks held, and a fatal error may exit with some. A
	 * thread that waits for one cannot end before: it finds the run closed when it gets the lock.
	 */
	if (atomic_load(&run->in_lock)) {
		usleep(20000);
		if (atomic_load(&run->in_lock))
			timeout_ms = STOP_TIMEOUT_IN_LOCK_MS;
	}
	int32_t status = library_stop(timeout_ms);
	atomic_store(&run->closed, true);
	if (status == EC2FLEET_OK)
		free_run(run);
}

/* fini is not called when slurmctld ends, except in builds made to look for leaks. */
static void stop_at_exit(void)
{
	stop(true);
}

int init(void)
{
	static bool at_exit;
	char missing[1024];
	struct run *run;
	int32_t status;

	if (atomic_load(&running))
		return SLURM_SUCCESS;
	if (!slurmctld_symbols_find(&slurmctld, missing, sizeof(missing))) {
		report("the plugin stays passive: this slurmctld does not offer: %s. This plugin was built for Slurm %d.%02d.%d; "
		       "rebuild it for the installed release.", missing, SLURM_VERSION_MAJOR(SLURM_VERSION_NUMBER),
		       SLURM_VERSION_MINOR(SLURM_VERSION_NUMBER), SLURM_VERSION_MICRO(SLURM_VERSION_NUMBER));
		return SLURM_SUCCESS;
	}
	if (!find_library())
		return SLURM_SUCCESS;
	if (!(run = new_run())) {
		report("the plugin stays passive: out of memory");
		return SLURM_SUCCESS;
	}
	status = library_start(&run->host);
	if (status != EC2FLEET_OK) {
		/* Threads of an earlier run may still be about to end: the table must stay. */
		atomic_store(&run->closed, true);
		report("the plugin stays passive: it could not be started (status %d, see plugin_abi.h). Restart slurmctld; "
		       "if the error stays, report it with this log.", status);
		return SLURM_SUCCESS;
	}
	atomic_store(&running, run);
	if (!at_exit)
		at_exit = atexit(stop_at_exit) == 0;
	return SLURM_SUCCESS;
}

int fini(void)
{
	stop(false);
	return SLURM_SUCCESS;
}

int job_submit(job_desc_msg_t *job, uint32_t submit_uid, char **err_msg)
{
	(void)job;
	(void)submit_uid;
	(void)err_msg;
	return SLURM_SUCCESS;
}

#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(23, 2, 0)
int job_modify(job_desc_msg_t *job, void *job_record, uint32_t submit_uid, char **err_msg)
{
	(void)err_msg;
#else
int job_modify(job_desc_msg_t *job, void *job_record, uint32_t submit_uid)
{
#endif
	(void)job;
	(void)job_record;
	(void)submit_uid;
	return SLURM_SUCCESS;
}
