/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * job_submit/ec2_fleet: the part of slurm-ec2-fleet that knows a Slurm release.
 *
 * It loads libslurm_ec2_fleet.so and gives it a table of what this slurmctld offers (plugin_abi.h). It has no thread
 * and decides nothing. Whatever goes wrong, slurmctld runs on: one error is logged and the plugin stays passive.
 */
#define _GNU_SOURCE
#include "run.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdarg.h>
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
/* How long a stop waits for a call into slurmctld that does not return. */
#define STOP_TIMEOUT_IN_CALL_MS 250

static int32_t (*library_start)(const struct ec2fleet_host *host);
static int32_t (*library_stop)(uint32_t timeout_ms);
static struct run *_Atomic running;

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

/* Next to the shim unless EC2FLEET_LIBRARY names another; then wherever the loader looks. */
static void *load_library(char *wanted, size_t wanted_size)
{
	const char *named = getenv("EC2FLEET_LIBRARY");
	Dl_info shim;

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
	return dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
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
	atomic_store(&run->closed, true);
	if (exiting)
		atomic_store(&run->silent, true);
	/* A call into slurmctld failed fatally on the host thread itself, which therefore cannot end. */
	if (calls_in_progress)
		return;
	/*
	 * 22.05 and 23.x stop plugins with all their locks held when a reconfiguration changes JobSubmitPlugins, and a
	 * fatal error may exit with some. A call that waits for them returns only afterwards, and finds the run closed.
	 */
	if (atomic_load(&run->in_call)) {
		usleep(20000);
		if (atomic_load(&run->in_call))
			timeout_ms = STOP_TIMEOUT_IN_CALL_MS;
	}
	int32_t status = library_stop(timeout_ms);
	atomic_store(&run->silent, true);
	if (status == EC2FLEET_OK)
		free_run(run);
}

/* fini is not called when slurmctld ends, except in builds made to look for leaks. */
static void stop_at_exit(void)
{
	stop(true);
}

/* Once: a late thread of an earlier run may be using them. */
static bool find_symbols(void)
{
	static bool found;
	char missing[1024];

	if (!found)
		found = slurmctld_symbols_find(&slurmctld, missing, sizeof(missing));
	if (!found)
		report("the plugin stays passive: this slurmctld does not offer: %s. This plugin was built for Slurm %d.%02d.%d; "
		       "rebuild it for the installed release.", missing, SLURM_VERSION_MAJOR(SLURM_VERSION_NUMBER),
		       SLURM_VERSION_MINOR(SLURM_VERSION_NUMBER), SLURM_VERSION_MICRO(SLURM_VERSION_NUMBER));
	return found;
}

int init(void)
{
	static bool at_exit;
	struct run *run;
	int32_t status;

	if (atomic_load(&running) || !find_symbols() || !find_library())
		return SLURM_SUCCESS;
	if (!(run = new_run())) {
		report("the plugin stays passive: out of memory");
		return SLURM_SUCCESS;
	}
	status = library_start(&run->host);
	if (status != EC2FLEET_OK) {
		report("the plugin stays passive: it could not be started (status %d, see plugin_abi.h). Restart slurmctld; "
		       "if the error stays, report it with this log.", status);
		/* After a defect it is not known whether a thread has the table. */
		atomic_store(&run->closed, true);
		atomic_store(&run->silent, true);
		if (status != EC2FLEET_PANIC)
			free_run(run);
		return SLURM_SUCCESS;
	}
#if SLURM_VERSION_NUMBER < SLURM_VERSION_NUM(26, 5, 0)
	if (!slurmctld.slurm_conf->resume_program || !slurmctld.slurm_conf->suspend_program)
		report("the plugin has nothing to do: power saving is off. Set ResumeProgram, SuspendProgram and SuspendTime "
		       "in slurm.conf and restart slurmctld.");
#endif
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
