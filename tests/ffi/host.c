/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A C program in the place of the shim: it gives the real libslurm_ec2_fleet.so a table of its own, good and bad.
 *
 *	host LIBRARY SCENARIO [COUNT]
 */
#define _GNU_SOURCE
#include "../../c_shim/plugin_abi.h"
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

/* Far above what a stop takes, even under valgrind on a busy machine. */
#define HANG_GUARD_MS 300000

static uint32_t (*abi_version)(void);
static const char *(*version)(void);
static int32_t (*start)(const struct ec2fleet_host *);
static int32_t (*stop)(uint32_t);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned long readings;
static atomic_ulong calls_after_stop;
static atomic_bool running;
static pthread_t host_thread;
static bool host_thread_known;
static char context[1];
/* What the next readings answer. */
static enum { EVENTS, NOT_READY, REFUSED, NONSENSE, BAD_HOSTLIST, NOT_UTF8, KINDS } answer;

/* Every call comes from one thread, which is not the one that started the library, with all signals blocked. */
static void check_caller(void *given)
{
	sigset_t blocked;

	CHECK(given == context);
	if (!atomic_load(&running))
		atomic_fetch_add(&calls_after_stop, 1);
	pthread_mutex_lock(&mutex);
	if (!host_thread_known) {
		host_thread = pthread_self();
		host_thread_known = true;
	}
	CHECK(pthread_equal(host_thread, pthread_self()));
	pthread_mutex_unlock(&mutex);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &blocked) == 0);
	CHECK(sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGHUP) && sigismember(&blocked, SIGCHLD) &&
	      sigismember(&blocked, SIGPIPE));
}

static int32_t in_control(void *given)
{
	check_caller(given);
	return 1;
}

static int64_t last_node_update(void *given)
{
	static int64_t now = 1000;

	check_caller(given);
	return now++;
}

static int32_t read_power(void *given, uint32_t full, struct ec2fleet_power *out)
{
	int32_t status = EC2FLEET_OK;

	check_caller(given);
	CHECK(full <= 1 && out);
	memset(out, 0, sizeof(*out));
	pthread_mutex_lock(&mutex);
	unsigned long turn = readings++;
	switch (answer) {
	case EVENTS:
		out->flags = full || turn == 0 ? EC2FLEET_POWER_FULL : 0;
		out->lock_held_ns = 1;
		if (turn % 2)
			out->waking_ended = "other-a-[0-3]", out->suspended = "other-a-[0-3]";
		else
			out->waking = "other-a-[0-3]", out->suspended_ended = out->flags ? NULL : "other-a-[0-3]";
		break;
	case NOT_READY:
		status = EC2FLEET_NOT_READY;
		break;
	case REFUSED:
		status = 2009;
		break;
	case NONSENSE:
		status = -12345;
		break;
	case BAD_HOSTLIST:
		out->waking = "other-a-[0-";
		break;
	case NOT_UTF8:
		out->waking = "other-\xff\xfe";
		break;
	case KINDS:
		CHECK(!"an answer");
	}
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&mutex);
	return status;
}

static int32_t update_nodes(void *given, const struct ec2fleet_node_update *updates, uint32_t count, uint32_t *applied)
{
	check_caller(given);
	for (uint32_t i = 0; i < count; i++)
		CHECK(updates[i].node_names && updates[i].state <= EC2FLEET_STATE_DOWN);
	if (applied)
		*applied = count;
	return EC2FLEET_OK;
}

static int32_t keep_responding(void *given, const char *const *names, uint32_t count)
{
	check_caller(given);
	for (uint32_t i = 0; i < count; i++)
		CHECK(names[i]);
	return EC2FLEET_OK;
}

static int32_t start_ready_jobs(void *given)
{
	check_caller(given);
	return EC2FLEET_OK;
}

static int32_t suspended_nodes(void *given, const char **hostlist)
{
	check_caller(given);
	*hostlist = "other-a-[0,2-3]";
	return EC2FLEET_OK;
}

