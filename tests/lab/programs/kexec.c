/*
 * usage: kexec crash KERNEL INITRAMFS COMMAND_LINE    loads the kernel that runs after a panic
 *        kexec load KERNEL INITRAMFS COMMAND_LINE     loads the kernel that "kexec go" starts
 *        kexec go                                     starts it, without shutting anything down
 */

#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	if (count == 2 && !strcmp(arguments[1], "go"))
		return reboot(LINUX_REBOOT_CMD_KEXEC);
	if (count != 5)
		return 2;
	int kernel = open(arguments[2], O_RDONLY), initramfs = open(arguments[3], O_RDONLY);
	unsigned long flags = strcmp(arguments[1], "crash") ? 0 : KEXEC_FILE_ON_CRASH;
	const char *line = arguments[4];

	if (syscall(SYS_kexec_file_load, kernel, initramfs, strlen(line) + 1, line, flags) == 0)
		return 0;
	perror("kexec_file_load");
	return 1;
}
