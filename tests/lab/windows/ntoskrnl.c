/*
 * A stand-in for the Windows kernel: it never runs, but its image and its symbols have what a
 * debugger looks for in a dump of memory.
 */

#include "types.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define UNICODE(array) {sizeof(array) - 2, sizeof(array), (array)}
#define SECTION(name) __attribute__((section(name)))

extern const u8 __ImageBase[];
struct _EPROCESS PspSystemProcess;
struct _LDR_DATA_TABLE_ENTRY KiKernelModule;

char NtBuildLab[] = "20348.fe_release.210507-1500";
ulong CmNtCSDVersion = 0;
u32 KeNumberProcessors = 1;
ulong NtBuildNumber = 0xF0004F7C;

/* Code and four parameters. */
void *KiBugCheckData[5];

struct _LIST_ENTRY PsActiveProcessHead = {
    &PspSystemProcess.ActiveProcessLinks,
    &PspSystemProcess.ActiveProcessLinks,
};
struct _EPROCESS *PsInitialSystemProcess = &PspSystemProcess;
struct _HANDLE_TABLE ObpKernelHandleTable = {0, 1234};

struct _EPROCESS PspSystemProcess = {
    .CreateTime = {133571216960000000},
    .UniqueProcessId = (void *)4,
    .ActiveProcessLinks = {&PsActiveProcessHead, &PsActiveProcessHead},
    .ObjectTable = &ObpKernelHandleTable,
    .ThreadListHead = {&PspSystemProcess.ThreadListHead, &PspSystemProcess.ThreadListHead},
    .ActiveThreads = 120,
    .ImageFileName = "System",
};

struct _LIST_ENTRY PsLoadedModuleList = {
    &KiKernelModule.InLoadOrderLinks,
    &KiKernelModule.InLoadOrderLinks,
};
u16 KiKernelPath[] = u"\\SystemRoot\\system32\\ntoskrnl.exe";
u16 KiKernelName[] = u"ntoskrnl.exe";

void KiSystemStartup(void);

struct _LDR_DATA_TABLE_ENTRY KiKernelModule = {
    .InLoadOrderLinks = {&PsLoadedModuleList, &PsLoadedModuleList},
    .DllBase = __ImageBase,
    .EntryPoint = (void *)KiSystemStartup,
    .FullDllName = UNICODE(KiKernelPath),
    .BaseDllName = UNICODE(KiKernelName),
    .LoadCount = 1,
};

struct _DBGKD_DEBUG_DATA_HEADER64 KdpDebuggerDataListHead;

struct _KDDEBUGGER_DATA64 KdDebuggerDataBlock = {
    .Header = {{&KdpDebuggerDataListHead}, {&KdpDebuggerDataListHead}, 0x4742444B,
               sizeof(struct _KDDEBUGGER_DATA64)},
    .KernBase = {__ImageBase},
    .PsLoadedModuleList = {&PsLoadedModuleList},
    .PsActiveProcessHead = {&PsActiveProcessHead},
    .KiBugcheckData = {&KiBugCheckData},
    .NtBuildLab = {&NtBuildLab},
    .CmNtCSDVersion = {&CmNtCSDVersion},
};

struct _DBGKD_DEBUG_DATA_HEADER64 KdpDebuggerDataListHead = {
    {&KdDebuggerDataBlock},
    {&KdDebuggerDataBlock},
    0,
    0,
};

struct _DBGKD_GET_VERSION64 KdVersionBlock = {
    .MajorVersion = 15,
    .MinorVersion = 20348,
    .ProtocolVersion = 6,
#ifdef _WIN64
    .Flags = 7,
    .MachineType = 0x8664,
#else
    .Flags = 3,
    .MachineType = 0x14C,
#endif
    .KernBase = {__ImageBase},
    .PsLoadedModuleList = {&PsLoadedModuleList},
    .DebuggerDataList = {&KdpDebuggerDataListHead},
};

struct _LAB_ALL_TYPES KiAllTypes;

/* So that there is more to the image than a few pages. */
SECTION("PAGEDATA") u32 MiPagedNumbers[16384] = {1, 2, 3};

volatile u32 KiCount;

#define BODY(number)                                                                               \
    for (u32 index = 0; index < (number); ++index)                                                 \
        KiCount = KiCount * (number) + index;

#define FUNCTION(name, number)                                                                     \
    void name(void) { BODY(number) }

FUNCTION(KiDivideErrorFault, 11)
FUNCTION(KiPageFault, 12)
FUNCTION(KiUnexpectedInterrupt, 13)
FUNCTION(KiSystemCall64, 14)
FUNCTION(KiFastCallEntry, 15)
FUNCTION(HalProcessorIdle, 16)
FUNCTION(KiIdleLoop, 17)
FUNCTION(KeReadStateEvent, 18)
FUNCTION(RtlpLongFunction, 19)

void KeBugCheckEx(u32 code, void *first, void *second, void *third, void *fourth) {
    void *values[] = {(void *)(uptr)code, first, second, third, fourth};
    for (u32 index = 0; index < COUNT(values); ++index)
        KiBugCheckData[index] = values[index];
    for (;;)
        HalProcessorIdle();
}

SECTION("PAGE") void NtQuerySystemInformation(void) { BODY(21) }
SECTION("PAGE") void NtCreateFile(void) { BODY(22) }

/* What stays mapped while code of a user runs. */
SECTION("KVASCODE") void KiDivideErrorFaultShadow(void) { BODY(31) }
SECTION("KVASCODE") void KiPageFaultShadow(void) { BODY(32) }
SECTION("KVASCODE") void KiUnexpectedInterruptShadow(void) { BODY(33) }
SECTION("KVASCODE") void KiSystemCall64Shadow(void) { BODY(34) }

/* Freed once the system has started. */
SECTION("INIT") void KiSystemStartup(void) {
    KeNumberProcessors = 1;
    KiIdleLoop();
}
