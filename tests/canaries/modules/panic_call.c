// SPDX-License-Identifier: GPL-2.0
/*
 * A direct panic().
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/panic.h>

static noinline void panic_call_now(void)
{
	panic("canary: superblock ate itself");
}

static int __init panic_call_init(void)
{
	panic_call_now();
	return 0;
}
module_init(panic_call_init);

static void __exit panic_call_exit(void)
{
}
module_exit(panic_call_exit);

MODULE_DESCRIPTION("vexrun canary: a direct panic()");
MODULE_LICENSE("GPL");
