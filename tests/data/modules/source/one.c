// SPDX-License-Identifier: GPL-2.0
/* No kernel module, but laid out like one: functions in several sections, some of one name. */
#include "outside.h"
#include "shared.h"

#define __init __attribute__((section(".init.text")))
#define __cold_text __attribute__((section(".text.unlikely"), noinline))
#define MODINFO __attribute__((used, section(".modinfo")))

static const char frames_name[] MODINFO = "name=frames";
static const char frames_license[] MODINFO = "license=GPL";

extern void die(void) __attribute__((noreturn));
extern int observe(int value);
volatile int *frames_nowhere;

static __attribute__((noinline)) int helper(int value)
{
	return observe(value) + 1;
}

static __attribute__((noinline)) int twin(int value)
{
	return observe(value) + 2;
}

static inline __attribute__((always_inline)) void innermost(int value)
{
	*frames_nowhere = value; /* faults here */
}

static inline __attribute__((always_inline)) void middle(int value)
{
	innermost(value + 1); /* inlined here */
}

int frames_mount(int value)
{
	middle(value); /* and here */
	frames_shared(value);
	frames_outside(frames_nowhere);
	return helper(value) + twin(value);
}

__cold_text int frames_cold(int value)
{
	return observe(value) - 3;
}

/* The call is the last instruction: its return address is no longer in this function. */
void frames_dies(void)
{
	die();
}

int __init frames_init(void)
{
	return observe(7) + 7;
}
