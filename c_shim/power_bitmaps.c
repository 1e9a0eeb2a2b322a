/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The power bitmaps of slurmctld, and what changed in them.
 *
 * Both bitmaps are copied under one short hold of the node read lock, so that a reading is a picture of one moment. The
 * names of its nodes are asked for afterwards, few at a time, since slurmctld can name a node only under that lock.
 */
#include "run.h"

#include <stdlib.h>
#include <string.h>

static const struct lock_levels node_read = { .node = LOCK_READ };

/* Nodes that are named in one hold of the lock. slurmctld takes up to a microsecond for each. */
#define NAMES_PER_HOLD 32

/*
 * Pause between two such holds: others get the lock, and a thread that has just slept is not soon deprived of its
 * processor, which would prolong the hold by as long.
 */
static const struct timespec between_holds = { .tv_nsec = 50000 };

/* Readings that are begun before a node table that changes all the time is left to the next call. */
#define ATTEMPTS 3

/* In between EC2FLEET_OK and the errors of the contract: what was read does not belong together. */
#define TABLE_CHANGED 1

/* How long the lock was held at the longest. */
struct holds {
	uint64_t longest_ns;
	uint64_t since;
};

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool hold(struct run *run, struct holds *holds)
{
	if (!enter_locked(run, node_read))
		return false;
	holds->since = monotonic_ns();
	return true;
}

static void let_go(struct run *run, struct holds *holds)
{
	leave_locked(run, node_read);
	uint64_t held = monotonic_ns() - holds->since;

	if (held > holds->longest_ns)
		holds->longest_ns = held;
}

/*
 * A reconfiguration holds the node write lock, and may give a node another place in the table. With the node read lock.
 * The table is not looked into.
 */
static struct node_table table_now(void)
{
	bitstr_t *booting = *slurmctld.booting_node_bitmap;

	return (struct node_table) {
		.conf_update = slurmctld.slurm_conf->last_update,
		.nodes = slurmctld.node_record_table_ptr ? *slurmctld.node_record_table_ptr : NULL,
		.slots = booting ? slurmctld.bit_size(booting) : -1,
	};
}

static bool same_table(struct node_table a, struct node_table b)
{
	return a.conf_update == b.conf_update && a.nodes == b.nodes && a.slots == b.slots;
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
		free(run->names[i]);
		run->names[i] = NULL;
	}
}

