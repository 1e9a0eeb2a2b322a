/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Gives processes a host name of their own, without privileges or namespaces: preloaded into the daemons and
 * commands of an emulated instance, and into Slurm's commands.
 *
 * The host name is the instance's address, so that with CommunicationParameters=NoInAddrAny slurmd binds to exactly
 * that address (slurm_setup_addr() in Slurm's slurm_protocol_api.c binds to what the host name resolves to): many
 * slurmds share one port, and a message sent to a wrong address finds no slurmd.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

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
