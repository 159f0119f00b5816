// SPDX-License-Identifier: GPL-2.0
/*
 * Read from a non-canonical address.
 */
#include <linux/init.h>
#include <linux/module.h>

static noinline int gp_fault_read(void)
{
	int *volatile wild = (int *)0xdead000000000100UL;

	return READ_ONCE(*wild);
}

static int __init gp_fault_init(void)
{
	return gp_fault_read() & 1 ? -EIO : 0;
}
module_init(gp_fault_init);

static void __exit gp_fault_exit(void)
{
}
module_exit(gp_fault_exit);

MODULE_DESCRIPTION("vexrun canary: read from a non-canonical address");
MODULE_LICENSE("GPL");
