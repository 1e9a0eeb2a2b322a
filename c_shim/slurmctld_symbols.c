/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "slurmctld_symbols.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

struct wanted {
	size_t member;		/* offset in struct slurmctld_symbols */
	const char *name;
	const char *other_name;	/* the name in other releases, or NULL */
	bool optional;
};

#define SLURMCTLD(member, ...) { offsetof(struct slurmctld_symbols, member), #member, ##__VA_ARGS__ }
#define LIBSLURM(member, ...) { offsetof(struct slurmctld_symbols, member), "slurm_" #member, ##__VA_ARGS__ }

static const struct wanted wanted[] = {
	SLURMCTLD(booting_node_bitmap),
	SLURMCTLD(power_down_node_bitmap, "power_node_bitmap"), /* its name until 23.11 */
	SLURMCTLD(last_node_update),
	SLURMCTLD(power_save_started),
	SLURMCTLD(slurm_conf),
	SLURMCTLD(node_record_table_ptr, NULL, true),
	SLURMCTLD(lock_slurmctld),
	SLURMCTLD(unlock_slurmctld),
	SLURMCTLD(bitmap2node_name),
	SLURMCTLD(update_node),
	SLURMCTLD(schedule_node_save),
	SLURMCTLD(queue_job_scheduler),
	SLURMCTLD(server_thread_incr),
	SLURMCTLD(server_thread_decr),
	SLURMCTLD(node_did_resp, NULL, true),
	SLURMCTLD(job_time_limit, NULL, true),
	LIBSLURM(bit_copy),
	LIBSLURM(bit_alloc),
	LIBSLURM(bit_free),
	LIBSLURM(bit_set),
	LIBSLURM(bit_test),
	LIBSLURM(bit_nclear),
	LIBSLURM(bit_equal),
	LIBSLURM(bit_not),
	LIBSLURM(bit_and),
	LIBSLURM(bit_size),
	LIBSLURM(bit_ffs),
	LIBSLURM(xfree_ptr),
	LIBSLURM(info),
	LIBSLURM(error),
	LIBSLURM(verbose),
	LIBSLURM(debug),
	LIBSLURM(hostlist_create),
	LIBSLURM(hostlist_find),
	LIBSLURM(hostlist_destroy),
	LIBSLURM(strerror),
	LIBSLURM(init_update_node_msg),
	LIBSLURM(load_node),
	LIBSLURM(free_node_info_msg),
	LIBSLURM(load_partitions),
	LIBSLURM(free_partition_info_msg),
	LIBSLURM(load_jobs),
	LIBSLURM(free_job_info_msg),
	LIBSLURM(init_job_desc_msg),
	LIBSLURM(update_job),
};

bool slurmctld_symbols_find(struct slurmctld_symbols *symbols, char *missing, size_t missing_size)
{
	size_t used = 0;

	memset(symbols, 0, sizeof(*symbols));
	missing[0] = '\0';
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		void *found = dlsym(RTLD_DEFAULT, wanted[i].name);

		if (!found && wanted[i].other_name)
			found = dlsym(RTLD_DEFAULT, wanted[i].other_name);
		/* POSIX: object and function pointers have one size; the copy keeps the compiler out of it. */
		memcpy((char *)symbols + wanted[i].member, &found, sizeof(found));
		if (!found && !wanted[i].optional && used < missing_size)
			used += snprintf(missing + used, missing_size - used, "%s%s", used ? " " : "",
					 wanted[i].name);
	}
	return used == 0;
}
