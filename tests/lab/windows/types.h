/*
 * The types that Volatility wants to find in the symbols of a Windows kernel.
 *
 * Most have a few members only, at places of their own. Those that a debugger or windows.info
 * reads have the members it reads at the places where Windows Server 2022 has them (64-bit).
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long ulong;
typedef unsigned long long u64;
typedef __SIZE_TYPE__ uptr;

/* A pointer where 64 bits are kept for one on every system. */
union _PTR64 {
    const void *Pointer;
    u64 Value;
};

struct _LIST_ENTRY {
    struct _LIST_ENTRY *Flink;
    struct _LIST_ENTRY *Blink;
};

struct _UNICODE_STRING {
    u16 Length;
    u16 MaximumLength;
    u16 *Buffer;
};

struct _KSYSTEM_TIME {
    ulong LowPart;
    long High1Time;
    long High2Time;
};

union _LARGE_INTEGER {
    long long QuadPart;
};

struct _EX_FAST_REF {
    void *Object;
};

enum _NT_PRODUCT_TYPE { NtProductWinNt = 1, NtProductLanManNt = 2, NtProductServer = 3 };

enum _BUGCHECK_CODES {
    IRQL_NOT_LESS_OR_EQUAL = 0x0A,
    PAGE_FAULT_IN_NONPAGED_AREA = 0x50,
    DRIVER_IRQL_NOT_LESS_OR_EQUAL = 0xD1,
    MANUALLY_INITIATED_CRASH = 0xE2,
};

struct _KUSER_SHARED_DATA {
    ulong TickCountLowDeprecated;
    ulong TickCountMultiplier;
    struct _KSYSTEM_TIME InterruptTime;
    struct _KSYSTEM_TIME SystemTime; /* 0x14 */
    struct _KSYSTEM_TIME TimeZoneBias;
    u16 ImageNumberLow;
    u16 ImageNumberHigh;
    u16 NtSystemRoot[260]; /* 0x30 */
    ulong MaxStackTraceDepth;
    ulong CryptoExponent;
    ulong TimeZoneId;
    ulong LargePageMinimum;
    ulong Reserved1[6];
    ulong NtBuildNumber;                /* 0x260 */
    enum _NT_PRODUCT_TYPE NtProductType; /* 0x264 */
    u8 ProductTypeIsValid;
    u8 Reserved2[3];
    ulong NtMajorVersion; /* 0x26C */
    ulong NtMinorVersion; /* 0x270 */
    u8 ProcessorFeatures[64];
};

