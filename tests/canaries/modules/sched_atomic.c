// SPDX-License-Identifier: GPL-2.0
/*
 * Sleep with preemption off.
 */
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/preempt.h>

static noinline void sched_atomic_sleep(void)
{
	preempt_disable();
	msleep(20);
	preempt_enable();
}

static int __init sched_atomic_init(void)
{
	sched_atomic_sleep();
	return 0;
}
module_init(sched_atomic_init);

static void __exit sched_atomic_exit(void)
{
}
module_exit(sched_atomic_exit);

MODULE_DESCRIPTION("vexrun canary: sleep with preemption off");
MODULE_LICENSE("GPL");
