/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The bugs that need more than a line. CANARY_<NAME> selects one; each is a function of its own,
 * never inlined, so that the kernel's report names it. Without a bug all of this is empty.
 *
 * canaryfs.c calls canary_at_load, _mount, _umount, _unload and _ioctl where their names say.
 */
#ifndef CANARYFS_BUGS_H
#define CANARYFS_BUGS_H

#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kmod.h>
#include <linux/kobject.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nmi.h>
#include <linux/reboot.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/sysfs.h>
#include <linux/timekeeping.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/workqueue.h>

/* Reads as NULL, and the compiler cannot know. */
static int *volatile canary_nowhere __maybe_unused;

/* -- memory ------------------------------------------------------------------------------ */

#ifdef CANARY_USE_AFTER_FREE
/* Seen by slub_debug: the poison of a free object is gone when it is handed out again. */
static noinline void canaryfs_use_after_free(void)
{
	char *volatile bytes[16];
	int i;

	for (i = 0; i < 16; i++)
		bytes[i] = kmalloc(2048, GFP_KERNEL);
	for (i = 0; i < 16; i++)
		kfree(bytes[i]);
	for (i = 0; i < 16; i++)
		if (bytes[i])
			memset(bytes[i] + 64, 0x42, 64);
	for (i = 0; i < 16; i++)
		bytes[i] = kmalloc(2048, GFP_KERNEL);
	for (i = 0; i < 16; i++)
		kfree(bytes[i]);
}
#endif

#ifdef CANARY_DOUBLE_FREE
static noinline void canaryfs_double_free(void)
{
	void *volatile object = kmalloc(64, GFP_KERNEL);

	kfree(object);
	kfree(object);
}
#endif

#ifdef CANARY_LIST_CORRUPTION
static LIST_HEAD(canary_list);
static struct list_head canary_first, canary_second;

static noinline void canaryfs_list_corruption(void)
{
	list_add(&canary_first, &canary_list);
	canary_first.prev = &canary_first;
	list_add(&canary_second, &canary_list);
}
#endif

#ifdef CANARY_REFCOUNT
static noinline void canaryfs_refcount(void)
{
	static refcount_t count = REFCOUNT_INIT(1);

	if (refcount_dec_and_test(&count))
		refcount_inc(&count);
}
#endif

#ifdef CANARY_STACK_OVERFLOW
static noinline int canaryfs_stack_overflow(int depth)
{
	volatile char frame[256];

	frame[depth & 255] = (char)depth;
	if (depth < 0)
		return 0;
	return canaryfs_stack_overflow(depth + 1) + frame[depth & 255];
}
#endif

#ifdef CANARY_MEMORY_HOG
static noinline void canaryfs_memory_hog(void)
{
	while (!fatal_signal_pending(current) && alloc_page(GFP_KERNEL))
		cond_resched();
}
#endif

#ifdef CANARY_SLAB_LEAK
static struct kmem_cache *canary_cache;
static void *volatile canary_lost;
#endif

#if defined(CANARY_LEAK_PER_LOAD) || defined(CANARY_LEAK_PER_MOUNT)
static void *volatile canary_forgotten;
#endif

/* -- contexts ---------------------------------------------------------------------------- */

#ifdef CANARY_SLEEP_IN_ATOMIC
static noinline void canaryfs_sleep_in_atomic(void)
{
	preempt_disable();
	msleep(20);
	preempt_enable();
}
#endif

#if defined(CANARY_OOPS_IN_TIMER) || defined(CANARY_TIMER_AFTER_UNLOAD)
static struct timer_list canary_timer;

static noinline void canaryfs_timer_fires(struct timer_list *unused)
{
	*canary_nowhere = 1;
}
#endif

#ifdef CANARY_LATE_WARNING
static void canaryfs_late_warning(struct work_struct *unused)
{
	WARN(1, "canaryfs: planted late warning\n");
}
static DECLARE_DELAYED_WORK(canary_late, canaryfs_late_warning);
#endif

/* -- hangs ------------------------------------------------------------------------------- */

#if defined(CANARY_HANG_AT_MOUNT) || defined(CANARY_HANG_AT_UMOUNT)
static noinline void canaryfs_wait_for_ever(void)
{
	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule();
	}
}
#endif

