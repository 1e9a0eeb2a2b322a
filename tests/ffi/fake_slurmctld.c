/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A program that looks like slurmctld to the shim: it exports the symbols that the shim looks up, with simple bodies
 * that check how they are called.
 *
 *	fake_slurmctld SHIM SCENARIO [COUNT]
 *
 * The scenarios are at the end. EC2FLEET_LIBRARY names the library that the shim loads.
 */
#define _GNU_SOURCE
#include "../../c_shim/plugin_abi.h"
#include "check.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <slurm/slurm_version.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>

#define SINCE(major, minor) (SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(major, minor, 0))

/* ---- slurmctld's locks ---- */

enum { NONE, READ, WRITE };
typedef struct {
	int conf, job, node, part, fed;
#if SINCE(26, 5)
	int select_node;
#endif
} slurmctld_lock_t;
enum { LOCK_COUNT = sizeof(slurmctld_lock_t) / sizeof(int) };

static pthread_rwlock_t locks[LOCK_COUNT] = { [0 ... LOCK_COUNT - 1] = PTHREAD_RWLOCK_INITIALIZER };
static __thread slurmctld_lock_t held;
static __thread bool locked;
/* This program takes locks too. */
static __thread bool own_lock;
static atomic_ulong lock_count, plugin_lock_count;
static pthread_t main_thread;
/* slurmctld waits for these before it looks whether a lock is held. */
static __thread int server_threads;

void server_thread_incr(void);
void server_thread_incr(void)
{
	server_threads++;
}

void server_thread_decr(void);
void server_thread_decr(void)
{
	CHECK(server_threads > 0);
	server_threads--;
}
static atomic_int waiting;

void lock_slurmctld(slurmctld_lock_t levels);
void lock_slurmctld(slurmctld_lock_t levels)
{
	const int *level = (const int *)&levels;

	CHECK(!locked && (server_threads == 1 || own_lock));
	atomic_fetch_add(&waiting, 1);
	for (int i = 0; i < LOCK_COUNT; i++) {
		CHECK(level[i] >= NONE && level[i] <= WRITE);
		if (level[i] == READ)
			pthread_rwlock_rdlock(&locks[i]);
		else if (level[i] == WRITE)
			pthread_rwlock_wrlock(&locks[i]);
	}
	atomic_fetch_sub(&waiting, 1);
	locked = true;
	held = levels;
	atomic_fetch_add(&lock_count, 1);
	if (!pthread_equal(main_thread, pthread_self()))
		atomic_fetch_add(&plugin_lock_count, 1);
}

void unlock_slurmctld(slurmctld_lock_t levels);
void unlock_slurmctld(slurmctld_lock_t levels)
{
	const int *level = (const int *)&levels;

	CHECK(locked && !memcmp(&held, &levels, sizeof(held)) && (server_threads == 1 || own_lock));
	for (int i = LOCK_COUNT - 1; i >= 0; i--)
		if (level[i] != NONE)
			pthread_rwlock_unlock(&locks[i]);
	locked = false;
	memset(&held, 0, sizeof(held));
}

/* ---- bit strings: the first element is the size ---- */

static bitstr_t *bits(int64_t size)
{
	bitstr_t *b = calloc(1 + (size + 63) / 64, sizeof(bitstr_t));

	b[0] = size;
	return b;
}

static void set(bitstr_t *b, int64_t bit, bool on)
{
	uint64_t mask = 1ull << (bit % 64);

	b[1 + bit / 64] = on ? (uint64_t)b[1 + bit / 64] | mask : (uint64_t)b[1 + bit / 64] & ~mask;
}

static bool is_set(bitstr_t *b, int64_t bit)
{
	return (uint64_t)b[1 + bit / 64] >> (bit % 64) & 1;
}

bitstr_t *slurm_bit_copy(bitstr_t *b);
bitstr_t *slurm_bit_copy(bitstr_t *b)
{
	bitstr_t *copy = bits(b[0]);

	memcpy(copy, b, (1 + (b[0] + 63) / 64) * sizeof(bitstr_t));
	return copy;
}

bitstr_t *slurm_bit_alloc(int64_t size);
bitstr_t *slurm_bit_alloc(int64_t size)
{
	CHECK(size > 0);
	return bits(size);
}

void slurm_bit_set(bitstr_t *b, int64_t bit);
void slurm_bit_set(bitstr_t *b, int64_t bit)
{
	CHECK(bit >= 0 && bit < b[0]);
	set(b, bit, true);
}

int slurm_bit_test(bitstr_t *b, int64_t bit);
int slurm_bit_test(bitstr_t *b, int64_t bit)
{
	CHECK(bit >= 0 && bit < b[0]);
	return is_set(b, bit);
}

void slurm_bit_nclear(bitstr_t *b, int64_t first, int64_t last);
void slurm_bit_nclear(bitstr_t *b, int64_t first, int64_t last)
{
	CHECK(first >= 0 && first <= last && last < b[0]);
	for (int64_t i = first; i <= last; i++)
		set(b, i, false);
}

void slurm_bit_free(bitstr_t **b);
void slurm_bit_free(bitstr_t **b)
{
	CHECK(*b);
	free(*b);
	*b = NULL;
}

int slurm_bit_equal(bitstr_t *a, bitstr_t *b);
int slurm_bit_equal(bitstr_t *a, bitstr_t *b)
{
	CHECK(a[0] == b[0]);
	for (int64_t i = 0; i < a[0]; i++)
		if (is_set(a, i) != is_set(b, i))
			return 0;
	return 1;
}

void slurm_bit_not(bitstr_t *b);
void slurm_bit_not(bitstr_t *b)
{
	for (int64_t i = 0; i < (b[0] + 63) / 64; i++)
		b[1 + i] = ~b[1 + i];
}

void slurm_bit_and(bitstr_t *into, bitstr_t *b);
void slurm_bit_and(bitstr_t *into, bitstr_t *b)
{
	CHECK(into[0] == b[0]);
	for (int64_t i = 0; i < (b[0] + 63) / 64; i++)
		into[1 + i] &= b[1 + i];
}

int64_t slurm_bit_size(bitstr_t *b);
int64_t slurm_bit_size(bitstr_t *b)
{
	return b[0];
}