#define AT(type, member, offset)                                                                   \
    _Static_assert(__builtin_offsetof(struct type, member) == (offset), #type "." #member)
AT(_KUSER_SHARED_DATA, SystemTime, 0x14);
AT(_KUSER_SHARED_DATA, NtSystemRoot, 0x30);
AT(_KUSER_SHARED_DATA, NtBuildNumber, 0x260);
AT(_KUSER_SHARED_DATA, NtMinorVersion, 0x270);

struct _DBGKD_GET_VERSION64 {
    u16 MajorVersion;
    u16 MinorVersion;
    u8 ProtocolVersion;
    u8 KdSecondaryVersion;
    u16 Flags;
    u16 MachineType;
    u8 MaxPacketType;
    u8 MaxStateChange;
    u8 MaxManipulate;
    u8 Simulation;
    u16 Unused[1];
    union _PTR64 KernBase; /* 0x10 */
    union _PTR64 PsLoadedModuleList;
    union _PTR64 DebuggerDataList;
};

struct _DBGKD_DEBUG_DATA_HEADER64 {
    union _PTR64 Flink;
    union _PTR64 Blink;
    u32 OwnerTag; /* 0x10 */
    u32 Size;
};

struct _KDDEBUGGER_DATA64 {
    struct _DBGKD_DEBUG_DATA_HEADER64 Header;
    union _PTR64 KernBase; /* 0x18 */
    u64 Unused1[5];
    union _PTR64 PsLoadedModuleList; /* 0x48 */
    union _PTR64 PsActiveProcessHead;
    u64 Unused2[6];
    union _PTR64 KiBugcheckData; /* 0x88 */
    u64 Unused3[47];
    union _PTR64 NtBuildLab; /* 0x208 */
    u64 Unused4[11];
    union _PTR64 CmNtCSDVersion; /* 0x268 */
    u64 Unused5[26];
};
AT(_KDDEBUGGER_DATA64, PsLoadedModuleList, 0x48);
AT(_KDDEBUGGER_DATA64, KiBugcheckData, 0x88);
AT(_KDDEBUGGER_DATA64, NtBuildLab, 0x208);
AT(_KDDEBUGGER_DATA64, CmNtCSDVersion, 0x268);
_Static_assert(sizeof(struct _KDDEBUGGER_DATA64) == 0x340, "size of _KDDEBUGGER_DATA64");

struct _KTHREAD {
    void *Header;
    void *InitialStack;
    void *StackLimit;
    void *StackBase;
    void *KernelStack;
    struct _KPROCESS *Process;
};

struct _CLIENT_ID {
    void *UniqueProcess;
    void *UniqueThread;
};

struct _ETHREAD {
    struct _KTHREAD Tcb;
    union _LARGE_INTEGER CreateTime;
    struct _CLIENT_ID Cid;
    struct _LIST_ENTRY ThreadListEntry;
};

struct _KPROCESS {
    void *Header[3];
    struct _LIST_ENTRY ProfileListHead;
    uptr DirectoryTableBase; /* 0x28 */
    struct _LIST_ENTRY ThreadListHead;
    uptr UserDirectoryTableBase;
};

struct _HANDLE_TABLE {
    ulong NextHandleNeedingPool;
    s32 HandleCount;
};

struct _RTL_BALANCED_NODE {
    struct _RTL_BALANCED_NODE *Left;
    struct _RTL_BALANCED_NODE *Right;
};

struct _RTL_AVL_TREE {
    struct _RTL_BALANCED_NODE *Root;
};

struct _EPROCESS {
    struct _KPROCESS Pcb;
    union _LARGE_INTEGER CreateTime;
    union _LARGE_INTEGER ExitTime;
    void *UniqueProcessId;
    void *InheritedFromUniqueProcessId;
    struct _LIST_ENTRY ActiveProcessLinks;
    struct _EX_FAST_REF Token;
    struct _HANDLE_TABLE *ObjectTable;
    void *Session;
    void *WoW64Process;
    struct _PEB *Peb;
    struct _RTL_AVL_TREE VadRoot;
    struct _LIST_ENTRY ThreadListHead;
    ulong ActiveThreads;
    u8 ImageFileName[15];
    u8 PriorityClass;
};

struct _PEB {
    void *Reserved[2];
    void *ImageBaseAddress;
};

/* The processor's control region; the numbers are those of a 64-bit Windows 10 since 1803. */
struct _KPRCB {
#ifdef _WIN64
    ulong MxCsr;
    u8 LegacyNumber;
    u8 Unused1[3];
    struct _KTHREAD *CurrentThread;
    u8 Unused2[0x8E70];
    u64 KernelDirectoryTableBase; /* gs:[9000h] */
    u64 RspBaseShadow;
    u64 UserRspShadow;
    ulong ShadowFlags;
#else
    u16 MinorVersion;
    u16 MajorVersion;
    struct _KTHREAD *CurrentThread;
    u8 Unused[0x3000];
#endif
};

struct _KPCR {
#ifdef _WIN64
    void *GdtBase;
    void *TssBase;
    u64 UserRsp;
    struct _KPCR *Self; /* 0x18 */
    struct _KPRCB *CurrentPrcb;
    void *LockArray;
    void *Used_Self;
    void *IdtBase; /* 0x38 */
    u8 Unused[0x140];
    struct _KPRCB Prcb; /* 0x180 */
#else
    void *NtTib[7];
    struct _KPCR *SelfPcr; /* 0x1C */
    struct _KPRCB *Prcb;
    u8 Irql[20];
    void *IDT; /* 0x38 */
    void *GDT;
    void *TSS;
    u8 Unused[0xDC];
    struct _KPRCB PrcbData; /* 0x120 */
#endif
};

#ifdef _WIN64
AT(_KPCR, Self, 0x18);
AT(_KPCR, IdtBase, 0x38);
AT(_KPCR, Prcb.CurrentThread, 0x188);
AT(_KPCR, Prcb.KernelDirectoryTableBase, 0x9000);
#else
AT(_KPCR, SelfPcr, 0x1C);
AT(_KPCR, IDT, 0x38);
AT(_KPCR, PrcbData.CurrentThread, 0x124);
#endif

struct _ERESOURCE {
    struct _LIST_ENTRY SystemResourcesList;
    short ActiveCount;
};

struct _TOKEN {
    u32 UserAndGroupCount;
    void *UserAndGroups;
};

struct _OBJECT_HEADER {
    uptr PointerCount;
    uptr HandleCount;
    u8 TypeIndex;
    u8 InfoMask;
    void *Body;
};

struct _DEVICE_OBJECT {
    short Type;
    u16 Size;
    struct _DRIVER_OBJECT *DriverObject;
    struct _DEVICE_OBJECT *NextDevice;
    struct _DEVICE_OBJECT *AttachedDevice;
};

struct _FILE_OBJECT {
    short Type;
    short Size;
    struct _DEVICE_OBJECT *DeviceObject;
    struct _UNICODE_STRING FileName;
};

struct _DRIVER_OBJECT {
    short Type;
    short Size;
    struct _DEVICE_OBJECT *DeviceObject;
    void *DriverStart;
    ulong DriverSize;
    struct _UNICODE_STRING DriverName;
};

struct _CM_KEY_NODE {
    u16 Signature;
    u16 NameLength;
    union _LARGE_INTEGER LastWriteTime;
};

struct _CM_KEY_VALUE {
    u16 Signature;
    u16 NameLength;
    ulong DataLength;
};

struct _CM_KEY_CONTROL_BLOCK {
    ulong KeyCell;
};

struct _CM_KEY_BODY {
    ulong Type;
    struct _CM_KEY_CONTROL_BLOCK *KeyControlBlock;
};

struct _CMHIVE {
    ulong Signature;
    struct _LIST_ENTRY HiveList;
    struct _UNICODE_STRING FileFullPath;
};

struct _HMAP_ENTRY {
    uptr BlockOffset;
    uptr PermanentBinAddress;
};

struct _MMVAD_SHORT {
    struct _RTL_BALANCED_NODE VadNode;
    ulong StartingVpn;
    ulong EndingVpn;
};

struct _CONTROL_AREA {
    void *Segment;
    struct _EX_FAST_REF FilePointer;
};

struct _SUBSECTION {
    struct _CONTROL_AREA *ControlArea;
};

struct _MMVAD {
    struct _MMVAD_SHORT Core;
    struct _SUBSECTION *Subsection;
};

struct _KMUTANT {
    struct _LIST_ENTRY MutantListEntry;
    struct _KTHREAD *OwnerThread;
};

struct _OBJECT_SYMBOLIC_LINK {
    union _LARGE_INTEGER CreationTime;
    struct _UNICODE_STRING LinkTarget;
};

struct _VACB {
    void *BaseAddress;
    struct _SHARED_CACHE_MAP *SharedCacheMap;
};

struct _SHARED_CACHE_MAP {
    union _LARGE_INTEGER FileSize;
    struct _VACB **Vacbs;
};

struct _POOL_HEADER {
    u16 PreviousSize : 8;
    u16 PoolIndex : 8;
    u16 BlockSize : 8;
    u16 PoolType : 8;
    ulong PoolTag;
};

struct _POOL_TRACKER_BIG_PAGES {
    void *Va;
    ulong Key;
    ulong Pattern : 8;
    ulong PoolType : 12;
    ulong SlushSize : 12;
    uptr NumberOfBytes;
};

struct _IMAGE_DOS_HEADER {
    u16 e_magic;
    u16 e_unused[29];
    long e_lfanew; /* 0x3C */
};

struct _KDPC {
    void *DeferredRoutine;
};

struct _KTIMER {
    union _LARGE_INTEGER DueTime;
    struct _LIST_ENTRY TimerListEntry;
    struct _KDPC *Dpc;
};

struct _LDR_DATA_TABLE_ENTRY {
    struct _LIST_ENTRY InLoadOrderLinks;
    struct _LIST_ENTRY InMemoryOrderLinks;
    struct _LIST_ENTRY InInitializationOrderLinks;
    const void *DllBase; /* 0x30, 32-bit 0x18 */
    const void *EntryPoint;
    ulong SizeOfImage; /* 0x40, 32-bit 0x20 */
    struct _UNICODE_STRING FullDllName;
    struct _UNICODE_STRING BaseDllName;
    ulong Flags;
    u16 LoadCount;
    union _LARGE_INTEGER LoadTime;
};

/* A variable of each, so that the compiler writes all of them to the symbols. */
struct _LAB_ALL_TYPES {
    enum _BUGCHECK_CODES BugCheckCodes;
    struct _KUSER_SHARED_DATA *KuserSharedData;
    struct _ETHREAD Ethread;
    struct _ERESOURCE Eresource;
    struct _TOKEN Token;
    struct _OBJECT_HEADER ObjectHeader;
    struct _FILE_OBJECT FileObject;
    struct _DEVICE_OBJECT DeviceObject;
    struct _DRIVER_OBJECT DriverObject;
    struct _CM_KEY_BODY KeyBody;
    struct _CMHIVE Hive;
    struct _CM_KEY_NODE KeyNode;
    struct _CM_KEY_VALUE KeyValue;
    struct _HMAP_ENTRY HmapEntry;
    struct _MMVAD Vad;
    struct _KMUTANT Mutant;
    struct _OBJECT_SYMBOLIC_LINK SymbolicLink;
    struct _SHARED_CACHE_MAP SharedCacheMap;
    struct _VACB Vacb;
    struct _POOL_HEADER PoolHeader;
    struct _POOL_TRACKER_BIG_PAGES BigPages;
    struct _IMAGE_DOS_HEADER DosHeader;
    struct _KTIMER Timer;
    struct _PEB Peb;
    struct _KPCR *Kpcr;
};
