/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The contract between job_submit_ec2_fleet.so (the shim, C, built for one Slurm release) and
 * libslurm_ec2_fleet.so (the library, Rust, built once for all of them).
 *
 * Plain data only. No type of Slurm appears here, so the library needs no Slurm header. docs/plugin-abi.md explains
 * the thread and ownership rules; the ones that a caller must keep are repeated at each function.
 *
 * Strings are NUL-terminated UTF-8; "hostlist" means Slurm's folded form, "cpu-a-[0-9,12]". Times are seconds since
 * 1970.
 */
#ifndef EC2FLEET_PLUGIN_ABI_H
#define EC2FLEET_PLUGIN_ABI_H

#include <stdint.h>

/* Raised by one when a structure, a constant or the meaning of a function changes. Both sides must agree exactly. */
#define EC2FLEET_ABI_VERSION 5

/*
 * What a function of either side returns. A positive value is an error number of slurmctld (slurm_errno.h);
 * ec2fleet_host.strerror gives its text.
 */
enum ec2fleet_status {
	EC2FLEET_OK = 0,
	EC2FLEET_UNSUPPORTED = -1,	/* this slurmctld has no such function or field */
	EC2FLEET_CLOSED = -2,		/* the plugin has been stopped: make no further call */
	EC2FLEET_NOT_READY = -3,	/* no node table yet, or for an update: not in control */
	EC2FLEET_INVALID = -4,		/* a null pointer or a value outside its set */
	EC2FLEET_ABI_MISMATCH = -5,	/* shim and library are of different builds */
	EC2FLEET_ALREADY_STARTED = -6,
	EC2FLEET_TIMED_OUT = -7,	/* threads were still running; they end by themselves */
	EC2FLEET_PANIC = -8,		/* a defect was caught in the library: it does nothing from now on */
	EC2FLEET_NO_THREAD = -9,	/* the operating system refused a thread */
};

enum ec2fleet_log_level {
	EC2FLEET_LOG_ERROR = 0,
	EC2FLEET_LOG_INFO = 1,
	EC2FLEET_LOG_VERBOSE = 2,
	EC2FLEET_LOG_DEBUG = 3,
};

/* What this slurmctld can do beyond the common ground of all releases. */
enum ec2fleet_capability {
	EC2FLEET_CAN_INSTANCE_ID = 1,		/* InstanceId and InstanceType are fields of a node (23.11) */
	EC2FLEET_CAN_INSTANCE_ID_LIST = 2,	/* one update gives each node its own (26.05); before: one value for all */
	EC2FLEET_CAN_KEEP_RESPONDING = 4,
	EC2FLEET_CAN_LIST_POWERED_DOWN = 8,	/* load_nodes has every node (23.02); before: see suspended_nodes */
};

/*
 * One reading of the power bitmaps. A node is waking while power save is booting it and it is not powered down
 * (slurmctld leaves the boot bit on when a booting node is powered down by force). A node is suspended while it is
 * powering down or powered down.
 */
enum ec2fleet_power_flag {
	EC2FLEET_POWER_FULL = 1,	/* waking and suspended are the complete sets; nothing is in the _ended ones */
	EC2FLEET_POWER_RECONFIGURED = 2,	/* slurm.conf was read again, or this is the first: FULL without being asked */
};

struct ec2fleet_power {
	uint32_t flags;			/* EC2FLEET_POWER_* */
	uint32_t reserved;
	uint64_t lock_held_ns;		/* the longest hold of the node read lock */
	/* Hostlists, NULL when empty. Valid until the next read_power. */
	const char *waking;
	const char *waking_ended;
	const char *suspended;
	const char *suspended_ended;
};

enum ec2fleet_state_change {
	EC2FLEET_STATE_KEEP = 0,
	EC2FLEET_STATE_POWER_UP = 1,
	EC2FLEET_STATE_POWER_DOWN = 2,
	EC2FLEET_STATE_POWER_DOWN_FORCE = 3,
	EC2FLEET_STATE_DRAIN = 4,
	EC2FLEET_STATE_UNDRAIN = 5,
	EC2FLEET_STATE_RESUME = 6,
	EC2FLEET_STATE_DOWN = 7,
};