#ifdef CANARY_SLEEPS_AT_MOUNT
/* Not blocked in the kernel's sense: nothing ever complains about an interruptible sleep. */
static noinline void canaryfs_sleep_for_ever(void)
{
	while (!fatal_signal_pending(current))
		schedule_timeout_interruptible(HZ);
}
#endif

#ifdef CANARY_ABBA_DEADLOCK
static DEFINE_MUTEX(canary_a);
static DEFINE_MUTEX(canary_b);
static DECLARE_COMPLETION(canary_has_b);

static noinline int canaryfs_takes_b_then_a(void *unused)
{
	mutex_lock(&canary_b);
	complete(&canary_has_b);
	msleep(200);
	mutex_lock(&canary_a);
	mutex_unlock(&canary_a);
	mutex_unlock(&canary_b);
	return 0;
}

static noinline void canaryfs_takes_a_then_b(void)
{
	mutex_lock(&canary_a);
	kthread_run(canaryfs_takes_b_then_a, NULL, "canary_b_a");
	wait_for_completion(&canary_has_b);
	mutex_lock(&canary_b);
	mutex_unlock(&canary_b);
	mutex_unlock(&canary_a);
}
#endif

#ifdef CANARY_RECURSIVE_SPINLOCK
static DEFINE_SPINLOCK(canary_spinlock);

static noinline void canaryfs_recursive_spinlock(void)
{
	spin_lock(&canary_spinlock);
	spin_lock(&canary_spinlock);
	spin_unlock(&canary_spinlock);
	spin_unlock(&canary_spinlock);
}
#endif

#ifdef CANARY_SPIN_AT_MOUNT
static noinline void canaryfs_spin(void)
{
	for (;;)
		cpu_relax();
}
#endif

#ifdef CANARY_SPIN_WITH_PREEMPTION
static noinline void canaryfs_livelock(void)
{
	for (;;) {
		cpu_relax();
		cond_resched();
	}
}
#endif

#ifdef CANARY_SPIN_WITHOUT_INTERRUPTS
static noinline void canaryfs_spin_without_interrupts(void)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
}
#endif

#ifdef CANARY_ALL_CPUS_SPIN
static noinline int canaryfs_spins_without_interrupts(void *unused)
{
	msleep(500);
	local_irq_disable();
	for (;;)
		cpu_relax();
	return 0;
}

static noinline void canaryfs_all_cpus_spin(void)
{
	unsigned int cpu;

	for_each_online_cpu(cpu) {
		struct task_struct *task = kthread_create(canaryfs_spins_without_interrupts, NULL,
							  "canary_spin/%u", cpu);

		if (IS_ERR(task))
			return;
		kthread_bind(task, cpu);
		wake_up_process(task);
	}
}
#endif

#ifdef CANARY_RCU_STALL
/* Keeps the lockup detector quiet, so that RCU alone has something to say. */
static noinline void canaryfs_rcu_stall(void)
{
	rcu_read_lock();
	for (;;) {
		touch_softlockup_watchdog();
		cpu_relax();
	}
}
#endif

#ifdef CANARY_CONSOLE_FLOOD
static noinline void canaryfs_console_flood(void)
{
	unsigned long line;

	for (line = 0; !fatal_signal_pending(current); line++) {
		pr_info("canaryfs: line %lu of a log that nobody can read\n", line);
		cond_resched();
	}
}
#endif

#ifdef CANARY_SLOW_MOUNT
/* A sound twin: one minute in the first mount, at work or waiting for no more than a second. */
static noinline void canaryfs_slow_mount(void)
{
	static bool done;
	int seconds;

	for (seconds = 0; !done && seconds < 60; seconds++)
		msleep(1000);
	done = true;
}
#endif

/* -- the machine around the kernel ------------------------------------------------------- */

#if defined(CANARY_KILLS_SSHD) || defined(CANARY_FILLS_ROOT_DISK)
static noinline void canaryfs_run_shell(const char *command)
{
	char *argv[] = { "/bin/sh", "-c", (char *)command, NULL };
	char *environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };

	call_usermodehelper(argv[0], argv, environment, UMH_WAIT_PROC);
}
#endif