int64_t slurm_bit_ffs(bitstr_t *b);
int64_t slurm_bit_ffs(bitstr_t *b)
{
	for (int64_t i = 0; i < b[0]; i++)
		if (is_set(b, i))
			return i;
	return -1;
}

/* ---- hostlists: names with commas ---- */

void *slurm_hostlist_create_(const char *list) __asm__("slurm_hostlist_create");
void *slurm_hostlist_create_(const char *list)
{
	return strdup(list);
}

int slurm_hostlist_find_(void *list, const char *name) __asm__("slurm_hostlist_find");
int slurm_hostlist_find_(void *list, const char *name)
{
	size_t length = strlen(name);
	int place = 0;

	for (const char *at = list; at; place++) {
		if (!strncmp(at, name, length) && (!at[length] || at[length] == ','))
			return place;
		at = strchr(at, ',');
		at = at ? at + 1 : NULL;
	}
	return -1;
}

void slurm_hostlist_destroy_(void *list) __asm__("slurm_hostlist_destroy");
void slurm_hostlist_destroy_(void *list)
{
	free(list);
}

/* ---- slurmctld's data ---- */

#if SINCE(24, 5)
#define POWER_BITMAP power_down_node_bitmap
#else
#define POWER_BITMAP power_node_bitmap
#endif
bitstr_t *booting_node_bitmap;
bitstr_t *POWER_BITMAP;
time_t last_node_update = 1000;
bool power_save_started;
slurm_conf_t slurm_conf;
/* A reconfiguration may give nodes other places in the table. */
static int first_name;
/* Called in the middle of a naming: what happens here comes before the next hold of the lock. */
static void (*after_naming)(void);

void slurm_xfree_ptr(void *string);
void slurm_xfree_ptr(void *string)
{
	free(string);
}

char *bitmap2node_name(bitstr_t *b);
char *bitmap2node_name(bitstr_t *b)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	const char *comma = "";

	int count = 0;

	CHECK(locked && held.node != NONE);
	CHECK(booting_node_bitmap && b[0] == booting_node_bitmap[0]);
	for (int64_t i = 0; i < b[0]; i++)
		if (is_set(b, i)) {
			fprintf(out, "%scpu-a-%d", comma, (int)i + first_name);
			comma = ",";
			count++;
		}
	fclose(out);
	/* The lock is held for few names only. */
	CHECK(count > 0 && count <= 100);
	if (after_naming)
		after_naming();
	return text;
}

/* ---- slurmctld's functions ---- */

static int saves, schedulings, updates, refuse_at = -1;
static struct update {
	char *names, *addr, *hostname, *reason, *instance_id, *instance_type;
	uint32_t state, weight, reason_uid;
	uid_t auth_uid;
} last_updates[4];

static char *keep(const char *string)
{
	return string ? strdup(string) : NULL;
}

static void forget_updates(void)
{
	for (int i = 0; i < 4; i++) {
		struct update *u = &last_updates[i];

		free(u->names), free(u->addr), free(u->hostname), free(u->reason), free(u->instance_id);
		free(u->instance_type);
		memset(u, 0, sizeof(*u));
	}
	updates = saves = schedulings = 0;
}

int update_node(update_node_msg_t *m, uid_t auth_uid);
int update_node(update_node_msg_t *m, uid_t auth_uid)
{
	struct update *u = &last_updates[updates % 4];

	CHECK(locked && held.conf == NONE && held.job == WRITE && held.node == WRITE && held.part == WRITE &&
	      held.fed == READ);
	if (updates == refuse_at)
		return ESLURM_INVALID_NODE_NAME;
	updates++;
	free(u->names), free(u->addr), free(u->hostname), free(u->reason), free(u->instance_id);
	free(u->instance_type);
	*u = (struct update) { .names = keep(m->node_names), .addr = keep(m->node_addr),
		.hostname = keep(m->node_hostname), .reason = keep(m->reason), .state = m->node_state,
		.weight = m->weight, .auth_uid = auth_uid };
#if SINCE(23, 11)
	u->instance_id = keep(m->instance_id);
	u->instance_type = keep(m->instance_type);
#endif
#if !SINCE(26, 5)
	u->reason_uid = m->reason_uid;
#endif
	CHECK(!m->features && !m->gres);
	last_node_update++;
	return SLURM_SUCCESS;
}

#ifndef WITHOUT_SCHEDULE_NODE_SAVE
void schedule_node_save(void);
void schedule_node_save(void)
{
	CHECK(!locked);
	saves++;
}
#endif

void queue_job_scheduler(void);
void queue_job_scheduler(void)
{
	CHECK(!locked);
	schedulings++;
}

static int rounds;
void job_time_limit(void);
void job_time_limit(void)
{
	CHECK(locked && held.conf == READ && held.job == WRITE && held.node == WRITE && held.part == READ &&
	      held.fed == READ);
	rounds++;
}

#ifndef WITHOUT_NODE_DID_RESP
static int responses;
void node_did_resp(char *name);
void node_did_resp(char *name)
{
	CHECK(locked && held.conf == READ && held.node == WRITE && held.job == NONE);
	CHECK(!strncmp(name, "cpu-a-", 6));
	responses++;
}
#endif

/* ---- the client library ---- */

static int call_error;

static int answer(void)
{
	/* Nor must slurmctld wait for a thread that waits for an answer of slurmctld. */
	CHECK(!locked && !server_threads);
	if (!call_error)
		return SLURM_SUCCESS;
	errno = call_error;
	return SLURM_ERROR;
}

char *slurm_strerror(int error)
{
	return error == ESLURM_INVALID_NODE_NAME ? "Invalid node name specified" : "other";
}

void slurm_init_update_node_msg(update_node_msg_t *m)
{
	memset(m, 0, sizeof(*m));
	m->node_state = m->weight = NO_VAL;
}

void slurm_init_job_desc_msg(job_desc_msg_t *m)
{
	memset(m, 0, sizeof(*m));
	m->time_limit = NO_VAL;
}

