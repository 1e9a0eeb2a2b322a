/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The public client functions of Slurm: remote procedure calls of slurmctld to itself. */
#include "run.h"

#include <errno.h>

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

int32_t load_nodes(void *context, void *sink, void (*row)(void *sink, const struct ec2fleet_node *node))
{
	struct run *run = context;
	node_info_msg_t *reply = NULL;

	if (!row)
		return EC2FLEET_INVALID;
	if (!enter(run))
		return EC2FLEET_CLOSED;
	errno = 0;
	int32_t status = status_of(slurmctld.load_node((time_t)0, &reply, SHOW_ALL | SHOW_MIXED | SHOW_LOCAL));
	leave(run);
	if (status != EC2FLEET_OK)
		return status;

	for (uint32_t i = 0; i < reply->record_count; i++) {
		const node_info_t *node = &reply->node_array[i];

		/* Places of the table that are free for dynamic nodes have no name. */
		if (!node->name)
			continue;
		struct ec2fleet_node out = {
			.base = node_base_of(node->node_state),
			.flags = node_flags_of(node->node_state),
			.weight = node->weight,
			.boot_time = node->boot_time,
			.slurmd_start_time = node->slurmd_start_time,
			.name = node->name,
			.addr = node->node_addr,
			.hostname = node->node_hostname,
			.reason = node->reason,
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

int32_t load_partitions(void *context, void *sink,
				    void (*row)(void *sink, const struct ec2fleet_partition *partition))
{
	struct run *run = context;
	partition_info_msg_t *reply = NULL;

	if (!row)
		return EC2FLEET_INVALID;
	if (!enter(run))
		return EC2FLEET_CLOSED;
	errno = 0;
	int32_t status = status_of(slurmctld.load_partitions((time_t)0, &reply, SHOW_ALL | SHOW_LOCAL));
	leave(run);
	if (status != EC2FLEET_OK)
		return status;

	for (uint32_t i = 0; i < reply->record_count; i++) {
		const partition_info_t *partition = &reply->partition_array[i];

		if (!partition->name)
			continue;
		struct ec2fleet_partition out = {
			.name = partition->name,
			.nodes = partition->nodes,
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

int32_t load_jobs(void *context, const char *node_name, void *sink,
			      void (*row)(void *sink, const struct ec2fleet_job *job))
{
	struct run *run = context;
	job_info_msg_t *reply = NULL;

	if (!row || !node_name)
		return EC2FLEET_INVALID;
	if (!enter(run))
		return EC2FLEET_CLOSED;
	errno = 0;
	int32_t status = status_of(slurmctld.load_jobs((time_t)0, &reply, SHOW_ALL | SHOW_LOCAL));
	leave(run);
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

int32_t set_time_limit(void *context, uint32_t job_id, uint32_t minutes)
{
	struct run *run = context;
	job_desc_msg_t message;

	if (!enter(run))
		return EC2FLEET_CLOSED;
	slurmctld.init_job_desc_msg(&message);
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(25, 11, 0)
	message.step_id.job_id = job_id;
#else
	message.job_id = job_id;
#endif
	message.time_limit = minutes;
	errno = 0;
	int32_t status = status_of(slurmctld.update_job(&message));
	leave(run);
	return status;
}
