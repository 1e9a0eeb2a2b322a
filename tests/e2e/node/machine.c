/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Makes a process believe that it has a machine of its own, without privileges or namespaces.
 * Preloaded into the daemons and commands of an emulated instance.
 *
 * - The host name is the instance's address, so that with CommunicationParameters=NoInAddrAny slurmd
 *   binds to exactly that address (slurm_setup_addr() in Slurm's slurm_protocol_api.c binds to what the host
 *   name resolves to): many slurmds share one port, and a message sent to a wrong address finds no slurmd.
 * - Orphans stay below the process that started them, as below a machine's init, so that the instance can be
 *   stopped or ended with everything it runs.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

int gethostname(char *name, size_t size)
{
	const char *address = getenv("EC2_PRIVATE_IP");

	if (!address)
		address = "127.0.0.1";
	if (strlen(address) >= size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(name, address);
	return 0;
}

__attribute__((constructor)) static void keep_orphans(void)
{
	if (getenv("RIG_MACHINE"))
		prctl(PR_SET_CHILD_SUBREAPER, 1);
}
