// SPDX-License-Identifier: GPL-2.0
/*
 * Increment a reference count that is zero.
 */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/refcount.h>

static refcount_t ref;

static noinline void refcount_revive(void)
{
	refcount_set(&ref, 0);
	refcount_inc(&ref);
}

static int __init refcount_init(void)
{
	refcount_revive();
	return 0;
}
module_init(refcount_init);

static void __exit refcount_exit(void)
{
}
module_exit(refcount_exit);

MODULE_DESCRIPTION("vexrun canary: increment a reference count that is zero");
MODULE_LICENSE("GPL");
