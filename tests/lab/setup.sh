#!/bin/bash
# Makes a Debian 12 machine ready for `make demo` and `make test`: Debian packages, .venv from
# requirements.lock, and the lab root, a small Debian forky tree with Asterisk 22, SIPp 3.8 and
# Kamailio 6.1 (bookworm has no Asterisk, and its Kamailio 5.6 no sound TLS) in $PBXCTL_LAB_CACHE,
# default /var/cache/pbxctl/lab.
#
# Repeatable, and fast when there is nothing to do. An interrupted run is simply started again: the
# venv and the root are built beside their place and renamed into it. No service is started, stopped
# or enabled; what the machine runs already stays as it is.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${PBXCTL_LAB_CACHE:-/var/cache/pbxctl/lab}
ROOT=$CACHE/asterisk-root
VENV=$HERE/.venv
# docker-compose only reads the composed system's file here; tcc is the smallest C compiler.
HOST_PACKAGES=(
  ca-certificates dbus debootstrap docker-compose ffmpeg groff-base haproxy iproute2 kamailio
  kamailio-redis-modules kamailio-tls-modules kamailio-utils-modules libc6-dev libgcrypt20 nftables
  openssl postgresql procps prometheus python3-venv redis-server sip-tester softhsm2 stunnel4
  systemd systemd-container tcc tmux tshark util-linux
)
ROOT_SUITE=forky
ROOT_PACKAGES=asterisk,asterisk-core-sounds-en-wav,baresip-core,kamailio,kamailio-redis-modules,kamailio-tls-modules,sip-tester
# With their downloads, measured on a bare machine with room to spare.
PACKAGES_MB=1900 VENV_MB=800 ROOT_MB=800

say() { printf 'setup %4ds  %s\n' "$SECONDS" "$*"; }
die() {
  printf 'setup: %s\n' "$1" >&2
  shift
  [ $# = 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

missing_packages() {
  local name status
  for name in "${HOST_PACKAGES[@]}"; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null || true)
    [ "$status" = installed ] || printf '%s\n' "$name"
  done
}

lock_sum() { sha256sum <"$HERE/requirements.lock" | cut -d' ' -f1; }
# The venv's scripts name its folder, so a checkout that was moved needs a new one.
venv_stamp() { printf '%s %s\n' "$(lock_sum)" "$HERE"; }
root_stamp() { printf '%s %s\n' "$ROOT_SUITE" "$ROOT_PACKAGES"; }
venv_ready() { [ "$(cat "$VENV/.pbxctl-ready" 2>/dev/null)" = "$(venv_stamp)" ]; }
root_ready() { [ "$(cat "$ROOT/.pbxctl-ready" 2>/dev/null)" = "$(root_stamp)" ]; }

check_machine() {
  [ "$(id -u)" = 0 ] || die "needs root: it installs packages and the lab opens chroots and nft tables" \
    "Run it as root, for example: sudo make setup"
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    die "needs Debian's apt-get, which is not here" "Use a Debian 12 machine or container."
}

# Of all that is to come at once: two parts on one disk need their sum.
check_space() {
  local path mb disk free
  local -A needed=() at=()
  while read -r path mb; do
    disk=$(df -Pm "$path" | awk 'NR==2 {print $1 " " $6}')
    needed[$disk]=$((${needed[$disk]:-0} + mb)) at[$disk]=$path
  done
  for disk in "${!needed[@]}"; do
    free=$(df -Pm "${at[$disk]}" | awk 'NR==2 {print $4}')
    [ "$free" -ge "${needed[$disk]}" ] ||
      die "${at[$disk]} has ${free} MB free, ${needed[$disk]} MB are needed" \
        "Free some space, or put the lab root elsewhere: PBXCTL_LAB_CACHE=/big/disk make setup"
  done
}

disk_full() {
  df -Pm "$CACHE" "$HERE" /var/cache /tmp 2>/dev/null | awk 'NR > 1 && $4 < 20 {full = 1} END {exit !full}'
}

# Runs a long command with its output in a log, and a sign of life every 10 s.
step() {
  local what=$1 log rc=0 pid
  shift
  log=$(mktemp /tmp/pbxctl-setup.XXXXXX)
  say "$what ..."
  "$@" >"$log" 2>&1 &
  pid=$!
  STEP_PID=$pid
  local since=$SECONDS
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - since >= 10)); then
      since=$SECONDS
      say "$what: $(tail -n1 "$log" | cut -c1-100)"
    fi
  done
  wait "$pid" || rc=$?
  STEP_PID=
  if [ "$rc" != 0 ]; then
    tail -n 25 "$log" >&2
    # Not every tool says "no space left": debootstrap takes its failed downloads for missing ones.
    if grep -qi 'no space left' "$log" || disk_full; then
      die "$what failed: the disk is full" "Free some space and run make setup again."
    elif grep -qi 'CERTIFICATE_VERIFY_FAILED' "$log"; then
      die "$what failed: the package index shows a certificate that this machine does not trust" \
        "Behind an inspecting proxy, name its CA file in PIP_CERT and run make setup again."
    elif grep -qiE 'could not resolve|temporary failure|connection (refused|timed out)|unable to connect|network is unreachable|failed getting release|max retries' "$log"; then
      die "$what failed: the network or the mirror does not answer" \
        "Check the machine's network, proxy (http_proxy, https_proxy) and apt sources, then run make setup again."
    fi
    die "$what failed with exit code $rc; the whole log is in $log"
  fi
  rm -f "$log"
}

