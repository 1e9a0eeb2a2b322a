/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Counts the processes that slurmctld starts: one line in the file RIG_FORKS for each. Preloaded into slurmctld.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void note(const char *how)
{
	const char *path = getenv("RIG_FORKS");
	int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
	char line[32];

	if (file < 0)
		return;
	snprintf(line, sizeof(line), "%s\n", how);
	if (write(file, line, strlen(line)) < 0)
		abort();
	close(file);
}

pid_t fork(void)
{
	static pid_t (*real)(void);

	if (!real)
		real = (pid_t (*)(void))dlsym(RTLD_NEXT, "fork");
	note("fork");
	return real();
}

/* A wrapper cannot return twice on its caller's stack, and fork does what vfork promises. */
pid_t vfork(void)
{
	return fork();
}

#define SPAWN(name)                                                                                              \
	int name(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,                        \
		 const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])                    \
	{                                                                                                        \
		int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, \
			    char *const[], char *const[]) = dlsym(RTLD_NEXT, #name);                             \
		note(#name);                                                                                     \
		return real(pid, path, actions, attributes, argv, envp);                                         \
	}

SPAWN(posix_spawn)
SPAWN(posix_spawnp)

int system(const char *command)
{
	int (*real)(const char *) = dlsym(RTLD_NEXT, "system");

	note("system");
	return real(command);
}

FILE *popen(const char *command, const char *mode)
{
	FILE *(*real)(const char *, const char *) = dlsym(RTLD_NEXT, "popen");

	note("popen");
	return real(command, mode);
}
