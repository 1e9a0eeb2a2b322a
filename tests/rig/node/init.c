/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The first process of an emulated instance, and what is done to all that the instance runs:
 *
 *   init boot FOLDER PROGRAM [ARGUMENT...]   run the program detached; returns when it can be ended
 *   init freeze FOLDER                       stop every process of the instance
 *   init thaw FOLDER                         let them go on
 *   init end FOLDER                          kill them all, and wait until they are gone
 *
 * The first process is parent to every orphan and buries the dead, as a machine's init does: all that the instance runs
 * stays below it. The others find it by the lock that it holds on FOLDER/init for as long as it lives, and walk down from
 * there: what other instances and clusters run is not looked at, however much it is.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct process {
	pid_t pid;
	/* As proc_pid_stat(5) names it. */
	char state;
	/* Clock ticks from the machine's boot to this process's start: tells it from a later one of the same number. */
	unsigned long long start;
};

struct tree {
	struct process *all;
	size_t count, room;
};

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static void pause_ms(unsigned ms)
{
	usleep(ms * 1000);
}

/* False if there is no such process (any more). */
static int read_stat(pid_t pid, struct process *process)
{
	char path[64], text[1024], *rest;
	int file;
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return 0;
	length = read(file, text, sizeof(text) - 1);
	close(file);
	if (length <= 0)
		return 0;
	text[length] = 0;
	/* The command is in brackets and may hold blanks and brackets itself. */
	rest = strrchr(text, ')');
	process->pid = pid;
	return rest && sscanf(rest + 1,
			      " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			      &process->state, &process->start) == 2;
}

static int has_ended(char state)
{
	return state == 'Z' || state == 'X';
}

static void add(struct tree *tree, pid_t pid)
{
	struct process process;

	for (size_t i = 0; i < tree->count; i++)
		if (tree->all[i].pid == pid)
			return;
	if (!read_stat(pid, &process) || has_ended(process.state))
		return;
	if (tree->count == tree->room) {
		tree->room = tree->room ? 2 * tree->room : 64;
		tree->all = realloc(tree->all, tree->room * sizeof(*tree->all));
		if (!tree->all)
			fail("realloc");
	}
	tree->all[tree->count++] = process;
}

/* A child is listed with the thread that made it. */
static void add_children(struct tree *tree, pid_t parent)
{
	char path[PATH_MAX];
	struct dirent *thread;
	DIR *threads;

	snprintf(path, sizeof(path), "/proc/%d/task", (int) parent);
	threads = opendir(path);
	if (!threads)
		return;
	while ((thread = readdir(threads))) {
		FILE *children;
		int child;

		if (!isdigit((unsigned char) thread->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/children", (int) parent, thread->d_name);
		children = fopen(path, "re");
		/* A thread may have ended meanwhile; a kernel without CONFIG_PROC_CHILDREN has none of these files. */
		if (!children) {
			if (access("/proc/thread-self/children", F_OK) != 0)
				fail("/proc/thread-self/children");
			continue;
		}
		while (fscanf(children, "%d", &child) == 1)
			add(tree, child);
		fclose(children);
	}
	closedir(threads);
}

/* The living processes of the instance, from the first one down. */
static void walk(struct tree *tree, pid_t first)
{
	tree->count = 0;
	add(tree, first);
	for (size_t i = 0; i < tree->count; i++)
		add_children(tree, tree->all[i].pid);
}

/* Stop them all; what was forked meanwhile is found in the next round, and the last two rounds find the same. */
static void freeze(struct tree *tree, pid_t first)
{
	size_t before = SIZE_MAX;

	for (;;) {
		size_t running = 0, others = 0;

		walk(tree, first);
		for (size_t i = 0; i < tree->count; i++) {
			char state = tree->all[i].state;

			if (state == 'T' || state == 't')
				continue;
			running++;
			/* One that has called vfork and whose child is stopped stays in D: it does not go on before the child. */
			if (state != 'D')
				others++;
			kill(tree->all[i].pid, SIGSTOP);
		}
		if (!others && tree->count == before)
			return;
		before = tree->count;
		pause_ms(1);
	}
}

static void end(struct tree *tree, pid_t first)
{
	freeze(tree, first);
	for (size_t i = 0; i < tree->count; i++)
		if (tree->all[i].pid != first)
			kill(tree->all[i].pid, SIGKILL);
	/* It buries them, and ends when it is the last. */
	kill(first, SIGCONT);
	for (size_t i = 0; i < tree->count; i++) {
		struct process now;

		while (read_stat(tree->all[i].pid, &now) && now.start == tree->all[i].start && !has_ended(now.state))
			pause_ms(1);
	}
}

static int open_lock(const char *folder)
{
	char path[PATH_MAX];
	int file;

	snprintf(path, sizeof(path), "%s/init", folder);
	file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (file < 0)
		fail(path);
	return file;
}

/* 0 if the instance runs nothing. */
static pid_t first_process(const char *folder)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(open_lock(folder), F_GETLK, &lock) != 0)
		fail("F_GETLK");
	return lock.l_type == F_UNLCK ? 0 : lock.l_pid;
}

static void become_init(int lock_file, int ready, char **program)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	pid_t child;

	setsid();
	if (fcntl(lock_file, F_SETLK, &lock) != 0)
		fail("the instance runs already");
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
		fail("PR_SET_CHILD_SUBREAPER");
	child = fork();
	if (child == 0) {
		execvp(program[0], program);
		fail(program[0]);
	}
	if (child < 0)
		fail("fork");
	if (write(ready, "", 1) != 1)
		fail("write");
	close(ready);
	while (wait(NULL) > 0 || errno == EINTR)
		;
}

static int boot(const char *folder, char **program)
{
	int lock_file = open_lock(folder), ready[2];
	char byte;
	pid_t child;

	if (pipe2(ready, O_CLOEXEC) != 0)
		fail("pipe2");
	child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		become_init(lock_file, ready[1], program);
		return 0;
	}
	close(ready[1]);
	return read(ready[0], &byte, 1) == 1 ? 0 : 2;
}

int main(int count, char **arguments)
{
	const char *verb = count > 2 ? arguments[1] : "", *folder = count > 2 ? arguments[2] : "";
	struct tree tree = { 0 };
	pid_t first;

	if (!strcmp(verb, "boot") && count > 3)
		return boot(folder, arguments + 3);
	if (strcmp(verb, "freeze") && strcmp(verb, "thaw") && strcmp(verb, "end")) {
		fprintf(stderr, "usage: init boot FOLDER PROGRAM [ARGUMENT...] | init freeze|thaw|end FOLDER\n");
		return 2;
	}
	first = first_process(folder);
	if (!first)
		return 0;
	if (!strcmp(verb, "freeze")) {
		freeze(&tree, first);
	} else if (!strcmp(verb, "end")) {
		end(&tree, first);
	} else {
		walk(&tree, first);
		for (size_t i = 0; i < tree.count; i++)
			kill(tree.all[i].pid, SIGCONT);
	}
	return 0;
}