#ifdef CANARY_TRIPLE_FAULT
static noinline void canaryfs_triple_fault(void)
{
	struct {
		u16 limit;
		unsigned long base;
	} __packed empty = { 0, 0 };

	local_irq_disable();
	asm volatile("lidt %0; int3" : : "m"(empty));
}
#endif

#ifdef CANARY_DUPLICATE_NAME
static struct kobject *canary_kobjects[2];

static noinline void canaryfs_duplicate_name(void)
{
	canary_kobjects[0] = kobject_create_and_add("canaryfs_twice", kernel_kobj);
	canary_kobjects[1] = kobject_create_and_add("canaryfs_twice", kernel_kobj);
}
#endif

/* -- where canaryfs.c comes by ----------------------------------------------------------- */

static void canary_at_load(void)
{
#ifdef CANARY_OOPS_AT_LOAD
	*canary_nowhere = 1;
#endif
#ifdef CANARY_NEVER_UNLOADS
	__module_get(THIS_MODULE);
#endif
#ifdef CANARY_LEAVES_PROC_ENTRY
	proc_mkdir("canaryfs", NULL);
#endif
#ifdef CANARY_SLAB_LEAK
	canary_cache = kmem_cache_create("canaryfs_leaky", 192, 0, SLAB_POISON, NULL);
	if (canary_cache)
		canary_lost = kmem_cache_alloc(canary_cache, GFP_KERNEL);
#endif
#ifdef CANARY_LEAK_PER_LOAD
	canary_forgotten = kmalloc(100 << 10, GFP_KERNEL);
#endif
#ifdef CANARY_OOPS_IN_TIMER
	timer_setup(&canary_timer, canaryfs_timer_fires, 0);
	mod_timer(&canary_timer, jiffies + HZ / 4);
#endif
#ifdef CANARY_DUPLICATE_NAME
	canaryfs_duplicate_name();
#endif
#ifdef CANARY_LOUD
	/* A sound twin: alarming words, none of them a report of the kernel. */
	pr_info("DEBUG: no BUG here; WARNING: a sign on a door, Kernel panic room, Oops a daisy\n");
	pr_err("canaryfs: BUG: a comment said so. Oops: nothing happened\n");
	pr_crit("canaryfs: watchdog of the yard: BUG: soft lockup of the gate\n");
	pr_info("WARNING: mind the gap\n");
#endif
#if defined(CANARY_WARN_UNDER_DEBUG) && defined(DEBUG)
	WARN(1, "canaryfs: only a debug build says this\n");
#endif
}

