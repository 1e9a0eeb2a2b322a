/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Changes of nodes, made in process. */
#include "run.h"

#include <unistd.h>

/* What slurmctld takes around the same functions for a request by scontrol or slurmd. */
static const struct lock_levels update_node_locks = {
	.job = LOCK_WRITE, .node = LOCK_WRITE, .part = LOCK_WRITE, .fed = LOCK_READ
};
static const struct lock_levels node_did_resp_locks = { .conf = LOCK_READ, .node = LOCK_WRITE };
static const struct lock_levels job_time_limit_locks = {
	.conf = LOCK_READ, .job = LOCK_WRITE, .node = LOCK_WRITE, .part = LOCK_READ, .fed = LOCK_READ
};

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
	message.weight = update->weight == EC2FLEET_WEIGHT_KEEP ? NO_VAL : update->weight;
	if (!node_state_of(update->state, &message.node_state))
		return EC2FLEET_INVALID;
	return slurmctld.update_node(&message, getuid());
}

int32_t update_nodes(void *context, const struct ec2fleet_node_update *updates, uint32_t count,
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

	if (!enter_locked(run, update_node_locks))
		return EC2FLEET_CLOSED;
	if (!in_control(run)) {
		leave_locked(run, update_node_locks);
		return EC2FLEET_NOT_READY;
	}
	while (done < count && (status = update_one(&updates[done])) == EC2FLEET_OK)
		done++;
	leave_locked(run, update_node_locks);
	/* As slurmctld does after the same request by scontrol. Both take their own locks. */
	if (enter(run)) {
		slurmctld.schedule_node_save();
		slurmctld.queue_job_scheduler();
		leave(run);
	}
	if (applied)
		*applied = done;
	return status;
}

int32_t keep_responding(void *context, const char *const *names, uint32_t count)
{
	struct run *run = context;

	if (!slurmctld.node_did_resp)
		return EC2FLEET_UNSUPPORTED;
	if (count && !names)
		return EC2FLEET_INVALID;
	if (!enter_locked(run, node_did_resp_locks))
		return EC2FLEET_CLOSED;
	for (uint32_t i = 0; i < count; i++)
		if (names[i])
			slurmctld.node_did_resp((char *)names[i]);
	leave_locked(run, node_did_resp_locks);
	return EC2FLEET_OK;
}

/*
 * job_time_limit ends the configuration of jobs whose nodes are all up and launches them; slurmctld calls it every
 * 30 s (_slurmctld_background, controller.c), and it looks at every job without changing any other.
 */
int32_t start_ready_jobs(void *context)
{
	struct run *run = context;

	if (!slurmctld.job_time_limit)
		return EC2FLEET_UNSUPPORTED;
	if (!enter_locked(run, job_time_limit_locks))
		return EC2FLEET_CLOSED;
	slurmctld.job_time_limit();
	leave_locked(run, job_time_limit_locks);
	return EC2FLEET_OK;
}
