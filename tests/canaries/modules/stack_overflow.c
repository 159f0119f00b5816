// SPDX-License-Identifier: GPL-2.0
/*
 * Recursion without end: the stack's guard page must stop it.
 */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/string.h>

static noinline int stack_overflow_recurse(int depth)
{
	volatile char frame[256];

	frame[depth & 255] = (char)depth;
	if (depth < 0)
		return 0;
	return stack_overflow_recurse(depth + 1) + frame[depth & 255];
}

static int __init stack_overflow_init(void)
{
	return stack_overflow_recurse(1) ? -EIO : 0;
}
module_init(stack_overflow_init);

static void __exit stack_overflow_exit(void)
{
}
module_exit(stack_overflow_exit);

MODULE_DESCRIPTION("vexrun canary: recursion without end");
MODULE_LICENSE("GPL");