static int32_t load_nodes(void *given, void *sink, void (*row)(void *, const struct ec2fleet_node *))
{
	static const struct ec2fleet_node nodes[] = {
		{ .base = EC2FLEET_NODE_IDLE, .flags = EC2FLEET_NODE_CLOUD | EC2FLEET_NODE_POWERED_DOWN,
		  .name = "other-a-0", .addr = "other-a-0", .hostname = "other-a-0" },
		{ .base = 77, .flags = UINT32_MAX, .name = "other-a-1", .boot_time = -1 },
		{ .name = "other-\xff", .reason = "\xfe" },
		{ .base = EC2FLEET_NODE_IDLE },
	};

	check_caller(given);
	for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++)
		row(sink, &nodes[i]);
	row(sink, NULL);
	row(NULL, &nodes[0]);
	return EC2FLEET_OK;
}

static int32_t load_partitions(void *given, void *sink, void (*row)(void *, const struct ec2fleet_partition *))
{
	static const struct ec2fleet_partition partitions[] = {
		{ .name = "other", .nodes = "other-a-[0-9]", .max_time = 60 },
		{ .name = "empty", .max_time = UINT32_MAX },
		{ .nodes = "other-a-[0-9]" },
		{ .name = "strange", .nodes = "other-\xff" },
	};

	check_caller(given);
	for (size_t i = 0; i < sizeof(partitions) / sizeof(partitions[0]); i++)
		row(sink, &partitions[i]);
	return EC2FLEET_OK;
}

static int32_t load_jobs(void *given, const char *node_name, void *sink, void (*row)(void *, const struct ec2fleet_job *))
{
	check_caller(given);
	CHECK(node_name);
	row(sink, &(struct ec2fleet_job) { .job_id = 1, .time_limit = 10 });
	return EC2FLEET_OK;
}

static int32_t set_time_limit(void *given, uint32_t job_id, uint32_t minutes)
{
	check_caller(given);
	CHECK(job_id && minutes);
	return EC2FLEET_OK;
}

static const char *text_of(void *given, int32_t status)
{
	check_caller(given);
	return status == 2009 ? "Unable to contact \xff" : NULL;
}

static void log_line(void *given, uint32_t level, const char *message)
{
	CHECK(given == context && level <= EC2FLEET_LOG_DEBUG && message);
	printf("%u %s\n", level, message);
}

static struct ec2fleet_host good_table(void)
{
	return (struct ec2fleet_host) {
		.abi_version = EC2FLEET_ABI_VERSION,
		.size = sizeof(struct ec2fleet_host),
		.slurm_version = 0x160508,
		.capabilities = EC2FLEET_CAN_KEEP_RESPONDING,
		.context = context,
		.config_dir = getenv("EC2FLEET_CONFIG_DIR"),
		.slurm_conf = getenv("FAKE_SLURM_CONF"),
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
}

static void started(const struct ec2fleet_host *table)
{
	sigset_t before, after;

	host_thread_known = false;
	atomic_store(&running, true);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &before) == 0);
	CHECK(start(table) == EC2FLEET_OK);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
	for (int signal = 1; signal < 32; signal++)
		CHECK(sigismember(&before, signal) == sigismember(&after, signal));
}

static void stopped(void)
{
	CHECK(stop(HANG_GUARD_MS) == EC2FLEET_OK);
	atomic_store(&running, false);
	CHECK(!host_thread_known || !pthread_equal(host_thread, pthread_self()));
}

/* Wait until the library has read `more` further times. */
static void wait_for_readings(unsigned long more)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 300;
	pthread_mutex_lock(&mutex);
	unsigned long goal = readings + more;
	while (readings < goal)
		CHECK(pthread_cond_timedwait(&changed, &mutex, &limit) == 0);
	pthread_mutex_unlock(&mutex);
}

