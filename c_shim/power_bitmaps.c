/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The power bitmaps of slurmctld, and what changed in them. */
#include "run.h"

static const struct lock_levels node_read = { .node = LOCK_READ };

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
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

void free_reading(struct run *run)
{
	free_bits(&run->booting);
	free_bits(&run->waking);
	free_bits(&run->suspended);
	free_names(run);
	slurmctld.xfree_ptr(run->all_suspended);
	run->all_suspended = NULL;
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

int32_t read_power(void *context, uint32_t full, struct ec2fleet_power *out)
{
	struct run *run = context;
	int32_t status = EC2FLEET_OK;

	if (!out)
		return EC2FLEET_INVALID;
	*out = (struct ec2fleet_power) { .flags = 0 };
	free_names(run);

	uint64_t asked = monotonic_ns();
	if (!enter_locked(run, node_read))
		return EC2FLEET_CLOSED;
	uint64_t got = monotonic_ns();

	bitstr_t *booting = *slurmctld.booting_node_bitmap;
	bitstr_t *suspended = *slurmctld.power_down_node_bitmap;
	if (!booting || !suspended || slurmctld.bit_size(booting) != slurmctld.bit_size(suspended)) {
		status = EC2FLEET_NOT_READY;
	} else {
		/* A reconfiguration holds the node write lock, and may give a node another place in the table. */
		time_t conf_update = slurmctld.slurm_conf->last_update;
		time_t now = time(NULL);
		bool reconfigured = !run->booting || conf_update != run->conf_update ||
				 (run->conf_update_now && now > conf_update) ||
				 slurmctld.bit_size(run->booting) != slurmctld.bit_size(booting);

		if (reconfigured)
			out->flags |= EC2FLEET_POWER_RECONFIGURED;
		if (full || reconfigured)
			out->flags |= EC2FLEET_POWER_FULL;
		if (out->flags || !slurmctld.bit_equal(booting, run->booting) ||
		    !slurmctld.bit_equal(suspended, run->suspended))
			take_reading(run, booting, suspended, out->flags & EC2FLEET_POWER_FULL);
		run->conf_update = conf_update;
		run->conf_update_now = now <= conf_update;
		out->node_slots = (uint32_t)slurmctld.bit_size(booting);
		out->last_node_update = *slurmctld.last_node_update;
	}
	leave_locked(run, node_read);
	out->lock_held_ns = monotonic_ns() - got;

	out->lock_wait_ns = got - asked;
	out->waking = run->names[0];
	out->waking_ended = run->names[1];
	out->suspended = run->names[2];
	out->suspended_ended = run->names[3];
	return status;
}

int32_t suspended_nodes(void *context, const char **hostlist)
{
	struct run *run = context;

	if (!hostlist)
		return EC2FLEET_INVALID;
	*hostlist = NULL;
	slurmctld.xfree_ptr(run->all_suspended);
	run->all_suspended = NULL;
	if (!enter_locked(run, node_read))
		return EC2FLEET_CLOSED;
	bitstr_t *suspended = *slurmctld.power_down_node_bitmap;
	if (suspended)
		run->all_suspended = names_of(suspended);
	leave_locked(run, node_read);
	*hostlist = run->all_suspended;
	return suspended ? EC2FLEET_OK : EC2FLEET_NOT_READY;
}
