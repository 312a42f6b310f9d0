#!/bin/sh
# What the guest agent calls: shutdown -h|-P|-r +0.
case " $* " in
  *" -r "*) reboot -f ;;
  *) poweroff -f ;;
esac