void free_reading(struct run *run)
{
	free_bits(&run->booting);
	free_bits(&run->waking);
	free_bits(&run->suspended);
	free_names(run);
	free(run->all_suspended);
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

/* Make `list` longer by the members of `more`. False without memory. */
static bool append(char **list, size_t *length, const char *more)
{
	size_t added = strlen(more);

	if (!added)
		return true;
	char *longer = realloc(*list, *length + added + 2);

	if (!longer)
		return false;
	*list = longer;
	if (*length)
		longer[(*length)++] = ',';
	memcpy(longer + *length, more, added + 1);
	*length += added;
	return true;
}

/* Hostlist of a bitmap that was copied when `table` was slurmctld's; `*list` stays NULL when the bitmap is empty. */
static int32_t name(struct run *run, struct holds *holds, struct node_table table, bitstr_t *bits, char **list)
{
	int64_t slots = slurmctld.bit_size(bits), next = slurmctld.bit_ffs(bits);
	int32_t status = EC2FLEET_OK;
	size_t length = 0;

	if (next < 0)
		return EC2FLEET_OK;
	bitstr_t *some = slurmctld.bit_alloc(slots);

	while (status == EC2FLEET_OK && next < slots) {
		int64_t first = next;
		int count = 0;
		char *names = NULL;

		for (; next < slots && count < NAMES_PER_HOLD; next++)
			if (slurmctld.bit_test(bits, next)) {
				slurmctld.bit_set(some, next);
				count++;
			}
		if (!count)
			break;
		nanosleep(&between_holds, NULL);
		if (!hold(run, holds)) {
			status = EC2FLEET_CLOSED;
			break;
		}
		if (same_table(table, table_now()))
			names = slurmctld.bitmap2node_name(some);
		else
			status = TABLE_CHANGED;
		let_go(run, holds);
		if (names && !append(list, &length, names))
			status = EC2FLEET_NOT_READY;
		slurmctld.xfree_ptr(names);
		slurmctld.bit_nclear(some, first, next - 1);
	}
	slurmctld.bit_free(&some);
	return status;
}

static int32_t name_difference(struct run *run, struct holds *holds, struct node_table table, bitstr_t *a, bitstr_t *b,
			       char **list)
{
	bitstr_t *difference = without(a, b);
	int32_t status = name(run, holds, table, difference, list);

	slurmctld.bit_free(&difference);
	return status;
}

/* What differs from the last reading, or the complete sets. */
static int32_t name_changes(struct run *run, struct holds *holds, struct node_table table, bool full,
			    bitstr_t *waking, bitstr_t *suspended)
{
	int32_t status;

	if (full) {
		status = name(run, holds, table, waking, &run->names[0]);
		return status ? status : name(run, holds, table, suspended, &run->names[2]);
	}
	status = name_difference(run, holds, table, waking, run->waking, &run->names[0]);
	if (!status)
		status = name_difference(run, holds, table, run->waking, waking, &run->names[1]);
	if (!status)
		status = name_difference(run, holds, table, suspended, run->suspended, &run->names[2]);
	if (!status)
		status = name_difference(run, holds, table, run->suspended, suspended, &run->names[3]);
	return status;
}

/* One attempt. The last reading is replaced only by one that is complete. */
static int32_t try_reading(struct run *run, struct holds *holds, bool full, struct ec2fleet_power *out)
{
	bitstr_t *booting = NULL, *suspended = NULL;
	time_t now = time(NULL);

	free_names(run);
	if (!hold(run, holds))
		return EC2FLEET_CLOSED;
	bitstr_t *theirs = *slurmctld.booting_node_bitmap;
	bitstr_t *their_suspended = *slurmctld.power_down_node_bitmap;
	struct node_table table = table_now();

	if (!theirs || !their_suspended || table.slots != slurmctld.bit_size(their_suspended)) {
		let_go(run, holds);
		return EC2FLEET_NOT_READY;
	}
	bool reconfigured = !run->booting || !same_table(table, run->table) ||
			    (run->conf_update_now && now > table.conf_update);

	if (full || reconfigured || !slurmctld.bit_equal(theirs, run->booting) ||
	    !slurmctld.bit_equal(their_suspended, run->suspended)) {
		booting = slurmctld.bit_copy(theirs);
		suspended = slurmctld.bit_copy(their_suspended);
	}
	let_go(run, holds);

	out->flags = (reconfigured ? EC2FLEET_POWER_RECONFIGURED : 0) |
		     (full || reconfigured ? EC2FLEET_POWER_FULL : 0);
	if (booting) {
		bitstr_t *waking = without(booting, suspended);
		int32_t status = name_changes(run, holds, table, out->flags & EC2FLEET_POWER_FULL, waking, suspended);

		if (status) {
			free_bits(&booting);
			free_bits(&waking);
			free_bits(&suspended);
			return status;
		}
		free_bits(&run->booting);
		free_bits(&run->waking);
		free_bits(&run->suspended);
		run->booting = booting;
		run->waking = waking;
		run->suspended = suspended;
	}
	run->table = table;
	run->conf_update_now = now <= table.conf_update;
	return EC2FLEET_OK;
}

int32_t read_power(void *context, uint32_t full, struct ec2fleet_power *out)
{
	struct run *run = context;
	struct holds holds = { 0 };
	int32_t status = TABLE_CHANGED;

	if (!out)
		return EC2FLEET_INVALID;
	for (int attempt = 0; status == TABLE_CHANGED && attempt < ATTEMPTS; attempt++) {
		*out = (struct ec2fleet_power) { .flags = 0 };
		status = try_reading(run, &holds, full, out);
	}
	out->lock_held_ns = holds.longest_ns;
	if (status) {
		free_names(run);
		return status == TABLE_CHANGED ? EC2FLEET_NOT_READY : status;
	}
	out->waking = run->names[0];
	out->waking_ended = run->names[1];
	out->suspended = run->names[2];
	out->suspended_ended = run->names[3];
	return EC2FLEET_OK;
}

static int32_t try_suspended(struct run *run)
{
	struct holds holds = { 0 };

	free(run->all_suspended);
	run->all_suspended = NULL;
	if (!hold(run, &holds))
		return EC2FLEET_CLOSED;
	bitstr_t *theirs = *slurmctld.power_down_node_bitmap;
	bitstr_t *suspended = theirs ? slurmctld.bit_copy(theirs) : NULL;
	struct node_table table = table_now();

	let_go(run, &holds);
	if (!suspended)
		return EC2FLEET_NOT_READY;
	int32_t status = name(run, &holds, table, suspended, &run->all_suspended);

	slurmctld.bit_free(&suspended);
	return status;
}

int32_t suspended_nodes(void *context, const char **hostlist)
{
	struct run *run = context;
	int32_t status = TABLE_CHANGED;

	if (!hostlist)
		return EC2FLEET_INVALID;
	*hostlist = NULL;
	for (int attempt = 0; status == TABLE_CHANGED && attempt < ATTEMPTS; attempt++)
		status = try_suspended(run);
	if (status)
		return status == TABLE_CHANGED ? EC2FLEET_NOT_READY : status;
	*hostlist = run->all_suspended;
	return EC2FLEET_OK;
}
