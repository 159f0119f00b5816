/* SPDX-License-Identifier: GPL-2.0 */
extern int observe(int value);

static inline __attribute__((always_inline)) void frames_shared(int value)
{
	if (value > 3)
		observe(value * 5); /* a header of the subject */
}
