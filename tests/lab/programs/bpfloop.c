/*
 * Runs a BPF program again and again; it loops for most of its time.
 *
 * usage: bpfloop FILE [call]
 *
 * With "call" the loop is in a function of its own that the program calls: two frames of compiled
 * code. FILE gets a line for each function: address and size of the compiled code.
 */

#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The verifier follows every round, and follows a million instructions at most. */
enum { ROUNDS = 100000 };

#define INSTRUCTION(c, d, s, o, i) { .code = c, .dst_reg = d, .src_reg = s, .off = o, .imm = i }
#define LOOP \
	INSTRUCTION(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0), \
	INSTRUCTION(BPF_ALU64 | BPF_ADD | BPF_K, 0, 0, 0, 1), \
	INSTRUCTION(BPF_ALU64 | BPF_MOV | BPF_X, 2, 0, 0, 0), \
	INSTRUCTION(BPF_JMP | BPF_JLT | BPF_K, 0, 0, -3, ROUNDS), \
	INSTRUCTION(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0), \
	INSTRUCTION(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

static const struct bpf_insn plain[] = { LOOP };

static const struct bpf_insn calling[] = {
	/* A call to 2 instructions on; what follows it keeps the call from being the last thing. */
	INSTRUCTION(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 2),
	INSTRUCTION(BPF_ALU64 | BPF_ADD | BPF_K, 0, 0, 0, 1),
	INSTRUCTION(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	LOOP
};

static char verifier_log[1 << 16];

static long bpf(int command, union bpf_attr *attributes)
{
	return syscall(SYS_bpf, command, attributes, sizeof(*attributes));
}

static int load(int with_call)
{
	union bpf_attr attributes = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.insns = (uintptr_t)(with_call ? calling : plain),
		.insn_cnt = (with_call ? sizeof(calling) : sizeof(plain)) / sizeof(plain[0]),
		.license = (uintptr_t)"GPL",
		.prog_name = "lab_prog",
	};
	int program = bpf(BPF_PROG_LOAD, &attributes);

	if (program < 0) {
		/* Not at once: up to 6.3 a log that is full is an error of its own. */
		fprintf(stderr, "BPF_PROG_LOAD: %m\n");
		attributes.log_buf = (uintptr_t)verifier_log;
		attributes.log_size = sizeof(verifier_log);
		attributes.log_level = 1;
		bpf(BPF_PROG_LOAD, &attributes);
		fputs(verifier_log, stderr);
	}
	return program;
}

static int tell(int program, const char *path)
{
	uint64_t addresses[4] = { 0 };
	uint32_t sizes[4] = { 0 };
	struct bpf_prog_info info = {
		.nr_jited_ksyms = 4,
		.jited_ksyms = (uintptr_t)addresses,
		.nr_jited_func_lens = 4,
		.jited_func_lens = (uintptr_t)sizes,
	};
	union bpf_attr attributes = {
		.info = { .bpf_fd = program, .info_len = sizeof(info), .info = (uintptr_t)&info },
	};
	FILE *file = fopen(path, "w");

	if (!file || bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)) {
		perror("BPF_OBJ_GET_INFO_BY_FD");
		return 1;
	}
	for (uint32_t function = 0; function < info.nr_jited_ksyms && function < 4; function++)
		fprintf(file, "%#jx %#x\n", (uintmax_t)addresses[function], sizes[function]);
	return fclose(file);
}

int main(int count, char **arguments)
{
	int program = load(count > 2 && !strcmp(arguments[2], "call"));
	/* An Ethernet frame has 14 bytes at least. */
	static char frame[64];

	if (program < 0 || tell(program, arguments[1]))
		return 1;
	for (;;) {
		union bpf_attr attributes = {
			.test = {
				.prog_fd = program,
				.data_in = (uintptr_t)frame,
				.data_size_in = sizeof(frame),
				.repeat = 1 << 30,
			},
		};

		if (bpf(BPF_PROG_TEST_RUN, &attributes)) {
			perror("BPF_PROG_TEST_RUN");
			return 1;
		}
	}
}
