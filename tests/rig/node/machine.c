/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Gives processes a host name and an address of their own, without privileges or namespaces: preloaded into the daemons
 * and commands of an emulated instance, and into Slurm's commands.
 *
 * The host name stands for the instance's address, so that with CommunicationParameters=NoInAddrAny slurmd binds to
 * exactly that address (slurm_setup_addr() in Slurm's slurm_protocol_api.c binds to what the host name resolves to): many
 * slurmds share one port, and a message sent to a wrong address finds no slurmd.
 *
 * Connections start from that address too: from 23.11 on slurmctld makes the address from which a cloud node registers
 * its NodeAddr, and what its host name is up to the first dot its NodeHostName.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PREFIX "ip-"

/* ip-127-20-0-5, as EC2 names instances; without an instance 127.0.0.1. */
int gethostname(char *name, size_t size)
{
	const char *address = getenv("EC2_PRIVATE_IP");
	const char *prefix = address ? PREFIX : "";

	if (!address)
		address = "127.0.0.1";
	if (strlen(prefix) + strlen(address) >= size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(name, prefix);
	strcat(name, address);
	if (*prefix)
		for (char *dot = name; (dot = strchr(dot, '.'));)
			*dot = '-';
	return 0;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
		dlsym(RTLD_NEXT, "getaddrinfo");
	char address[INET_ADDRSTRLEN];

	if (node && !strncmp(node, PREFIX, strlen(PREFIX)) && strlen(node + strlen(PREFIX)) < sizeof(address)) {
		strcpy(address, node + strlen(PREFIX));
		for (char *dash = address; (dash = strchr(dash, '-'));)
			*dash = '.';
		node = address;
	}
	return next(node, service, hints, result);
}

int connect(int socket, const struct sockaddr *to, socklen_t size)
{
	int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
	const char *address = getenv("EC2_PRIVATE_IP");
	struct sockaddr_in from = { 0 };
	socklen_t length = sizeof(from);
	int error = errno;

	if (address && to->sa_family == AF_INET && !getsockname(socket, (struct sockaddr *) &from, &length) &&
	    from.sin_family == AF_INET && from.sin_addr.s_addr == htonl(INADDR_ANY) && !from.sin_port &&
	    inet_pton(AF_INET, address, &from.sin_addr) == 1) {
		int yes = 1;

		/* The port is chosen by connect, for this pair of addresses. */
		setsockopt(socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof(yes));
		bind(socket, (struct sockaddr *) &from, sizeof(from));
	}
	errno = error;
	return next(socket, to, size);
}