/* ec2fleet_node_update.weight: leave it. */
#define EC2FLEET_WEIGHT_KEEP 0xffffffff

/* One update_node. NULL leaves a field as it is. Lists have as many members as node_names, in its order. */
struct ec2fleet_node_update {
	const char *node_names;		/* hostlist, never NULL */
	const char *node_addr;		/* hostlist */
	const char *node_hostname;	/* hostlist */
	const char *instance_id;
	const char *instance_type;
	const char *reason;
	uint32_t state;			/* EC2FLEET_STATE_* */
	uint32_t weight;		/* of all these nodes; EC2FLEET_WEIGHT_KEEP leaves them their own */
};

enum ec2fleet_node_base {
	EC2FLEET_NODE_UNKNOWN = 0,
	EC2FLEET_NODE_DOWN = 1,
	EC2FLEET_NODE_IDLE = 2,
	EC2FLEET_NODE_ALLOCATED = 3,
	EC2FLEET_NODE_ERROR = 4,
	EC2FLEET_NODE_MIXED = 5,
	EC2FLEET_NODE_FUTURE = 6,
};

enum ec2fleet_node_flag {
	EC2FLEET_NODE_CLOUD = 1 << 0,
	EC2FLEET_NODE_COMPLETING = 1 << 1,
	EC2FLEET_NODE_DRAIN = 1 << 2,
	EC2FLEET_NODE_FAIL = 1 << 3,
	EC2FLEET_NODE_NOT_RESPONDING = 1 << 4,
	EC2FLEET_NODE_POWER_DOWN = 1 << 5,
	EC2FLEET_NODE_POWERED_DOWN = 1 << 6,
	EC2FLEET_NODE_POWERING_DOWN = 1 << 7,
	EC2FLEET_NODE_POWER_UP = 1 << 8,
	EC2FLEET_NODE_POWERING_UP = 1 << 9,
	EC2FLEET_NODE_MAINTENANCE = 1 << 10,
	EC2FLEET_NODE_REBOOT_REQUESTED = 1 << 11,
	EC2FLEET_NODE_REBOOT_ISSUED = 1 << 12,
	EC2FLEET_NODE_RESERVED = 1 << 13,
	EC2FLEET_NODE_PLANNED = 1 << 14,
	EC2FLEET_NODE_DYNAMIC = 1 << 15,
	EC2FLEET_NODE_INVALID_REG = 1 << 16,
};

/* One node as slurm_load_node gives it. A string may be NULL. */
struct ec2fleet_node {
	uint32_t base;			/* EC2FLEET_NODE_UNKNOWN … _FUTURE */
	uint32_t flags;			/* EC2FLEET_NODE_CLOUD | … */
	uint32_t weight;
	uint32_t reserved;
	int64_t boot_time;
	int64_t slurmd_start_time;
	const char *name;		/* never NULL */
	const char *addr;
	const char *hostname;
	const char *reason;
	const char *instance_id;
	const char *instance_type;
};

struct ec2fleet_partition {
	const char *name;		/* never NULL */
	const char *nodes;		/* hostlist, NULL when empty */
	uint32_t max_time;		/* minutes; UINT32_MAX: no limit */
	uint32_t reserved;
};

/* One job that holds the node asked about and has not ended. */
struct ec2fleet_job {
	uint32_t job_id;
	uint32_t time_limit;		/* minutes; UINT32_MAX: no limit */
	uint32_t suspended;		/* 1: suspended, 0: running */
	uint32_t reserved;
	const char *partition;
};

/*
 * What slurmctld offers. Only one thread of the library may call it (the host thread). While ec2fleet_plugin_start
 * runs, its caller may hold any lock of slurmctld, so nothing but `log` may be called from there, and nothing at all
 * from ec2fleet_plugin_stop. No function may be called from another one's row function. From the
 * beginning of a stop on every function but `log` returns EC2FLEET_CLOSED at once.
 *
 * The table lives until ec2fleet_plugin_stop has returned EC2FLEET_OK. `context` is passed back unread.
 */
