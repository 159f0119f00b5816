// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel thread that spins with preemption off.
 */
#include <linux/err.h>
#include <linux/init.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <asm/processor.h>

static noinline int soft_lockup_spin(void *unused)
{
	preempt_disable();
	for (;;)
		cpu_relax();
	return 0;
}

static int __init soft_lockup_init(void)
{
	return PTR_ERR_OR_ZERO(kthread_run(soft_lockup_spin, NULL, "soft_lockup"));
}
module_init(soft_lockup_init);

static void __exit soft_lockup_exit(void)
{
}
module_exit(soft_lockup_exit);

MODULE_DESCRIPTION("vexrun canary: a kernel thread that spins with preemption off");
MODULE_LICENSE("GPL");
