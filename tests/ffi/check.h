/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A failed check names itself and ends the program with status 1. */
#ifndef EC2FLEET_TEST_CHECK_H
#define EC2FLEET_TEST_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                                        \
	do {                                                                                                    \
		if (!(condition)) {                                                                             \
			fflush(stdout);                                                                         \
			fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #condition);   \
			_exit(1);                                                                               \
		}                                                                                               \
	} while (0)

#define CHECK_TEXT(actual, expected)                                                                            \
	do {                                                                                                    \
		const char *actual_ = (actual), *expected_ = (expected);                                        \
		if ((!actual_ != !expected_) || (actual_ && strcmp(actual_, expected_))) {                      \
			fflush(stdout);                                                                         \
			fprintf(stderr, "%s:%d: %s: %s is %s, not %s\n", __FILE__, __LINE__, __func__, #actual, \
				actual_ ? actual_ : "NULL", expected_ ? expected_ : "NULL");                    \
			_exit(1);                                                                               \
		}                                                                                               \
	} while (0)

#endif
