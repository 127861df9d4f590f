#!/bin/bash
# A machine of its own for a test: this system's programs, and systemd as its first process, in namespaces. It shares
# network and clock with this one, and nothing that is written there is written here.
#
#   machine.sh FILES PIDFILE     FILES is laid over the root; the pid of the first process is written to PIDFILE
#
# Ends when its first process does. Exit code 77 where the kernel does not give namespaces or control groups to us.
set -euo pipefail
files=$1 pidfile=$2 part=${3:-outside} mine=${4:-}
self=$(readlink -f "$0")

case $part in
outside)
    unshare --mount --pid --ipc --uts --cgroup --fork true 2> /dev/null || exit 77
    exec unshare --mount --propagation private "$self" "$files" "$pidfile" group
    ;;
group)
    # A control group for it to be at the top of, and none of this machine's for it to touch.
    mine=$(mktemp -d)
    mkdir "$mine/groups" "$mine/machine"
    mount -t cgroup2 none "$mine/groups" || exit 77
    group=$mine/groups/headwater-test-$$
    mkdir "$group" || exit 77
    tidy() {
        echo $$ > "$mine/groups/cgroup.procs"
        find "$group" -depth -type d -exec rmdir {} +
        umount "$mine/groups"
        rm -r "$mine"
    }
    trap tidy EXIT
    echo $$ > "$group/cgroup.procs" || exit 77
    unshare --mount --pid --ipc --uts --cgroup --fork "$self" "$files" "$pidfile" inside "$mine/machine" &
    child=$!
    # As when the test is killed. A first process is ended from outside only: its parent's end does not reach it.
    trap 'kill -KILL "$(cat "$pidfile" || echo "$child")"' TERM
    wait "$child" && status=0 || status=$?
    # A signal ends the first wait only.
    [ "$status" -lt 128 ] || wait "$child" || true
    [ "$status" != 77 ] || exit 77
    ;;
inside)
    # /proc is still that of outside, and so is this number.
    read -r pid _ < /proc/self/stat
    echo "$pid" > "$pidfile.new"
    mount -t tmpfs none "$mine" || exit 77
    root=$mine/root
    mkdir -p "$root"/{etc/systemd/system,var/lib,run,tmp,proc,sys,dev,usr,old} "$mine"/{upper,work}
    mount --bind "$root" "$root" || exit 77
    mount -t overlay overlay -o "lowerdir=/usr,upperdir=$mine/upper,workdir=$mine/work" "$root/usr" || exit 77
    for directory in bin sbin lib lib64; do [ ! -L "/$directory" ] || cp -P "/$directory" "$root/"; done
    for file in passwd group nsswitch.conf ld.so.cache ssl hosts dbus-1; do
        [ ! -e "/etc/$file" ] || cp -a "/etc/$file" "$root/etc/"
    done
    touch "$root/etc/machine-id"
    # Nothing of this machine is started there.
    rm -rf "$root"/usr/lib/systemd/system/*.wants "$root"/usr/lib/systemd/system-generators
    for target in sysinit basic shutdown sockets network-online; do
        printf '[Unit]\nDefaultDependencies=no\n' > "$root/etc/systemd/system/$target.target"
    done
    printf '[Unit]\nRequires=dbus.socket\n' > "$root/etc/systemd/system/machine.target"
    for unit in systemd-journald.{service,socket} systemd-journald-dev-log.socket; do
        ln -s /dev/null "$root/etc/systemd/system/$unit"
    done
    (cd "$files" && tar -cf - .) | tar --keep-directory-symlink -C "$root" -xf -

    mount -t proc proc "$root/proc" || exit 77
    mount --bind "$root/proc/sys" "$root/proc/sys" || exit 77
    mount -o remount,bind,ro "$root/proc/sys" || exit 77
    mount -t sysfs -o ro sysfs "$root/sys" || exit 77
    mount -t cgroup2 none "$root/sys/fs/cgroup" || exit 77
    mount -t tmpfs none "$root/run" || exit 77
    mount -t tmpfs none "$root/dev" || exit 77
    mkdir "$root"/dev/{pts,shm}
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts" || exit 77
    ln -s pts/ptmx "$root/dev/ptmx"
    mv "$pidfile.new" "$pidfile"
    cd "$root"
    pivot_root . old
    umount -l /old
    # As a first process does where it is not told that it is in a container.
    mount --make-rshared /
    exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=machine.target \
        --log-target=console --show-status=no < /dev/null
    ;;
esac