struct ec2fleet_host {
	uint32_t abi_version;		/* EC2FLEET_ABI_VERSION of the shim */
	uint32_t size;			/* sizeof(struct ec2fleet_host) of the shim */
	uint32_t slurm_version;		/* SLURM_VERSION_NUMBER of the headers: 0x160508 is 22.05.8 */
	uint32_t capabilities;		/* EC2FLEET_CAN_* */
	void *context;
	const char *config_dir;		/* EC2FLEET_CONFIG_DIR of slurmctld's environment, or NULL */
	const char *slurm_conf;		/* path of slurm.conf, or NULL */

	/* 1 while this slurmctld is the controller in charge and its power saving runs, else 0. No lock. */
	int32_t (*in_control)(void *context);

	/* last_node_update, which moves with every change of a node. No lock. */
	int64_t (*last_node_update)(void *context);

	/*
	 * Compare the power bitmaps with those of the last reading. `full` (0 or 1) asks for the complete sets. Takes the
	 * node read lock to copy the bitmaps, which are of one moment, and again for the names of every few nodes. A
	 * reading that fails changes nothing: the next one tells what it would have told.
	 */
	int32_t (*read_power)(void *context, uint32_t full, struct ec2fleet_power *out);

	/*
	 * Apply `count` updates in order under one hold of the job, node and partition write locks. Stops at the
	 * first that slurmctld refuses, whose error number is the result; `*applied` counts those before it. Changes
	 * nothing while in_control is 0: the state may have been handed over already.
	 */
	int32_t (*update_nodes)(void *context, const struct ec2fleet_node_update *updates, uint32_t count,
				uint32_t *applied);

	/* Reset the clock of SlurmdTimeout. Unknown names are ignored. Takes the node write lock once. */
	int32_t (*keep_responding)(void *context, const char *const *names, uint32_t count);

	/*
	 * Let slurmctld look now, and not at its next round of 30 s, which configuring jobs have all their nodes. Takes
	 * the conf, part and fed read locks and the job and node write locks.
	 */
	int32_t (*start_ready_jobs)(void *context);

	/*
	 * The nodes that are powering down or powered down, whatever readings have reported of them: NULL or a hostlist that
	 * is valid until the next call. 22.05 leaves powered-down nodes out of load_nodes (unless PrivateData=cloud).
	 * Takes the node read lock as read_power does.
	 */
	int32_t (*suspended_nodes)(void *context, const char **hostlist);

	/* A remote procedure call of slurmctld to itself: it may take up to MessageTimeout. No lock. */
	int32_t (*load_nodes)(void *context, void *sink,
			      void (*row)(void *sink, const struct ec2fleet_node *node));
	int32_t (*load_partitions)(void *context, void *sink,
				   void (*row)(void *sink, const struct ec2fleet_partition *partition));
	int32_t (*load_jobs)(void *context, const char *node_name, void *sink,
			     void (*row)(void *sink, const struct ec2fleet_job *job));

	/* The same kind of call: set a job's time limit in minutes. */
	int32_t (*set_time_limit)(void *context, uint32_t job_id, uint32_t minutes);

	/* Text of a positive status. Valid until the next call of strerror. */
	const char *(*strerror)(void *context, int32_t status);

	/* One line into slurmctld's log. */
	void (*log)(void *context, uint32_t level, const char *message);
};

/* Row functions and the entry points below never unwind into their caller. */

/* EC2FLEET_ABI_VERSION of the library. */
uint32_t ec2fleet_plugin_abi_version(void);

/* Version of the library, "0.1.0". Static. */
const char *ec2fleet_plugin_version(void);

/*
 * Start the library's threads and return; nothing acts before in_control says 1. Call it again only after
 * ec2fleet_plugin_stop.
 */
int32_t ec2fleet_plugin_start(const struct ec2fleet_host *host);

/*
 * End every thread within `timeout_ms`. EC2FLEET_OK also when nothing ran. After EC2FLEET_TIMED_OUT the threads that
 * are left end as soon as slurmctld lets go of them.
 */
int32_t ec2fleet_plugin_stop(uint32_t timeout_ms);

#endif
