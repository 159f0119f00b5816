// SPDX-License-Identifier: GPL-2.0
#include <fcntl.h>
int main(int argc, char **argv)
{
	return open(argv[argc - 1], O_RDWR) < 0;
}