# Debian starts a service as its package is installed. While we install, policy-rc.d says no; then
# the machine's own policy-rc.d, or none, is put back. A kill -9 in between is mended by the next run.
POLICY=/usr/sbin/policy-rc.d
POLICY_KEPT=/usr/sbin/policy-rc.d.kept-by-pbxctl-setup
hold_services() {
  restore_policy
  if [ -e "$POLICY" ] || [ -L "$POLICY" ]; then mv "$POLICY" "$POLICY_KEPT"; fi
  printf '#!/bin/sh\n# pbxctl-setup\nexit 101\n' >"$POLICY"
  chmod 755 "$POLICY"
}
restore_policy() {
  if grep -qs '^# pbxctl-setup$' "$POLICY"; then rm -f "$POLICY"; fi
  if [ -e "$POLICY_KEPT" ] || [ -L "$POLICY_KEPT" ]; then mv "$POLICY_KEPT" "$POLICY"; fi
}

# Units of packages that were not here before would start at the next boot.
disable_units_of() {
  local unit
  for unit in $(dpkg -L "$@" 2>/dev/null | sed -n 's#^\(/usr\)\?/lib/systemd/system/\([^/@]*\.\(service\|timer\|socket\)\)$#\2#p'); do
    if command -v systemctl >/dev/null; then
      systemctl --no-reload disable "$unit" >/dev/null 2>&1 || true # static units cannot be
    else
      deb-systemd-helper disable "$unit" >/dev/null 2>&1 || true
    fi
  done
}

install_packages() {
  local before after
  before=$(mktemp) after=$(mktemp)
  dpkg-query -W -f='${Package}\n' | sort -u >"$before"
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
  step "package lists" apt-get -q update
  hold_services
  step "Debian packages ($*)" apt-get -qy -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 \
    install --no-install-recommends "$@"
  restore_policy
  dpkg-query -W -f='${Package}\n' | sort -u >"$after"
  mapfile -t added < <(comm -13 "$before" "$after")
  rm -f "$before" "$after"
  [ "${#added[@]}" = 0 ] || disable_units_of "${added[@]}"
}

build_venv() {
  rm -rf "$VENV/.pbxctl-ready"
  # --clear empties the folder; the stamp comes last, so a half-made venv is made again.
  step "Python environment" /usr/bin/python3 -m venv --clear "$VENV"
  step "Python packages from requirements.lock" "$VENV/bin/pip" --no-input install --progress-bar off \
    --require-hashes --no-deps -r "$HERE/requirements.lock"
  step "pbxctl itself" "$VENV/bin/pip" --no-input install --no-deps --no-build-isolation -e "$HERE"
  "$VENV/bin/pip" check >/dev/null 2>&1 || die "requirements.lock lacks something that pbxctl needs:" \
    "$("$VENV/bin/pip" check 2>&1)" "Run make lock."
  venv_stamp >"$VENV/.pbxctl-ready"
}

# The mirror that apt itself uses for Debian.
mirror() {
  local uri
  uri=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 2>/dev/null |
    awk '$1 == "Debian" && $2 !~ /security/ && $2 ~ /^https?:/ {print $2; exit}')
  printf '%s\n' "${uri:-http://deb.debian.org/debian}"
}

build_root() {
  local part=$ROOT.part
  # A run that was killed may have left /proc mounted in its half-made tree.
  awk -v p="$part/" 'index($2, p) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
  rm -rf --one-file-system "$part"
  step "lab root: Asterisk and SIPp from Debian $ROOT_SUITE" \
    debootstrap --variant=minbase --include="$ROOT_PACKAGES" "$ROOT_SUITE" "$part" "$(mirror)" \
    /usr/share/debootstrap/scripts/sid
  rm -rf "$part"/var/cache/apt/archives/*.deb "$part"/var/lib/apt/lists/*
  awk -v p="$part/" 'index($2, p) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
  mkdir -p "$part/lab"
  root_stamp >"$part/.pbxctl-ready"
  if [ -e "$ROOT" ]; then
    mv "$ROOT" "$ROOT.old.$$"
    rm -rf --one-file-system "$ROOT.old.$$"
  fi
  mv "$part" "$ROOT"
}

leave() {
  local rc=$?
  [ -z "${STEP_PID:-}" ] || kill "$STEP_PID" 2>/dev/null || true
  [ "$(id -u)" != 0 ] || restore_policy
  exit "$rc"
}

main() {
  local missing
  mapfile -t missing < <(missing_packages)
  if [ "${#missing[@]}" = 0 ] && venv_ready && root_ready; then return; fi
  check_machine
  mkdir -p "$CACHE"
  exec 9>"$CACHE/.setup-lock"
  flock -n 9 || { say "another setup is running, waiting for it"; flock 9; }
  trap leave EXIT
  trap 'exit 130' INT TERM HUP
  mapfile -t missing < <(missing_packages)
  {
    [ "${#missing[@]}" = 0 ] || printf '%s %s\n' /var/cache "$PACKAGES_MB"
    venv_ready || printf '%s %s\n' "$HERE" "$VENV_MB"
    root_ready || printf '%s %s\n' "$CACHE" "$ROOT_MB"
  } | check_space
  [ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}"
  venv_ready || build_venv
  root_ready || build_root
  say "ready"
}

main
