#!/bin/sh
# What the guest does before its prompt when it has gone on from the service's disk.
export PATH=/bin:/sbin
mount -o remount,rw /
for folder in run tmp; do mount -t tmpfs $folder /$folder; done
value() { sed -n "s/.*\<$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
hostname "$(value guest.name)"
ip link set lo up
ip link set eth0 up
ip address add "$(value guest.address)/16" dev eth0
/usr/sbin/nginx && echo ser""ving
