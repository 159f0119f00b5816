// SPDX-License-Identifier: GPL-2.0
#include "shared.h"

extern int observe(int value);

static __attribute__((noinline)) int helper(int value)
{
	int first = observe(value);
	int second = observe(first);
	int third = observe(second);

	return first * second * third;
}

static __attribute__((noinline)) int twin(int value)
{
	return observe(value) + 4;
}

int frames_umount(int value)
{
	frames_shared(value);
	return helper(value) + twin(value);
}
