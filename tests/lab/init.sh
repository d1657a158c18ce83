#!/bin/sh
# The first process of a guest of the lab. It starts what the recipe wants, tells the host what
# is true in this guest, and ends the way the recipe says.
#
# Facts go to the second serial port: kernel messages on the first would cut into them.

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec > /dev/ttyS1

echo 0 > /proc/sys/kernel/kptr_restrict
echo 0 > /proc/sys/kernel/panic
echo 1 > /proc/sys/kernel/panic_on_oops
echo 1 > /proc/sys/kernel/unknown_nmi_panic

begin() { echo "lab: begin $1"; }
end() { echo "lab: end"; }

# Runs a command in the background on one CPU, and notes it down.
on_cpu() {
    cpu=$1
    shift
    taskset -c "$cpu" "$@" &
    echo "$cpu $!" >> /pinned
}

# Waits until a program has made a file, which tells that it is ready.
wait_for() {
    until [ -e "$1" ]; do
        sleep 0.2
    done
}

# Lists all processes without starting one, which would then be listed too.
processes() {
    begin "$1"
    for stat in /proc/[0-9]*/stat; do
        read -r line < "$stat" && echo "$line"
    done 2> /dev/null
    end
}

for module in /modules/*.ko; do
    case $module in
        *softdog.ko) ;; # it is loaded when it is to bite
        *) [ -e "$module" ] && insmod "$module" ;;
    esac
done
ifconfig lo 127.0.0.1 up
mkfifo /fifo
: > /pinned

. /recipe.sh
last=$!
sleep 1

processes processes-early

begin version; cat /proc/version; end
begin release; cat /proc/sys/kernel/osrelease; end
begin cmdline; cat /proc/cmdline; end
begin modules; cat /proc/modules; end
begin mountinfo; cat /proc/1/mountinfo; end
begin memtotal; grep MemTotal: /proc/meminfo; end
begin iomem; grep 'Kernel code' /proc/iomem; end
begin notes; od -An -v -tx1 /sys/kernel/notes; end
begin btf
[ -e /sys/kernel/btf/vmlinux ] && sha256sum < /sys/kernel/btf/vmlinux
end

# Once only: the kernel decodes its symbol table anew for every reader.
grep -vF '[' /proc/kallsyms > /kallsyms
begin kallsyms-count; wc -l < /kallsyms; end
begin kallsyms-sha256; sha256sum < /kallsyms; end
begin symbols
awk 'NR == FNR { wanted[$1]; next } $3 in wanted' /symbols /kallsyms
end
rm /kallsyms
# Code that the kernel makes while it runs, and the lab's own modules.
begin kallsyms-made; grep -E '\[(bpf|__builtin__[a-z]*|crashme)\]' /proc/kallsyms; end
begin bpf; [ -e /bpf ] && cat /bpf; end
begin cpus-online; cat /sys/devices/system/cpu/online; end
begin hostname; uname -n; end
begin tainted; cat /proc/sys/kernel/tainted; end
# Both at the same moment: the time of day at any later one follows from its uptime.
begin clock; date -u +%s; cat /proc/uptime; end

begin arguments; grep -a '' /proc/[0-9]*/cmdline 2> /dev/null | tr '\0' ' '; end
begin maps
if [ -n "$last" ]; then
    echo "$last"
    cat "/proc/$last/maps"
fi
end
begin pinned; cat /pinned; end

# Nothing but built-in commands from here on: what is listed now is there at the end.
processes processes-late
begin tasks; set -- /proc/[0-9]*/task/[0-9]*; echo $#; end
begin uptime; read -r line < /proc/uptime && echo "$line"; end
begin loadavg; read -r line < /proc/loadavg && echo "$line"; end
echo "lab: ready"

if [ -e /finish.sh ]; then
    . /finish.sh
elif [ "$END" = panic ] || [ "$END" = kdump ]; then
    echo c > /proc/sysrq-trigger
elif [ "$END" = kexec ]; then
    kexec go
elif [ "$END" = module ]; then
    insmod /modules/*softdog.ko soft_panic=1 soft_margin=1
    sleep 1000000 > /dev/watchdog &
fi
while :; do
    wait
done