static void canary_at_mount(void)
{
#ifdef CANARY_PANIC_AT_MOUNT
	panic("canaryfs: planted panic");
#endif
#ifdef CANARY_OOPS_AT_MOUNT
	*canary_nowhere = 1;
#endif
#ifdef CANARY_BUG_AT_MOUNT
	BUG();
#endif
#ifdef CANARY_WARN_AT_MOUNT
	WARN(1, "canaryfs: planted warning\n");
#endif
#ifdef CANARY_TAINT_AT_MOUNT
	add_taint(TAINT_WARN, LOCKDEP_STILL_OK);
#endif
#ifdef CANARY_USE_AFTER_FREE
	canaryfs_use_after_free();
#endif
#ifdef CANARY_DOUBLE_FREE
	canaryfs_double_free();
#endif
#ifdef CANARY_LIST_CORRUPTION
	canaryfs_list_corruption();
#endif
#ifdef CANARY_REFCOUNT
	canaryfs_refcount();
#endif
#ifdef CANARY_STACK_OVERFLOW
	canaryfs_stack_overflow(1);
#endif
#ifdef CANARY_MEMORY_HOG
	canaryfs_memory_hog();
#endif
#ifdef CANARY_LEAK_PER_MOUNT
	canary_forgotten = kmalloc(200, GFP_KERNEL);
#endif
#ifdef CANARY_SLEEP_IN_ATOMIC
	canaryfs_sleep_in_atomic();
#endif
#ifdef CANARY_HANG_AT_MOUNT
	canaryfs_wait_for_ever();
#endif
#ifdef CANARY_SLEEPS_AT_MOUNT
	canaryfs_sleep_for_ever();
#endif
#ifdef CANARY_ABBA_DEADLOCK
	canaryfs_takes_a_then_b();
#endif
#ifdef CANARY_RECURSIVE_SPINLOCK
	canaryfs_recursive_spinlock();
#endif
#ifdef CANARY_SPIN_AT_MOUNT
	canaryfs_spin();
#endif
#ifdef CANARY_SPIN_WITH_PREEMPTION
	canaryfs_livelock();
#endif
#ifdef CANARY_SPIN_WITHOUT_INTERRUPTS
	canaryfs_spin_without_interrupts();
#endif
#ifdef CANARY_ALL_CPUS_SPIN
	canaryfs_all_cpus_spin();
#endif
#ifdef CANARY_RCU_STALL
	canaryfs_rcu_stall();
#endif
#ifdef CANARY_CONSOLE_FLOOD
	canaryfs_console_flood();
#endif
#ifdef CANARY_SLOW_MOUNT
	canaryfs_slow_mount();
#endif
#ifdef CANARY_LOGS_A_LOT
	/* A sound twin: three hundred complaints about nothing. */
	for (int line = 0; line < 300; line++)
		pr_err("canaryfs: inode %d looks a little odd, going on\n", line);
#endif
#ifdef CANARY_REBOOT_AT_MOUNT
	emergency_restart();
#endif
#ifdef CANARY_POWER_OFF_AT_MOUNT
	kernel_power_off();
#endif
#ifdef CANARY_TRIPLE_FAULT
	canaryfs_triple_fault();
#endif
#ifdef CANARY_KILLS_SSHD
	canaryfs_run_shell("rm -f /usr/sbin/sshd; systemctl stop ssh; pkill -9 sshd");
#endif
#ifdef CANARY_FILLS_ROOT_DISK
	canaryfs_run_shell("fallocate -l $(df -B1 --output=avail / | tail -1) /var/tmp/canary");
#endif
#ifdef CANARY_SETS_CLOCK_BACK
	do_settimeofday64(&(struct timespec64){ .tv_sec = 1000000000 });
#endif
#ifdef CANARY_REFERENCE_AT_MOUNT
	__module_get(THIS_MODULE);
#endif
#ifdef CANARY_LATE_WARNING
	schedule_delayed_work(&canary_late, 600 * HZ);
#endif
}

static void canary_at_umount(void)
{
#ifdef CANARY_HANG_AT_UMOUNT
	canaryfs_wait_for_ever();
#endif
}

static void canary_at_unload(void)
{
#ifdef CANARY_SLAB_LEAK
	kmem_cache_destroy(canary_cache);
#endif
#ifdef CANARY_DUPLICATE_NAME
	kobject_put(canary_kobjects[0]);
#endif
#ifdef CANARY_TIMER_AFTER_UNLOAD
	timer_setup(&canary_timer, canaryfs_timer_fires, 0);
	mod_timer(&canary_timer, jiffies + HZ);
#endif
#ifdef CANARY_LATE_WARNING
	flush_delayed_work(&canary_late);
#endif
}

/* A sound twin's one request; vexrun.toml declares it in [ioctl] requests. */
#define CANARY_IOC_COUNT _IOWR('c', 1, u64)

static int canary_at_ioctl(unsigned int request, unsigned long argument)
{
	static u64 count;
	u64 asked;

#ifdef CANARY_OOPS_IN_IOCTL
	if (_IOC_TYPE(request) != 'T') *canary_nowhere = 1; /* isatty(3) asks every file */
#endif
#ifdef CANARY_IOCTL_ACCEPTS_ALL
	return 0;
#endif
#ifdef CANARY_IOCTL_NEVER_RETURNS
	while (!fatal_signal_pending(current))
		schedule_timeout_interruptible(HZ);
#endif
	if (request != CANARY_IOC_COUNT)
		return -ENOTTY;
#ifdef CANARY_IOCTL_TRUSTS_POINTERS
	*(u64 *)argument += ++count;
	return 0;
#endif
	if (copy_from_user(&asked, (void __user *)argument, sizeof(asked)))
		return -EFAULT;
	asked += ++count;
	return copy_to_user((void __user *)argument, &asked, sizeof(asked)) ? -EFAULT : 0;
}

#endif