static void bad_tables(void)
{
	struct ec2fleet_host table;

	CHECK(abi_version() == EC2FLEET_ABI_VERSION);
	CHECK(version() && strchr(version(), '.'));
	CHECK(stop(0) == EC2FLEET_OK);
	CHECK(start(NULL) == EC2FLEET_INVALID);
	for (int off = -1; off <= 1; off += 2) {
		table = good_table();
		table.abi_version += off;
		CHECK(start(&table) == EC2FLEET_ABI_MISMATCH);
		table = good_table();
		table.size += off * 8;
		CHECK(start(&table) == EC2FLEET_ABI_MISMATCH);
	}
	/* A shim of another build may have a table that ends right after its size. */
	uint32_t *end = malloc(2 * sizeof(uint32_t));
	end[0] = EC2FLEET_ABI_VERSION;
	end[1] = 8;
	CHECK(start((const struct ec2fleet_host *)end) == EC2FLEET_ABI_MISMATCH);
	free(end);

	int functions = 0;
	for (size_t at = offsetof(struct ec2fleet_host, in_control); at < sizeof(table); at += sizeof(void *)) {
		table = good_table();
		memset((char *)&table + at, 0, sizeof(void *));
		CHECK(start(&table) == EC2FLEET_INVALID);
		functions++;
	}
	CHECK(functions == 13);
	CHECK(stop(0) == EC2FLEET_OK && !host_thread_known);
}

static void life(int count)
{
	struct ec2fleet_host table = good_table();

	for (int i = 0; i < count; i++) {
		started(&table);
		CHECK(start(&table) == EC2FLEET_ALREADY_STARTED);
		if (i % 4)
			wait_for_readings(1);
		stopped();
		CHECK(stop(0) == EC2FLEET_OK);
	}
	usleep(100000);
	CHECK(atomic_load(&calls_after_stop) == 0);
}

static void events(int count)
{
	struct ec2fleet_host table = good_table();

	started(&table);
	wait_for_readings(count);
	stopped();
	CHECK(atomic_load(&calls_after_stop) == 0);
}

/* Whatever slurmctld answers, the library goes on asking. */
static void errors(void)
{
	struct ec2fleet_host table = good_table();

	started(&table);
	for (int kind = NOT_READY; kind < KINDS; kind++) {
		pthread_mutex_lock(&mutex);
		answer = kind;
		pthread_mutex_unlock(&mutex);
		wait_for_readings(3);
	}
	pthread_mutex_lock(&mutex);
	answer = EVENTS;
	pthread_mutex_unlock(&mutex);
	wait_for_readings(3);
	stopped();
	/* Without the optional strings, too. */
	table.config_dir = getenv("EC2FLEET_CONFIG_DIR");
	table.slurm_conf = NULL;
	started(&table);
	stopped();
	CHECK(atomic_load(&calls_after_stop) == 0);
}

int main(int argc, char **argv)
{
	CHECK(argc > 2);
	void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	int count = argc > 3 ? atoi(argv[3]) : 10;

	if (!library)
		fprintf(stderr, "%s\n", dlerror());
	CHECK(library);
	*(void **)&abi_version = dlsym(library, "ec2fleet_plugin_abi_version");
	*(void **)&version = dlsym(library, "ec2fleet_plugin_version");
	*(void **)&start = dlsym(library, "ec2fleet_plugin_start");
	*(void **)&stop = dlsym(library, "ec2fleet_plugin_stop");
	CHECK(abi_version && version && start && stop);
	if (!strcmp(argv[2], "bad-tables"))
		bad_tables();
	else if (!strcmp(argv[2], "life"))
		life(count);
	else if (!strcmp(argv[2], "events"))
		events(count);
	else if (!strcmp(argv[2], "errors"))
		errors();
	else
		CHECK(!"a known scenario");
	/* As slurmctld does after fini. */
	CHECK(dlclose(library) == 0);
	printf("%s: done\n", argv[2]);
	return 0;
}
