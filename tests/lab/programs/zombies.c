/*
 * Leaves twenty children that exited and are not reaped. The kernel frees the stack of each, and
 * hands it to a task created later: a sleeper, 60 milliseconds on, may live where a zombie did.
 *
 * usage: zombies FILE; the file is there when all children are.
 */

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { PAIRS = 20, PAUSE = 60 * 1000 };

static void rest(void)
{
	for (;;)
		pause();
}

int main(int count, char **arguments)
{
	for (int pair = 0; pair < PAIRS; pair++) {
		if (fork() == 0) {
			prctl(PR_SET_NAME, "lab_zombie");
			_exit(0);
		}
		usleep(PAUSE);
		if (fork() == 0) {
			prctl(PR_SET_NAME, "lab_sleeper");
			rest();
		}
	}
	usleep(PAUSE);
	if (count != 2 || open(arguments[1], O_CREAT | O_WRONLY, 0644) < 0)
		return 1;
	rest();
}
