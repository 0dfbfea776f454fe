#!/bin/sh
# Runs on a host that may have no Python yet.
if [ -x /usr/bin/python3 ]; then exit 0; fi
# shellcheck disable=SC1091  # the host's own
. /etc/os-release
case "$ID" in
  debian|ubuntu)
    export DEBIAN_FRONTEND=noninteractive
    # a host that was just started may be running its own updates
    # an unreadable source doesn't matter if another one has Python
    apt-get -o DPkg::Lock::Timeout=300 update -qq
    apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends python3 python3-apt >/dev/null &&
      echo 'installed Python' ;;
  *)
    echo "it runs $PRETTY_NAME, which Baton does not support." >&2; exit 1 ;;
esac