int slurm_load_node(time_t since, node_info_msg_t **reply, uint16_t flags)
{
	int64_t slots = booting_node_bitmap ? booting_node_bitmap[0] : 0;

	if (answer() != SLURM_SUCCESS)
		return SLURM_ERROR;
	CHECK(since == 0 && (flags & SHOW_ALL) && (flags & SHOW_LOCAL));
	*reply = calloc(1, sizeof(**reply));
	(*reply)->record_count = slots;
	(*reply)->node_array = calloc(slots, sizeof(node_info_t));
	for (int64_t i = 0; i < slots - 1; i++) {	/* the last slot is free for a dynamic node */
		node_info_t *n = &(*reply)->node_array[i];
		bool down = is_set(POWER_BITMAP, i);

		if (asprintf(&n->name, "cpu-a-%d", (int)i + first_name) < 0)
			abort();
		n->node_addr = strdup(n->name);
		n->node_hostname = strdup("host");
		n->node_state = NODE_STATE_IDLE | NODE_STATE_CLOUD | (down ? NODE_STATE_POWERED_DOWN : 0) |
				(!down && is_set(booting_node_bitmap, i) ? NODE_STATE_POWERING_UP : 0);
		n->weight = 7;
		n->boot_time = 11;
		n->slurmd_start_time = 12;
		n->reason = i == 0 ? strdup("why") : NULL;
#if SINCE(23, 11)
		n->instance_id = strdup("i-0");
		n->instance_type = strdup("c5.large");
#endif
	}
	return SLURM_SUCCESS;
}

void slurm_free_node_info_msg(node_info_msg_t *reply)
{
	for (uint32_t i = 0; i < reply->record_count; i++) {
		node_info_t *n = &reply->node_array[i];

		free(n->name), free(n->node_addr), free(n->node_hostname), free(n->reason);
#if SINCE(23, 11)
		free(n->instance_id), free(n->instance_type);
#endif
	}
	free(reply->node_array);
	free(reply);
}

int slurm_load_partitions(time_t since, partition_info_msg_t **reply, uint16_t flags)
{
	if (answer() != SLURM_SUCCESS)
		return SLURM_ERROR;
	CHECK(since == 0 && (flags & SHOW_ALL));
	*reply = calloc(1, sizeof(**reply));
	(*reply)->record_count = 2;
	(*reply)->partition_array = calloc(2, sizeof(partition_info_t));
	(*reply)->partition_array[0] = (partition_info_t) { .name = "cpu", .nodes = "cpu-a-[0-1,3]", .max_time = 60 };
	(*reply)->partition_array[1] = (partition_info_t) { .name = "empty", .max_time = INFINITE };
	return SLURM_SUCCESS;
}

void slurm_free_partition_info_msg(partition_info_msg_t *reply)
{
	free(reply->partition_array);
	free(reply);
}

int slurm_load_jobs(time_t since, job_info_msg_t **reply, uint16_t flags)
{
	static const struct {
		uint32_t id, state;
		char *nodes;
	} jobs[] = {
		{ 5, JOB_RUNNING, "cpu-a-1,cpu-a-2" },
		{ 6, JOB_PENDING, NULL },
		{ 7, JOB_RUNNING, "cpu-a-10" },
		{ 8, JOB_SUSPENDED, "cpu-a-1" },
		{ 9, JOB_COMPLETE, "cpu-a-1" },
		{ 10, JOB_RUNNING | JOB_CONFIGURING, "cpu-a-0,cpu-a-1" },
	};
	int count = sizeof(jobs) / sizeof(jobs[0]);

	if (answer() != SLURM_SUCCESS)
		return SLURM_ERROR;
	CHECK(since == 0 && (flags & SHOW_ALL));
	*reply = calloc(1, sizeof(**reply));
	(*reply)->record_count = count;
	(*reply)->job_array = calloc(count, sizeof(slurm_job_info_t));
	for (int i = 0; i < count; i++) {
		slurm_job_info_t *j = &(*reply)->job_array[i];

#if SINCE(25, 11)
		j->step_id.job_id = jobs[i].id;
#else
		j->job_id = jobs[i].id;
#endif
		j->job_state = jobs[i].state;
		j->nodes = jobs[i].nodes;
		j->time_limit = 30 + jobs[i].id;
		j->partition = "cpu";
	}
	return SLURM_SUCCESS;
}

void slurm_free_job_info_msg(job_info_msg_t *reply)
{
	free(reply->job_array);
	free(reply);
}

static uint32_t updated_job, updated_limit;

int slurm_update_job(job_desc_msg_t *m)
{
	if (answer() != SLURM_SUCCESS)
		return SLURM_ERROR;
#if SINCE(25, 11)
	updated_job = m->step_id.job_id;
#else
	updated_job = m->job_id;
#endif
	updated_limit = m->time_limit;
	return SLURM_SUCCESS;
}

/* ---- the log ---- */

static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static int errors, infos, verboses, debugs;
static char last_error[4096], last_info[4096];

