/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A library with the entry points of libslurm_ec2_fleet.so that hands the shim's table to the program which loaded the
 * shim, so that the program can call every function of it by itself.
 */
#define _GNU_SOURCE
#include "../../c_shim/plugin_abi.h"

#include <dlfcn.h>
#include <stddef.h>

#ifndef PROBE_ABI_VERSION
#define PROBE_ABI_VERSION EC2FLEET_ABI_VERSION
#endif

uint32_t ec2fleet_plugin_abi_version(void)
{
	return PROBE_ABI_VERSION;
}

const char *ec2fleet_plugin_version(void)
{
	return "probe";
}

int32_t ec2fleet_plugin_start(const struct ec2fleet_host *host)
{
	int32_t (*started)(const struct ec2fleet_host *);

	*(void **)&started = dlsym(RTLD_DEFAULT, "probe_started");
	return started ? started(host) : EC2FLEET_INVALID;
}

int32_t ec2fleet_plugin_stop(uint32_t timeout_ms)
{
	int32_t (*stopped)(uint32_t);

	*(void **)&stopped = dlsym(RTLD_DEFAULT, "probe_stopped");
	return stopped ? stopped(timeout_ms) : EC2FLEET_INVALID;
}
