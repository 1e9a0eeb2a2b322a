/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * init PROGRAM [ARGUMENT...]: the first process of an emulated instance. It runs the program, is parent to every
 * orphan and buries the dead, as a machine's init does; all that the instance runs stays below it.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	pid_t child;

	if (count < 2 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
		return 2;
	child = fork();
	if (child == 0) {
		execvp(arguments[1], arguments + 1);
		perror(arguments[1]);
		_exit(127);
	}
	if (child < 0)
		return 2;
	while (wait(NULL) > 0 || errno == EINTR)
		;
	return 0;
}