#define LOG(function, counter, last)                                    \
	void function(const char *format, ...);                         \
	void function(const char *format, ...)                          \
	{                                                               \
		va_list arguments;                                      \
		char text[4096];                                        \
									\
		va_start(arguments, format);                            \
		vsnprintf(text, sizeof(text), format, arguments);       \
		va_end(arguments);                                      \
		pthread_mutex_lock(&log_mutex);                         \
		(counter)++;                                            \
		memcpy(last, text, sizeof(text));                       \
		pthread_mutex_unlock(&log_mutex);                       \
		printf(#function ": %s\n", text);                       \
		fflush(stdout);                                         \
	}
static char other_text[4096];
LOG(slurm_error, errors, last_error)
LOG(slurm_info, infos, last_info)
LOG(slurm_verbose, verboses, other_text)
LOG(slurm_debug, debugs, other_text)

/* ---- what the probe library calls ---- */

static const struct ec2fleet_host *host;
static int32_t start_status = EC2FLEET_OK;
static atomic_int starts, stops;
static int stop_notice = -1;	/* where a stop is noted: it must be seen from another process */

int32_t probe_started(const struct ec2fleet_host *given);
int32_t probe_started(const struct ec2fleet_host *given)
{
	atomic_fetch_add(&starts, 1);
	host = given;
	return start_status;
}

static pthread_t stuck_thread;
static atomic_bool stuck_thread_done;
static int32_t stuck_status;

int32_t probe_stopped(uint32_t timeout_ms);
int32_t probe_stopped(uint32_t timeout_ms)
{
	atomic_fetch_add(&stops, 1);
	CHECK(timeout_ms > 0 && timeout_ms <= 5000);
	if (stop_notice >= 0)
		CHECK(write(stop_notice, "s", 1) == 1);
	if (stuck_thread && !atomic_load(&stuck_thread_done)) {
		/* Blocked in slurmctld: the stop must not wait its full time. */
		CHECK(timeout_ms < 5000);
		return EC2FLEET_TIMED_OUT;
	}
	return EC2FLEET_OK;
}

/* ---- the plugin ---- */

static int (*plugin_init)(void);
static int (*plugin_fini)(void);
static int (*plugin_job_submit)(job_desc_msg_t *, uint32_t, char **);
static int (*plugin_job_modify)(job_desc_msg_t *, void *, uint32_t, char **);

static void load_plugin(const char *path)
{
	void *plugin = dlopen(path, RTLD_LAZY);
	const char *type;
	const uint32_t *version;

	if (!plugin)
		fprintf(stderr, "%s\n", dlerror());
	CHECK(plugin);
	type = dlsym(plugin, "plugin_type");
	version = dlsym(plugin, "plugin_version");
	CHECK_TEXT(type, "job_submit/ec2_fleet");
	CHECK(version && *version == SLURM_VERSION_NUMBER && dlsym(plugin, "plugin_name"));
	*(void **)&plugin_init = dlsym(plugin, "init");
	*(void **)&plugin_fini = dlsym(plugin, "fini");
	*(void **)&plugin_job_submit = dlsym(plugin, "job_submit");
	*(void **)&plugin_job_modify = dlsym(plugin, "job_modify");
	CHECK(plugin_init && plugin_fini && plugin_job_submit && plugin_job_modify);
}

static void build_nodes(int64_t size)
{
	free(booting_node_bitmap), free(POWER_BITMAP);
	booting_node_bitmap = bits(size);
	POWER_BITMAP = bits(size);
}

static struct ec2fleet_power read_power(uint32_t full)
{
	struct ec2fleet_power power;
	unsigned long locks_before = atomic_load(&lock_count);

	memset(&power, 0xff, sizeof(power));
	CHECK(host->read_power(host->context, full, &power) == EC2FLEET_OK);
	CHECK(atomic_load(&lock_count) > locks_before && !locked && !server_threads);
	/* Without a change there is nothing to name. */
	if (!power.waking && !power.waking_ended && !power.suspended && !power.suspended_ended)
		CHECK(atomic_load(&lock_count) == locks_before + 1);
	CHECK(power.lock_held_ns < 10000000000ull);
	return power;
}

static void expect(uint32_t full, uint32_t flags, const char *waking, const char *waking_ended, const char *suspended,
		   const char *suspended_ended)
{
	struct ec2fleet_power power = read_power(full);

	CHECK(power.flags == flags);
	CHECK_TEXT(power.waking, waking);
	CHECK_TEXT(power.waking_ended, waking_ended);
	CHECK_TEXT(power.suspended, suspended);
	CHECK_TEXT(power.suspended_ended, suspended_ended);
}

static int namings, reconfigure_at;

/* slurmctld is reconfigured after so many namings. */
static void reconfigure_then(void)
{
	if (++namings != reconfigure_at)
		return;
	first_name++;
	slurm_conf.last_update++;
}

static void reconfigure_always(void)
{
	first_name++;
	slurm_conf.last_update++;
}

/* Names of nodes first … last, as the fake names them. */
static char *every_name(int first, int last)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	for (int i = first; i <= last; i++)
		fprintf(out, "%scpu-a-%d", i > first ? "," : "", i);
	fclose(out);
	return text;
}

/* Many nodes are named in many short holds of the lock, and never with the names of another table. */
static void check_many_names(void)
{
	const uint32_t first = EC2FLEET_POWER_FULL | EC2FLEET_POWER_RECONFIGURED;
	const char *suspended = NULL;
	struct ec2fleet_power power;
	unsigned long locks;
	char *all;

	first_name = 0;
	build_nodes(1000);
	slurm_conf.last_update = 5000;
	expect(0, first, NULL, NULL, NULL, NULL);
	for (int i = 0; i < 1000; i++)
		set(POWER_BITMAP, i, true);
	all = every_name(0, 999);
	locks = atomic_load(&lock_count);
	expect(0, 0, NULL, NULL, all, NULL);
	CHECK(atomic_load(&lock_count) - locks > 10);
	expect(1, EC2FLEET_POWER_FULL, NULL, NULL, all, NULL);
	CHECK(host->suspended_nodes(host->context, &suspended) == EC2FLEET_OK);
	CHECK_TEXT(suspended, all);
	free(all);

	/* A reconfiguration between two holds: everything is read again, with the new names. */
	all = every_name(1, 1000);
	after_naming = reconfigure_then;
	namings = 0, reconfigure_at = 3;
	expect(1, first, NULL, NULL, all, NULL);
	free(all);
	all = every_name(2, 1001);
	namings = 0;
	CHECK(host->suspended_nodes(host->context, &suspended) == EC2FLEET_OK);
	CHECK_TEXT(suspended, all);

	/* In the middle of a difference as well; what it would have told is not lost. */
	after_naming = NULL;
	expect(0, first, NULL, NULL, all, NULL);
	free(all);
	for (int i = 0; i < 1000; i++)
		set(POWER_BITMAP, i, false);
	after_naming = reconfigure_always;
	CHECK(host->suspended_nodes(host->context, &suspended) == EC2FLEET_OK && !suspended);
	for (int i = 0; i < 1000; i++)
		set(booting_node_bitmap, i, true);
	CHECK(host->read_power(host->context, 0, &power) == EC2FLEET_NOT_READY && !locked);
	CHECK(!power.waking && !power.suspended_ended && power.lock_held_ns);
	after_naming = NULL;
	all = every_name(first_name, first_name + 999);
	expect(0, first, all, NULL, NULL, NULL);
	expect(0, 0, NULL, NULL, NULL, NULL);
	free(all);
	first_name = 0;
	slurm_conf.last_update++;
}

