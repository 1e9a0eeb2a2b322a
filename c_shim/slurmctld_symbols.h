/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What the shim uses of the slurmctld that loaded it, found by name at run time.
 *
 * The public headers declare the client functions and their structures. The other prototypes are stated here as this
 * project knows them from the exported symbols; docs/plugin-abi.md has the list by release.
 */
#ifndef EC2FLEET_SLURMCTLD_SYMBOLS_H
#define EC2FLEET_SLURMCTLD_SYMBOLS_H

#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <slurm/slurm_version.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum lock_level { LOCK_NO = 0, LOCK_READ = 1, LOCK_WRITE = 2 };

/*
 * slurmctld's lock levels, passed by value. It has five members up to 25.11 and a sixth since 26.05. Both
 * sizes go through memory in the calling conventions of x86-64 and aarch64, so six are right for all.
 */
struct lock_levels {
	int32_t conf;
	int32_t job;
	int32_t node;
	int32_t part;
	int32_t fed;
	int32_t select_node;
};

struct slurmctld_symbols {
	/* Data. The bitmaps are pointers that slurmctld replaces under the node write lock. */
	bitstr_t **booting_node_bitmap;
	bitstr_t **power_down_node_bitmap;
	time_t *last_node_update;
	bool *power_save_started;
	slurm_conf_t *slurm_conf;
	void **node_record_table_ptr;	/* optional */

	/* slurmctld */
	void (*lock_slurmctld)(struct lock_levels levels);
	void (*unlock_slurmctld)(struct lock_levels levels);
	char *(*bitmap2node_name)(bitstr_t *bitmap);
	int (*update_node)(update_node_msg_t *message, uid_t auth_uid);
	void (*schedule_node_save)(void);
	void (*queue_job_scheduler)(void);
	void (*server_thread_incr)(void);
	void (*server_thread_decr)(void);
	void (*node_did_resp)(char *name);	/* optional */
	void (*job_time_limit)(void);		/* optional */

	/* libslurmfull */
	bitstr_t *(*bit_copy)(bitstr_t *bits);
	bitstr_t *(*bit_alloc)(int64_t size);
	void (*bit_free)(bitstr_t **bits);
	void (*bit_set)(bitstr_t *bits, int64_t bit);
	int (*bit_test)(bitstr_t *bits, int64_t bit);
	void (*bit_nclear)(bitstr_t *bits, int64_t first, int64_t last);
	int (*bit_equal)(bitstr_t *a, bitstr_t *b);
	void (*bit_not)(bitstr_t *bits);
	void (*bit_and)(bitstr_t *into, bitstr_t *other);
	int64_t (*bit_size)(bitstr_t *bits);
	int64_t (*bit_ffs)(bitstr_t *bits);
	void (*xfree_ptr)(void *string);
	void (*info)(const char *format, ...) __attribute__((format(printf, 1, 2)));
	void (*error)(const char *format, ...) __attribute__((format(printf, 1, 2)));
	void (*verbose)(const char *format, ...) __attribute__((format(printf, 1, 2)));
	void (*debug)(const char *format, ...) __attribute__((format(printf, 1, 2)));
	void *(*hostlist_create)(const char *hostlist);
	int (*hostlist_find)(void *hostlist, const char *name);
	void (*hostlist_destroy)(void *hostlist);
	__typeof__(slurm_strerror) *strerror;
	__typeof__(slurm_init_update_node_msg) *init_update_node_msg;
	__typeof__(slurm_load_node) *load_node;
	__typeof__(slurm_free_node_info_msg) *free_node_info_msg;
	__typeof__(slurm_load_partitions) *load_partitions;
	__typeof__(slurm_free_partition_info_msg) *free_partition_info_msg;
	__typeof__(slurm_load_jobs) *load_jobs;
	__typeof__(slurm_free_job_info_msg) *free_job_info_msg;
	__typeof__(slurm_init_job_desc_msg) *init_job_desc_msg;
	__typeof__(slurm_update_job) *update_job;
};

/*
 * Fill `symbols`. The names that are missing and cannot be done without are written to `missing`, separated by spaces;
 * false if there are any.
 */
bool slurmctld_symbols_find(struct slurmctld_symbols *symbols, char *missing, size_t missing_size);

#endif
