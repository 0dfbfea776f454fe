if [ -x /usr/bin/python3 ]; then exit 0; fi
. /etc/os-release
case "$ID" in
  debian|ubuntu)
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-apt >/dev/null && echo 'installed Python' ;;
  *)
    echo "it runs $PRETTY_NAME, which Baton does not support." >&2; exit 1 ;;
esac