static void check_power(void)
{
	struct ec2fleet_power power;
	const char *suspended = "";
	const uint32_t first = EC2FLEET_POWER_FULL | EC2FLEET_POWER_RECONFIGURED;

	CHECK(host->suspended_nodes(host->context, &suspended) == EC2FLEET_NOT_READY && !suspended && !locked);
	CHECK(host->suspended_nodes(host->context, NULL) == EC2FLEET_INVALID);
	CHECK(host->read_power(host->context, 0, &power) == EC2FLEET_NOT_READY && !locked);
	CHECK(host->read_power(host->context, 0, NULL) == EC2FLEET_INVALID);

	build_nodes(70);
	set(POWER_BITMAP, 3, true);
	set(POWER_BITMAP, 69, true);
	expect(0, first, NULL, NULL, "cpu-a-3,cpu-a-69", NULL);
	expect(0, 0, NULL, NULL, NULL, NULL);

	/* Power save wakes two nodes. */
	set(POWER_BITMAP, 3, false), set(POWER_BITMAP, 69, false);
	set(booting_node_bitmap, 3, true), set(booting_node_bitmap, 69, true);
	expect(0, 0, "cpu-a-3,cpu-a-69", NULL, NULL, "cpu-a-3,cpu-a-69");
	expect(0, 0, NULL, NULL, NULL, NULL);
	/* One registers; the other is powered down by force, which leaves its boot bit on. */
	set(booting_node_bitmap, 3, false);
	set(POWER_BITMAP, 69, true);
	expect(0, 0, NULL, "cpu-a-3,cpu-a-69", "cpu-a-69", NULL);
	/* The next wake clears one bit only. */
	set(POWER_BITMAP, 69, false);
	expect(0, 0, "cpu-a-69", NULL, NULL, "cpu-a-69");
	set(POWER_BITMAP, 0, true);
	CHECK(host->suspended_nodes(host->context, &suspended) == EC2FLEET_OK && !locked);
	CHECK_TEXT(suspended, "cpu-a-0");
	expect(1, EC2FLEET_POWER_FULL, "cpu-a-69", NULL, "cpu-a-0", NULL);
	set(POWER_BITMAP, 0, false);
	CHECK(host->suspended_nodes(host->context, &suspended) == EC2FLEET_OK && !suspended);
	/* That told nobody of the change yet. */
	expect(0, 0, NULL, NULL, NULL, "cpu-a-0");
	set(POWER_BITMAP, 0, true);
	expect(0, 0, NULL, NULL, "cpu-a-0", NULL);
	expect(0, 0, NULL, NULL, NULL, NULL);

	/* A reconfiguration moves every node by one place and the bits with them. */
	first_name = 1;
	slurm_conf.last_update++;
	expect(0, first, "cpu-a-70", NULL, "cpu-a-1", NULL);
	expect(0, 0, NULL, NULL, NULL, NULL);
	/* A second one within the same second moves nothing, so there is one more full reading after that second. */
	slurm_conf.last_update = time(NULL) + 1;
	expect(0, first, "cpu-a-70", NULL, "cpu-a-1", NULL);
	do {
		CHECK(host->read_power(host->context, 0, &power) == EC2FLEET_OK);
		CHECK(power.flags == 0 || power.flags == first);
	} while (!power.flags && time(NULL) < slurm_conf.last_update + 60);
	CHECK(power.flags == first);
	expect(0, 0, NULL, NULL, NULL, NULL);
	/* The table grows. */
	build_nodes(130);
	set(booting_node_bitmap, 129, true);
	expect(0, first, "cpu-a-130", NULL, NULL, NULL);
	first_name = 0;
}

