// SPDX-License-Identifier: GPL-2.0
/*
 * Call through a NULL function pointer: the faulting address is in no function
 * at all.
 */
#include <linux/init.h>
#include <linux/module.h>

static void (*volatile nobody)(void);

static noinline void null_call_jump(void)
{
	nobody();
	barrier();
}

static int __init null_call_init(void)
{
	null_call_jump();
	return 0;
}
module_init(null_call_init);

static void __exit null_call_exit(void)
{
}
module_exit(null_call_exit);

MODULE_DESCRIPTION("vexrun canary: call through a null function pointer");
MODULE_LICENSE("GPL");