static void check_updates(void)
{
	uint32_t applied = 99;
	struct ec2fleet_node_update two[] = {
		{ .node_names = "cpu-a-[1-2]", .node_addr = "10.0.0.1,10.0.0.2", .node_hostname = "a,b",
		  .weight = EC2FLEET_WEIGHT_KEEP },
		{ .node_names = "cpu-a-3", .reason = "InsufficientInstanceCapacity",
		  .state = EC2FLEET_STATE_POWER_DOWN_FORCE, .weight = EC2FLEET_WEIGHT_KEEP },
	};
	static const struct {
		uint32_t change, state;
	} states[] = {
		{ EC2FLEET_STATE_KEEP, NO_VAL },
		{ EC2FLEET_STATE_POWER_UP, NODE_STATE_POWER_UP },
		{ EC2FLEET_STATE_POWER_DOWN, NODE_STATE_POWER_DOWN },
		{ EC2FLEET_STATE_POWER_DOWN_FORCE, NODE_STATE_POWER_DOWN | NODE_STATE_POWERED_DOWN },
		{ EC2FLEET_STATE_DRAIN, NODE_STATE_DRAIN },
		{ EC2FLEET_STATE_UNDRAIN, NODE_STATE_UNDRAIN },
		{ EC2FLEET_STATE_RESUME, NODE_RESUME },
		{ EC2FLEET_STATE_DOWN, NODE_STATE_DOWN },
	};
	unsigned long locks_before = atomic_load(&lock_count);

	CHECK(host->update_nodes(host->context, two, 2, &applied) == EC2FLEET_OK);
	CHECK(applied == 2 && updates == 2 && saves == 1 && schedulings == 1);
	CHECK(atomic_load(&lock_count) == locks_before + 1 && !locked);
	CHECK_TEXT(last_updates[0].names, "cpu-a-[1-2]");
	CHECK_TEXT(last_updates[0].addr, "10.0.0.1,10.0.0.2");
	CHECK_TEXT(last_updates[0].hostname, "a,b");
	CHECK_TEXT(last_updates[0].reason, NULL);
	CHECK(last_updates[0].state == NO_VAL && last_updates[0].weight == NO_VAL);
	CHECK(last_updates[0].auth_uid == getuid());
	CHECK_TEXT(last_updates[1].addr, NULL);
	CHECK_TEXT(last_updates[1].reason, "InsufficientInstanceCapacity");
	CHECK(last_updates[1].state == (NODE_STATE_POWER_DOWN | NODE_STATE_POWERED_DOWN));
	CHECK(last_updates[1].reason_uid == (SINCE(26, 5) ? 0 : getuid()));
	forget_updates();

	refuse_at = 1;
	CHECK(host->update_nodes(host->context, two, 2, &applied) == ESLURM_INVALID_NODE_NAME);
	CHECK(applied == 1 && updates == 1 && !locked);
	refuse_at = -1;
	CHECK_TEXT(host->strerror(host->context, ESLURM_INVALID_NODE_NAME), "Invalid node name specified");
	forget_updates();

	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		struct ec2fleet_node_update one = { .node_names = "cpu-a-1", .state = states[i].change,
						    .weight = EC2FLEET_WEIGHT_KEEP };

		CHECK(host->update_nodes(host->context, &one, 1, NULL) == EC2FLEET_OK);
		CHECK(last_updates[0].state == states[i].state && last_updates[0].weight == NO_VAL);
		forget_updates();
	}

	/* A weight changes nothing else; 0 is one. */
	struct ec2fleet_node_update weights[] = {
		{ .node_names = "cpu-a-[1-2]", .weight = 0 },
		{ .node_names = "cpu-a-3", .weight = 4294967293 },
	};

	CHECK(host->update_nodes(host->context, weights, 2, &applied) == EC2FLEET_OK && applied == 2);
	CHECK_TEXT(last_updates[0].names, "cpu-a-[1-2]");
	CHECK_TEXT(last_updates[0].addr, NULL);
	CHECK(last_updates[0].weight == 0 && last_updates[0].state == NO_VAL);
	CHECK(last_updates[1].weight == 4294967293 && last_updates[1].state == NO_VAL);
	forget_updates();

	two[0].state = 99;
	CHECK(host->update_nodes(host->context, two, 2, &applied) == EC2FLEET_INVALID && applied == 0 && !locked);
	two[0].node_names = NULL;
	CHECK(host->update_nodes(host->context, two, 2, &applied) == EC2FLEET_INVALID && updates == 0);
	CHECK(host->update_nodes(host->context, NULL, 1, &applied) == EC2FLEET_INVALID);
	forget_updates();

	power_save_started = false;
	two[0].node_names = "cpu-a-1", two[0].state = EC2FLEET_STATE_KEEP;
	CHECK(host->update_nodes(host->context, two, 2, &applied) == EC2FLEET_NOT_READY && applied == 0);
	CHECK(updates == 0 && !locked && !server_threads);
	power_save_started = true;

	struct ec2fleet_node_update instance = { .node_names = "cpu-a-1", .instance_id = "i-1",
						 .instance_type = "c5.large",
						 .weight = EC2FLEET_WEIGHT_KEEP };
	int32_t status = host->update_nodes(host->context, &instance, 1, &applied);

	CHECK(!!(host->capabilities & EC2FLEET_CAN_INSTANCE_ID) == SINCE(23, 11));
	CHECK(!!(host->capabilities & EC2FLEET_CAN_INSTANCE_ID_LIST) == SINCE(26, 5));
	CHECK(!!(host->capabilities & EC2FLEET_CAN_LIST_POWERED_DOWN) == SINCE(23, 2));
	if (host->capabilities & EC2FLEET_CAN_INSTANCE_ID) {
		CHECK(status == EC2FLEET_OK);
		CHECK_TEXT(last_updates[0].instance_id, "i-1");
		CHECK_TEXT(last_updates[0].instance_type, "c5.large");
	} else {
		CHECK(status == EC2FLEET_UNSUPPORTED && updates == 0);
	}
	forget_updates();

	const char *names[] = { "cpu-a-1", NULL, "cpu-a-2" };
#ifdef WITHOUT_NODE_DID_RESP
	CHECK(!(host->capabilities & EC2FLEET_CAN_KEEP_RESPONDING));
	CHECK(host->keep_responding(host->context, names, 3) == EC2FLEET_UNSUPPORTED);
#else
	CHECK(host->capabilities & EC2FLEET_CAN_KEEP_RESPONDING);
	CHECK(host->keep_responding(host->context, names, 3) == EC2FLEET_OK && responses == 2 && !locked);
	CHECK(host->keep_responding(host->context, NULL, 3) == EC2FLEET_INVALID);
	responses = 0;
#endif
	CHECK(host->start_ready_jobs(host->context) == EC2FLEET_OK && rounds == 1 && !locked);
	rounds = 0;
}

struct rows {
	int count;
	uint32_t ids[8];
};

static void node_row(void *sink, const struct ec2fleet_node *node)
{
	struct rows *rows = sink;

	CHECK(!locked);
	if (rows->count++)
		return;
	CHECK(node->base == EC2FLEET_NODE_IDLE && node->weight == 7);
	CHECK(node->flags == (EC2FLEET_NODE_CLOUD | EC2FLEET_NODE_POWERED_DOWN));
	CHECK(node->boot_time == 11 && node->slurmd_start_time == 12);
	CHECK_TEXT(node->name, "cpu-a-0");
	CHECK_TEXT(node->addr, "cpu-a-0");
	CHECK_TEXT(node->hostname, "host");
	CHECK_TEXT(node->reason, "why");
	CHECK_TEXT(node->instance_id, SINCE(23, 11) ? "i-0" : NULL);
	CHECK_TEXT(node->instance_type, SINCE(23, 11) ? "c5.large" : NULL);
}

static void partition_row(void *sink, const struct ec2fleet_partition *partition)
{
	struct rows *rows = sink;

	if (rows->count++) {
		CHECK_TEXT(partition->name, "empty");
		CHECK(!partition->nodes && partition->max_time == UINT32_MAX);
		return;
	}
	CHECK_TEXT(partition->name, "cpu");
	CHECK_TEXT(partition->nodes, "cpu-a-[0-1,3]");
	CHECK(partition->max_time == 60);
}

static void job_row(void *sink, const struct ec2fleet_job *job)
{
	struct rows *rows = sink;

	CHECK_TEXT(job->partition, "cpu");
	CHECK(job->time_limit == 30 + job->job_id && job->suspended == (job->job_id == 8));
	rows->ids[rows->count++] = job->job_id;
}

static void check_client_calls(void)
{
	struct rows rows = { 0 };

	build_nodes(5);
	set(POWER_BITMAP, 0, true);
	CHECK(host->load_nodes(host->context, &rows, node_row) == EC2FLEET_OK && rows.count == 4);
	rows.count = 0;
	CHECK(host->load_partitions(host->context, &rows, partition_row) == EC2FLEET_OK && rows.count == 2);
	rows.count = 0;
	CHECK(host->load_jobs(host->context, "cpu-a-1", &rows, job_row) == EC2FLEET_OK);
	CHECK(rows.count == 3 && rows.ids[0] == 5 && rows.ids[1] == 8 && rows.ids[2] == 10);
	CHECK(host->set_time_limit(host->context, 5, 45) == EC2FLEET_OK && updated_job == 5 && updated_limit == 45);

	CHECK(host->load_nodes(host->context, &rows, NULL) == EC2FLEET_INVALID);
	CHECK(host->load_partitions(host->context, &rows, NULL) == EC2FLEET_INVALID);
	CHECK(host->load_jobs(host->context, NULL, &rows, job_row) == EC2FLEET_INVALID);

	rows.count = 0;
	call_error = ESLURM_IN_STANDBY_MODE;
	CHECK(host->load_nodes(host->context, &rows, node_row) == ESLURM_IN_STANDBY_MODE);
	CHECK(host->load_partitions(host->context, &rows, partition_row) == ESLURM_IN_STANDBY_MODE);
	CHECK(host->load_jobs(host->context, "cpu-a-1", &rows, job_row) == ESLURM_IN_STANDBY_MODE);
	CHECK(host->set_time_limit(host->context, 5, 45) == ESLURM_IN_STANDBY_MODE && rows.count == 0);
	call_error = 0;
}

static void check_log(void)
{
	host->log(host->context, EC2FLEET_LOG_ERROR, "an error with 100%s");
	CHECK_TEXT(last_error, "ec2_fleet: an error with 100%s");
	host->log(host->context, EC2FLEET_LOG_INFO, "information");
	CHECK_TEXT(last_info, "ec2_fleet: information");
	host->log(host->context, EC2FLEET_LOG_VERBOSE, "more");
	host->log(host->context, EC2FLEET_LOG_DEBUG, "most");
	host->log(host->context, EC2FLEET_LOG_INFO, NULL);
	CHECK(errors == 1 && infos == 1 && verboses == 1 && debugs == 1);
	errors = 0;
}

static void check_closed(void)
{
	struct ec2fleet_power power;
	struct ec2fleet_node_update update = { .node_names = "cpu-a-1" };
	const char *name = "cpu-a-1";
	struct rows rows = { 0 };
	unsigned long locks_before = atomic_load(&lock_count);

	CHECK(host->in_control(host->context) == 0);
	CHECK(host->read_power(host->context, 0, &power) == EC2FLEET_CLOSED);
	CHECK(host->update_nodes(host->context, &update, 1, NULL) == EC2FLEET_CLOSED);
	CHECK(host->keep_responding(host->context, &name, 1) == EC2FLEET_CLOSED);
	CHECK(host->start_ready_jobs(host->context) == EC2FLEET_CLOSED);
	CHECK(host->suspended_nodes(host->context, &name) == EC2FLEET_CLOSED && !name);
	name = "cpu-a-1";
	CHECK(host->load_nodes(host->context, &rows, node_row) == EC2FLEET_CLOSED);
	CHECK(host->load_partitions(host->context, &rows, partition_row) == EC2FLEET_CLOSED);
	CHECK(host->load_jobs(host->context, name, &rows, job_row) == EC2FLEET_CLOSED);
	CHECK(host->set_time_limit(host->context, 1, 1) == EC2FLEET_CLOSED);
	CHECK(atomic_load(&lock_count) == locks_before && !locked);
}

/* ---- scenarios ---- */

static void start_plugin(void)
{
	CHECK(plugin_init() == SLURM_SUCCESS && plugin_job_submit(NULL, 0, NULL) == SLURM_SUCCESS &&
	      plugin_job_modify(NULL, NULL, 0, NULL) == SLURM_SUCCESS);
}

/* Every function of the table, then `count` events. */
static void calls(int count)
{
	start_plugin();
	CHECK(atomic_load(&starts) == 1 && host && errors == 0);
	start_plugin();
	CHECK(atomic_load(&starts) == 1);
	CHECK(host->abi_version == EC2FLEET_ABI_VERSION && host->size == sizeof(*host));
	CHECK(host->slurm_version == SLURM_VERSION_NUMBER);
	CHECK_TEXT(host->slurm_conf, "/nowhere/slurm.conf");
	CHECK_TEXT(host->config_dir, getenv("EC2FLEET_CONFIG_DIR"));
	CHECK(host->in_control(host->context) == 0);
	power_save_started = true;
	CHECK(host->in_control(host->context) == 1);
	CHECK(host->last_node_update(host->context) == last_node_update);

	check_power();
	check_many_names();
	check_updates();
	check_client_calls();
	check_log();
	build_nodes(1000);
	read_power(0);
	for (int i = 0; i < count; i++) {
		struct ec2fleet_node_update update = { .node_names = "cpu-a-1", .node_addr = "10.0.0.1" };
		struct rows rows = { .count = 1 };
		struct ec2fleet_power power;

		set(booting_node_bitmap, i % 1000, i / 1000 % 2 == 0);
		power = read_power(0);
		CHECK(power.waking || power.waking_ended);
		CHECK(host->update_nodes(host->context, &update, 1, NULL) == EC2FLEET_OK);
		if (i % 100 == 0)
			CHECK(host->load_nodes(host->context, &rows, node_row) == EC2FLEET_OK &&
			      host->suspended_nodes(host->context, &(const char *) { NULL }) == EC2FLEET_OK);
	}
	/* The run is freed by a stop in time; a table that outlives one that was late is checked in `stuck`. */
	CHECK(plugin_fini() == SLURM_SUCCESS && atomic_load(&stops) == 1);
	CHECK(plugin_fini() == SLURM_SUCCESS && atomic_load(&stops) == 1);
	start_plugin();
	CHECK(atomic_load(&starts) == 2 && host->in_control(host->context) == 1);
	CHECK(read_power(0).flags & EC2FLEET_POWER_RECONFIGURED);
	CHECK(plugin_fini() == SLURM_SUCCESS && atomic_load(&stops) == 2);
	CHECK(errors == 0);
	forget_updates();
}

/* init succeeds, one error is logged, nothing is started. */
static void passive(void)
{
	start_plugin();
	CHECK(errors == 1 && strstr(last_error, "stays passive") && strstr(last_error, "ec2_fleet: ") == last_error);
	CHECK(plugin_fini() == SLURM_SUCCESS && atomic_load(&stops) == 0);
}

static void start_refused(void)
{
	start_status = EC2FLEET_NO_THREAD;
	passive();
	CHECK(strstr(last_error, "status -9"));
	errors = 0;
	start_status = EC2FLEET_PANIC;
	passive();
	check_closed();
	/* A later start, as in a reconfiguration, is a new chance. */
	start_status = EC2FLEET_OK;
	start_plugin();
	CHECK(errors == 1 && atomic_load(&starts) == 3);
	CHECK(plugin_fini() == SLURM_SUCCESS && atomic_load(&stops) == 1);
}

static void no_power_saving(void)
{
	slurm_conf.resume_program = NULL;
	start_plugin();
	CHECK(errors == (SINCE(26, 5) ? 0 : 1) && atomic_load(&starts) == 1);
	CHECK(SINCE(26, 5) || strstr(last_error, "power saving is off"));
	CHECK(plugin_fini() == SLURM_SUCCESS);
}

static void *stuck(void *table)
{
	const struct ec2fleet_host *own = table;
	struct ec2fleet_power power;

	stuck_status = own->read_power(own->context, 0, &power);
	atomic_store(&stuck_thread_done, true);
	return NULL;
}

/* A reconfiguration of 22.05 stops and starts the plugin with all locks held while its thread waits for one of them. */
static void stop_with_locks_held(void)
{
	slurmctld_lock_t all = { .conf = WRITE, .job = WRITE, .node = WRITE, .part = WRITE, .fed = WRITE };
	const struct ec2fleet_host *first;

	build_nodes(10);
	start_plugin();
	first = host;
	own_lock = true;
	lock_slurmctld(all);
	CHECK(pthread_create(&stuck_thread, NULL, stuck, (void *)first) == 0);
	while (!atomic_load(&waiting))
		usleep(1000);
	CHECK(plugin_fini() == SLURM_SUCCESS && atomic_load(&stops) == 1 && !atomic_load(&stuck_thread_done));
	start_plugin();
	CHECK(atomic_load(&starts) == 2 && host != first && !atomic_load(&stuck_thread_done));
	unlock_slurmctld(all);
	own_lock = false;
	CHECK(pthread_join(stuck_thread, NULL) == 0 && stuck_status == EC2FLEET_CLOSED);
	stuck_thread = 0;
	/* The first table is dead and the second alive. */
	CHECK(first->in_control(first->context) == 0);
	power_save_started = true;
	CHECK(host->in_control(host->context) == 1);
	read_power(0);
	CHECK(plugin_fini() == SLURM_SUCCESS && atomic_load(&stops) == 2);
	host = first;
	check_closed();
}

/* slurmctld ends by exit without fini; its children must not touch threads that they do not have. */
static void end_by_exit(void)
{
	int notice[2];
	int status;
	char byte;

	CHECK(pipe(notice) == 0);
	pid_t controller = fork();
	if (controller == 0) {
		stop_notice = notice[1];
		start_plugin();
		pid_t child = fork();
		if (child == 0)
			exit(3);
		CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
		CHECK(atomic_load(&stops) == 0);
		CHECK(write(notice[1], "x", 1) == 1);
		exit(0);
	}
	close(notice[1]);
	CHECK(waitpid(controller, &status, 0) == controller && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(read(notice[0], &byte, 1) == 1 && byte == 'x');
	CHECK(read(notice[0], &byte, 1) == 1 && byte == 's');
	CHECK(read(notice[0], &byte, 1) == 0);
}

static void wait_for_plugin_locks(unsigned long more)
{
	unsigned long goal = atomic_load(&plugin_lock_count) + more;

	/* 300 s: a hang guard. */
	for (int turn = 0; atomic_load(&plugin_lock_count) < goal; turn++) {
		CHECK(turn < 60000);
		usleep(5000);
	}
}

/* The real library, started and stopped `rounds` times, while nodes change. */
static void library(int rounds)
{
	build_nodes(16);
	for (int i = 1; i < 16; i++)
		set(POWER_BITMAP, i, true);
	for (int round = 0; round < rounds; round++) {
		power_save_started = false;
		start_plugin();
		CHECK(errors == 0);
		__atomic_store_n(&power_save_started, true, __ATOMIC_SEQ_CST);
		wait_for_plugin_locks(1);
		for (int i = 0; i < 64; i++) {
			slurmctld_lock_t change = { .job = WRITE, .node = WRITE };

			own_lock = true;
			lock_slurmctld(change);
			set(booting_node_bitmap, i % 16, i / 16 % 2 == 0);
			set(POWER_BITMAP, i % 16, i / 16 % 2 == 1);
			__atomic_fetch_add(&last_node_update, 1, __ATOMIC_SEQ_CST);
			unlock_slurmctld(change);
			own_lock = false;
			usleep(1000);
		}
		wait_for_plugin_locks(2);
		CHECK(plugin_fini() == SLURM_SUCCESS);
	}
	unsigned long locks_at_end = atomic_load(&plugin_lock_count);

	usleep(100000);
	CHECK(atomic_load(&plugin_lock_count) == locks_at_end);
}

int main(int argc, char **argv)
{
	const char *scenario = argc > 2 ? argv[2] : "";
	int count = argc > 3 ? atoi(argv[3]) : 100;

	CHECK(argc > 2);
	main_thread = pthread_self();
	slurm_conf = (slurm_conf_t) {
		.slurm_conf = "/nowhere/slurm.conf", .resume_program = "/resume", .suspend_program = "/suspend",
		.last_update = 1000,
	};
	if (getenv("FAKE_SLURM_CONF"))
		slurm_conf.slurm_conf = getenv("FAKE_SLURM_CONF");
	load_plugin(argv[1]);
	if (!strcmp(scenario, "calls"))
		calls(count);
	else if (!strcmp(scenario, "passive"))
		passive();
	else if (!strcmp(scenario, "start-refused"))
		start_refused();
	else if (!strcmp(scenario, "no-power-saving"))
		no_power_saving();
	else if (!strcmp(scenario, "stop-with-locks-held"))
		stop_with_locks_held();
	else if (!strcmp(scenario, "end-by-exit"))
		end_by_exit();
	else if (!strcmp(scenario, "library"))
		library(count);
	else
		CHECK(!"a known scenario");
	free(booting_node_bitmap), free(POWER_BITMAP);
	printf("%s: done\n", scenario);
	return 0;
}
